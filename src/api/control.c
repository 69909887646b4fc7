/*-------------------------------------------------------------------------
 *
 * control.c
 *	  SQL functions that control a migration, or work it in the caller's session.
 *
 * The owner of the table and superusers may control; the migration of a table
 * that is gone, only superusers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api/control.h"
#include "api/options.h"
#include "job/catalog.h"
#include "job/claim.h"
#include "job/migration.h"
#include "job/request.h"
#include "job/worker.h"
#include "pass/governor.h"
#include "util/sqlutil.h"

PG_FUNCTION_INFO_V1(refit_pause);
PG_FUNCTION_INFO_V1(refit_resume);
PG_FUNCTION_INFO_V1(refit_cancel);
PG_FUNCTION_INFO_V1(refit_retry);
PG_FUNCTION_INFO_V1(refit_cutover);
PG_FUNCTION_INFO_V1(refit_revert);
PG_FUNCTION_INFO_V1(refit_finish);
PG_FUNCTION_INFO_V1(refit_set_option);
PG_FUNCTION_INFO_V1(refit_throttle);
PG_FUNCTION_INFO_V1(refit_step);
PG_FUNCTION_INFO_V1(refit_step_failed);
PG_FUNCTION_INFO_V1(refit_claim);
PG_FUNCTION_INFO_V1(refit_release);

/* An ERROR for a migration that is not there. */
void
refit_control_refuse_unknown(int64 id)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("migration " INT64_FORMAT " does not exist", id),
					errhint("Look in refit.migrations.")));
}

/* Has the caller the rights of whoever submitted this statement? */
static bool
is_submitter(const RefitMigration *m)
{
	Oid role = get_role_oid(m->submitted_by, true);

	return strcmp(m->kind, "ddl") == 0 && OidIsValid(role) &&
		   has_privs_of_role(GetUserId(), role);
}

/*
 * May the caller control this migration, and see what it says?  A statement may be
 * about no relation, or have dropped it.
 */
bool
refit_control_is_allowed(const RefitMigration *m)
{
	return superuser() || is_submitter(m) ||
		   (get_rel_name(m->relid) != NULL && refit_owns_relation(m->relid));
}

/*
 * An ERROR unless the caller may control this migration.
 *
 * An expression of the owner that a step evaluates may not: the step's process
 * has the claim, so the state would change under the step.
 */
static void
check_rights(int64 id)
{
	RefitMigration *m = refit_catalog_load(id);

	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot control a migration within security-restricted "
						"operation")));
	if (m == NULL)
		refit_control_refuse_unknown(id);
	if (!refit_control_is_allowed(m))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for migration " INT64_FORMAT, id),
				 errdetail("Only the owner of %s may control it.",
						   m->relation[0] != '\0' ? m->relation
												  : "what it defines")));
}

/* Checks rights, then asks the state machine. */
static Datum
control(FunctionCallInfo fcinfo, char *(*verb)(int64 id))
{
	int64 id = PG_GETARG_INT64(0);

	check_rights(id);
	return CStringGetTextDatum(verb(id));
}

/* refit.pause(id) */
Datum
refit_pause(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_pause);
}

/* refit.resume(id) */
Datum
refit_resume(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_resume);
}

/* refit.cancel(id) */
Datum
refit_cancel(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_cancel);
}

/* refit.retry(id) */
Datum
refit_retry(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_retry);
}

/* refit.cutover(id) */
Datum
refit_cutover(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_cutover);
}

/* refit.revert(id) */
Datum
refit_revert(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_revert);
}

/* refit.finish(id) */
Datum
refit_finish(PG_FUNCTION_ARGS)
{
	return control(fcinfo, refit_migration_finish);
}

/* refit.set_option(id, option, value); NULL takes the option off. */
Datum
refit_set_option(PG_FUNCTION_ARGS)
{
	Oid types[3] = {INT8OID, TEXTOID, TEXTOID};
	Datum values[3];
	bool nulls[3] = {false};
	int64 id;
	char *option;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("id and option must not be null")));
	id = PG_GETARG_INT64(0);
	option = text_to_cstring(PG_GETARG_TEXT_PP(1));
	check_rights(id);
	if (!PG_ARGISNULL(2))
		refit_options_check_value(option,
								  text_to_cstring(PG_GETARG_TEXT_PP(2)));
	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(option);
	nulls[2] = PG_ARGISNULL(2);
	values[2] = nulls[2] ? (Datum) 0 : PG_GETARG_DATUM(2);
	SPI_connect();
	refit_sql("UPDATE refit.migration SET options = CASE WHEN $3 IS NULL"
			  " THEN options - $2 ELSE jsonb_set(options, ARRAY[$2],"
			  " to_jsonb($3)) END WHERE id = $1",
			  3, types, values, nulls);
	SPI_finish();
	refit_worker_start_at_commit();
	refit_worker_wake_at_commit(id);
	return CStringGetTextDatum(refit_catalog_load(id)->state);
}

/* refit.throttle(ratio, expires, id); id NULL: every migration, superuser. */
Datum
refit_throttle(PG_FUNCTION_ARGS)
{
	int64 id = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	double ratio;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("ratio and expires must not be null")));
	ratio = PG_GETARG_FLOAT8(0);
	if (!(ratio >= 0 && ratio <= 1))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("ratio %g is not between 0 and 1", ratio),
						errhint("0 is full speed, 1 stands still.")));
	if (!PG_ARGISNULL(2))
		check_rights(id);
	else if (!superuser())
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied to throttle every migration"),
						errhint("Name a migration of a table that you own.")));
	refit_governor_hold(id, ratio, PG_GETARG_INTERVAL_P(1));
	refit_worker_start_at_commit();
	if (id == 0)
		PG_RETURN_TEXT_P(cstring_to_text("all"));
	refit_worker_wake_at_commit(id);
	return CStringGetTextDatum(refit_catalog_load(id)->state);
}

/* refit._claim(id) */
Datum
refit_claim(PG_FUNCTION_ARGS)
{
	int64 id = PG_GETARG_INT64(0);

	check_rights(id);
	PG_RETURN_BOOL(refit_migration_claim(id, true));
}

/* refit._release(id) */
Datum
refit_release(PG_FUNCTION_ARGS)
{
	refit_migration_release(PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

/* refit._step(id) */
Datum
refit_step(PG_FUNCTION_ARGS)
{
	check_rights(PG_GETARG_INT64(0));
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a step of a migration needs a transaction of its own"),
				 errhint("Use CALL refit.run(id).")));
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a migration cannot be worked under this isolation "
						"level"),
				 errhint("SET default_transaction_isolation TO "
						 "'read committed'.")));
	PG_RETURN_INT32(refit_migration_step(PG_GETARG_INT64(0)));
}

/* A text argument, or NULL where it is NULL or empty. */
static char *
message_arg(FunctionCallInfo fcinfo, int n)
{
	char *value;

	if (PG_ARGISNULL(n))
		return NULL;
	value = text_to_cstring(PG_GETARG_TEXT_PP(n));
	return value[0] == '\0' ? NULL : value;
}

/* refit._failed(id, code, message, detail, hint, context) */
Datum
refit_step_failed(PG_FUNCTION_ARGS)
{
	ErrorData edata = {0};
	char *code = message_arg(fcinfo, 1);

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	check_rights(PG_GETARG_INT64(0));
	if (code != NULL && strlen(code) == 5)
		edata.sqlerrcode =
			MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
	edata.message = message_arg(fcinfo, 2);
	if (edata.message == NULL)
		edata.message = "";
	edata.detail = message_arg(fcinfo, 3);
	edata.hint = message_arg(fcinfo, 4);
	edata.context = message_arg(fcinfo, 5);
	PG_RETURN_INT32(refit_migration_failed(PG_GETARG_INT64(0), &edata));
}
