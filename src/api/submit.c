/*-------------------------------------------------------------------------
 *
 * submit.c
 *	  SQL functions that submit work: refit.alter_table, refit.repack; and
 *	  refit.plan, which says what they would do.
 *
 * Whatever is wrong with a submission is reported here, before anything is
 * written: rights, the kind of relation, the options, and the actions, which
 * are tried on an empty copy.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/arguments.h"
#include "api/options.h"
#include "guc.h"
#include "job/submission.h"
#include "table/actions.h"
#include "table/plan.h"
#include "table/space.h"
#include "util/sqlutil.h"

PG_FUNCTION_INFO_V1(refit_alter_table);
PG_FUNCTION_INFO_V1(refit_repack);
PG_FUNCTION_INFO_V1(refit_plan);

/* Is an interval longer than nothing? */
static int
interval_sign(Interval *interval)
{
	Interval zero = {0};

	return DatumGetInt32(DirectFunctionCall2(
		interval_cmp, IntervalPGetDatum(interval), IntervalPGetDatum(&zero)));
}

/* The length of a revert window, or NULL for none and for the setting's. */
static Interval *
window_arg(FunctionCallInfo fcinfo, int n)
{
	Interval *window = PG_ARGISNULL(n) ? NULL : PG_GETARG_INTERVAL_P(n);

	if (window != NULL && interval_sign(window) < 0)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("revertible must not be negative"),
						errhint("Write, for example, '1 day'.")));
	return window;
}

/*
 * Tries the actions.  A window that is asked for must be possible; one that the
 * setting gives is for those rewrites that can be reverted.
 */
static void
plan_alter_table(RefitSubmission *s)
{
	RefitPlanRequest request = {.relid = s->relid,
								.stmt = refit_actions_parse(s->definition),
								.search_path = namespace_search_path};
	RefitPlan *plan;

	request.revertible =
		s->revertible != NULL && interval_sign(s->revertible) > 0;
	request.show = s->revertible == NULL && refit_revert_window > 0;
	plan = refit_plan_make(&request);
	if (request.revertible && plan->irreversible != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("the actions cannot be reverted"),
						errdetail("Reason: %s.", plan->irreversible),
						errhint("Leave out revertible, or change the "
								"actions.")));
	refit_space_check(s->relid, plan->needs);
	if (!request.show || plan->irreversible != NULL ||
		strcmp(plan->strategy, "rewrite") != 0)
		return;
	s->revertible = palloc0(sizeof(Interval));
	s->revertible->time = (int64) refit_revert_window * USECS_PER_SEC;
}

/* refit.alter_table(relation, actions, name, cutover, revertible, verify, …) */
Datum
refit_alter_table(PG_FUNCTION_ARGS)
{
	static const char *const cutovers[] = {"auto", "manual", NULL};
	static const char *const verifies[] = {"full", "sample", "off", NULL};
	RefitSubmission s = {.kind = "alter_table"};
	int64 id;

	s.relid = refit_relation_arg(fcinfo);
	s.definition = refit_text_arg(fcinfo, 1);
	if (s.definition == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("actions must not be null")));
	s.name = refit_name_arg(fcinfo, 2);
	s.cutover = refit_word_arg(fcinfo, 3, "cutover", cutovers);
	s.verify = refit_word_arg(fcinfo, 5, "verify", verifies);
	s.revertible = window_arg(fcinfo, 4);
	s.options = refit_options_check(fcinfo, 6);
	refit_plan_check_table(s.relid, true);
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	plan_alter_table(&s);
	PG_RETURN_INT64(refit_migration_submit(&s));
}

/* refit.repack(relation, order_by, name, options) */
Datum
refit_repack(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "repack",
						 .cutover = "auto",
						 .verify = "full",
						 .definition = ""};
	RefitPlanRequest request = {0};
	int64 id;

	s.relid = refit_relation_arg(fcinfo);
	if (!PG_ARGISNULL(1))
		s.definition = refit_text_arg(fcinfo, 1);
	s.name = refit_name_arg(fcinfo, 2);
	s.options = refit_options_check(fcinfo, 3);
	refit_plan_check_table(s.relid, false);
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	request.relid = s.relid;
	request.order_by = s.definition;
	request.search_path = namespace_search_path;
	refit_space_check(s.relid, refit_plan_make(&request)->needs);
	PG_RETURN_INT64(refit_migration_submit(&s));
}

/* One line of a plan. */
typedef struct PlanLine
{
	const char *strategy;
	const char *phase;
	const char *what;
	const char *lock;
} PlanLine;

static const PlanLine plan_lines[] = {
	{"instant", "alter", "run ALTER TABLE; only catalogs change",
	 "ACCESS EXCLUSIVE for milliseconds, taken politely"},
	{"validate", "alter", "run ALTER TABLE, constraints NOT VALID",
	 "ACCESS EXCLUSIVE for milliseconds, taken politely"},
	{"validate", "validate", "check existing rows, chunk by chunk",
	 "ACCESS SHARE for a chunk"},
	{"validate", "settle", "mark what is proven: SET NOT NULL",
	 "ACCESS EXCLUSIVE for milliseconds, taken politely"},
	{"rewrite", "prepare", "make a twin with the new definition",
	 "ACCESS SHARE"},
	{"rewrite", "capture", "install capture triggers",
	 "SHARE ROW EXCLUSIVE for milliseconds, taken politely"},
	{"rewrite", "copy", "copy rows to the twin, chunk by chunk",
	 "ACCESS SHARE for a chunk"},
	{"rewrite", "index", "build the twin's indexes in bulk", "none"},
	{"rewrite", "analyze", "gather statistics on the twin", "none"},
	{"rewrite", "catchup", "apply captured changes to the twin",
	 "ACCESS SHARE for a batch"},
	{"rewrite", "verify", "compare every row of table and twin",
	 "ACCESS SHARE for a chunk"},
	{"rewrite", "cutover", "swap, run ALTER TABLE, swap",
	 "ACCESS EXCLUSIVE for milliseconds, taken politely"},
	{"rewrite", "validate", "validate foreign keys on retyped columns",
	 "ACCESS SHARE for a chunk"},
	{"rewrite", "settle", "gather extended statistics, where there are any",
	 "SHARE UPDATE EXCLUSIVE"},
	{"rewrite", "window", "with revertible: keep the old rows in step",
	 "ACCESS SHARE for a batch"},
	{"rewrite", "cleanup", "drop the work tables", "none"},
};

/*
 * How long so many bytes may take, by the migrations of the same strategy that
 * this database has seen; false when it has seen none.
 */
static bool
estimate_duration(const RefitPlan *plan, Datum *result)
{
	Oid types[2] = {TEXTOID, INT8OID};
	Datum values[2] = {CStringGetTextDatum(plan->strategy),
					   Int64GetDatum(plan->bytes)};
	char *text = refit_sql_text(
		"SELECT date_trunc('second', make_interval(secs => $2"
		" / (sum(bytes) / sum(extract(epoch FROM finished_at - started_at)))"
		"  ::float8) + interval '1 second')"
		" FROM (SELECT * FROM refit.migration WHERE state = 'completed'"
		"  AND strategy = $1 AND bytes > 0 ORDER BY id DESC LIMIT 10) m"
		" HAVING sum(bytes) > 0",
		2, types, values);

	if (text == NULL)
		return false;
	*result =
		DirectFunctionCall3(interval_in, CStringGetDatum(text),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return true;
}

/* What is to be said of a line: why this strategy, can it be reverted. */
static char *
reason_of(const RefitPlan *plan, const PlanLine *line, int step)
{
	char *reason;

	if (step == 1)
	{
		reason = psprintf("strategy %s: %s", plan->strategy, plan->reason);
		if (plan->needs == NIL)
			return reason;
		return psprintf("%s; disk space: %s", reason,
						refit_space_describe(plan->needs));
	}
	if (strcmp(line->phase, "window") != 0)
		return NULL;
	if (plan->irreversible != NULL)
		return psprintf("cannot be reverted: %s", plan->irreversible);
	return pstrdup("can be reverted, as long as the old definition can hold "
				   "every row");
}

/* Writes bytes that a line of a plan is about.  False: there are none. */
static bool
bytes_of_line(const RefitPlan *plan, const char *phase, int64 *bytes)
{
	if (strcmp(phase, "prepare") == 0)
		*bytes = refit_space_total(plan->needs);
	else if (strcmp(phase, "copy") == 0 || strcmp(phase, "validate") == 0)
		*bytes = plan->bytes;
	else
		return false;
	return true;
}

/* refit.plan(relation, actions) */
Datum
refit_plan(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid relid = PG_GETARG_OID(0);
	RefitPlanRequest request = {0};
	AlterTableStmt *stmt;
	RefitPlan *plan;
	int step = 0;

	refit_plan_check_table(relid, true);
	stmt = refit_actions_parse(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	request.relid = relid;
	request.stmt = stmt;
	request.search_path = namespace_search_path;
	request.show = true;
	plan = refit_plan_make(&request);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < lengthof(plan_lines); i++)
	{
		const PlanLine *line = &plan_lines[i];
		Datum values[7];
		bool nulls[7] = {false};
		char *reason;
		int64 bytes = 0;

		if (strcmp(line->strategy, plan->strategy) != 0)
			continue;
		values[0] = Int32GetDatum(++step);
		values[1] = CStringGetTextDatum(line->phase);
		values[2] = CStringGetTextDatum(line->what);
		values[3] = CStringGetTextDatum(line->lock);
		reason = reason_of(plan, line, step);
		nulls[4] = reason == NULL;
		values[4] = reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason);
		nulls[5] = !bytes_of_line(plan, line->phase, &bytes);
		values[5] = Int64GetDatum(bytes);
		nulls[6] = step > 1 || !estimate_duration(plan, &values[6]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
