/*-------------------------------------------------------------------------
 *
 * mirror.c
 *	  SQL functions for mirrored columns: refit.mirror_column,
 *	  refit.unmirror_column, and what is behind refit.mirrors.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

#include "api/arguments.h"
#include "api/options.h"
#include "job/submission.h"
#include "rows/batch.h"
#include "rows/mirror_rule.h"
#include "table/inherit.h"
#include "table/plan.h"
#include "util/sqlutil.h"

#define MIRRORS_COLUMNS 6

PG_FUNCTION_INFO_V1(refit_mirror_column);
PG_FUNCTION_INFO_V1(refit_unmirror_column);
PG_FUNCTION_INFO_V1(refit_mirrors);

/* A column's name; NULL is an error. */
static const char *
column_arg(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	return NameStr(*PG_GETARG_NAME(n));
}

/* Adds a member to a JSON object. */
static void
add_member(StringInfo json, const char *key, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfoString(json, json->len > 0 ? ", " : "{");
	escape_json(json, key);
	appendStringInfoString(json, ": ");
	escape_json(json, value);
}

/* The request as the definition of its migration. */
static char *
write_definition(const RefitMirrorRequest *request)
{
	StringInfoData json;

	initStringInfo(&json);
	add_member(&json, "source", request->source);
	add_member(&json, "target", request->target);
	add_member(&json, "expression", request->expression);
	add_member(&json, "reverse", request->reverse);
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Refuses a table whose children would not have the trigger. */
static void
check_relatives(Oid relid)
{
	if (refit_inherit_has_relatives(relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is part of an inheritance tree",
						get_rel_name(relid)),
				 errdetail("Triggers are not inherited, so its columns cannot "
						   "be mirrored.")));
}

/* Checks the request as the owner; its backfill is made from the result. */
static void
plan_mirror(RefitSubmission *s, const RefitMirrorRequest *request)
{
	RefitRights save;
	RefitMirror *mirror;

	refit_rights_begin(&save, refit_relation_owner(s->relid), true);
	mirror = refit_mirror_rule_make(request);
	s->set_clause = refit_mirror_rule_set(s->relid, mirror);
	s->where_clause = refit_mirror_rule_where(s->relid, mirror);
	refit_mirror_rule_check_others(s->relid, mirror);
	refit_rights_end(&save);
}

/* refit.mirror_column(relation, source_column, target_column, expression,
 * reverse_expression, name, options) */
Datum
refit_mirror_column(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {
		.kind = "mirror_column", .cutover = "auto", .verify = "off"};
	RefitMirrorRequest request = {0};
	RefitClauses clauses = {0};
	int64 id;

	s.relid = request.relid = refit_relation_arg(fcinfo);
	request.source = column_arg(fcinfo, 1, "source_column");
	request.target = column_arg(fcinfo, 2, "target_column");
	request.expression = refit_text_arg(fcinfo, 3);
	request.reverse = refit_text_arg(fcinfo, 4);
	request.search_path = namespace_search_path;
	s.name = refit_name_arg(fcinfo, 5);
	s.options = refit_options_check(fcinfo, 6);
	refit_plan_check_table(s.relid, true);
	check_relatives(s.relid);
	s.definition = write_definition(&request);
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	plan_mirror(&s, &request);
	clauses.kind = s.kind;
	clauses.set = s.set_clause;
	clauses.where = s.where_clause;
	clauses.alias = get_rel_name(s.relid);
	clauses.search_path = namespace_search_path;
	refit_batch_check(s.relid, &clauses);
	PG_RETURN_INT64(refit_migration_submit(&s));
}

/* An ERROR unless a column follows another one. */
static void
check_mirrored(Oid relid, const char *column)
{
	AttrNumber attnum = get_attnum(relid, column);

	if (attnum == InvalidAttrNumber ||
		refit_mirror_rule_by_target(relid, attnum) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("column \"%s\" of relation \"%s\" is no target of a "
						"mirror",
						column, get_rel_name(relid)),
				 errhint("Look in refit.mirrors.")));
}

/* refit.unmirror_column(relation, target_column, name, options) */
Datum
refit_unmirror_column(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {
		.kind = "unmirror_column", .cutover = "auto", .verify = "off"};
	RefitMirrorRequest request = {0};
	int64 id;

	s.relid = refit_relation_arg(fcinfo);
	request.target = column_arg(fcinfo, 1, "target_column");
	s.name = refit_name_arg(fcinfo, 2);
	s.options = refit_options_check(fcinfo, 3);
	refit_plan_check_table(s.relid, true);
	s.definition = write_definition(&request);
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	check_mirrored(s.relid, request.target);
	PG_RETURN_INT64(refit_migration_submit(&s));
}

/* refit._mirrors(relation): a row per mirror of a table. */
Datum
refit_mirrors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid relid = PG_GETARG_OID(0);
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	if (get_rel_name(relid) == NULL)
		return (Datum) 0;
	foreach(lc, refit_mirror_rule_list(relid))
	{
		RefitMirror *mirror = lfirst(lc);
		Datum values[MIRRORS_COLUMNS] = {0};
		bool nulls[MIRRORS_COLUMNS] = {false};

		values[0] = CStringGetTextDatum(mirror->name);
		values[1] =
			CStringGetTextDatum(get_attname(relid, mirror->source, false));
		values[2] =
			CStringGetTextDatum(get_attname(relid, mirror->target, false));
		values[3] = CStringGetTextDatum(mirror->expression);
		nulls[4] = mirror->reverse == NULL;
		if (!nulls[4])
			values[4] = CStringGetTextDatum(mirror->reverse);
		values[5] = BoolGetDatum(mirror->enabled == TRIGGER_FIRES_ALWAYS ||
								 mirror->enabled == TRIGGER_FIRES_ON_ORIGIN);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
