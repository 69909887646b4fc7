/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  SQL functions that submit passes over rows: refit.backfill, refit.purge and
 *	  refit.batched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "api/arguments.h"
#include "api/options.h"
#include "job/submission.h"
#include "rows/batch.h"
#include "table/plan.h"

PG_FUNCTION_INFO_V1(refit_backfill);
PG_FUNCTION_INFO_V1(refit_purge);
PG_FUNCTION_INFO_V1(refit_batched);

/* A text argument that must be there. */
static char *
needed_arg(FunctionCallInfo fcinfo, int n, const char *name, const char *hint)
{
	char *value = refit_text_arg(fcinfo, n);

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", name), errhint("%s", hint)));
	return value;
}

/* Checks and submits. */
static Datum
submit(RefitSubmission *s, const RefitClauses *clauses)
{
	RefitClauses c = *clauses;
	int64 id;

	refit_plan_check_rows(s->relid);
	if ((id = refit_migration_find(s)) != 0)
		PG_RETURN_INT64(id);
	c.kind = s->kind;
	c.alias = get_rel_name(s->relid);
	c.search_path = namespace_search_path;
	refit_batch_check(s->relid, &c);
	s->set_clause = c.set;
	s->where_clause = c.where;
	s->cutover = "auto";
	s->verify = "off";
	PG_RETURN_INT64(refit_migration_submit(s));
}

/* refit.backfill(relation, set_clause, where_clause, name, options) */
Datum
refit_backfill(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "backfill"};
	RefitClauses c = {0};

	s.relid = refit_relation_arg(fcinfo);
	c.set = needed_arg(fcinfo, 1, "set_clause",
					   "Write, for example, 'total = price * quantity'.");
	c.where = refit_text_arg(fcinfo, 2);
	s.name = refit_name_arg(fcinfo, 3);
	s.options = refit_options_check(fcinfo, 4);
	s.definition =
		psprintf("SET %s%s%s", c.set, c.where != NULL ? " WHERE " : "",
				 c.where != NULL ? c.where : "");
	return submit(&s, &c);
}

/* refit.purge(relation, where_clause, name, options) */
Datum
refit_purge(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "purge"};
	RefitClauses c = {0};

	s.relid = refit_relation_arg(fcinfo);
	c.where = needed_arg(fcinfo, 1, "where_clause",
						 "To delete all rows, write 'true' or use TRUNCATE.");
	s.name = refit_name_arg(fcinfo, 2);
	s.options = refit_options_check(fcinfo, 3);
	s.definition = psprintf("WHERE %s", c.where);
	return submit(&s, &c);
}

/* refit.batched(relation, statement, name, options) */
Datum
refit_batched(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "batched"};
	RefitClauses c = {0};

	s.relid = refit_relation_arg(fcinfo);
	c.statement = needed_arg(fcinfo, 1, "statement",
							 "Write, for example, 'INSERT INTO archive SELECT "
							 "* FROM orders WHERE id BETWEEN $1 AND $2'.");
	s.name = refit_name_arg(fcinfo, 2);
	s.options = refit_options_check(fcinfo, 3);
	s.definition = c.statement;
	return submit(&s, &c);
}
