/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  refit.wait(): a session stands by until a migration is over.
 *
 * Locks: none but for the looks at refit's own tables.  Snapshot: a function runs
 * in a statement, which has one, and many a migration waits for old ones: an
 * index build for those that might read the table, DETACH ... FINALIZE for those
 * that may have planned with the partition, a backfill with max_dead_ratio for
 * those because of which vacuum keeps what died.  So while it sleeps the session
 * asks not to be counted, see step_aside().  Both flags go with the transaction; a
 * process that dies has no snapshot any more.
 *
 * Anybody may call it; the error of a migration is told to who may control it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api/control.h"
#include "job/catalog.h"
#include "util/sqlutil.h"

/* How often it looks. */
#define WAIT_POLL_MS 100

PG_FUNCTION_INFO_V1(refit_wait);

/* Is this one of the states that nothing follows by itself? */
static bool
is_settled(const char *state)
{
	return strcmp(state, "completed") == 0 || strcmp(state, "cancelled") == 0 ||
		   strcmp(state, "reverted") == 0 || strcmp(state, "revertible") == 0;
}

/* The state and error of a migration as they are now committed. */
static char *
current_state(int64 id, char **message)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(id)};
	char *state;

	PushActiveSnapshot(GetLatestSnapshot());
	state = refit_sql_text("SELECT CASE WHEN request IS NOT NULL AND state IN"
						   " ('ready', 'revertible') THEN 'running'"
						   " ELSE state END"
						   " FROM refit.migration WHERE id = $1",
						   1, types, values);
	*message = refit_sql_text("SELECT concat_ws('; ', error_message,"
							  " error_detail) FROM refit.migration"
							  " WHERE id = $1",
							  1, types, values);
	PopActiveSnapshot();
	return state;
}

/* When a time-out that began now will be over. */
static TimestampTz
deadline_of(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return DT_NOEND;
	return DatumGetTimestampTz(DirectFunctionCall2(
		timestamptz_pl_interval, TimestampTzGetDatum(GetCurrentTimestamp()),
		PG_GETARG_DATUM(n)));
}

/*
 * Asks not to be counted among those with a snapshot, or again to be.
 *
 * PROC_IN_SAFE_IC: CREATE INDEX CONCURRENTLY, and our own builds, wait for every
 * transaction with a snapshot, so also for one that waits for them.  It says what
 * holds here: that this one is not going to read the table by the new index, the
 * statement having been planned.
 *
 * PROC_IN_VACUUM: vacuum keeps what this snapshot might see, though nobody looks
 * with it any more.  Only where that is certain, see is_alone(), and only while
 * nothing at all is read: a snapshot that is taken when the flag is gone is as
 * young as what has been removed meanwhile.
 */
static void
step_aside(int flags, bool aside)
{
	LWLockAcquire(ProcArrayLock, LW_EXCLUSIVE);
	if (aside)
		MyProc->statusFlags |= flags;
	else
		MyProc->statusFlags &= ~flags;
	ProcGlobal->statusFlags[MyProc->pgxactoff] = MyProc->statusFlags;
	LWLockRelease(ProcArrayLock);
}

/*
 * Is the call all that its statement has yet to do, and the statement all that
 * its transaction does?  So for SELECT refit.wait(...), whatever the arguments
 * were worked out from.  Then no snapshot of the transaction is used again.
 *
 * Nor must the transaction have written, as an argument may: vacuum would not count
 * its xid either, and might call a table frozen past it.
 */
static bool
is_alone(FunctionCallInfo fcinfo)
{
	PlannedStmt *stmt =
		ActivePortal == NULL ? NULL : PortalGetPrimaryStmt(ActivePortal);
	Plan *plan = stmt == NULL ? NULL : stmt->planTree;

	if (plan == NULL || !IsA(plan, Result) || outerPlan(plan) != NULL ||
		list_length(plan->targetlist) != 1 ||
		linitial_node(TargetEntry, plan->targetlist)->expr !=
			(Expr *) fcinfo->flinfo->fn_expr)
		return false;
	return !IsTransactionBlock() && ThereAreNoReadyPortals() &&
		   !XactHasExportedSnapshots() &&
		   !TransactionIdIsValid(GetTopTransactionIdIfAny());
}

/* Sleeps between two looks. */
static void
wait_a_little(bool alone)
{
	if (alone)
		step_aside(PROC_IN_VACUUM, true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 WAIT_POLL_MS, PG_WAIT_EXTENSION);
	if (alone)
		step_aside(PROC_IN_VACUUM, false);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * An ERROR when the migration's worker waits for this transaction: for a lock of
 * it, or for its snapshot, which counts unless the call is alone.  A worker that
 * has not looked since this transaction began may name the one before it.
 */
static void
check_not_in_the_way(int64 id, bool alone)
{
	Oid types[2] = {INT8OID, BOOLOID};
	Datum values[2] = {Int64GetDatum(id), BoolGetDatum(alone)};

	if (refit_sql_text("SELECT 1 FROM refit.migration_progress p"
					   " JOIN refit.migration m USING (id)"
					   " WHERE id = $1 AND m.state = 'running'"
					   " AND m.strategy IN ('command', 'concurrently')"
					   " AND (pg_backend_pid() = ANY"
					   "  (pg_blocking_pids(p.worker_pid))"
					   "  OR NOT $2 AND p.updated_at > now() + interval '1s'"
					   "   AND p.waiting_for LIKE"
					   "   'pid ' || pg_backend_pid() || ',%')",
					   2, types, values) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("migration " INT64_FORMAT
						" waits for this transaction to end",
						id),
				 errhint("Call refit.wait() in a transaction that has done "
						 "nothing else.")));
}

/* Waits for a migration; the state that it comes to, or "timeout". */
static char *
wait_for_state(int64 id, TimestampTz deadline, bool alone)
{
	for (;;)
	{
		char *message;
		char *state = current_state(id, &message);

		if (state == NULL)
			refit_control_refuse_unknown(id);
		if (strcmp(state, "failed") == 0)
			ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							errmsg("migration " INT64_FORMAT " has failed", id),
							refit_control_is_allowed(refit_catalog_load(id))
								? errdetail("%s", message)
								: 0,
							errhint("See refit.migrations and refit.events.")));
		if (is_settled(state) || strcmp(state, "ready") == 0 ||
			strcmp(state, "paused") == 0)
			return state;
		if (GetCurrentTimestamp() >= deadline)
			return "timeout";
		PushActiveSnapshot(GetLatestSnapshot());
		check_not_in_the_way(id, alone);
		PopActiveSnapshot();
		wait_a_little(alone);
	}
}

/* refit.wait(id, timeout): until it is over, ready, or time is up. */
Datum
refit_wait(PG_FUNCTION_ARGS)
{
	TimestampTz deadline = deadline_of(fcinfo, 1);
	char *state = NULL;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
						errmsg("refit.wait() needs READ COMMITTED"),
						errdetail("Under another isolation level it could not "
								  "see the state change.")));
	step_aside(PROC_IN_SAFE_IC, true);
	PG_TRY();
	{
		state = wait_for_state(PG_GETARG_INT64(0), deadline, is_alone(fcinfo));
	}
	PG_FINALLY();
	{
		step_aside(PROC_IN_SAFE_IC, false);
	}
	PG_END_TRY();
	return CStringGetTextDatum(state);
}
