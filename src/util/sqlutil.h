/*-------------------------------------------------------------------------
 *
 * sqlutil.h
 *	  Running SQL from C, and switching rights around it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SQLUTIL_H
#define REFIT_SQLUTIL_H

#include "postgres.h"

#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"

/* Whose rights were in force, so that they can be put back. */
typedef struct RefitRights
{
	Oid userid;
	int sec_context;
	int guc_level;
} RefitRights;

/*
 * Switches to the given role, restricted as maintenance commands are: no SET
 * ROLE, no temporary objects, no deferred code; and to a safe search_path.
 * An error puts everything back through the (sub)transaction's abort.
 */
extern void refit_rights_begin(RefitRights *save, Oid role, bool restricted);
extern void refit_rights_end(RefitRights *save);

/* Sets a search_path until refit_rights_end of the enclosing level. */
extern void refit_set_local(const char *name, const char *value);

/*
 * Fixed SQL on our own tables and catalogs, as the bootstrap superuser.
 * sql is a string literal: the plan is kept for the session, under its address.
 * The caller is connected to SPI and reads SPI_tuptable.  Returns the number of
 * rows.
 */
extern uint64 refit_sql(const char *sql, int nargs, Oid *types, Datum *values,
						const bool *nulls);

/* One value of the first row as text in the caller's context, or NULL. */
extern char *refit_sql_text(const char *sql, int nargs, Oid *types,
							Datum *values);

/* The first column of all rows as texts in the caller's context. */
extern List *refit_sql_list(const char *sql, int nargs, Oid *types,
							Datum *values);

/* Runs commands one after the other, with the caller's rights. */
extern void refit_sql_run_all(List *commands);

/* Parses SQL that a user wrote: a list of RawStmt. */
extern List *refit_sql_parse(char *sql);
/* Analyzes one such statement, with its parameters' types. */
extern Query *refit_sql_analyze(char *sql, int nparams, const Oid *types);

/* schema.table, quoted. */
extern char *refit_qualified_name(Oid relid);

/* The role that owns a relation; an ERROR when it is gone. */
extern Oid refit_relation_owner(Oid relid);
/* Is the caller its owner, by membership too, or a superuser? */
extern bool refit_owns_relation(Oid relid);

#endif /* REFIT_SQLUTIL_H */
