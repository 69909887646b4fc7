/*-------------------------------------------------------------------------
 *
 * migration.c
 *	  The state machine: steps, what follows from them, and from their errors.
 *
 * States
 *	  queued -> running -> completed | failed | cancelled
 *	  running <-> ready		(a manual cutover waits; catch-up goes on)
 *	  queued, running, ready -> paused -> queued
 *	  failed, cancelled, reverted -> queued		(retry)
 *	  running -> revertible -> running -> completed | reverted | revertible
 *
 * A running migration is in a phase; the phases of each strategy stand in order
 * in the table of phase.c.  One step is one transaction: it loads the row,
 * does a bounded piece of the phase's work and writes progress, and phase
 * where that is finished.  So at every instant the row says what is done, and
 * whoever loads it next, after an error, a kill, a crash or a promotion, goes
 * on from there.  What a step makes and a death leaves behind is said in the
 * header of the file that the step is in.
 *
 * What follows from a step's outcome, or from its error, is decided here and
 * nowhere else; so is when a request (request.h) is obeyed.  An error is
 * decided on in a transaction of its own, after the step's is undone.
 *
 * A migration that fails or is cancelled goes to phase cleanup, which takes
 * away all that it has made, and only then to its final state.  After the
 * cutover there is no way back by cancelling: what is left to do is done.
 * With a revert window there is one by reverting: goal reverted leads through
 * the phases of "revert", and an error on the way to the window again.
 *
 * Locks: the claim (see claim.h), and for a moment the row.  Whoever helps
 * with a migration that somebody else has claimed holds another lock for his
 * chunk; state paused, and phase cleanup, are entered when nobody does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ddl/command.h"
#include "ddl/ddl.h"
#include "ddl/fate.h"
#include "job/blockers.h"
#include "job/catalog.h"
#include "job/claim.h"
#include "job/migration.h"
#include "job/phase.h"
#include "job/state.h"
#include "job/terms.h"
#include "pass/governor.h"
#include "rows/batch.h"
#include "table/alter.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/cutover.h"
#include "table/revert.h"
#include "table/space.h"
#include "table/transform.h"
#include "table/tree.h"
#include "table/twin.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

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

/* After a death at work chunks are durable for so long, and the end of that. */
#define CAREFUL_MS 10000
static TimestampTz careful_until = 0;

/* Seconds between two tries in a revert window that an error bars. */
#define MOST_WINDOW_RESTS 5

static void record_error(RefitMigration *m, const ErrorData *edata);

/*
 * Steps
 */

/* Is the migration in this phase? */
static bool
is_in_phase(const RefitMigration *m, const char *phase)
{
	return m->phase != NULL && strcmp(m->phase, phase) == 0;
}

/* Is the old definition to come back, and has not yet? */
static bool
is_on_way_back(const RefitMigration *m)
{
	return refit_is_reverting(m) && m->rewrite.reversed;
}

/* Records how much was copied, when the copy is done. */
static void
record_volume(const RefitMigration *m)
{
	refit_update_row(
		m,
		"UPDATE refit.migration SET rows = $2::int8, bytes = $3::int8"
		" WHERE id = $1 AND ($4 IS NULL)",
		psprintf(INT64_FORMAT, m->progress.rows_done),
		psprintf(INT64_FORMAT, m->progress.bytes_done), NULL);
}

/* Records how many rows a pass over a table has written, all tries together. */
static void
record_written(const RefitMigration *m)
{
	refit_update_row(m,
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
	refit_update_row(m,
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
		refit_update_row(
			m,
			"UPDATE refit.migration SET cutover_lock_ms = $2::float8"
			" WHERE id = $1 AND ($3 IS NULL) AND ($4 IS NULL)",
			psprintf("%.3f", ms), NULL, NULL);
}

/* Says that nobody works the migration any more. */
static void
forget_worker(const RefitMigration *m)
{
	refit_update_row(m,
					 "UPDATE refit.migration_progress SET worker_pid = NULL"
					 " WHERE id = $1 AND ($2 IS NULL) AND ($3 IS NULL)"
					 " AND ($4 IS NULL)",
					 NULL, NULL, NULL);
}

/* Takes an error off that does not matter any more. */
static void
forget_error(const RefitMigration *m)
{
	refit_update_row(m,
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
	refit_set_request(m, NULL);
	record_written(m);
	refit_update_row(m,
					 "DELETE FROM refit.owed WHERE id = $1 AND ($2 IS NULL)"
					 " AND ($3 IS NULL) AND ($4 IS NULL)",
					 NULL, NULL, NULL);
	if (!refit_catalog_is_given_up(
			m)) /* it got over whatever error there was */
		forget_error(m);
	if (m->goal == NULL) /* otherwise a retry goes on from them */
		refit_update_row(m,
						 "DELETE FROM refit.pass WHERE id = $1 AND ($2 IS NULL)"
						 " AND ($3 IS NULL) AND ($4 IS NULL)",
						 NULL, NULL, NULL);
	refit_set_phase(m, NULL);
	refit_set_state(m, m->goal != NULL ? m->goal : "completed");
	REFIT_FAULT("finish.written");
	return -1;
}

/*
 * Goes to the next leaf in the same phase; false: it was the last one, and the
 * first one comes next.
 */
static bool
advance_leaf(RefitMigration *m, const RefitPhase *phase)
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
	refit_update_row(m,
					 "UPDATE refit.migration SET request = NULL WHERE id = $1"
					 " AND request = $2 AND ($3 IS NULL) AND ($4 IS NULL)",
					 "cutover", NULL, NULL);
	if (refit_is_requested(m, "cutover"))
		m->request = NULL;
}

/*
 * The rest between two leaves.  A cutover that waits is in no hurry; otherwise
 * it is as between two chunks, or a tree of many small leaves would never rest.
 * Catch-up does not, since the leaves before go out of step again meanwhile.
 */
static int
rest_between_leaves(RefitMigration *m, const RefitPhase *phase, int worked_ms)
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
advance(RefitMigration *m, const RefitPhase *phase, int worked_ms)
{
	const RefitPhase *next = refit_following_phase(m, phase);

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
		next = refit_following_phase(m, next);
	if (strcmp(next->name, "cutover") == 0 && !may_cut_over(m))
		return REST_READY;
	if (strcmp(next->name, "cutover") == 0 &&
		strcmp(m->cutover, "manual") == 0 && !refit_is_requested(m, "cutover"))
	{
		refit_set_state(m, "ready");
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
	refit_set_phase(m, next->name);
	refit_catalog_save_progress(m);
	return 0;
}

/* Leaves the revert window for the way back. */
static void
begin_revert(RefitMigration *m)
{
	refit_update_row(m,
					 "UPDATE refit.migration SET goal = $2 WHERE id = $1"
					 " AND ($3 IS NULL) AND ($4 IS NULL)",
					 "reverted", NULL, NULL);
	m->goal = pstrdup("reverted");
	/* settled; they will be owed once more */
	refit_update_row(m,
					 "DELETE FROM refit.owed WHERE id = $1 AND ($2 IS NULL)"
					 " AND ($3 IS NULL) AND ($4 IS NULL)",
					 NULL, NULL, NULL);
	forget_error(m);
	refit_set_state(m, "running");
	refit_set_phase(m, "catchback");
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	refit_revert_begin(m);
}

/* The way back is barred: the window stays open. */
static int
return_to_window(RefitMigration *m)
{
	refit_update_row(m,
					 "UPDATE refit.migration SET goal = NULL WHERE id = $1"
					 " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
					 NULL, NULL, NULL);
	m->goal = NULL;
	refit_set_phase(m, "window");
	refit_set_state(m, "revertible");
	return REST_READY;
}

/* The window is open, from its first step on, even if that has failed. */
static void
open_window(RefitMigration *m)
{
	refit_update_row(m,
					 "UPDATE refit.migration SET revertible_until ="
					 " clock_timestamp() + revertible WHERE id = $1"
					 " AND revertible_until IS NULL"
					 " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
					 NULL, NULL, NULL);
	refit_set_state(m, "revertible");
}

/* Is there an invalid index of a command, which a pause would leave for long? */
static bool
must_tidy_up(const RefitMigration *m)
{
	return m->phase != NULL && refit_needs_worker(refit_find_phase(m)) &&
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
	if (refit_is_requested(m, "cutover"))
		refit_set_state(m, "running");
	else if (refit_is_requested(m, "pause") && !must_tidy_up(m))
	{
		refit_stop_help(m);
		refit_set_request(m, NULL);
		m->progress.rate = 0;
		refit_catalog_save_progress(m);
		forget_worker(m);
		refit_set_state(m, "paused");
		return true;
	}
	else if (refit_is_requested(m, "revert"))
	{
		refit_set_request(m, NULL);
		if (is_in_phase(m, "window"))
			begin_revert(m);
	}
	else if (refit_is_requested(m, "cancel"))
	{
		refit_set_request(m, NULL);
		if (refit_is_too_late(m))
			return false;
		refit_set_state(m, "running");
		refit_set_goal(m, "cancelled");
		REFIT_FAULT("cancel.obeyed");
	}
	return false;
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
	if (refit_update_row(
			m,
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
name_leaf(RefitMigration *m, const RefitPhase *phase)
{
	if (phase->per_leaf && m->nleaves > 1 && strcmp(m->state, "running") == 0)
		m->progress.message = psprintf(
			"%s %d of %d: %s", refit_tree_word(m->relid), m->rewrite.number,
			m->nleaves, refit_qualified_name(m->leaf));
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
role_for(const RefitMigration *m, const RefitPhase *phase)
{
	if (strcmp(phase->name, "cleanup") == 0)
		return GetUserId();
	return refit_is_ddl(m) ? refit_ddl_role(m) : refit_relation_owner(m->relid);
}

/* Runs a phase's step with the owner's rights. */
static RefitOutcome
run_step(RefitMigration *m, const RefitPhase *phase, RefitBudget *budget)
{
	RefitRights save;
	RefitOutcome outcome;
	Oid owner = role_for(m, phase);

	REFIT_FAULT_IN(phase->name, "begun");
	if (strcmp(phase->name, "cleanup") == 0) /* what helpers use goes */
		refit_stop_help(m);
	check_work_tables(m);
	if (!phase->after_cutover && !refit_is_ddl(m))
		check_submitter(m);
	if (m->rewrite.exists && (!phase->after_cutover || is_on_way_back(m)))
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
	if (refit_is_ddl(m))
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
settle_step(RefitMigration *m, const RefitPhase *phase, RefitOutcome outcome,
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
	if (!refit_needs_worker(phase) || outcome != REFIT_WAIT)
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
			refit_set_phase(m, m->next_phase);
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
	careful_until =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), CAREFUL_MS);
	if (++m->progress.deaths > MOST_DEATHS)
	{
		ErrorData edata = {.sqlerrcode = ERRCODE_CRASH_SHUTDOWN};

		edata.message =
			psprintf("the process that worked the migration died "
					 "%d times in phase %s",
					 m->progress.deaths, m->phase != NULL ? m->phase : "plan");
		edata.hint = "Look for the reason in the server's log.";
		record_error(m, &edata);
		if (is_on_way_back(m))
			(void) return_to_window(m);
		else
			refit_set_goal(m, "failed");
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

/* Does the phase take a lock that the application notices? */
static bool
is_noticed(const RefitPhase *phase)
{
	return phase->step == refit_cutover_step || phase->step == refit_alter_step;
}

/* The cutover window has closed, or is not open yet. */
static int
leave_cutover(RefitMigration *m, const RefitPhase *phase)
{
	if (phase->step == refit_cutover_step) /* the log goes on growing */
	{
		m->progress.cursor = 0;
		m->progress.cursor_end = 0;
		(void) refit_catalog_select_leaf(m, 1);
		refit_set_phase(m, "catchup");
		refit_catalog_save_progress(m);
	}
	return REST_READY;
}

/* The step proper, with a snapshot set. */
static int
do_step(RefitMigration *m)
{
	RefitBudget budget = {.m = m};
	const RefitPhase *phase;
	RefitOutcome outcome;
	instr_time now;
	int64 rows_before = m->progress.rows_done;
	int rest;

	record_lock_time(m);
	if (notice_deaths(m))
		return 0;
	if (!refit_migration_start(m))
		return -1;
	if (obey_request(m))
		return -1;
	phase = refit_find_phase(m);
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
	if (refit_needs_worker(phase) && !refit_command_is_possible())
	{
		refit_leave_to_worker(m);
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

/*
 * Must the step outlive a crash?  The cutover, and whatever a client may have been
 * told.  And for a while after a death: if its chunks could be lost with the next
 * one, nobody would come nearer to the row that kills.
 */
static bool
must_be_durable(const RefitMigration *m, int rest)
{
	return rest < 0 || m->phase == NULL ||
		   (strcmp(m->phase, "copy") != 0 && strcmp(m->phase, "batches") != 0 &&
			strcmp(m->phase, "insert") != 0) ||
		   GetCurrentTimestamp() < careful_until;
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
	if (m != NULL && must_be_durable(m, rest))
		ForceSyncCommit();
	PopActiveSnapshot();
	AtEOXact_GUC(false, guc_level);
	return rest;
}

/* A chunk of help; returns the rest to take after it, or -1. */
static int
do_help(RefitMigration *m)
{
	RefitPhase help = *refit_find_phase(m);
	RefitBudget budget = {.m = m};
	RefitOutcome outcome;
	instr_time now;
	int rest;

	help.step = help.help;
	if (help.step == NULL)
		return -1;
	if ((rest = refit_governor_before(m)) > 0)
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

	if (refit_begin_help(id))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		m = refit_catalog_load(id);
		apply_lock_timeout(m);
		if (m != NULL && strcmp(m->state, "running") == 0 && m->phase != NULL &&
			m->request == NULL)
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
	refit_update_row(
		m,
		"UPDATE refit.migration SET error_hint = $2, error_context = $3"
		" WHERE id = $1 AND (goal IS NULL OR error_code IS NULL)"
		" AND ($4 IS NULL)",
		edata->hint, edata->context, NULL);
	refit_update_row(
		m,
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
	refit_set_phase(m, NULL);
	refit_set_state(m, "failed");
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
	if (refit_is_requested(m, "revert") &&
		(is_final(edata->sqlerrcode) || m->progress.errors >= MOST_ERRORS))
		refit_set_request(m, NULL);
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
	bool late = m->phase != NULL && refit_find_phase(m)->after_cutover;

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
	if (is_on_way_back(m))
		return return_to_window(m);
	if (late && !is_final(edata->sqlerrcode) &&
		m->progress.errors < MOST_LATE_ERRORS)
		return REST_LATE_RETRY;
	refit_set_state(m, "running");
	refit_set_goal(m, "failed");
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
	if (m == NULL || (strcmp(m->state, "queued") != 0 && !refit_is_at_work(m)))
		rest = -1;
	else
	{
		rest = handle_error(m, edata);
		refit_catalog_save_progress(m);
	}
	PopActiveSnapshot();
	return rest;
}
