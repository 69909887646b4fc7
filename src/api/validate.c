/*-------------------------------------------------------------------------
 *
 * validate.c
 *	  The SQL function refit.validate_constraint.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "api/arguments.h"
#include "api/options.h"
#include "job/submission.h"
#include "rows/validation.h"
#include "table/plan.h"
#include "util/sqlutil.h"

PG_FUNCTION_INFO_V1(refit_validate_constraint);

/* The name of a constraint, which must be there. */
static char *
constraint_arg(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("constraint_name must not be null"),
						errhint("Constraints that are not valid yet have "
								"pg_constraint.convalidated false.")));
	return pstrdup(NameStr(*PG_GETARG_NAME(n)));
}

/* refit.validate_constraint(relation, constraint_name, name, options) */
Datum
refit_validate_constraint(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {
		.kind = "validate_constraint", .cutover = "auto", .verify = "off"};
	int64 id;

	s.relid = refit_relation_arg(fcinfo);
	s.definition = constraint_arg(fcinfo, 1);
	s.name = refit_name_arg(fcinfo, 2);
	s.options = refit_options_check(fcinfo, 3);
	refit_plan_check_owned(s.relid);
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	if (refit_validation_check(s.relid, s.definition))
		ereport(NOTICE,
				(errmsg("constraint \"%s\" of relation %s is valid already",
						s.definition, refit_qualified_name(s.relid))));
	PG_RETURN_INT64(refit_migration_submit(&s));
}
