/*-------------------------------------------------------------------------
 *
 * signal_standby.c
 *	  How far standbys are behind.
 *
 * See signals.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "job/catalog.h"
#include "pass/signals.h"
#include "util/sqlutil.h"

/*
 * What a standby is taken to replay in a second.  At most: about what the one
 * process that replays does on common hardware, when the pages are in memory.
 * At first, before it has been seen at work: so little that the burst of a
 * first chunk ends before a slow one is far behind, and so much that what is
 * on its way to a fast one that is far away does not look like lag.
 */
#define MOST_RATE (64.0 * 1024 * 1024)
#define FIRST_RATE (8.0 * 1024 * 1024)

/*
 * How fast a standby replays is measured while it has at least so much before
 * it, over so many ms: with less, what is measured is how fast WAL comes.
 */
#define BUSY_BYTES (1024.0 * 1024)
#define MEASURE_MS 300
#define LEAST_RATE (1024.0 * 1024)
#define RATE_GROWTH \
	1.04 /* from one reading to the next, while it is not known */

/* Standbys whose position is remembered from one reading to the next. */
#define MAX_MARKS 32

/* The point that a standby had yet to replay at some time. */
typedef struct StandbyMark
{
	int pid; /* of its walsender; 0: free */
	double lsn;
	TimestampTz at;
	double rate;	   /* bytes that it replays in a second */
	double from;	   /* where it was when that is measured from */
	TimestampTz since; /* 0: it is not being measured */
} StandbyMark;

/* One standby as the server sees it. */
typedef struct Standby
{
	int pid;
	double replayed; /* WAL positions, in bytes */
	double current;
	double lag_ms; /* < 0: not known */
} Standby;

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
ms_behind_mark(StandbyMark *mark, const Standby *standby)
{
	TimestampTz now = GetCurrentTimestamp();

	if (mark->at != 0 && standby->replayed < mark->lsn)
		return (now - mark->at) / 1000.0;
	mark->lsn = standby->current;
	mark->at = now;
	return 0;
}

/*
 * How long, in ms, a standby will take for what it has yet to replay, by the
 * pace that was seen: what is written now lags by as much.  A burst that a slow
 * standby has just got is seen so before its age tells.
 */
static double
ms_to_replay(StandbyMark *mark, const Standby *standby)
{
	TimestampTz now = GetCurrentTimestamp();
	double bytes = standby->current - standby->replayed;
	bool is_busy = bytes >= BUSY_BYTES;
	double rate = 0;

	if (mark->since != 0 && now > mark->since)
		rate =
			(standby->replayed - mark->from) * 1000000.0 / (now - mark->since);
	if (!is_busy && mark->since != 0)
		mark->rate = Max(mark->rate, rate); /* it has caught up */
	else if (!is_busy)
		mark->rate *= RATE_GROWTH; /* not known, perhaps it could */
	else if (mark->since != 0 &&
			 TimestampDifferenceExceeds(mark->since, now, MEASURE_MS))
		mark->rate = rate < mark->rate ? rate : (mark->rate + rate) / 2;
	mark->rate = Max(Min(mark->rate, MOST_RATE), LEAST_RATE);

	if (!is_busy)
		mark->since = 0;
	else if (mark->since == 0 ||
			 TimestampDifferenceExceeds(mark->since, now, MEASURE_MS))
	{
		mark->since = now;
		mark->from = standby->replayed;
	}
	return bytes / mark->rate * 1000;
}

/* What is remembered of a standby. */
static StandbyMark *
find_mark(const Standby *standby)
{
	static StandbyMark marks[MAX_MARKS];
	StandbyMark *oldest = &marks[0];

	for (int i = 0; i < MAX_MARKS; i++)
	{
		if (marks[i].pid == standby->pid)
			return &marks[i];
		if (marks[i].at < oldest->at)
			oldest = &marks[i];
	}
	memset(oldest, 0, sizeof(StandbyMark));
	oldest->pid = standby->pid;
	oldest->rate = FIRST_RATE;
	return oldest;
}

/* The lag of one standby in ms. */
static double
standby_lag(const Standby *standby)
{
	StandbyMark *mark = find_mark(standby);
	double behind = ms_behind_mark(mark, standby);
	double ahead = ms_to_replay(mark, standby);

	/* The time that the server reports outlives the lag by some seconds. */
	if (standby->current <= standby->replayed)
		return 0;
	return Max(Max(behind, ahead), standby->lag_ms);
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

	snprintf(reason, REFIT_REASON_SIZE,
			 "standby \"%s\" (walsender %d) is behind",
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
void
refit_signal_replica_lag(RefitMigration *m, RefitSignal *signal, char *reason)
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
		Standby standby = {.pid = (int) refit_signals_number(i, 1, 0),
						   .replayed = refit_signals_number(i, 2, 0),
						   .current = refit_signals_number(i, 3, 0),
						   .lag_ms = refit_signals_number(i, 4, -1)};
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
