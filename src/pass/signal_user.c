/*-------------------------------------------------------------------------
 *
 * signal_user.c
 *	  What people say: refit.throttle(), and a function of their own.
 *
 * The function in refit.signal_function runs with the rights of the owner of
 * the migration's table, restricted as in maintenance commands, and never with
 * more; when somebody looks at refit.signals, with his rights.  So a function
 * that reads what these roles may not is to be SECURITY DEFINER, which whoever
 * sets refit.signal_function, a superuser, answers for.  Its search_path is
 * pg_catalog, pg_temp.  It runs in a subtransaction and for a second at most;
 * an error, no row and NULL all make the signal unknown, and none of them harms
 * the migration.
 *
 * See signals.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "guc.h"
#include "pass/signals.h"
#include "util/attempt.h"
#include "util/sqlutil.h"

#define FUNCTION_SOFT 0.5
#define FUNCTION_MS 1000 /* that the function may take */

/* A call of the function, for refit_attempt. */
typedef struct FunctionCall
{
	RefitMigration *m;
	RefitSignal *signal;
	char *reason;
} FunctionCall;

/*
 * manual: what refit.throttle() asks for.  Without a migration, the strictest
 * hold of any.
 */
void
refit_signal_manual(RefitMigration *m, RefitSignal *signal, char *reason)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m == NULL ? -1 : m->id)};

	signal->unit = "ratio";
	signal->soft_limit = 0;
	signal->hard_limit = 1;
	signal->has_value = true;

	SPI_connect();
	if (refit_sql("SELECT h.ratio, CASE WHEN h.migration_id = 0"
				  " THEN 'every migration' ELSE pg_catalog.concat("
				  "'migration ', h.migration_id) END, h.expires_at"
				  " FROM refit.hold h"
				  " WHERE (h.migration_id IN (0, $1) OR $1 = -1)"
				  " AND h.expires_at > pg_catalog.clock_timestamp()"
				  " ORDER BY h.ratio DESC, h.expires_at DESC LIMIT 1",
				  1, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;

		signal->value = refit_signals_number(0, 1, 0);
		snprintf(reason, REFIT_REASON_SIZE, "%s is held until %s",
				 SPI_getvalue(row, desc, 2), SPI_getvalue(row, desc, 3));
	}
	SPI_finish();
}

/* The call as SQL; an ERROR when the name does not stand for a function. */
static char *
function_call_sql(void)
{
	List *names =
		textToQualifiedNameList(cstring_to_text(refit_signal_function));
	Oid oid = LookupFuncName(names, 0, NULL, false);

	return psprintf(
		"SELECT f.load::float8, f.reason::text FROM %s() f",
		quote_qualified_identifier(get_namespace_name(get_func_namespace(oid)),
								   get_func_name(oid)));
}

/* Calls the function; for refit_attempt. */
static void
call_function(void *arg)
{
	FunctionCall *call = arg;
	RefitRights save;
	HeapTuple row;
	char *text;

	refit_rights_begin(&save,
					   call->m != NULL ? refit_relation_owner(call->m->relid)
									   : GetUserId(),
					   true);
	SPI_connect();
	if (SPI_execute(function_call_sql(), true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not call refit.signal_function");
	if (SPI_processed > 0)
	{
		row = SPI_tuptable->vals[0];
		text = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
		call->signal->value = text == NULL ? NAN : strtod(text, NULL);
		call->signal->has_value = isfinite(call->signal->value);
		text = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);
		if (text != NULL)
			strlcpy(call->reason, text, REFIT_REASON_SIZE);
	}
	SPI_finish();
	refit_rights_end(&save);
}

/*
 * Calls it, within its time.  A session that works a migration may have a limit
 * of its own that is running; then that one holds.
 */
static ErrorData *
call_in_time(FunctionCall *call)
{
	bool is_limited = !get_timeout_active(STATEMENT_TIMEOUT);
	TimestampTz begun = GetCurrentTimestamp();
	ErrorData *error;

	if (is_limited)
		enable_timeout_after(STATEMENT_TIMEOUT, FUNCTION_MS);
	error = refit_attempt(call_function, call, true);
	if (is_limited)
	{
		disable_timeout(STATEMENT_TIMEOUT, true);
		if (get_timeout_indicator(STATEMENT_TIMEOUT, true) && error == NULL)
			QueryCancelPending = false; /* it came too late */
	}
	if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		!(is_limited && TimestampDifferenceExceeds(begun, GetCurrentTimestamp(),
												   FUNCTION_MS)))
		ReThrowError(error); /* somebody cancels us, not it */
	return error;
}

/* signal_function: the load that the user's own function gives. */
void
refit_signal_function_load(RefitMigration *m, RefitSignal *signal, char *reason)
{
	FunctionCall call = {m, signal, reason};
	ErrorData *error;

	signal->unit = "load";
	signal->soft_limit = FUNCTION_SOFT;
	signal->hard_limit = 1;
	signal->owner_may_know = true;
	if (refit_signal_function == NULL || refit_signal_function[0] == '\0')
	{
		signal->has_value = true;
		return;
	}
	error = call_in_time(&call);
	if (error != NULL)
	{
		signal->has_value = false;
		snprintf(reason, REFIT_REASON_SIZE, "%s", error->message);
	}
}
