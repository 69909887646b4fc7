/*-------------------------------------------------------------------------
 *
 * signals.c
 *	  What the governor reads.
 *
 * A signal is one row of the table below: a name and a function that fills in
 * value and limits, or the load itself where limits do not say it.  A reader
 * runs fixed SQL as the bootstrap superuser, in the transaction of the step,
 * and takes a snapshot of its own that ends with it.  Readings are kept in
 * static memory for as long as the table says, per process and migration.
 *
 * To add a signal, add its function and its row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "job/catalog.h"
#include "pass/governor.h"
#include "util/disk.h"
#include "util/sqlutil.h"

#define REASON_SIZE 256

/*
 * What a standby is taken to replay in a second, where its lag is known in
 * bytes only: about what the one process that replays does on common
 * hardware, when the pages are in memory.
 */
#define BYTES_PER_SECOND (64.0 * 1024 * 1024)

/* Slow down from this many times refit.min_free_disk on. */
#define FREE_DISK_SOFT 1.2

/* Standbys whose position is remembered from one reading to the next. */
#define MAX_MARKS 32

/* The point that a standby had yet to replay at some time. */
typedef struct StandbyMark
{
	int pid; /* of its walsender; 0: free */
	double lsn;
	TimestampTz at;
} StandbyMark;

/* One standby as the server sees it. */
typedef struct Standby
{
	int pid;
	double replayed; /* WAL positions, in bytes */
	double current;
	double lag_ms; /* < 0: not known */
} Standby;

/* Fills in a signal; reason has room for REASON_SIZE bytes. */
typedef void (*SignalReader)(RefitMigration *m, RefitSignal *signal,
							 char *reason);

/* A signal, and its last reading. */
typedef struct SignalEntry
{
	const char *name;
	SignalReader read;
	int keep_ms; /* how long a reading is good */
	int64 id;	 /* migration that it was taken for */
	TimestampTz at;
	RefitSignal reading;
	char reason[REASON_SIZE];
} SignalEntry;

static void read_free_disk(RefitMigration *m, RefitSignal *signal,
						   char *reason);
static void read_lock_waiters(RefitMigration *m, RefitSignal *signal,
							  char *reason);
static void read_manual(RefitMigration *m, RefitSignal *signal, char *reason);
static void read_replica_lag(RefitMigration *m, RefitSignal *signal,
							 char *reason);

/* All signals, by name. */
static SignalEntry signals[] = {
	{.name = "free_disk", .read = read_free_disk, .keep_ms = 500},
	{.name = "lock_waiters", .read = read_lock_waiters, .keep_ms = 0},
	{.name = "manual", .read = read_manual, .keep_ms = 0},
	{.name = "replica_lag", .read = read_replica_lag, .keep_ms = 300},
};

/* A column of a row of the last query as a number; otherwise if NULL. */
static double
column_number(uint64 row, int column, double otherwise)
{
	char *text =
		SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return text == NULL ? otherwise : strtod(text, NULL);
}

/*
 * Finds the place with the least free share of its file system, of those that
 * a migration writes to; without one, of all of the server.  Returns how many
 * there are; none of them can be seen where disk->total is 0.
 */
static uint64
find_fullest(RefitMigration *m, Oid *place, RefitDisk *disk)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m == NULL ? 0 : m->id)};
	uint64 count;
	RefitDisk other;

	disk->total = 0;
	SPI_connect();
	if (m != NULL)
		count = refit_sql("SELECT place FROM refit.space WHERE id = $1"
						  " ORDER BY place = 0, 1",
						  1, types, values, NULL);
	else
		count = refit_sql("SELECT oid FROM pg_catalog.pg_tablespace"
						  " UNION ALL SELECT 0 ORDER BY 1 DESC",
						  0, NULL, NULL, NULL);
	for (uint64 i = 0; i < count; i++)
	{
		Oid candidate = (Oid) column_number(i, 1, 0);

		if (refit_disk_look(candidate, &other) &&
			(disk->total == 0 ||
			 refit_disk_free_percent(&other) < refit_disk_free_percent(disk)))
		{
			*place = candidate;
			*disk = other;
		}
	}
	SPI_finish();
	return count;
}

/*
 * Bytes that a migration is still expected to write to a tablespace: the
 * estimate, less what its twin has there.
 */
static int64
still_needed(const RefitMigration *m, Oid place)
{
	Oid types[3] = {INT8OID, OIDOID, OIDOID};
	Datum values[3] = {Int64GetDatum(m->id), ObjectIdGetDatum(place),
					   ObjectIdGetDatum(m->rewrite.twin)};
	char *bytes = refit_sql_text(
		"SELECT greatest(s.bytes - coalesce((SELECT"
		"  sum(pg_catalog.pg_table_size(c.oid))"
		"  FROM pg_catalog.pg_class c, pg_catalog.pg_database d"
		"  WHERE c.oid IN (SELECT $3 UNION ALL SELECT i.indexrelid"
		"   FROM pg_catalog.pg_index i WHERE i.indrelid = $3)"
		"  AND d.datname = current_database()"
		"  AND coalesce(nullif(c.reltablespace, 0), d.dattablespace) = $2),"
		"  0), 0)::int8 FROM refit.space s WHERE s.id = $1 AND s.place = $2",
		3, types, values);

	return bytes == NULL ? 0 : strtoll(bytes, NULL, 10);
}

/* Has the migration nothing more to write, but space to give back? */
static bool
is_past_cutover(const RefitMigration *m)
{
	return m->phase != NULL && (strcmp(m->phase, "validate") == 0 ||
								strcmp(m->phase, "settle") == 0 ||
								strcmp(m->phase, "cleanup") == 0);
}

/* Says where there is so little room, and how much more is to be written. */
static void
name_place(const RefitMigration *m, Oid place, const RefitDisk *disk,
		   char *reason)
{
	int64 needed = 0;

	if (m != NULL && m->rewrite.exists && place != REFIT_PLACE_WAL)
		needed = still_needed(m, place);
	snprintf(reason, REASON_SIZE, "%s has %s free of %s%s%s",
			 refit_disk_place_name(place), refit_disk_pretty(disk->free),
			 refit_disk_pretty(disk->total),
			 needed > 0 ? ", still needed " : "",
			 needed > 0 ? refit_disk_pretty(needed) : "");
}

/*
 * free_disk: the free share of the fullest file system that a migration writes
 * to.  Less is worse, so the load is worked out here.
 *
 * A migration that has no estimate does not write much, and one that is past
 * its cutover is about to give space back: they go on.
 */
static void
read_free_disk(RefitMigration *m, RefitSignal *signal, char *reason)
{
	double soft = refit_min_free_disk * FREE_DISK_SOFT;
	RefitDisk disk;
	Oid place = InvalidOid;
	uint64 places = find_fullest(m, &place, &disk);

	signal->unit = "percent";
	signal->hard_limit = refit_min_free_disk;
	signal->soft_limit = soft;
	signal->value = disk.total > 0 ? refit_disk_free_percent(&disk) : 100;
	signal->has_value = disk.total > 0 || places == 0;
	signal->owner_may_know = true;
	if (disk.total == 0)
		return;
	if (refit_min_free_disk > 0 && (m == NULL || !is_past_cutover(m)))
		signal->load =
			Max(soft - signal->value, 0) / (soft - refit_min_free_disk);
	name_place(signal->load > 0 ? m : NULL, place, &disk, reason);
}

/*
 * manual: what refit.throttle() asks for.  Without a migration, the strictest
 * hold of any.
 */
static void
read_manual(RefitMigration *m, RefitSignal *signal, char *reason)
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

		signal->value = column_number(0, 1, 0);
		snprintf(reason, REASON_SIZE, "%s is held until %s",
				 SPI_getvalue(row, desc, 2), SPI_getvalue(row, desc, 3));
	}
	SPI_finish();
}

/*
 * How long, in ms, a standby has been known to be behind.
 *
 * The lag that the server reports stands still when the standby stops to
 * answer, and is not there before it has reached a first point.  So a point
 * is marked that was the end of WAL at some time: until the standby has passed
 * it, it is behind by at least the time since then.  No clock but ours is
 * read.
 */
static double
ms_behind_mark(const Standby *standby)
{
	static StandbyMark marks[MAX_MARKS];
	TimestampTz now = GetCurrentTimestamp();
	StandbyMark *mark = &marks[0];

	for (int i = 0; i < MAX_MARKS; i++)
	{
		if (marks[i].pid == standby->pid)
		{
			mark = &marks[i];
			break;
		}
		if (marks[i].at < mark->at)
			mark = &marks[i];
	}
	if (mark->pid == standby->pid && standby->replayed < mark->lsn)
		return (now - mark->at) / 1000.0;
	mark->pid = standby->pid;
	mark->lsn = standby->current;
	mark->at = now;
	return 0;
}

/* The lag of one standby in ms. */
static double
standby_lag(const Standby *standby)
{
	double behind = ms_behind_mark(standby);
	double bytes = standby->current - standby->replayed;

	/* The time that the server reports outlives the lag by some seconds. */
	if (bytes <= 0)
		return 0;
	if (standby->lag_ms < 0)
		return Max(behind, bytes / BYTES_PER_SECOND * 1000);
	return Max(behind, standby->lag_ms);
}

/* Says which standby it is. */
static void
name_standby(int pid, char *reason)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(pid)};
	char *name = refit_sql_text("SELECT application_name"
								" FROM pg_catalog.pg_stat_get_activity($1)",
								1, types, values);

	snprintf(reason, REASON_SIZE, "standby \"%s\" (walsender %d) is behind",
			 name == NULL ? "" : name, pid);
}

/*
 * replica_lag: the lag of the standby that is furthest behind, in time.
 *
 * Only those count whose lag hurts somebody who reads from them, or waits for
 * them at commit: what replays WAL, which a base backup and a WAL archiver do
 * not.  A logical subscriber confirms when it likes, many as seldom as every
 * minute, and what it hurts by staying behind is the disk, which has signals
 * of its own; so it counts only where commits wait for it.  A standby that is
 * delayed on purpose looks like one that lags: raise the limit, or switch it
 * off.
 */
static void
read_replica_lag(RefitMigration *m, RefitSignal *signal, char *reason)
{
	static const char *const query =
		"SELECT w.pid, w.replay_lsn - pg_lsn '0/0',"
		" pg_catalog.pg_current_wal_lsn() - pg_lsn '0/0',"
		" extract(epoch FROM w.replay_lag) * 1000"
		" FROM pg_catalog.pg_stat_get_wal_senders() w"
		" WHERE w.replay_lsn IS NOT NULL"
		" AND (w.sync_state IN ('sync', 'quorum') OR NOT EXISTS ("
		"SELECT FROM pg_catalog.pg_replication_slots s"
		" WHERE s.active_pid = w.pid AND s.slot_type = 'logical'))";
	int limit = refit_max_replica_lag;
	int worst = 0;
	uint64 n;

	if (m != NULL)
		limit = refit_catalog_option_ms(m, "max_replica_lag", limit);
	signal->unit = "ms";
	signal->soft_limit = limit / 2.0;
	signal->hard_limit = limit;
	signal->has_value = true;
	if (limit == 0)
		return;

	SPI_connect();
	n = refit_sql(query, 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		Standby standby = {.pid = (int) column_number(i, 1, 0),
						   .replayed = column_number(i, 2, 0),
						   .current = column_number(i, 3, 0),
						   .lag_ms = column_number(i, 4, -1)};
		double lag = standby_lag(&standby);

		if (lag > signal->value)
		{
			signal->value = lag;
			worst = standby.pid;
		}
	}
	SPI_finish();
	if (signal->value > signal->soft_limit)
		name_standby(worst, reason);
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
static void
read_lock_waiters(RefitMigration *m, RefitSignal *signal, char *reason)
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
		strlcpy(reason, "others wait for a lock of a migration", REASON_SIZE);
	}
}

/* The load that stands for a signal without a value. */
static double
load_of_unknown(void)
{
	switch (refit_unknown_signal)
	{
		case REFIT_UNKNOWN_STOP:
			return 1;
		case REFIT_UNKNOWN_SLOW:
			return 0.5;
		default:
			return 0;
	}
}

/* Works out load and state from value and limits. */
static void
judge(RefitSignal *signal)
{
	if (!signal->has_value)
	{
		signal->state = REFIT_SIGNAL_UNKNOWN;
		signal->load = load_of_unknown();
		return;
	}
	if (signal->value > signal->soft_limit &&
		signal->hard_limit > signal->soft_limit)
		signal->load = (signal->value - signal->soft_limit) /
					   (signal->hard_limit - signal->soft_limit);
	if (signal->load >= 1)
		signal->state = REFIT_SIGNAL_STOP;
	else if (signal->load > 0)
		signal->state = REFIT_SIGNAL_SLOW;
}

/*
 * Takes a reading, unless the last one is still good.  Who asks for the whole
 * server is a user, and sees what is so now, with the limits that he has set.
 */
static void
refresh(SignalEntry *entry, RefitMigration *m)
{
	int64 id = m == NULL ? 0 : m->id;
	TimestampTz now = GetCurrentTimestamp();

	if (m != NULL && entry->at != 0 && entry->id == id && now >= entry->at &&
		!TimestampDifferenceExceeds(entry->at, now, entry->keep_ms))
		return;

	/* Not good until it is complete: a reader may raise an error. */
	entry->at = 0;
	entry->id = id;
	memset(&entry->reading, 0, sizeof(RefitSignal));
	entry->reading.name = entry->name;
	entry->reason[0] = '\0';
	entry->read(m, &entry->reading, entry->reason);
	judge(&entry->reading);
	entry->at = now;
}

/* Reads all signals. */
List *
refit_signals_read(RefitMigration *m)
{
	List *result = NIL;

	for (int i = 0; i < lengthof(signals); i++)
	{
		SignalEntry *entry = &signals[i];
		RefitSignal *copy;

		refresh(entry, m);
		copy = palloc(sizeof(RefitSignal));
		*copy = entry->reading;
		copy->reason = entry->reason[0] == '\0' ? NULL : pstrdup(entry->reason);
		result = lappend(result, copy);
	}
	return result;
}
