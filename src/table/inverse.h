/*-------------------------------------------------------------------------
 *
 * inverse.h
 *	  The way back: what undoes the actions of a migration.
 *
 * It is found by comparing the table with its twin, on which the actions have
 * been run, and it is tried before the start: run on the twin of a trial, it
 * must make that what the table is.  What it would not bring back is named, and
 * a migration of such actions is not revertible.
 *
 * Columns that the actions drop cannot be made again by ALTER TABLE, which would
 * number them anew: their catalog rows are copied back from the blank, which is
 * a table of the old definition.
 *
 * Rows go back through the inverse of each retyped column's cast.  Whether a
 * value has survived is not believed but tried: it is put through the actions
 * again, and must come out as it was.
 *
 * Locks: the caller's.  Rights: the table's owner's; catalog rows are written
 * with low-level functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_INVERSE_H
#define REFIT_INVERSE_H

#include "refit.h"

#include "nodes/parsenodes.h"
#include "utils/rel.h"

/* Columns that the actions take away. */
typedef struct RefitLostColumns
{
	List *dropped; /* their numbers, as text */
	char *origins; /* JSON text: those that have lost parents, dropped or not */
} RefitLostColumns;

extern RefitLostColumns *refit_inverse_lost_columns(Oid source, Oid twin);
/* Makes them in a table what they are in another one. */
extern void refit_inverse_undrop(const RefitLostColumns *lost, Oid relid,
								 Oid from);
/*
 * What undoes the actions but for those columns, as JSON text, from a table and
 * its twin, which has them again.
 */
extern char *refit_inverse_find(Oid source, Oid twin,
								const AlterTableStmt *stmt,
								const RefitLostColumns *lost);
/* Runs it on that twin. */
extern void refit_inverse_run_private(const char *inverse, Oid twin);
/* NULL, or what the twin is not as its table is. */
extern char *refit_inverse_difference(Oid source, Oid twin);

/*
 * The statement that it runs on the leaf, or on a table above one that is made
 * the leaf for it, without what only catalogs need.
 */
extern AlterTableStmt *refit_inverse_stmt(const RefitMigration *m);

/* Plans what it will run under the locks; nothing: of no table. */
extern void refit_inverse_warm_up(const RefitMigration *nothing);

/*
 * On the empty table: takes the old columns over from the blank; and runs the
 * rest, as the owner's commands.
 */
extern void refit_inverse_undrop_columns(const RefitMigration *m);
extern void refit_inverse_run(const RefitMigration *m);

/*
 * An ERROR where an old row of a range of blocks violates a foreign key that is
 * to come back.
 */
extern void refit_inverse_check_references(const RefitMigration *m,
										   BlockNumber from, BlockNumber end);

/*
 * A column of a relation cast to what an attribute is, the careful way where
 * there are two; NULL: there is no such cast.
 */
extern Expr *refit_inverse_cast(Relation rel, Form_pg_attribute to,
								AttrNumber attnum);

/*
 * Per attribute of the old definition, the expression over a row of the new
 * one; kept: columns that the new one does not have.
 */
extern Expr **refit_inverse_exprs(Relation source, Relation target,
								  Bitmapset **kept);

/* Gives the blank what refit_inverse_run may need of the table's columns. */
extern void refit_inverse_keep_columns(Relation source, Oid blank);

/* Makes the blank as wide as the table is after the actions and their undoing. */
extern void refit_inverse_widen(Oid blank, Oid table);

#endif /* REFIT_INVERSE_H */
