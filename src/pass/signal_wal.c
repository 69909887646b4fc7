/*-------------------------------------------------------------------------
 *
 * signal_wal.c
 *	  How much WAL is written, kept and not archived yet, and the checkpoints
 *	  that it forces.
 *
 * See signals.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>

#include "access/xlog_internal.h"
#include "catalog/pg_type.h"
#include "executor/instrument.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgwriter.h"
#include "storage/fd.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "job/catalog.h"
#include "pass/signals.h"
#include "util/disk.h"
#include "util/sqlutil.h"

/* Slow from this share of max_wal_rate on. */
#define WAL_RATE_SOFT 0.8

/* WAL is counted over this time, in pieces. */
#define RATE_WINDOW_MS 10000
#define RATE_SAMPLES 64
#define RATE_SAMPLE_MS (RATE_WINDOW_MS / (RATE_SAMPLES - 4))

/* A session that has not looked before looks twice, so many ms apart. */
#define RATE_FIRST_MS 100

/* Segments that wait for the archiver. */
#define BACKLOG_SOFT 16
#define BACKLOG_HARD 64

/* Percent of what slots may keep. */
#define RETENTION_SOFT 50
#define RETENTION_HARD 80

/* Checkpoints that were forced, one soon after the other. */
#define PRESSURE_HARD 3

/*
 * One is ours when the migration has written this share of the WAL before it;
 * each of several workers knows what itself has written.
 */
#define PRESSURE_SHARE 0.5

/* Where WAL ended at some time. */
typedef struct WalSample
{
	TimestampTz at;
	XLogRecPtr end;
} WalSample;

/* The last RATE_WINDOW_MS of them, oldest first. */
static WalSample samples[RATE_SAMPLES];
static int nsamples = 0;

/*
 * wal_rate
 */

/* Takes a sample, and forgets those that are too old, but for one of them. */
static void
take_sample(void)
{
	WalSample now = {GetCurrentTimestamp(), GetXLogInsertRecPtr()};
	int drop = 0;

	if (nsamples > 0 && (samples[nsamples - 1].at > now.at ||
						 samples[nsamples - 1].end > now.end))
		nsamples = 0; /* the clock was set back */
	while (drop + 1 < nsamples &&
		   TimestampDifferenceExceeds(samples[drop + 1].at, now.at,
									  RATE_WINDOW_MS))
		drop++;
	if (drop == 0 && nsamples == RATE_SAMPLES)
		drop = 1;
	memmove(samples, samples + drop, sizeof(WalSample) * (nsamples - drop));
	nsamples -= drop;
	if (nsamples > 1 && !TimestampDifferenceExceeds(samples[nsamples - 2].at,
													now.at, RATE_SAMPLE_MS))
		nsamples--; /* the last one is too near to the one before */
	samples[nsamples++] = now;
}

/* kB a second over the samples. */
static double
wal_rate(void)
{
	WalSample *last = &samples[nsamples - 1];
	double seconds = (last->at - samples[0].at) / 1000000.0;

	return seconds > 0 ? (last->end - samples[0].end) / 1024.0 / seconds : 0;
}

/*
 * The limit in kB a second.  What a migration asks for cannot be more than
 * what the setting allows.
 */
static double
wal_rate_limit(RefitMigration *m)
{
	char *option = m == NULL ? NULL : refit_catalog_option(m, "max_wal_rate");
	int limit = refit_max_wal_rate;
	int own;

	if (option != NULL && parse_int(option, &own, GUC_UNIT_KB, NULL) &&
		(limit == 0 || own < limit))
		limit = own;
	return limit;
}

/*
 * wal_rate: WAL that the whole server has written in the last ten seconds.  Long
 * enough for the work of a chunk and the rest after it to even out.
 */
void
refit_signal_wal_rate(RefitMigration *m, RefitSignal *signal, char *reason)
{
	double limit = wal_rate_limit(m);

	take_sample();
	if (nsamples == 1 && m == NULL)
	{
		pg_usleep(RATE_FIRST_MS * 1000L);
		take_sample();
	}
	signal->unit = "kB/s";
	signal->soft_limit = limit * WAL_RATE_SOFT;
	signal->hard_limit = limit;
	signal->value = wal_rate();
	signal->has_value = true;
	signal->owner_may_know = true;
	signal->is_off = limit == 0;
}

/*
 * archive_backlog
 */

/* Segments that are complete and wait for the archiver. */
static int
count_unarchived(void)
{
	DIR *dir = AllocateDir(XLOGDIR "/archive_status");
	struct dirent *entry;
	int count = 0;

	while ((entry = ReadDirExtended(dir, XLOGDIR "/archive_status", LOG)) !=
		   NULL)
	{
		size_t length = strlen(entry->d_name);

		if (length > strlen(".ready") &&
			strcmp(entry->d_name + length - strlen(".ready"), ".ready") == 0)
			count++;
	}
	if (dir != NULL)
		FreeDir(dir);
	return count;
}

/* archive_backlog: none where nothing is archived. */
void
refit_signal_archive_backlog(RefitMigration *m, RefitSignal *signal,
							 char *reason)
{
	signal->unit = "segments";
	signal->soft_limit = BACKLOG_SOFT;
	signal->hard_limit = BACKLOG_HARD;
	signal->has_value = true;
	signal->owner_may_know = true;
	if (!XLogArchivingActive())
		return;
	signal->value = count_unarchived();
	if (signal->value > BACKLOG_SOFT)
		strlcpy(reason, "WAL is not archived as fast as it is written",
				REFIT_REASON_SIZE);
}

/*
 * checkpoint_pressure
 */

/*
 * Has so much WAL been written between two checkpoints that it was what forced
 * the second?  Otherwise somebody asked for it, as a CHECKPOINT, a backup and
 * DROP DATABASE do, which says nothing of our pace.
 */
static bool
is_forced_by_wal(XLogRecPtr from, XLogRecPtr to)
{
	return to - from >= (XLogRecPtr) CheckPointSegments * wal_segment_size / 2;
}

/* What is known of the checkpoints since the first look of this process. */
static struct
{
	bool has_looked;
	RefitCheckpoints counts;
	XLogRecPtr redo; /* of the last one that is counted */
	uint64 own;		 /* what this process had written then */
	TimestampTz at;	 /* of the last one that was forced */
	int in_a_row;
} seen;

/*
 * Does the migration apply what clients change meanwhile?  The verification does,
 * before each of its chunks, and so does the cutover.
 */
static bool
is_in_a_race(const RefitMigration *m)
{
	static const char *const phases[] = {"catchup",	  "verify",	 "cutover",
										 "catchback", "recheck", "revert"};

	if (m != NULL && m->phase != NULL)
		for (int i = 0; i < lengthof(phases); i++)
			if (strcmp(m->phase, phases[i]) == 0)
				return true;
	return false;
}

/*
 * Has the migration forced it?  Where others force checkpoints, and go on to
 * while we stand still, our standing still helps nobody, and we would never get
 * done.  Nor does it in a race with clients: what is not applied now is applied
 * later, with as much WAL, and there is more of it then.
 */
static bool
is_ours(const RefitMigration *m, XLogRecPtr from, XLogRecPtr to)
{
	char *option = refit_catalog_option(m, "workers");
	int workers = option == NULL ? 1 : Max(atoi(option), 1);

	return !is_in_a_race(m) && (pgWalUsage.wal_bytes - seen.own) * workers >=
								   (to - from) * PRESSURE_SHARE;
}

/*
 * Counts the checkpoints that have come since the last look; for a migration
 * those that it has forced.  The server moves the redo pointer first and counts
 * a little later.
 */
static void
look_at_checkpoints(const RefitMigration *m)
{
	RefitCheckpoints counts = refit_count_checkpoints();
	XLogRecPtr redo = GetRedoRecPtr();
	TimestampTz now = GetCurrentTimestamp();
	int64 requested = counts.requested - seen.counts.requested;

	if (TimestampDifferenceExceeds(seen.at, now, CheckPointWarning * 1000) ||
		counts.timed != seen.counts.timed || is_in_a_race(m))
		seen.in_a_row = 0;
	if (seen.has_looked && requested > 0 && is_forced_by_wal(seen.redo, redo) &&
		(m == NULL || is_ours(m, seen.redo, redo)))
	{
		seen.in_a_row += requested;
		seen.at = now;
	}
	if (!seen.has_looked || requested != 0 || counts.timed != seen.counts.timed)
	{
		seen.redo = redo;
		seen.own = pgWalUsage.wal_bytes;
	}
	seen.counts = counts;
	seen.has_looked = true;
}

/*
 * checkpoint_pressure: checkpoints that were forced by the amount of WAL, each
 * sooner after the last one than checkpoint_warning, which is when the server
 * complains too.  It is over when none came for so long, or the next one came by
 * time.  Off where checkpoint_warning is.  A migration is slowed by those that
 * it has forced; who looks at refit.signals sees all.
 */
void
refit_signal_checkpoint_pressure(RefitMigration *m, RefitSignal *signal,
								 char *reason)
{
	look_at_checkpoints(m);
	signal->unit = "checkpoints";
	signal->soft_limit = 0;
	signal->hard_limit = PRESSURE_HARD;
	signal->value = seen.in_a_row;
	signal->has_value = true;
	signal->owner_may_know = true;
	signal->is_off = CheckPointWarning == 0;
	if (seen.in_a_row > 0)
		strlcpy(reason, "WAL forces checkpoints; max_wal_size is small for it",
				REFIT_REASON_SIZE);
}

/*
 * slot_retention
 */

/* The slot that keeps most WAL, and how much that is; 0: none keeps any. */
static double
most_kept(char *reason)
{
	double kept = 0;

	SPI_connect();
	if (refit_sql(
			"SELECT pg_catalog.pg_current_wal_lsn() - restart_lsn,"
			" slot_name, active FROM pg_catalog.pg_get_replication_slots()"
			" WHERE restart_lsn IS NOT NULL ORDER BY 1 DESC LIMIT 1",
			0, NULL, NULL, NULL) > 0)
	{
		TupleDesc desc = SPI_tuptable->tupdesc;
		HeapTuple row = SPI_tuptable->vals[0];

		kept = Max(refit_signals_number(0, 1, 0), 0);
		snprintf(reason, REFIT_REASON_SIZE, "slot \"%s\"%s keeps %s of WAL",
				 SPI_getvalue(row, desc, 2),
				 SPI_getvalue(row, desc, 3)[0] == 't' ? "" : ", not in use,",
				 refit_disk_pretty((int64) kept));
	}
	SPI_finish();
	return kept;
}

/*
 * slot_retention: the share that one replication slot has of the WAL that may be
 * kept for it: max_slot_wal_keep_size, beyond which the server gives the slot up;
 * or, without that limit, what it keeps and what is free on its disk.
 */
void
refit_signal_slot_retention(RefitMigration *m, RefitSignal *signal,
							char *reason)
{
	double kept = most_kept(reason);
	double most = 0;
	RefitDisk disk;

	if (max_slot_wal_keep_size_mb >= 0)
		most = max_slot_wal_keep_size_mb * 1024.0 * 1024.0;
	else if (kept > 0 && refit_disk_look(REFIT_PLACE_WAL, &disk))
		most = kept + disk.free;
	signal->unit = "percent";
	signal->soft_limit = RETENTION_SOFT;
	signal->hard_limit = RETENTION_HARD;
	signal->has_value = kept == 0 || most > 0;
	signal->value = most > 0 ? kept * 100 / most : 0;
	if (signal->value <= RETENTION_SOFT && signal->has_value)
		reason[0] = '\0';
}
