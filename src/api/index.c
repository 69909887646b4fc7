/*-------------------------------------------------------------------------
 *
 * index.c
 *	  SQL functions that submit work on indexes: refit.create_index,
 *	  refit.rebuild_index and refit.drop_index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/namespace.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

#include "api/arguments.h"
#include "api/options.h"
#include "index/definition.h"
#include "index/plan.h"
#include "job/submission.h"
#include "util/sqlutil.h"

PG_FUNCTION_INFO_V1(refit_create_index);
PG_FUNCTION_INFO_V1(refit_rebuild_index);
PG_FUNCTION_INFO_V1(refit_drop_index);

static const char *const methods[] = {"auto", "incremental", "concurrently",
									  NULL};

/* Is a check by amcheck asked for? */
static bool
wants_check(const Jsonb *options)
{
	JsonbValue buf;
	JsonbValue *value = getKeyJsonValueFromContainer(
		(JsonbContainer *) &options->root, "check", strlen("check"), &buf);
	bool result;

	if (value == NULL)
		return false;
	if (value->type == jbvBool)
		return value->val.boolean;
	return value->type == jbvString &&
		   parse_bool_with_len(value->val.string.val, value->val.string.len,
							   &result) &&
		   result;
}

/* What all of them have in common. */
static Datum
submit(RefitSubmission *s)
{
	s->cutover = "auto";
	s->verify = "off";
	PG_RETURN_INT64(refit_migration_submit(s));
}

/* refit.create_index(definition, name, method, options) */
Datum
refit_create_index(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "create_index"};
	IndexStmt *stmt;
	int64 id;

	s.definition = refit_text_arg(fcinfo, 0);
	if (s.definition == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("definition must not be null"),
						errhint("Write, for example, 'CREATE INDEX ON orders "
								"(customer_id)'.")));
	s.name = refit_name_arg(fcinfo, 1);
	s.method = refit_word_arg(fcinfo, 2, "method", methods);
	s.options = refit_options_check(fcinfo, 3);
	stmt = refit_definition_parse(s.definition);
	s.relid = RangeVarGetRelid(stmt->relation, AccessShareLock, false);
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	refit_index_check_create(s.relid, s.definition, s.method,
							 namespace_search_path);
	if (wants_check(s.options))
		refit_index_check_amcheck(get_index_am_oid(stmt->accessMethod, false));
	return submit(&s);
}

/* The index argument. */
static Oid
index_arg(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("index must not be null")));
	return PG_GETARG_OID(0);
}

/* Fills in the index and its table. */
static void
name_index(RefitSubmission *s, Oid index, const char *verb)
{
	s->object = index;
	s->relid = IndexGetRelation(index, true);
	s->definition = psprintf("%s INDEX %s", verb, refit_qualified_name(index));
}

/* refit.rebuild_index(index, name, method, options) */
Datum
refit_rebuild_index(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "rebuild_index"};
	Oid index = index_arg(fcinfo);
	int64 id;

	s.name = refit_name_arg(fcinfo, 1);
	s.method = refit_word_arg(fcinfo, 2, "method", methods);
	s.options = refit_options_check(fcinfo, 3);
	name_index(&s, index, "REINDEX");
	if (OidIsValid(s.relid) && (id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	refit_index_check_rebuild(index, s.method);
	if (wants_check(s.options))
		refit_index_check_amcheck(refit_index_access_method(index));
	return submit(&s);
}

/* refit.drop_index(index, name) */
Datum
refit_drop_index(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "drop_index"};
	Oid index = index_arg(fcinfo);
	int64 id;

	s.name = refit_name_arg(fcinfo, 1);
	s.options =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	name_index(&s, index, "DROP");
	if (OidIsValid(s.relid) && (id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	refit_index_check_drop(index);
	return submit(&s);
}
