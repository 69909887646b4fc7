/*-------------------------------------------------------------------------
 *
 * signal_sessions.c
 *	  What other sessions do: run, wait for us, hold old snapshots.
 *
 * See signals.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>
#include <unistd.h>

#include "executor/spi.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"

#include "compat.h"
#include "guc.h"
#include "pass/signals.h"
#include "util/sqlutil.h"

/* Running backends that slow us, for each processor, unless the setting says. */
#define BACKENDS_PER_CORE 4

/* A snapshot of that age, in seconds, is worth a warning. */
#define OLD_SNAPSHOT_S 30

/*
 * active_backends: client backends that run a statement now, without the one
 * that asks.
 */
void
refit_signal_active_backends(RefitMigration *m, RefitSignal *signal,
							 char *reason)
{
	char *count;
	double limit = refit_max_active_backends;

	if (limit == 0)
		limit = BACKENDS_PER_CORE * Max(sysconf(_SC_NPROCESSORS_ONLN), 1);
	count = refit_sql_text("SELECT pg_catalog.count(*)"
						   " FROM pg_catalog.pg_stat_get_activity(NULL)"
						   " WHERE state = 'active'"
						   " AND backend_type = 'client backend'"
						   " AND pid <> pg_catalog.pg_backend_pid()",
						   0, NULL, NULL);
	signal->unit = "backends";
	signal->soft_limit = limit;
	signal->hard_limit = 2 * limit;
	signal->owner_may_know = true;
	signal->has_value = count != NULL;
	signal->value = count == NULL ? 0 : strtod(count, NULL);
}

/*
 * oldest_xmin: the age of the oldest transaction that keeps a snapshot or an
 * xid.  A log that is full cannot be emptied, and a row that is dead cannot be
 * removed, before it ends.  A warning: to rest would not help.
 */
void
refit_signal_oldest_xmin(RefitMigration *m, RefitSignal *signal, char *reason)
{
	signal->unit = "s";
	signal->soft_limit = OLD_SNAPSHOT_S;
	signal->hard_limit = INFINITY;
	signal->has_value = true;
	SPI_connect();
	if (refit_sql(
			"SELECT extract(epoch FROM"
			"  pg_catalog.clock_timestamp() - t.since), t.who FROM ("
			" SELECT xact_start, 'pid ' || pid"
			"  FROM pg_catalog.pg_stat_get_activity(NULL)"
			"  WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)"
			"  AND pid <> pg_catalog.pg_backend_pid()"
			" UNION ALL SELECT prepared, 'prepared transaction ' || gid"
			"  FROM pg_catalog.pg_prepared_xact()) AS t (since, who)"
			" WHERE t.since IS NOT NULL ORDER BY t.since LIMIT 1",
			0, NULL, NULL, NULL) > 0)
	{
		signal->value = refit_signals_number(0, 1, 0);
		if (signal->value > signal->soft_limit)
		{
			signal->state = REFIT_SIGNAL_SLOW;
			snprintf(
				reason, REFIT_REASON_SIZE,
				"%s has an old snapshot: a warning only",
				SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2));
		}
	}
	SPI_finish();
}

/* Does somebody wait for this lock because of what we hold of it? */
static bool
keeps_waiting(PROCLOCK *proclock)
{
	LOCK *lock = proclock->tag.myLock;
	LockMethod method;

	if (lock->nRequested <= lock->nGranted)
		return false;
	/* Claims and slots outlive a step, so ending it would help nobody. */
	if (lock->tag.locktag_lockmethodid == USER_LOCKMETHOD)
		return false;

	method = GetLocksMethodTable(lock);
	for (int mode = 1; mode <= method->numLockModes; mode++)
	{
		if ((lock->waitMask & LOCKBIT_ON(mode)) != 0 &&
			(method->conflictTab[mode] & proclock->holdMask) != 0)
			return true;
	}
	return false;
}

/*
 * The number of locks of this process that somebody waits for.
 *
 * Locks taken by the fast path need no look: whoever is in conflict with one
 * moves it to the lists first.  That may happen while we see whether a list
 * is empty, without its lock; then the next look finds it.
 */
int
refit_signals_count_waiters(void)
{
	int count = 0;

	for (int i = 0; i < NUM_LOCK_PARTITIONS; i++)
	{
		PROCLOCK *proclock = NULL;

		if (refit_next_proclock(MyProc, i, NULL) == NULL)
			continue;
		LWLockAcquire(LockHashPartitionLockByIndex(i), LW_SHARED);
		while ((proclock = refit_next_proclock(MyProc, i, proclock)) != NULL)
		{
			if (keeps_waiting(proclock))
				count++;
		}
		LWLockRelease(LockHashPartitionLockByIndex(i));
	}
	return count;
}

/*
 * lock_waiters: locks of the step that others wait for.  It ends a chunk and
 * shortens the next (governor.c), but asks for no rest.  Without a migration,
 * the backends that wait for any worker.
 */
void
refit_signal_lock_waiters(RefitMigration *m, RefitSignal *signal, char *reason)
{
	signal->unit = "backends";
	signal->soft_limit = 0;
	signal->hard_limit = INFINITY;
	signal->has_value = true;
	if (m != NULL)
		signal->value = refit_governor_waiters();
	else
	{
		char *count = refit_sql_text(
			"SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a"
			" WHERE a.wait_event_type = 'Lock' AND EXISTS ("
			"SELECT FROM refit.migration_progress p"
			" JOIN refit.migration m USING (id)"
			" WHERE m.state IN ('running', 'ready', 'revertible')"
			" AND p.worker_pid = ANY (pg_catalog.pg_blocking_pids(a.pid)))",
			0, NULL, NULL);

		signal->value = count == NULL ? 0 : strtod(count, NULL);
	}
	if (signal->value > 0)
	{
		signal->state = REFIT_SIGNAL_SLOW;
		strlcpy(reason, "others wait for a lock of a migration",
				REFIT_REASON_SIZE);
	}
}
