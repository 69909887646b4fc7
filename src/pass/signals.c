/*-------------------------------------------------------------------------
 *
 * signals.c
 *	  What the governor reads.
 *
 * A signal is one row of the table below: a name and the function that reads
 * it, see signals.h.  Readings are kept in static memory for as long as the
 * table says, per process and migration, so that what the governor costs does
 * not depend on how short the steps are.
 *
 * To add a signal, add its function and its row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "executor/spi.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "pass/governor.h"
#include "pass/signals.h"

/* A signal, and its last reading. */
typedef struct SignalEntry
{
	const char *name;
	RefitSignalReader read;
	int keep_ms;		/* how long a reading is good */
	bool follows_chunk; /* how long a chunk is tells how far it overshoots */
	int64 id;			/* migration that it was taken for */
	TimestampTz at;
	RefitSignal reading;
	char reason[REFIT_REASON_SIZE];
} SignalEntry;

/* All signals, by name. */
static SignalEntry signals[] = {
	{"active_backends", refit_signal_active_backends, 500},
	{"archive_backlog", refit_signal_archive_backlog, 1000},
	{"checkpoint_pressure", refit_signal_checkpoint_pressure, 500},
	{"dead_rows", refit_signal_dead_rows, 500},
	{"free_disk", refit_signal_free_disk, 500},
	{"lock_waiters", refit_signal_lock_waiters, 0},
	{"manual", refit_signal_manual, 0},
	{"oldest_xmin", refit_signal_oldest_xmin, 2000},
	{"replica_lag", refit_signal_replica_lag, 40, true},
	{"signal_function", refit_signal_function_load, 1000},
	{"slot_retention", refit_signal_slot_retention, 1000},
	{"vacuum", refit_signal_vacuum, 500},
	{"wal_rate", refit_signal_wal_rate, 100, true},
};

/* A column of a row of the last query as a number; otherwise if NULL. */
double
refit_signals_number(uint64 row, int column, double otherwise)
{
	char *text =
		SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return text == NULL ? otherwise : strtod(text, NULL);
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
	if (signal->is_off)
		return;
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
	entry->reading.follows_chunk = entry->follows_chunk;
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

/* Has the present step taken a signal that follows it to its hard limit? */
bool
refit_signals_stop_step(RefitMigration *m)
{
	for (int i = 0; i < lengthof(signals); i++)
	{
		SignalEntry *entry = &signals[i];

		if (!entry->follows_chunk)
			continue;
		refresh(entry, m);
		if (entry->reading.load >= 1)
			return true;
	}
	return false;
}
