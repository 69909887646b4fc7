/*-------------------------------------------------------------------------
 *
 * claim.c
 *	  Who works a migration, and when it is its turn.
 *
 * See claim.h.  Locks: advisory ones, with fields of our own, which are in the
 * way of no application.  The claim and that of a chunk's help are not waited
 * for; who stops help waits for the chunks at hand, lock_timeout at most.  The
 * queue's is held from a migration's start to the commit of that, and who
 * starts another one of the same table waits for it, as long.
 *
 * Snapshots: those of its statements; under the queue's lock a new one, which
 * sees what the one before has committed.  Rights: refit_sql's.
 *
 * If the process dies, its locks go with it: the migration can be started again
 * as it stands in the row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"

#include "job/claim.h"
#include "job/state.h"
#include "job/worker.h"
#include "table/tree.h"
#include "util/sqlutil.h"

/* Tells our advisory locks from a user's, which have 1 or 2 here. */
#define CLAIM_FIELD 0x7266
#define QUEUE_FIELD 0x7271
#define HELP_FIELD 0x7268

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

/* This is no worker: one is started when the session has given the claim back. */
void
refit_leave_to_worker(RefitMigration *m)
{
	ereport(NOTICE,
			(errmsg("migration " INT64_FORMAT " is left to a background worker",
					m->id),
			 errdetail("Its statement cannot run in a session's transaction."),
			 errhint("Wait for it with refit.wait(" INT64_FORMAT ").", m->id)));
	is_left_to_worker = true;
}

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

/*
 * Help
 */

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
void
refit_stop_help(const RefitMigration *m)
{
	LOCKTAG tag;

	help_tag(&tag, m->id);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* May a chunk of help begin?  Only while somebody leads, and nobody stops it. */
bool
refit_begin_help(int64 id)
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
 * The queue
 */

/*
 * Is another migration of the same table unfinished and before this one?  That
 * is, has it begun, or has neither and it has the smaller id: an id may enter
 * the queue late, by a retry or a long transaction.
 */
bool
refit_must_wait_in_queue(const RefitMigration *m)
{
	return refit_update_row(
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
	return refit_update_row(m,
							"SELECT FROM refit.migration WHERE id = $1"
							" AND home = refit._home() AND ($2 IS NULL)"
							" AND ($3 IS NULL) AND ($4 IS NULL)",
							NULL, NULL, NULL) > 0;
}

/* Takes a migration out of the queue.  False: not its turn. */
bool
refit_migration_start(RefitMigration *m)
{
	if (!is_at_home(m))
		return false;
	if (strcmp(m->state, "queued") == 0)
	{
		lock_queue(refit_tree_queue(m->relid));
		if (refit_must_wait_in_queue(m))
			return false;
		refit_set_state(m, "running");
	}
	if (!refit_is_at_work(m))
		return false;
	if (m->phase == NULL && m->goal == NULL)
		refit_set_phase(m, "plan");
	return true;
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
