/*-------------------------------------------------------------------------
 *
 * request.c
 *	  What is asked of a migration, and when it may be.
 *
 * See request.h.  Who is paused has no process at work, and is queued again without
 * the claim: whoever still has it is leaving.  Locks: the row, and the claim if
 * nobody has it, until the end of the caller's transaction; a worker's step that
 * writes the row waits for that.  Snapshots: those of its statements.  Rights:
 * refit_sql's.  A death before the commit leaves nothing; after it, whoever works
 * the migration next finds the state or the request in the row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "job/catalog.h"
#include "job/claim.h"
#include "job/phase.h"
#include "job/request.h"
#include "job/state.h"
#include "job/worker.h"
#include "util/sqlutil.h"

/* Loads a migration for a control function; its row is locked. */
static RefitMigration *
load_for_control(int64 id)
{
	RefitMigration *m = refit_catalog_load(id);

	if (m != NULL)
	{
		refit_update_row(
			m,
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
	refit_set_request(m, request);
	refit_worker_wake_at_commit(m->id);
	if (request != NULL && m->phase != NULL &&
		refit_needs_worker(refit_find_phase(m)))
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
	refit_set_state(m, "paused");
	return m->state;
}

/* Goes on after a pause. */
char *
refit_migration_resume(int64 id)
{
	RefitMigration *m = load_for_control(id);

	if (refit_is_requested(m, "pause"))
		return ask_worker(m, NULL);
	if (refit_migration_is_over(m))
		refuse(m, "resumed", "To start it again use refit.retry().");
	if (strcmp(m->state, "paused") == 0)
		refit_set_state(m, "queued");
	refit_worker_start_at_commit();
	return m->state;
}

/* Makes a row that came from another server, by pg_upgrade, this one's. */
static void
adopt(const RefitMigration *m)
{
	refit_update_row(
		m,
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
		(m->phase != NULL && refit_is_too_late(m) &&
		 !refit_catalog_is_given_up(m)))
		refuse(m, "cancelled",
			   "The new definition is in place already.  In its revert window "
			   "refit.revert() puts the old one back.");
	if (!refit_migration_claim(id, false))
	{
		if (strcmp(m->state, "paused") != 0)
			return ask_worker(m, "cancel");
		/* whoever has it has stopped work and is leaving: the next one does it */
		refit_set_request(m, "cancel");
		refit_set_state(m, "queued");
		refit_worker_start_at_commit();
		return m->state;
	}
	if (m->phase == NULL)
	{
		refit_set_state(m, "cancelled");
		refit_worker_start_at_commit(); /* who was queued behind it */
		return m->state;
	}
	adopt(m);
	refit_set_state(m, "queued");
	refit_set_goal(m, "cancelled");
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
	refit_reset_row(m);
	refit_set_state(m, "queued");
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
	refit_set_request(m, "cutover");
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
	char *hint;

	if (m->progress.errors == 0)
		return;
	message = refit_sql_text("SELECT concat_ws('; ', error_message,"
							 " error_detail) FROM refit.migration"
							 " WHERE id = $1",
							 1, types, values);
	hint = refit_sql_text("SELECT error_hint FROM refit.migration"
						  " WHERE id = $1",
						  1, types, values);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration " INT64_FORMAT " cannot be reverted now", m->id),
			 errdetail("%s", message != NULL ? message : ""),
			 hint != NULL ? errhint("%s", hint)
						  : errhint("Change or delete what the old definition "
									"cannot hold, and try again.")));
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
	refit_set_request(m, request);
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
