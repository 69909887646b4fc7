/*-------------------------------------------------------------------------
 *
 * twin.h
 *	  The private tables of a rewrite, and the schema that holds them.
 *
 * Everything a migration makes stands in schema refit_<id>, owned by the
 * table's owner, or is its capture trigger.  Schema and tables are members of
 * the extension, so that pg_dump leaves them out and DROP EXTENSION takes them
 * along; relrewrite is set on them, so that logical decoding passes them over.
 *
 * Locks: ACCESS SHARE on the table; the new objects are seen by nobody else.
 * A crash leaves either all of it or nothing: it is made in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_TWIN_H
#define REFIT_TWIN_H

#include "refit.h"

#include "catalog/dependency.h"
#include "utils/rel.h"

/* Makes schema refit_<id>; an ERROR when it is there already. */
extern Oid refit_twin_create_schema(int64 id, Oid owner);
/* The one that we have made; InvalidOid when there is none. */
extern Oid refit_twin_find_schema(int64 id);
/* Drops the schema and all that is in it. */
extern void refit_twin_drop_schema(Oid schema);
/* Drops a work table of that source; none, or one that is not ours: no error. */
extern void refit_twin_drop_table(Oid table, Oid source);

/*
 * An empty table with the given descriptor's columns, dropped ones included,
 * hidden from decoding and from autovacuum.
 */
extern Oid refit_twin_create_table(Relation source, Oid schema,
								   const char *name, TupleDesc desc, Oid owner);

/*
 * Twin: same columns, defaults, constraints and indexes as source, and their
 * names.  With a name of its own it is to be a partition of another twin, and
 * its indexes have names of their own too: tables of several schemas meet here.
 */
extern Oid refit_twin_create(Relation source, Oid schema, const char *name);
/*
 * Blank: same storage layout, one compatible index for each of source's.  whole:
 * a table of source's definition, with its defaults, constraints and unique
 * indexes, since it will be kept in step after the cutover.  That of a
 * partitioned table has no rows, and no indexes.
 */
extern Oid refit_twin_create_blank(Relation source, Oid schema, bool whole);
/* Gives a table the values that another has for columns its old rows lack. */
extern void refit_twin_copy_missing_values(Relation from, Oid to);
/* Copies one property of a column: a column of pg_attribute. */
extern void refit_twin_copy_property(Oid from, Oid to, AttrNumber attnum,
									 int property);
/* Makes an index of a definition, CREATE INDEX on whatever table, on a table. */
extern Oid refit_twin_create_index(Oid target, const char *definition);
/* The blank's index that goes with an index of the table. */
extern Oid refit_twin_blank_index(Oid blank, Oid index);

/*
 * Makes the index that a twin is ordered by, from what follows ORDER BY; an
 * ERROR says what is wrong with it.  Found again by refit_twin_order_index.
 */
extern void refit_twin_create_order_index(Oid twin, const char *order_by,
										  const char *search_path);
extern Oid refit_twin_order_index(Oid twin);

/* After actions have run on a twin: hides whatever TOAST table it now has. */
extern void refit_twin_hide(Oid twin, Oid source);
/* Sets pg_class.relrewrite of a table or TOAST table. */
extern void refit_twin_set_relrewrite(Oid relid, Oid value);
/*
 * Ties an object to the extension: DEPENDENCY_EXTENSION, a member that cannot
 * be dropped by itself; DEPENDENCY_AUTO_EXTENSION, goes along with it.
 */
extern void refit_twin_tie_to_extension(Oid classid, Oid objid,
										DependencyType how);

#endif /* REFIT_TWIN_H */
