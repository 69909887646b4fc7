/*-------------------------------------------------------------------------
 *
 * migration.c
 *	  The state machine: the only writer of a migration's state and phase.
 *
 * States
 *	  queued -> running -> completed | failed | cancelled
 *	  running <-> ready		(a manual cutover waits; catch-up goes on)
 *	  queued, running, ready -> paused -> queued
 *	  failed, cancelled, reverted -> queued		(retry)
 *	  running -> revertible -> running -> completed | reverted | revertible
 *
 * A running migration is in a phase; the phases of each strategy stand in order
 * in the table below.  One step is one transaction: it loads the row, does a
 * bounded piece of the phase's work and writes progress, and phase where that
 * is finished.  So at every instant the row says what is done, and whoever
 * loads it next, after an error, a kill, a crash or a promotion, goes on from
 * there.  What a step makes and a death leaves behind is said in the header of
 * the file that the step is in.
 *
 * A migration that fails or is cancelled goes to phase cleanup, which takes
 * away all that it has made, and only then to its final state.  After the
 * cutover there is no way back by cancelling: what is left to do is done.
 * With a revert window there is one by reverting: goal reverted leads through
 * the phases of "revert", and an error on the way to the window again.
 *
 * Locks: the claim (see migration.h), and for a moment the row.  Whoever helps
 * with a migration that somebody else has claimed holds another lock for his
 * chunk; state paused, and the final ones, are entered when nobody does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ddl/command.h"
#include "ddl/ddl.h"
#include "ddl/fate.h"
#include "guc.h"
#include "index/concurrent.h"
#include "index/incremental.h"
#include "index/plan.h"
#include "job/blockers.h"
#include "job/catalog.h"
#include "job/migration.h"
#include "job/terms.h"
#include "job/worker.h"
#include "pass/governor.h"
#include "rows/batch.h"
#include "rows/constraint.h"
#include "rows/mirror.h"
#include "rows/validation.h"
#include "table/actions.h"
#include "table/alter.h"
#include "table/build.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/copy.h"
#include "table/cutover.h"
#include "table/plan.h"
#include "table/revert.h"
#include "table/space.h"
#include "table/transform.h"
#include "table/tree.h"
#include "table/twin.h"
#include "table/verify.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Tells our advisory locks from a user's, which have 1 or 2 here. */
#define CLAIM_FIELD 0x7266
#define QUEUE_FIELD 0x7271
#define HELP_FIELD 0x7268

/* Rests in ms. */
#define REST_READY 500
#define REST_RETURN 20
#define REST_RETRY_SOON 200
#define REST_RETRY 1000
#define REST_LATE_RETRY 5000
#define REST_DISK_FULL 5000

/* Time in ms that the shown rate is one of. */
#define RATE_MS 10000.0
#define IDLE_MS 60000.0

/* ms between two events about a lock that we wait for. */
#define LOCK_EVENT_INTERVAL 1000

/* Errors at one place after which a migration fails. */
#define MOST_ERRORS 2
#define MOST_LATE_ERRORS 10 /* where there is no way back */
#define MOST_DEATHS 4

/* Seconds between two tries in a revert window that an error bars. */
#define MOST_WINDOW_RESTS 5

/* One phase of a strategy. */
typedef struct Phase
{
	const char *strategy;
	const char *name;
	RefitStep step;
	bool after_cutover; /* cannot be cancelled any more */
	bool per_leaf;		/* done for one leaf after the other */
} Phase;

static RefitOutcome plan_step(RefitMigration *m, RefitBudget *budget);
static RefitOutcome divide_step(RefitMigration *m, RefitBudget *budget);
static void record_error(RefitMigration *m, const ErrorData *edata);

static const Phase phases[] = {
	{NULL, "plan", plan_step, false},
	{"batches", "batches", refit_batch_step, false},
	{"batches", "cleanup", refit_build_cleanup, true},
	{"drop", "drop", refit_index_drop_step, false},
	{"drop", "cleanup", refit_index_cleanup, true},
	{"incremental", "begin", refit_index_begin, false},
	{"incremental", "insert", refit_index_insert, false},
	{"incremental", "publish", refit_index_publish, false},
	{"incremental", "cleanup", refit_index_cleanup, true},
	{"mirror", "install", refit_mirror_install, false},
	{"mirror", "divide", divide_step, false},
	{"mirror", "batches", refit_batch_step, false},
	{"mirror", "cleanup", refit_build_cleanup, true},
	{"unmirror", "detach", refit_mirror_detach, false},
	{"unmirror", "cleanup", refit_build_cleanup, true},
	{"check", "validate", refit_constraint_step, false},
	{"check", "cleanup", refit_build_cleanup, true},
	{"ddl", "ddl", refit_ddl_step, false},
	{"ddl", "cleanup", refit_ddl_cleanup, true},
	{"command", "command", refit_ddl_command_step, false},
	{"command", "cleanup", refit_ddl_cleanup, true},
	{"concurrently", "concurrently", refit_concurrent_step, false},
	{"concurrently", "cleanup", refit_ddl_cleanup, true},
	{"instant", "alter", refit_alter_step, false},
	{"instant", "cleanup", refit_build_cleanup, true},
	{"validate", "alter", refit_alter_step, false},
	{"validate", "validate", refit_constraint_step, true},
	{"validate", "settle", refit_alter_settle, true},
	{"validate", "cleanup", refit_build_cleanup, true},
	{"rewrite", "prepare", refit_build_prepare, false},
	{"rewrite", "capture", refit_capture_install, false, true},
	{"rewrite", "copy", refit_copy_step, false, true},
	{"rewrite", "order", refit_build_order, false, true},
	{"rewrite", "index", refit_build_index, false, true},
	{"rewrite", "analyze", refit_build_analyze, false},
	{"rewrite", "catchup", refit_catchup_step, false, true},
	{"rewrite", "verify", refit_verify_step, false, true},
	{"rewrite", "cutover", refit_cutover_step, false},
	{"rewrite", "validate", refit_constraint_step, true},
	{"rewrite", "settle", refit_build_settle, true},
	{"rewrite", "window", refit_revert_window_step, true},
	{"rewrite", "cleanup", refit_build_cleanup, true},
	{"revert", "catchback", refit_catchup_step, true},
	{"revert", "recheck", refit_verify_step, true},
	{"revert", "references", refit_revert_check_references, true},
	{"revert", "revert", refit_cutover_step, true},
	{"revert", "validate", refit_constraint_step, true},
	{"revert", "settle", refit_build_settle, true},
	{"revert", "cleanup", refit_build_cleanup, true},
};

/*
 * Rows of refit.migration
 */

/* Runs a statement on the row with parameters id and three texts. */
static uint64
update_row(const RefitMigration *m, const char *sql, const char *a,
		   const char *b, const char *c)
{
	Oid types[4] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[4] = {Int64GetDatum(m->id)};
	bool nulls[4] = {false, a == NULL, b == NULL, c == NULL};
	const char *texts[3] = {a, b, c};
	uint64 n;

	for (int i = 0; i < 3; i++)
		values[i + 1] =
			texts[i] != NULL ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	SPI_connect();
	n = refit_sql(sql, 4, types, values, nulls);
	SPI_finish();
	return n;
}

/* Tells listeners. */
static void
notify(const RefitMigration *m)
{
	StringInfoData payload;

	initStringInfo(&payload);
	appendStringInfo(&payload, "{\"id\": " INT64_FORMAT ", \"name\": ", m->id);
	if (m->name != NULL)
		escape_json(&payload, m->name);
	else
		appendStringInfoString(&payload, "null");
	appendStringInfoString(&payload, ", \"kind\": ");
	escape_json(&payload, m->kind);
	appendStringInfoString(&payload, ", \"relation\": ");
	escape_json(&payload, m->relation);
	appendStringInfo(&payload, ", \"state\": \"%s\", \"phase\": ", m->state);
	if (m->phase != NULL)
		escape_json(&payload, m->phase);
	else
		appendStringInfoString(&payload, "null");
	appendStringInfoChar(&payload, '}');
	Async_Notify("refit", payload.data);
}

/*
 * The one transition function: from the state that was loaded to another.
 * An ERROR when the row is not in that state any more.
 */
static void
set_state(RefitMigration *m, const char *state)
{
	if (strcmp(m->state, state) == 0)
		return;
	if (update_row(m,
				   "UPDATE refit.migration SET state = $2,"
				   " started_at = CASE WHEN $2 = 'running' THEN"
				   "  coalesce(started_at, clock_timestamp())"
				   "  ELSE started_at END,"
				   " finished_at = CASE WHEN $2 IN ('completed', 'cancelled',"
				   "  'failed', 'reverted') THEN clock_timestamp() END"
				   " WHERE id = $1 AND state = $3 AND ($4 IS NULL)",
				   state, m->state, NULL) != 1)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("the state of migration " INT64_FORMAT
							   " was changed by somebody else",
							   m->id),
						errhint("Try again.")));
	refit_catalog_event(m, "state", psprintf("%s -> %s", m->state, state),
						NULL);
	m->state = pstrdup(state);
	notify(m);
}

/* Enters a phase. */
static void
set_phase(RefitMigration *m, const char *phase)
{
	update_row(m,
			   "UPDATE refit.migration SET phase = $2, strategy = $3,"
			   " phase_started_at = clock_timestamp()"
			   " WHERE id = $1 AND ($4 IS NULL)",
			   phase, m->strategy, NULL);
	m->phase = phase != NULL ? pstrdup(phase) : NULL;
	m->progress.errors = 0;
	if (phase != NULL)
		refit_catalog_event(m, "phase", psprintf("phase %s begins", phase),
							NULL);
}

/* Leaves a note of what the worker shall do, or takes it off. */
static void
set_request(RefitMigration *m, const char *request)
{
	update_row(m,
			   "UPDATE refit.migration SET request = $2 WHERE id = $1"
			   " AND ($3 IS NULL) AND ($4 IS NULL)",
			   request, NULL, NULL);
	m->request = request != NULL ? pstrdup(request) : NULL;
}

/* Sends the migration to phase cleanup, on the way to a final state. */
static void
set_goal(RefitMigration *m, const char *goal)
{
	update_row(m,
			   "UPDATE refit.migration SET goal = $2 WHERE id = $1"
			   " AND ($3 IS NULL) AND ($4 IS NULL)",
			   goal, NULL, NULL);
	m->goal = pstrdup(goal);
	if (m->strategy == NULL)
		m->strategy = "rewrite";
	set_phase(m, "cleanup");
	m->progress.waiting_for = NULL;
	m->progress.rate = 0;
}

/* Loads a migration for a control function; its row is locked. */
static RefitMigration *
load_for_control(int64 id)
{
	RefitMigration *m = refit_catalog_load(id);

	if (m != NULL)
	{
		update_row(m,
				   "SELECT FROM refit.migration WHERE id = $1 AND ($2 IS NULL)"
				   " AND ($3 IS NULL) AND ($4 IS NULL) FOR UPDATE",
				   NULL, NULL, NULL);
		m = refit_catalog_load(id);
	}
	if (m == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("migration " INT64_FORMAT " does not exist", id),
						errhint("Look in refit.migrations.")));
	return m;
}

/*
 * Claims
 */

/* The lock that stands for working a migration. */
static void
claim_tag(LOCKTAG *tag, int64 id)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (id >> 32), (uint32) id,
						 CLAIM_FIELD);
}

/* Takes the claim, if nobody has it. */
bool
refit_migration_claim(int64 id, bool for_session)
{
	LOCKTAG tag;

	claim_tag(&tag, id);
	return LockAcquire(&tag, ExclusiveLock, for_session, true) !=
		   LOCKACQUIRE_NOT_AVAIL;
}

/* Has this session stopped where only a worker can go on? */
static bool is_left_to_worker = false;

/* Gives a session's claim back. */
void
refit_migration_release(int64 id)
{
	LOCKTAG tag;

	if (is_left_to_worker) /* who looks before this is in vain */
		refit_worker_start_at_commit();
	is_left_to_worker = false;

	claim_tag(&tag, id);
	LockRelease(&tag, ExclusiveLock, true);
}

/* The lock of those who help to work a migration. */
static void
help_tag(LOCKTAG *tag, int64 id)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (id >> 32), (uint32) id,
						 HELP_FIELD);
}

/*
 * Waits for the chunks of those who help to end, lock_timeout at most, and keeps
 * them from beginning others until our commit.
 */
static void
stop_help(const RefitMigration *m)
{
	LOCKTAG tag;

	help_tag(&tag, m->id);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* May a chunk of help begin?  Only while somebody leads, and nobody stops it. */
static bool
begin_help(int64 id)
{
	LOCKTAG tag;

	claim_tag(&tag, id);
	if (LockAcquire(&tag, ShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
	{
		LockRelease(&tag, ShareLock, false);
		return false;
	}
	help_tag(&tag, id);
	return LockAcquire(&tag, ShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Ids of migrations that a worker could be started for, in order.
 *
 * A claim of a worker's is one.  Another session's may be that of a control
 * function whose transaction has just committed and is about to give it back:
 * nobody would look again.  A worker waits for it a moment, and leaves if it is
 * refit.run() that has it.
 */
List *
refit_migration_startable(void)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(CLAIM_FIELD)};
	MemoryContext context = CurrentMemoryContext;
	List *ids = NIL;

	SPI_connect();
	refit_sql("SELECT m.id FROM refit.migration m"
			  " WHERE m.state IN ('queued', 'running', 'ready',"
			  "  'revertible') AND m.home = refit._home()"
			  " AND NOT EXISTS (SELECT FROM refit.migration e"
			  "  WHERE e.id <> m.id AND e.state IN"
			  "   ('queued', 'running', 'paused', 'ready', 'revertible')"
			  "  AND refit._overlap(e.relid, m.relid)"
			  "  AND (e.phase IS NULL, e.id) < (m.phase IS NULL, m.id))"
			  " AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l"
			  "  JOIN pg_catalog.pg_stat_activity a USING (pid)"
			  "  WHERE l.locktype = 'advisory' AND l.objsubid = $1"
			  "  AND a.backend_type LIKE 'pg_refit%'"
			  "  AND l.database = (SELECT oid FROM pg_catalog.pg_database"
			  "   WHERE datname = current_database())"
			  "  AND l.classid::int8 = m.id >> 32"
			  "  AND l.objid::int8 = m.id & 4294967295)"
			  " ORDER BY m.id",
			  1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64 *id = MemoryContextAlloc(context, sizeof(int64));
		MemoryContext old = MemoryContextSwitchTo(context);

		*id = strtoll(
			SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1), NULL,
			10);
		ids = lappend(ids, id);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return ids;
}

/*
 * Steps
 */

/* Chooses the strategy of a change of the table's definition or order. */
static char *
plan_change(RefitMigration *m)
{
	AlterTableStmt *stmt = refit_actions_of(m);
	RefitPlanRequest request = {.relid = m->relid,
								.stmt = stmt,
								.order_by = stmt == NULL ? m->definition : NULL,
								.search_path = m->search_path,
								.revertible = m->revertible};
	RefitPlan *plan;

	plan = refit_plan_make(&request);
	refit_space_check(m->relid, plan->needs);
	refit_space_save(m, plan->needs);
	m->strategy = pstrdup(plan->strategy);
	return pstrdup(plan->reason);
}

/* Is it a statement of refit.ddl()?  It may be about no relation. */
static bool
is_ddl(const RefitMigration *m)
{
	return strcmp(m->kind, "ddl") == 0;
}

/* Chooses the strategy by the kind of migration; why. */
static char *
choose_strategy(RefitMigration *m)
{
	const char *mirror = refit_mirror_strategy(m->kind);

	if (refit_index_is_kind(m->kind))
		return refit_index_plan(m);
	if (is_ddl(m))
		return refit_ddl_plan(m);
	if (strcmp(m->kind, "validate_constraint") == 0)
	{
		refit_plan_check_owned(m->relid);
		m->strategy = "check";
		return refit_validation_plan(m);
	}
	if (refit_statement_is_kind(m->kind))
	{
		refit_plan_check_rows(m->relid);
		m->strategy = "batches";
		return refit_batch_plan(m);
	}
	if (mirror != NULL)
	{
		m->strategy = pstrdup(mirror);
		return refit_mirror_plan(m);
	}
	refit_plan_check_table(m->relid, strcmp(m->kind, "alter_table") == 0);
	return plan_change(m);
}

/* Phase plan: chooses the strategy, on the table as it is now. */
static RefitOutcome
plan_step(RefitMigration *m, RefitBudget *budget)
{
	char *reason = choose_strategy(m);

	refit_catalog_event(m, "plan",
						psprintf("strategy %s: %s", m->strategy, reason), NULL);
	REFIT_FAULT("plan.made");
	return REFIT_NEXT;
}

/*
 * Phase divide: divides a table whose rows are passed over once the phases before
 * have made sure that none is missed.
 */
static RefitOutcome
divide_step(RefitMigration *m, RefitBudget *budget)
{
	refit_catalog_event(m, "plan", refit_batch_plan(m), NULL);
	return REFIT_NEXT;
}

/* Is the old definition to come back? */
static bool
is_reverting(const RefitMigration *m)
{
	return m->goal != NULL && strcmp(m->goal, "reverted") == 0;
}

/* Which phases it goes through: those of its strategy, or of the revert. */
static const char *
path_of(const RefitMigration *m)
{
	return is_reverting(m) ? "revert" : m->strategy;
}

/* Is the migration in this phase? */
static bool
is_in_phase(const RefitMigration *m, const char *phase)
{
	return m->phase != NULL && strcmp(m->phase, phase) == 0;
}

/* The present phase's entry. */
static const Phase *
find_phase(const RefitMigration *m)
{
	for (int i = 0; i < lengthof(phases); i++)
		if (strcmp(phases[i].name, m->phase) == 0 &&
			(phases[i].strategy == NULL ||
			 (path_of(m) != NULL &&
			  strcmp(phases[i].strategy, path_of(m)) == 0)))
			return &phases[i];
	elog(ERROR, "migration " INT64_FORMAT " is in unknown phase \"%s\"", m->id,
		 m->phase);
	return NULL;
}

/* The phase after this one, or NULL. */
static const Phase *
following_phase(const RefitMigration *m, const Phase *phase)
{
	if (phase->strategy == NULL)
	{
		for (int i = 0; i < lengthof(phases); i++)
			if (phases[i].strategy != NULL &&
				strcmp(phases[i].strategy, m->strategy) == 0)
				return &phases[i];
	}
	else if (phase + 1 < phases + lengthof(phases) &&
			 strcmp(phase[1].strategy, phase->strategy) == 0)
		return phase + 1;
	return NULL;
}

/* Has a control function asked for this? */
static bool
is_requested(const RefitMigration *m, const char *request)
{
	return m->request != NULL && strcmp(m->request, request) == 0;
}

/* Records how much was copied, when the copy is done. */
static void
record_volume(const RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET rows = $2::int8, bytes = $3::int8"
			   " WHERE id = $1 AND ($4 IS NULL)",
			   psprintf(INT64_FORMAT, m->progress.rows_done),
			   psprintf(INT64_FORMAT, m->progress.bytes_done), NULL);
}

/* Records how many rows a pass over a table has written, all tries together. */
static void
record_written(const RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET rows = (SELECT sum(touched)"
			   " FROM refit.pass WHERE id = $1) WHERE id = $1 AND EXISTS"
			   " (SELECT FROM refit.pass p WHERE p.id = migration.id)"
			   " AND ($2 IS NULL) AND ($3 IS NULL)"
			   " AND ($4 IS NULL)",
			   NULL, NULL, NULL);
}

/* Records a try of the cutover. */
static void
record_attempt(const RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET cutover_attempts = $2::int4"
			   " WHERE id = $1 AND ($3 IS NULL) AND ($4 IS NULL)",
			   psprintf(INT64_FORMAT, m->cutover_attempts), NULL, NULL);
}

/* Records how long the cutover held its locks, known once it is committed. */
static void
record_lock_time(const RefitMigration *m)
{
	double ms = refit_cutover_take_lock_ms();

	if (ms >= 0)
		update_row(m,
				   "UPDATE refit.migration SET cutover_lock_ms = $2::float8"
				   " WHERE id = $1 AND ($3 IS NULL) AND ($4 IS NULL)",
				   psprintf("%.3f", ms), NULL, NULL);
}

/* Says that nobody works the migration any more. */
static void
forget_worker(const RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration_progress SET worker_pid = NULL"
			   " WHERE id = $1 AND ($2 IS NULL) AND ($3 IS NULL)"
			   " AND ($4 IS NULL)",
			   NULL, NULL, NULL);
}

/* Takes an error off that does not matter any more. */
static void
forget_error(const RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET error_code = NULL,"
			   " error_message = NULL, error_detail = NULL,"
			   " error_hint = NULL, error_context = NULL WHERE id = $1"
			   " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
}

/* Ends the migration in the state that cleanup was heading for. */
static int
finish(RefitMigration *m)
{
	m->progress.rate = 0;
	m->progress.message = NULL;
	refit_catalog_save_progress(m);
	forget_worker(m);
	set_request(m, NULL);
	stop_help(m);
	record_written(m);
	update_row(m,
			   "DELETE FROM refit.owed WHERE id = $1 AND ($2 IS NULL)"
			   " AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
	if (!refit_catalog_is_given_up(
			m)) /* it got over whatever error there was */
		forget_error(m);
	if (m->goal == NULL) /* otherwise a retry goes on from them */
		update_row(m,
				   "DELETE FROM refit.pass WHERE id = $1 AND ($2 IS NULL)"
				   " AND ($3 IS NULL) AND ($4 IS NULL)",
				   NULL, NULL, NULL);
	set_phase(m, NULL);
	set_state(m, m->goal != NULL ? m->goal : "completed");
	REFIT_FAULT("finish.written");
	return -1;
}

/*
 * Goes to the next leaf in the same phase; false: it was the last one, and the
 * first one comes next.
 */
static bool
advance_leaf(RefitMigration *m, const Phase *phase)
{
	if (!phase->per_leaf || m->nleaves <= 1)
		return false;
	if (!refit_catalog_select_leaf(m, m->rewrite.number + 1))
	{
		(void) refit_catalog_select_leaf(m, 1);
		return false;
	}
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	return true;
}

/* It is carried out; what may be asked for in a revert window is another. */
static void
end_order_to_cut_over(RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET request = NULL WHERE id = $1"
			   " AND request = $2 AND ($3 IS NULL) AND ($4 IS NULL)",
			   "cutover", NULL, NULL);
	if (is_requested(m, "cutover"))
		m->request = NULL;
}

/*
 * The rest between two leaves.  A cutover that waits is in no hurry; otherwise
 * it is as between two chunks, or a tree of many small leaves would never rest.
 * Catch-up does not, since the leaves before go out of step again meanwhile.
 */
static int
rest_between_leaves(RefitMigration *m, const Phase *phase, int worked_ms)
{
	if (strcmp(m->state, "ready") == 0)
		return REST_READY / Max(m->nleaves, 1);
	if (phase->step == refit_catchup_step)
		return 0;
	return refit_governor_after(m, worked_ms);
}

/*
 * May the application notice the migration at this time of the day?  A cutover
 * that somebody orders may; until then, catch-up goes on.
 */
static bool
may_cut_over(RefitMigration *m)
{
	if (strcmp(m->cutover, "manual") == 0 || refit_terms_window_is_open(m))
		return true;
	m->progress.message = psprintf("waiting for the cutover window %s",
								   refit_catalog_option(m, "cutover_window"));
	refit_catalog_save_progress(m);
	return false;
}

/* Goes to the next phase.  Returns the rest to take, or -1 at the end. */
static int
advance(RefitMigration *m, const Phase *phase, int worked_ms)
{
	const Phase *next = following_phase(m, phase);

	if (advance_leaf(m, phase))
	{
		int rest = rest_between_leaves(m, phase, worked_ms);

		refit_catalog_save_progress(m);
		return rest;
	}
	if (strcmp(phase->name, "copy") == 0 || strcmp(phase->name, "insert") == 0)
		record_volume(m);
	if (strcmp(phase->name, "cutover") == 0)
		end_order_to_cut_over(m);
	if (next == NULL)
		return finish(m);
	if (strcmp(next->name, "window") == 0 && !m->rewrite.reversed)
		next = following_phase(m, next);
	if (strcmp(next->name, "cutover") == 0 && !may_cut_over(m))
		return REST_READY;
	if (strcmp(next->name, "cutover") == 0 &&
		strcmp(m->cutover, "manual") == 0 && !is_requested(m, "cutover"))
	{
		set_state(m, "ready");
		m->progress.message = "waiting for refit.cutover()";
		refit_catalog_save_progress(m);
		REFIT_FAULT("ready.written");
		return REST_READY;
	}
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	m->progress.rows_done = 0;
	if (strcmp(phase->name, "prepare") != 0 &&
		strcmp(phase->name, "capture") != 0)
		m->progress.rows_total = 0;
	m->progress.rate = 0;
	m->progress.waiting_for = NULL;
	set_phase(m, next->name);
	refit_catalog_save_progress(m);
	return 0;
}

/* Leaves the revert window for the way back. */
static void
begin_revert(RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET goal = $2 WHERE id = $1"
			   " AND ($3 IS NULL) AND ($4 IS NULL)",
			   "reverted", NULL, NULL);
	m->goal = pstrdup("reverted");
	update_row(m,
			   "DELETE FROM refit.owed WHERE id = $1 AND ($2 IS NULL)"
			   " AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL); /* settled; they will be owed once more */
	forget_error(m);
	set_state(m, "running");
	set_phase(m, "catchback");
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	refit_verify_reset(m);
	refit_catalog_save_rewrite(m);
}

/* The way back is barred: the window stays open. */
static int
return_to_window(RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET goal = NULL WHERE id = $1"
			   " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
	m->goal = NULL;
	set_phase(m, "window");
	set_state(m, "revertible");
	return REST_READY;
}

/* The window is open, from its first step on, even if that has failed. */
static void
open_window(RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET revertible_until ="
			   " clock_timestamp() + revertible WHERE id = $1"
			   " AND revertible_until IS NULL"
			   " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
	set_state(m, "revertible");
}

/* Are there commands in this phase that only a worker can run? */
static bool
needs_worker(const Phase *phase)
{
	return phase->step == refit_ddl_command_step ||
		   phase->step == refit_concurrent_step;
}

/* Is the change in place already? */
static bool
is_too_late(const RefitMigration *m)
{
	const Phase *phase = find_phase(m);

	return phase->after_cutover ||
		   (needs_worker(phase) && refit_ddl_is_done(m));
}

/* Is there an invalid index of a command, which a pause would leave for long? */
static bool
must_tidy_up(const RefitMigration *m)
{
	return m->phase != NULL && needs_worker(find_phase(m)) &&
		   refit_fate_debris(m) != NIL;
}

/*
 * Does what a control function asked for.  True: leave the migration.
 *
 * The order to cut over stands until it is carried out.
 */
static bool
obey_request(RefitMigration *m)
{
	if (is_requested(m, "cutover"))
		set_state(m, "running");
	else if (is_requested(m, "pause") && !must_tidy_up(m))
	{
		stop_help(m);
		set_request(m, NULL);
		m->progress.rate = 0;
		refit_catalog_save_progress(m);
		forget_worker(m);
		set_state(m, "paused");
		return true;
	}
	else if (is_requested(m, "revert"))
	{
		set_request(m, NULL);
		if (is_in_phase(m, "window"))
			begin_revert(m);
	}
	else if (is_requested(m, "cancel"))
	{
		set_request(m, NULL);
		if (is_too_late(m))
			return false;
		set_state(m, "running");
		set_goal(m, "cancelled");
		REFIT_FAULT("cancel.obeyed");
	}
	return false;
}

/*
 * Is another migration of the same table unfinished and before this one?  That
 * is, has it begun, or has neither and it has the smaller id: an id may enter
 * the queue late, by a retry or a long transaction.
 */
static bool
must_wait_in_queue(const RefitMigration *m)
{
	return update_row(
			   m,
			   "SELECT FROM refit.migration m JOIN refit.migration e"
			   " ON refit._overlap(e.relid, m.relid) AND e.id <> m.id"
			   "  AND e.state IN ('queued', 'running', 'paused', 'ready',"
			   "   'revertible')"
			   "  AND (e.phase IS NULL, e.id) < (m.phase IS NULL, m.id)"
			   " WHERE m.id = $1 AND ($2 IS NULL) AND ($3 IS NULL)"
			   " AND ($4 IS NULL)",
			   NULL, NULL, NULL) > 0;
}

/*
 * Keeps others from starting a migration of this table until our commit, and
 * sees what the one before has committed.
 */
static void
lock_queue(Oid relid)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, relid, 0, QUEUE_FIELD);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	PopActiveSnapshot();
	PushActiveSnapshot(GetLatestSnapshot());
}

/* Was the migration submitted here, and not copied from another server? */
static bool
is_at_home(const RefitMigration *m)
{
	return update_row(m,
					  "SELECT FROM refit.migration WHERE id = $1"
					  " AND home = refit._home() AND ($2 IS NULL)"
					  " AND ($3 IS NULL) AND ($4 IS NULL)",
					  NULL, NULL, NULL) > 0;
}

/* Is it one that a process works? */
static bool
is_at_work(const RefitMigration *m)
{
	return strcmp(m->state, "running") == 0 || strcmp(m->state, "ready") == 0 ||
		   strcmp(m->state, "revertible") == 0;
}

/* Takes a migration out of the queue.  False: not its turn. */
static bool
start(RefitMigration *m)
{
	if (!is_at_home(m))
		return false;
	if (strcmp(m->state, "queued") == 0)
	{
		lock_queue(refit_tree_root(m->relid));
		if (must_wait_in_queue(m))
			return false;
		set_state(m, "running");
	}
	if (!is_at_work(m))
		return false;
	if (m->phase == NULL && m->goal == NULL)
		set_phase(m, "plan");
	return true;
}

/*
 * Keeps the rate: rows a second, with the rests after the steps and the time of
 * standing still between them.  The mean of the phase at first, so that one odd
 * chunk says little; later what was in the last RATE_MS, so that it follows.  Not
 * known any more when nothing has been done for long.
 */
static void
update_rate(RefitProgress *p, int64 rows, int ms)
{
	static double counted_ms = 0; /* of this process, in this phase */
	static double idle_ms = 0;
	double weight;

	if (ms <= 0)
		return;
	idle_ms = rows > 0 ? 0 : idle_ms + ms;
	if (p->rate == 0)
		counted_ms = 0;
	counted_ms += ms;
	weight = Max(ms / counted_ms, 1 - exp(-ms / RATE_MS));
	p->rate += weight * (rows * 1000.0 / ms - p->rate);
	if (idle_ms > IDLE_MS)
		p->rate = 0;
}

/*
 * Are the tables that we are about to write to those of this migration?  Rows
 * that came from another server name other ones.
 */
static void
check_work_tables(const RefitMigration *m)
{
	Oid schema = refit_twin_find_schema(m->id);

	if (m->rewrite.exists && !refit_catalog_is_given_up(m) &&
		(!OidIsValid(schema) || get_rel_namespace(m->rewrite.twin) != schema ||
		 get_rel_namespace(m->rewrite.blank) != schema))
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the work tables of migration " INT64_FORMAT " are gone",
					m->id),
			 errhint("Start it again with refit.retry(" INT64_FORMAT ").",
					 m->id)));
}

/*
 * The actions run with the rights of the table's owner, who may be another than
 * when they were submitted.  An ERROR unless whoever wrote them has these rights
 * now; from phase prepare on the fingerprint knows the owner as well.
 */
static void
check_submitter(const RefitMigration *m)
{
	if (update_row(m,
				   "SELECT FROM refit.migration m JOIN pg_catalog.pg_class c"
				   " ON c.oid = m.relid JOIN pg_catalog.pg_roles r"
				   " ON r.rolname = m.submitted_by"
				   " WHERE m.id = $1 AND pg_has_role(r.oid, c.relowner,"
				   "  'USAGE') AND ($2 IS NULL) AND ($3 IS NULL)"
				   " AND ($4 IS NULL)",
				   NULL, NULL, NULL) == 0)
	{
		AcceptInvalidationMessages(); /* it may have been dropped just now */
		(void) refit_relation_owner(m->relid);
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("migration " INT64_FORMAT
						" was submitted by somebody who has not the rights of "
						"the owner of %s now",
						m->id, refit_qualified_name(m->relid)),
				 errhint("Look at its actions and submit them as the owner.")));
	}
}

/* Says which leaf is at work, where there are several. */
static void
name_leaf(RefitMigration *m, const Phase *phase)
{
	if (phase->per_leaf && m->nleaves > 1 && strcmp(m->state, "running") == 0)
		m->progress.message =
			psprintf("partition %d of %d: %s", m->rewrite.number, m->nleaves,
					 refit_qualified_name(m->leaf));
}

/*
 * Until the end of the step, the settings of the session that submitted the
 * migration which change what a value is converted to: a plain ALTER TABLE
 * there would have gone by them.
 */
static void
apply_settings(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("SELECT s.key, s.value FROM refit.migration m,"
			  " jsonb_each_text(m.settings) s WHERE m.id = $1",
			  1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
		refit_set_local(
			SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1),
			SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2));
	SPI_finish();
}

/* With whose rights a phase's step runs. */
static Oid
role_for(const RefitMigration *m, const Phase *phase)
{
	if (strcmp(phase->name, "cleanup") == 0)
		return GetUserId();
	return is_ddl(m) ? refit_ddl_role(m) : refit_relation_owner(m->relid);
}

/* Runs a phase's step with the owner's rights. */
static RefitOutcome
run_step(RefitMigration *m, const Phase *phase, RefitBudget *budget)
{
	RefitRights save;
	RefitOutcome outcome;
	Oid owner = role_for(m, phase);

	REFIT_FAULT_IN(phase->name, "begun");
	check_work_tables(m);
	if (!phase->after_cutover && !is_ddl(m))
		check_submitter(m);
	if (m->rewrite.exists && !phase->after_cutover)
		refit_tree_check(m);
	name_leaf(m, phase);
	refit_rights_begin(&save, owner, true);
	apply_settings(m);
	outcome = phase->step(m, budget);
	refit_rights_end(&save);
	return outcome;
}

/* Whom the migration works for, even when it cleans up; if there is such a role. */
static Oid
principal_of(const RefitMigration *m)
{
	if (is_ddl(m))
		return get_role_oid(m->submitted_by, true);
	return get_rel_relkind(m->relid) != '\0' ? refit_relation_owner(m->relid)
											 : InvalidOid;
}

/* Records a lock that was not to be had, the same one once in a while. */
static void
note_lock(const RefitMigration *m)
{
	static TimestampTz last_event = 0;
	TimestampTz now = GetCurrentTimestamp();

	refit_catalog_save_lock_tries(m);
	if (m->lock_message != NULL)
		refit_blockers_end(m, principal_of(m));
	if (m->lock_message == NULL ||
		!TimestampDifferenceExceeds(last_event, now, LOCK_EVENT_INTERVAL))
		return;
	last_event = now;
	refit_catalog_event(m, "lock", m->lock_message, m->lock_detail);
}

/*
 * Time in ms since this process ended a step of the migration: what a step costs,
 * with its rest, its transaction, and all that is between.  0: it is the first.
 */
static int
ms_since_last_step(const RefitMigration *m)
{
	static int64 last_id = 0;
	static TimestampTz last_end = 0;
	TimestampTz now = GetCurrentTimestamp();
	long ms =
		last_id == m->id ? TimestampDifferenceMilliseconds(last_end, now) : 0;

	last_id = m->id;
	last_end = now;
	return (int) Min(ms, INT_MAX);
}

/* What follows from a step's outcome.  Returns the rest to take. */
static int
settle_step(RefitMigration *m, const Phase *phase, RefitOutcome outcome,
			RefitBudget *budget, int worked_ms, int64 rows_before)
{
	int rest = budget->pause_ms;
	int step_ms = ms_since_last_step(m);

	if (phase->step == refit_cutover_step)
		record_attempt(m);
	if (strcmp(phase->name, "window") == 0 && outcome != REFIT_NEXT)
	{
		if (m->progress.errors > 0)
			forget_error(m);
		open_window(m);
	}
	if (!needs_worker(phase) || outcome != REFIT_WAIT)
		m->progress.errors = 0; /* of a command: once it has succeeded */
	m->progress.deaths = 0;
	note_lock(m);
	if (outcome != REFIT_WAIT)
		refit_space_note_room(m);
	switch (outcome)
	{
		case REFIT_NEXT:
			return advance(m, phase, worked_ms);
		case REFIT_RETURN:
			m->progress.cursor = 0;
			m->progress.cursor_end = 0;
			(void) refit_catalog_select_leaf(m, 1);
			set_phase(m, m->next_phase);
			rest = Max(rest, REST_RETURN);
			break;
		case REFIT_MORE:
			rest = refit_governor_after(m, worked_ms);
			if (strcmp(phase->name, "index") != 0) /* it counts indexes */
				update_rate(&m->progress, m->progress.rows_done - rows_before,
							Max(step_ms, worked_ms + rest));
			break;
		case REFIT_WAIT:
			break;
	}
	refit_catalog_save_progress(m);
	return rest;
}

/*
 * In a process's first look at a migration: has the one before died at work?
 * That many a time without a finished step between is an error like another, or
 * a step that kills the server would do so for ever.  True: recorded, in a
 * transaction that does nothing else, and for good: the next step may crash the
 * server at once.  Who stood still was not at work.
 */
static bool
notice_deaths(RefitMigration *m)
{
	static int64 known_id = 0;
	int pid = m->progress.worker_pid;

	if (known_id == m->id)
		return false;
	known_id = m->id;
	if (pid == 0 || pid == MyProcPid || m->progress.stands_still ||
		refit_catalog_is_given_up(m) || strcmp(m->state, "running") != 0)
		return false;
	if (++m->progress.deaths > MOST_DEATHS)
	{
		ErrorData edata = {.sqlerrcode = ERRCODE_CRASH_SHUTDOWN};

		edata.message =
			psprintf("the process that worked the migration died "
					 "%d times in phase %s",
					 m->progress.deaths, m->phase != NULL ? m->phase : "plan");
		edata.hint = "Look for the reason in the server's log.";
		record_error(m, &edata);
		if (is_reverting(m) && m->rewrite.reversed)
			(void) return_to_window(m);
		else
			set_goal(m, "failed");
		m->progress.deaths = 0;
	}
	refit_catalog_save_progress(m);
	ForceSyncCommit();
	return true;
}

/*
 * Writes down that the migration stands still, or does not any more, for whoever
 * counts deaths.  True: it was news.
 */
static bool
note_standstill(RefitMigration *m, bool stands_still)
{
	bool news = m->progress.stands_still != stands_still;

	m->progress.stands_still = stands_still;
	if (stands_still || news)
		refit_catalog_save_progress(m);
	if (news)
		ForceSyncCommit();
	return news;
}

/* This is no worker: one is started when the session has given the claim back. */
static void
leave_to_worker(RefitMigration *m)
{
	ereport(NOTICE,
			(errmsg("migration " INT64_FORMAT " is left to a background worker",
					m->id),
			 errdetail("Its statement cannot run in a session's transaction."),
			 errhint("Wait for it with refit.wait(" INT64_FORMAT ").", m->id)));
	is_left_to_worker = true;
}

/* Does the phase take a lock that the application notices? */
static bool
is_noticed(const Phase *phase)
{
	return phase->step == refit_cutover_step || phase->step == refit_alter_step;
}

/* The cutover window has closed, or is not open yet. */
static int
leave_cutover(RefitMigration *m, const Phase *phase)
{
	if (phase->step == refit_cutover_step) /* the log goes on growing */
	{
		m->progress.cursor = 0;
		m->progress.cursor_end = 0;
		(void) refit_catalog_select_leaf(m, 1);
		set_phase(m, "catchup");
		refit_catalog_save_progress(m);
	}
	return REST_READY;
}

/* The step proper, with a snapshot set. */
static int
do_step(RefitMigration *m)
{
	RefitBudget budget = {.m = m};
	const Phase *phase;
	RefitOutcome outcome;
	instr_time now;
	int64 rows_before = m->progress.rows_done;
	int rest;

	record_lock_time(m);
	if (notice_deaths(m))
		return 0;
	if (!start(m))
		return -1;
	if (obey_request(m))
		return -1;
	phase = find_phase(m);
	if (!refit_catalog_is_given_up(m) && !phase->after_cutover)
		refit_terms_check_deadline(m);
	if (!refit_catalog_is_given_up(m) && (rest = refit_governor_before(m)) > 0)
	{
		int still_ms = ms_since_last_step(m);

		if (m->progress.rate > 0)
			update_rate(&m->progress, 0, still_ms);
		(void) note_standstill(m, true);
		return rest;
	}
	if (note_standstill(m, false))
		return 0;
	if (needs_worker(phase) && !refit_command_is_possible())
	{
		leave_to_worker(m);
		return -1;
	}
	if (!phase->after_cutover && is_noticed(phase) && !may_cut_over(m))
		return leave_cutover(m, phase);
	INSTR_TIME_SET_CURRENT(budget.start);
	budget.chunk_ms = refit_governor_budget(m);
	outcome = run_step(m, phase, &budget);
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, budget.start);
	return settle_step(m, phase, outcome, &budget,
					   (int) INSTR_TIME_GET_MILLISEC(now), rows_before);
}

/* Settings of a step, until the end of the level that is returned. */
static int
set_up_step(void)
{
	int guc_level = NewGUCNestLevel();

	refit_set_local("lock_timeout", psprintf("%d", refit_polite_lock_budget()));
	refit_set_local("jit", "off"); /* compiling catalog queries takes longer */
	return guc_level;
}

/* Until the end of the step, the lock budget that the migration has. */
static void
apply_lock_timeout(const RefitMigration *m)
{
	char *timeout = m != NULL ? refit_catalog_option(m, "lock_timeout") : NULL;

	if (timeout == NULL)
		return;
	refit_set_local("refit.lock_timeout", timeout);
	refit_set_local("lock_timeout", psprintf("%d", refit_polite_lock_budget()));
}

/* Does one unit of work. */
int
refit_migration_step(int64 id)
{
	RefitMigration *m;
	int rest;
	int guc_level = set_up_step();

	/* a user's expression can drop a session's advisory locks, not this one */
	if (!refit_migration_claim(id, false))
	{
		AtEOXact_GUC(false, guc_level);
		return -1;
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	m = refit_catalog_load(id);
	apply_lock_timeout(m);
	rest = m == NULL ? -1 : do_step(m);
	PopActiveSnapshot();
	AtEOXact_GUC(false, guc_level);

	/* the cutover, and whatever a client may have been told, is durable */
	if (m != NULL &&
		(rest < 0 || m->phase == NULL ||
		 (strcmp(m->phase, "copy") != 0 && strcmp(m->phase, "batches") != 0 &&
		  strcmp(m->phase, "insert") != 0)))
		ForceSyncCommit();
	return rest;
}

/* A chunk of help; returns the rest to take after it, or -1. */
static int
do_help(RefitMigration *m)
{
	static const Phase help = {"batches", "batches", refit_batch_help, false};
	RefitBudget budget = {.m = m};
	RefitOutcome outcome;
	instr_time now;
	int rest = refit_governor_before(m);

	if (rest > 0)
		return rest;
	budget.chunk_ms = refit_governor_budget(m);
	INSTR_TIME_SET_CURRENT(budget.start);
	outcome = run_step(m, &help, &budget);
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, budget.start);
	if (outcome == REFIT_NEXT)
		return -1;
	if (outcome == REFIT_WAIT)
		return budget.pause_ms;
	return refit_governor_after(m, (int) INSTR_TIME_GET_MILLISEC(now));
}

/* Does a chunk of a migration that somebody else works. */
int
refit_migration_help(int64 id)
{
	RefitMigration *m;
	int rest = -1;
	int guc_level = set_up_step();

	if (begin_help(id))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		m = refit_catalog_load(id);
		apply_lock_timeout(m);
		if (m != NULL && strcmp(m->state, "running") == 0 &&
			is_in_phase(m, "batches") && m->request == NULL)
			rest = do_help(m);
		PopActiveSnapshot();
	}
	AtEOXact_GUC(false, guc_level);
	return rest;
}

/*
 * Errors
 */

/* Will the same step probably work in a moment? */
static bool
is_passing(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		   sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE;
}

/*
 * Has a step met a full disk?  It has left nothing behind, and goes on when
 * there is room again.  Phase plan is where a migration is refused for lack of
 * room.
 */
static bool
is_disk_full(const RefitMigration *m, int sqlerrcode)
{
	return sqlerrcode == ERRCODE_DISK_FULL && m->phase != NULL &&
		   strcmp(m->phase, "plan") != 0;
}

/* Will the same step certainly fail again? */
static bool
is_final(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION ||
		   category == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION ||
		   category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
		   category == ERRCODE_FEATURE_NOT_SUPPORTED ||
		   category == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
		   category == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		   sqlerrcode == ERRCODE_DATA_CORRUPTED ||
		   sqlerrcode == ERRCODE_DISK_FULL || /* refused in phase plan */
		   category ==
			   ERRCODE_TO_CATEGORY(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST);
}

/*
 * Stores the error in the row.  One in the cleanup of a failed migration does
 * not take the place of the reason why it has failed.
 */
static void
record_error(RefitMigration *m, const ErrorData *edata)
{
	char *row = refit_transform_take_failure();
	char *detail = edata->detail;

	if (row != NULL)
		detail = detail != NULL ? psprintf("%s %s", detail, row) : row;
	update_row(m,
			   "UPDATE refit.migration SET error_hint = $2, error_context = $3"
			   " WHERE id = $1 AND (goal IS NULL OR error_code IS NULL)"
			   " AND ($4 IS NULL)",
			   edata->hint, edata->context, NULL);
	update_row(m,
			   "UPDATE refit.migration SET error_code = $2, error_message = $3,"
			   " error_detail = $4"
			   " WHERE id = $1 AND (goal IS NULL OR error_code IS NULL)",
			   unpack_sql_state(edata->sqlerrcode), edata->message, detail);
	refit_catalog_event(m, "error", edata->message, NULL);
}

/* An error in cleanup: try for long, then say that something is left. */
static int
cleanup_failed(RefitMigration *m)
{
	if (m->progress.errors < MOST_LATE_ERRORS)
		return REST_LATE_RETRY;
	set_phase(m, NULL);
	set_state(m, "failed");
	return -1;
}

/*
 * An error in the revert window bars the way back for as long as it comes again,
 * and does no other harm.  Told once: it may come for days.  An order to revert
 * does not outlast it: carried out when the bar goes, it would surprise.
 */
static int
window_failed(RefitMigration *m, const ErrorData *edata)
{
	open_window(m);
	if (m->progress.errors == 1)
		record_error(m, edata);
	else
		(void) refit_transform_take_failure();
	if (get_rel_name(m->rewrite.logs[0]) != NULL &&
		get_rel_name(m->rewrite.logs[1]) != NULL)
		m->progress.pending = refit_capture_pending(m);
	if (is_requested(m, "revert") &&
		(is_final(edata->sqlerrcode) || m->progress.errors >= MOST_ERRORS))
		set_request(m, NULL);
	m->progress.message =
		psprintf("cannot be reverted now: %s", edata->message);
	return Min(m->progress.errors, MOST_WINDOW_RESTS) * REST_RETRY;
}

/*
 * Decides what a failed step means.  Once the new definition is in place a
 * migration that says it has failed would be taken for one that has not
 * happened, so what is left to do is tried for long.
 */
static int
handle_error(RefitMigration *m, const ErrorData *edata)
{
	bool late = m->phase != NULL && find_phase(m)->after_cutover;

	if (is_passing(edata->sqlerrcode))
		return REST_RETRY_SOON;
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED && m->request != NULL)
		return 0; /* for the sake of that */
	if (is_disk_full(m, edata->sqlerrcode))
	{
		refit_space_note_full(m, edata->message);
		return REST_DISK_FULL;
	}
	m->progress.errors++;
	if (is_in_phase(m, "window") && get_rel_name(m->relid) != NULL)
		return window_failed(m, edata);
	record_error(m, edata);
	if (!is_final(edata->sqlerrcode) && m->progress.errors < MOST_ERRORS)
		return REST_RETRY;
	if (is_in_phase(m, "cleanup"))
		return cleanup_failed(m);
	if (is_reverting(m) && m->rewrite.reversed) /* not put back yet */
		return return_to_window(m);
	if (late && !is_final(edata->sqlerrcode) &&
		m->progress.errors < MOST_LATE_ERRORS)
		return REST_LATE_RETRY;
	set_state(m, "running");
	set_goal(m, "failed");
	REFIT_FAULT("failure.recorded");
	return 0;
}

/* Records a step's error, if nobody else has the claim. */
int
refit_migration_failed(int64 id, const ErrorData *edata)
{
	RefitMigration *m;
	int rest;

	if (!refit_migration_claim(id, false))
		return -1;
	PushActiveSnapshot(GetTransactionSnapshot());
	m = refit_catalog_load(id);
	if (m == NULL || (strcmp(m->state, "queued") != 0 && !is_at_work(m)))
		rest = -1;
	else
	{
		rest = handle_error(m, edata);
		refit_catalog_save_progress(m);
	}
	PopActiveSnapshot();
	return rest;
}

/*
 * Submitting and control
 */

/* The migration that has this name already, or 0. */
static int64
find_by_name(const RefitSubmission *s)
{
	Oid types[4] = {TEXTOID, TEXTOID, TEXTOID, OIDOID};
	Datum values[4];
	char *found;

	values[0] = CStringGetTextDatum(s->name);
	values[1] = CStringGetTextDatum(s->kind);
	values[2] = CStringGetTextDatum(s->definition);
	values[3] = ObjectIdGetDatum(s->relid);
	found =
		refit_sql_text("SELECT CASE WHEN kind = $2 AND definition = $3"
					   " AND (relid = $4 OR kind = 'ddl') THEN id ELSE -id END"
					   " FROM refit.migration WHERE name = $1",
					   4, types, values);
	return found != NULL ? strtoll(found, NULL, 10) : 0;
}

/* The id of the same submission made before, or 0; another one: ERROR. */
int64
refit_migration_find(const RefitSubmission *s)
{
	int64 id = s->name != NULL ? find_by_name(s) : 0;

	if (id < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("a migration named \"%s\" exists already and does "
						"something else",
						s->name),
				 errdetail("It is migration " INT64_FORMAT ".", -id),
				 errhint("Choose another name.")));
	if (id != 0)
	{
		ereport(NOTICE,
				(errmsg("migration \"%s\" was submitted before", s->name)));
		refit_worker_start_at_commit();
	}
	return id;
}

/* Writes the new row. */
static int64
insert_row(const RefitSubmission *s)
{
	Oid types[15] = {TEXTOID, TEXTOID, OIDOID,		TEXTOID,  TEXTOID,
					 TEXTOID, TEXTOID, INTERVALOID, JSONBOID, TEXTOID,
					 TEXTOID, TEXTOID, TEXTOID,		OIDOID,	  TEXTOID};
	Datum values[15];
	bool nulls[15] = {false};
	int64 id;

	nulls[0] = s->name == NULL;
	values[0] = s->name != NULL ? CStringGetTextDatum(s->name) : (Datum) 0;
	values[1] = CStringGetTextDatum(s->kind);
	values[2] = ObjectIdGetDatum(s->relid);
	values[3] = CStringGetTextDatum(
		OidIsValid(s->relid) ? refit_qualified_name(s->relid) : "");
	values[4] = CStringGetTextDatum(s->definition);
	values[5] = CStringGetTextDatum(s->cutover);
	values[6] = CStringGetTextDatum(s->verify);
	nulls[7] = s->revertible == NULL;
	values[7] = PointerGetDatum(s->revertible);
	values[8] = PointerGetDatum(s->options);
	values[9] = CStringGetTextDatum(namespace_search_path);
	values[10] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	nulls[11] = s->set_clause == NULL;
	values[11] = nulls[11] ? (Datum) 0 : CStringGetTextDatum(s->set_clause);
	nulls[12] = s->where_clause == NULL;
	values[12] = nulls[12] ? (Datum) 0 : CStringGetTextDatum(s->where_clause);
	values[13] = ObjectIdGetDatum(s->object);
	nulls[14] = s->method == NULL;
	values[14] = nulls[14] ? (Datum) 0 : CStringGetTextDatum(s->method);
	SPI_connect();
	refit_sql("WITH m AS (INSERT INTO refit.migration (name, kind, relid,"
			  " relation, definition, cutover, verify, revertible, options,"
			  " search_path, submitted_by, set_clause, where_clause, object,"
			  " method, home, settings)"
			  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
			  "  $14, $15, refit._home(), refit._settings())"
			  " RETURNING id), p AS (INSERT INTO refit.migration_progress (id)"
			  " SELECT id FROM m) SELECT id FROM m",
			  15, types, values, nulls);
	id = strtoll(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
				 NULL, 10);
	SPI_finish();
	return id;
}

/* Enters a migration and starts a worker at commit. */
int64
refit_migration_submit(const RefitSubmission *s)
{
	RefitMigration *m;
	int64 id;

	id = insert_row(s);
	m = refit_catalog_load(id);
	refit_catalog_event(m, "state", "queued", NULL);
	notify(m);
	if (must_wait_in_queue(m))
		ereport(NOTICE,
				(errmsg("migration " INT64_FORMAT " is queued behind an "
						"earlier one of the same table",
						id)));
	refit_worker_start_at_commit();
	return id;
}

/* Is the migration over? */
bool
refit_migration_is_over(const RefitMigration *m)
{
	return strcmp(m->state, "completed") == 0 ||
		   strcmp(m->state, "cancelled") == 0 ||
		   strcmp(m->state, "failed") == 0 || strcmp(m->state, "reverted") == 0;
}

/* An ERROR that says why something cannot be asked of a migration now. */
static void
refuse(const RefitMigration *m, const char *verb, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration " INT64_FORMAT " cannot be %s", m->id, verb),
			 errdetail("It is %s%s%s.", m->state,
					   m->phase != NULL ? ", in phase " : "",
					   m->phase != NULL ? m->phase : ""),
			 errhint("%s", hint)));
}

/*
 * Asks the worker that has the claim.  A command that it is running is cancelled:
 * it would not look up for as long as that takes.
 */
static char *
ask_worker(RefitMigration *m, const char *request)
{
	set_request(m, request);
	refit_worker_wake_at_commit(m->id);
	if (request != NULL && m->phase != NULL && needs_worker(find_phase(m)))
		refit_worker_cancel_at_commit(m->id);
	return m->state;
}

/* Stops work at the next chunk; what is done is kept. */
char *
refit_migration_pause(int64 id)
{
	RefitMigration *m = load_for_control(id);

	if (strcmp(m->state, "paused") == 0)
		return m->state;
	if (refit_migration_is_over(m))
		refuse(m, "paused", "It is over.");
	if (!refit_migration_claim(id, false))
		return ask_worker(m, "pause");
	set_state(m, "paused");
	return m->state;
}

/* Goes on after a pause. */
char *
refit_migration_resume(int64 id)
{
	RefitMigration *m = load_for_control(id);

	if (is_requested(m, "pause"))
		return ask_worker(m, NULL);
	if (refit_migration_is_over(m))
		refuse(m, "resumed", "To start it again use refit.retry().");
	if (strcmp(m->state, "paused") == 0)
		set_state(m, "queued");
	refit_worker_start_at_commit();
	return m->state;
}

/* Makes a row that came from another server, by pg_upgrade, this one's. */
static void
adopt(const RefitMigration *m)
{
	update_row(m,
			   "UPDATE refit.migration SET home = refit._home() WHERE id = $1"
			   " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
}

/* Gives the migration up and takes away what it has made. */
char *
refit_migration_cancel(int64 id)
{
	RefitMigration *m = load_for_control(id);

	if (strcmp(m->state, "cancelled") == 0)
		return m->state;
	if (refit_migration_is_over(m) ||
		(m->phase != NULL && is_too_late(m) && !refit_catalog_is_given_up(m)))
		refuse(m, "cancelled",
			   "The new definition is in place already.  In its revert window "
			   "refit.revert() puts the old one back.");
	if (!refit_migration_claim(id, false))
		return ask_worker(m, "cancel");
	if (m->phase == NULL)
	{
		set_state(m, "cancelled");
		refit_worker_start_at_commit(); /* who was queued behind it */
		return m->state;
	}
	adopt(m);
	set_state(m, "queued");
	set_goal(m, "cancelled");
	refit_catalog_save_progress(m);
	refit_worker_start_at_commit();
	return m->state;
}

/* Starts a failed or cancelled migration again, from the beginning. */
char *
refit_migration_retry(int64 id)
{
	RefitMigration *m = load_for_control(id);

	if (strcmp(m->state, "failed") != 0 && strcmp(m->state, "cancelled") != 0 &&
		strcmp(m->state, "reverted") != 0)
		refuse(m, "retried",
			   "Only what has failed, or was cancelled or reverted, can.");
	update_row(m,
			   "UPDATE refit.migration SET home = refit._home(), goal = NULL,"
			   " request = NULL,"
			   " phase = NULL, strategy = NULL, error_code = NULL,"
			   " error_message = NULL, error_detail = NULL, error_hint = NULL,"
			   " error_context = NULL, verified_rows = NULL,"
			   " discrepancies = NULL, revertible_until = NULL,"
			   " started_at = NULL WHERE id = $1"
			   " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
	update_row(m,
			   "DELETE FROM refit.migration_progress WHERE id = $1"
			   " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
	update_row(m,
			   "INSERT INTO refit.migration_progress (id) SELECT $1"
			   " WHERE ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
			   NULL, NULL, NULL);
	set_state(m, "queued");
	refit_worker_start_at_commit();
	return m->state;
}

/* Lets a manual cutover happen. */
char *
refit_migration_cutover(int64 id)
{
	RefitMigration *m = load_for_control(id);

	if (refit_migration_is_over(m) || strcmp(m->cutover, "manual") != 0)
		refuse(m, "cut over",
			   "This is for migrations submitted with cutover => 'manual'.");
	set_request(m, "cutover");
	if (!refit_migration_claim(id, false))
		refit_worker_wake_at_commit(id);
	else
		refit_worker_start_at_commit();
	return m->state;
}

/* An ERROR that says which row bars the way back, when one is known. */
static void
check_window(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	char *message;

	if (m->progress.errors == 0)
		return;
	message = refit_sql_text("SELECT concat_ws('; ', error_message,"
							 " error_detail) FROM refit.migration"
							 " WHERE id = $1",
							 1, types, values);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration " INT64_FORMAT " cannot be reverted now", m->id),
			 errdetail("%s", message != NULL ? message : ""),
			 errhint("Change or delete what the old definition cannot hold, "
					 "and try again.")));
}

/* Asks for something that only a migration in its revert window can do. */
static char *
ask_in_window(int64 id, const char *request, const char *verb)
{
	RefitMigration *m = load_for_control(id);

	if (strcmp(m->state, "revertible") != 0)
		refuse(m, verb,
			   "Only a migration in its revert window can; submit with "
			   "revertible => '1 day', for example.");
	if (strcmp(request, "revert") == 0)
		check_window(m);
	set_request(m, request);
	if (!refit_migration_claim(id, false))
		refit_worker_wake_at_commit(id);
	else
		refit_worker_start_at_commit();
	return m->state;
}

/* Puts the old definition back. */
char *
refit_migration_revert(int64 id)
{
	return ask_in_window(id, "revert", "reverted");
}

/* Ends the revert window. */
char *
refit_migration_finish(int64 id)
{
	return ask_in_window(id, "finish", "finished");
}
