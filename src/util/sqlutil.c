/*-------------------------------------------------------------------------
 *
 * sqlutil.c
 *	  Running SQL from C, and switching rights around it.
 *
 * Every worker and every control function is a superuser at its root, or may
 * be called by one.  So nothing here ever evaluates what a user wrote: that
 * is done between refit_rights_begin(owner, restricted) and refit_rights_end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "util/sqlutil.h"

/*
 * Switches to a role's rights and to a search_path that no user can doctor.
 *
 * restricted adds what maintenance commands add: the role's code cannot leave
 * anything behind that would run later, with other rights.
 */
void
refit_rights_begin(RefitRights *save, Oid role, bool restricted)
{
	GetUserIdAndSecContext(&save->userid, &save->sec_context);
	SetUserIdAndSecContext(
		role, save->sec_context | SECURITY_LOCAL_USERID_CHANGE |
				  (restricted ? SECURITY_RESTRICTED_OPERATION : 0));
	save->guc_level = NewGUCNestLevel();
	refit_set_local("search_path", "pg_catalog, pg_temp");
}

/* Puts back rights and settings. */
void
refit_rights_end(RefitRights *save)
{
	AtEOXact_GUC(false, save->guc_level);
	SetUserIdAndSecContext(save->userid, save->sec_context);
}

/* Sets a setting until the enclosing level of settings ends. */
void
refit_set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* A statement that was planned before, by its text. */
typedef struct RefitCachedPlan
{
	const char *sql; /* hash key; the texts are literals */
	SPIPlanPtr plan;
} RefitCachedPlan;

/* The plan for a statement, made once a session. */
static SPIPlanPtr
plan_for(const char *sql, int nargs, Oid *types)
{
	static HTAB *plans = NULL;
	RefitCachedPlan *entry;
	bool found;

	if (plans == NULL)
	{
		HASHCTL info = {.keysize = sizeof(char *),
						.entrysize = sizeof(RefitCachedPlan)};

		plans =
			hash_create("pg_refit plans", 64, &info, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(plans, &sql, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;
	if (entry->plan == NULL)
	{
		SPIPlanPtr plan = SPI_prepare(sql, nargs, types);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		entry->plan = plan;
	}
	return entry->plan;
}

/*
 * Runs fixed SQL as the bootstrap superuser; the caller is in SPI.  The text is
 * a literal: its plan is kept under its address.
 */
uint64
refit_sql(const char *sql, int nargs, Oid *types, Datum *values,
		  const bool *nulls)
{
	RefitRights save;
	char *marks = NULL;
	int rc;

	if (nulls != NULL)
	{
		marks = palloc(nargs + 1);
		for (int i = 0; i < nargs; i++)
			marks[i] = nulls[i] ? 'n' : ' ';
		marks[nargs] = '\0';
	}

	refit_rights_begin(&save, BOOTSTRAP_SUPERUSERID, false);
	rc = SPI_execute_plan(plan_for(sql, nargs, types), values, marks, false, 0);
	if (rc < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql,
			 SPI_result_code_string(rc));
	refit_rights_end(&save);
	return SPI_processed;
}

/* The first column of the first row as text, or NULL. */
char *
refit_sql_text(const char *sql, int nargs, Oid *types, Datum *values)
{
	MemoryContext caller = CurrentMemoryContext;
	char *result = NULL;

	SPI_connect();
	if (refit_sql(sql, nargs, types, values, NULL) > 0)
	{
		char *value =
			SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		if (value != NULL)
			result = MemoryContextStrdup(caller, value);
	}
	SPI_finish();
	return result;
}

/* The first column of all rows as texts; no row's is NULL. */
List *
refit_sql_list(const char *sql, int nargs, Oid *types, Datum *values)
{
	MemoryContext caller = CurrentMemoryContext;
	List *result = NIL;

	SPI_connect();
	refit_sql(sql, nargs, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char *value =
			SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		MemoryContext old = MemoryContextSwitchTo(caller);

		result = lappend(result, pstrdup(value));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

/* Runs commands, with the caller's rights. */
void
refit_sql_run_all(List *commands)
{
	ListCell *lc;

	SPI_connect();
	foreach(lc, commands)
		if (SPI_execute(lfirst(lc), false, 0) < 0)
			elog(ERROR, "could not execute \"%s\"", (char *) lfirst(lc));
	SPI_finish();
}

/* Says that an error's position is one in this text, not in the query. */
static void
move_error_position(void *arg)
{
	int position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery((const char *) arg);
}

/* Parses SQL, with errors that show it. */
List *
refit_sql_parse(char *sql)
{
	ErrorContextCallback callback = {.callback = move_error_position,
									 .arg = sql,
									 .previous = error_context_stack};
	List *result;

	error_context_stack = &callback;
	result = raw_parser(sql, RAW_PARSE_DEFAULT);
	error_context_stack = callback.previous;
	return result;
}

/* Analyzes one statement with parameters, with errors that show it. */
Query *
refit_sql_analyze(char *sql, int nparams, const Oid *types)
{
	ErrorContextCallback callback = {.callback = move_error_position,
									 .arg = sql,
									 .previous = error_context_stack};
	RawStmt *statement = linitial_node(RawStmt, refit_sql_parse(sql));
	Query *result;

	error_context_stack = &callback;
	result = parse_analyze_fixedparams(statement, sql, types, nparams, NULL);
	error_context_stack = callback.previous;
	return result;
}

/* schema.table, quoted. */
char *
refit_qualified_name(Oid relid)
{
	char *name = get_rel_name(relid);

	if (name == NULL)
		return psprintf("%u", relid);
	return quote_qualified_identifier(
		get_namespace_name(get_rel_namespace(relid)), name);
}

/* The role that owns a relation. */
Oid
refit_relation_owner(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("the table of the migration does not exist any "
							   "more"),
						errdetail("It had oid %u.", relid),
						errhint("Nothing is left to be done for it.")));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Is the caller its owner, by membership too, or a superuser? */
bool
refit_owns_relation(Oid relid)
{
	return has_privs_of_role(GetUserId(), refit_relation_owner(relid));
}
