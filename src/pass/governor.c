/*-------------------------------------------------------------------------
 *
 * governor.c
 *	  How fast a migration may go: budget of a chunk, rest after it.
 *
 * Two loops, and neither needs to know what a step does.  The load of the
 * worst signal sets the share of time that is rest.  Somebody who waits for a
 * lock of ours ends the chunk and halves the next ones, which then grow back
 * by a tenth each: so a table with many short lock requests gets short chunks,
 * and one without gets long ones.  A chunk that takes a standby's lag from half
 * of its limit past it, or WAL past its rate, was too long as well: for such
 * signals the way is from the begin of a chunk to the first reading after it.
 *
 * What is remembered between a step's begin and its end is in static memory
 * and may be lost: it is taken anew then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "guc.h"
#include "job/catalog.h"
#include "pass/governor.h"
#include "util/sqlutil.h"

#define MIN_BUDGET_MS 10
#define MAX_REST_MS 2000	/* so that we soon notice when a signal is over */
#define STAND_STILL_MS 1000 /* between two looks while a signal says stop */
#define WAITERS_LOOK_MS 20	/* between two looks for waiters */
#define GROW_BELOW 0.5		/* load from which on chunks do not grow */

/* Between two events of one signal, at first and at most. */
#define EVENT_PAUSE_MS 5000
#define EVENT_PAUSE_MOST_MS 320000

#define MAX_SIGNALS 32

/* What the last look at the signals said. */
static int64 judged_id = 0;
static double judged_load = 0;

/* What was last told of a signal. */
typedef struct ToldState
{
	RefitSignalState state;
	TimestampTz at;
	int pause_ms;
} ToldState;

/* Waiters seen in the present step, or after it in the last one. */
static int waiters = 0;

/* Has the present step taken a signal past its limit? */
static bool overshoots = false;

/* What signals.c shows as lock_waiters. */
int
refit_governor_waiters(void)
{
	return waiters;
}

/* The worst signal, or NULL when none slows us. */
static RefitSignal *
find_worst(List *signals)
{
	RefitSignal *worst = NULL;
	ListCell *lc;

	foreach(lc, signals)
	{
		RefitSignal *signal = lfirst(lc);

		if (signal->load > 0 && (worst == NULL || signal->load > worst->load))
			worst = signal;
	}
	return worst;
}

/* What the value is, of which limit: "812 of 1000 ms". */
static char *
describe(const RefitSignal *signal)
{
	if (!signal->has_value)
		return pstrdup("no value");
	if (isinf(signal->hard_limit))
		return psprintf("%.6g %s", signal->value, signal->unit);
	return psprintf("%.6g of %.6g %s", signal->value, signal->hard_limit,
					signal->unit);
}

/* A number as JSON. */
static char *
json_number(double number)
{
	return isfinite(number) ? psprintf("%.6g", number) : pstrdup("null");
}

/* What is to be said of a signal that has changed its state. */
static char *
change_message(const RefitSignal *signal)
{
	char *what = describe(signal);

	switch (signal->state)
	{
		case REFIT_SIGNAL_OK:
			return psprintf("signal %s is ok: %s", signal->name, what);
		case REFIT_SIGNAL_UNKNOWN:
			return psprintf("signal %s has no value", signal->name);
		case REFIT_SIGNAL_SLOW:
			if (signal->load > 0)
				return psprintf("slowed by signal %s: %s", signal->name, what);
			return psprintf("signal %s warns: %s", signal->name, what);
		case REFIT_SIGNAL_STOP:
			break;
	}
	return psprintf("stopped by signal %s: %s", signal->name, what);
}

/* Writes the event that a signal has changed its state. */
static void
write_event(const RefitMigration *m, const RefitSignal *signal)
{
	char *message = change_message(signal);

	if (signal->owner_may_know && signal->reason != NULL)
		message = psprintf("%s: %s", message, signal->reason);
	refit_catalog_event(
		m, "governor", message,
		psprintf("{\"signal\": \"%s\", \"value\": %s, \"soft_limit\": %s, "
				 "\"hard_limit\": %s, \"load\": %s}",
				 signal->name,
				 signal->has_value ? json_number(signal->value) : "null",
				 json_number(signal->soft_limit),
				 json_number(signal->hard_limit), json_number(signal->load)));
}

/* Does the text that was saved as throttled_by name this signal? */
static bool
is_named_in(const char *throttled_by, const char *name)
{
	size_t length = strlen(name);

	return throttled_by != NULL && strncmp(throttled_by, name, length) == 0 &&
		   throttled_by[length] == ':';
}

/*
 * Tells whoever reads the events which signals have changed their state.  One
 * that hovers around a limit changes with every chunk; so the pause after an
 * event doubles as long as changes go on, and of those within it none is told.
 */
static void
tell_changes(const RefitMigration *m, const List *signals)
{
	static int64 told_id = 0;
	static ToldState told[MAX_SIGNALS];
	TimestampTz now = GetCurrentTimestamp();
	bool is_new = told_id != m->id;
	ListCell *lc;

	told_id = m->id;
	foreach(lc, signals)
	{
		RefitSignal *signal = lfirst(lc);
		ToldState *t = &told[foreach_current_index(lc)];

		if (is_new)
		{
			t->state = is_named_in(m->progress.throttled_by, signal->name)
						   ? signal->state
						   : REFIT_SIGNAL_OK;
			t->at = 0;
			t->pause_ms = EVENT_PAUSE_MS;
		}
		if (t->state == signal->state ||
			!TimestampDifferenceExceeds(t->at, now, t->pause_ms))
			continue;
		t->pause_ms =
			TimestampDifferenceExceeds(t->at, now, 2 * EVENT_PAUSE_MOST_MS)
				? EVENT_PAUSE_MS
				: Min(t->pause_ms * 2, EVENT_PAUSE_MOST_MS);
		t->state = signal->state;
		t->at = now;
		write_event(m, signal);
	}
}

/* The most that a chunk may take. */
static int
most_budget(const RefitMigration *m)
{
	return refit_catalog_option_ms(m, "chunk_time", refit_chunk_time);
}

/* The present budget. */
static int
present_budget(const RefitMigration *m)
{
	return m->progress.budget_ms > 0 ? m->progress.budget_ms : most_budget(m);
}

/* Before a step: 0, or the ms to stand still. */
int
refit_governor_before(RefitMigration *m)
{
	List *signals = refit_signals_read(m);
	RefitSignal *worst = find_worst(signals);
	double load = worst == NULL ? 0 : worst->load;
	bool stops = load >= 1 && (judged_id != m->id || judged_load < 1);

	tell_changes(m, signals);
	m->progress.throttled_by =
		worst == NULL ? NULL : psprintf("%s: %s", worst->name, describe(worst));
	if (stops && worst->follows_chunk)
		m->progress.budget_ms = Max(present_budget(m) / 2, MIN_BUDGET_MS);
	judged_id = m->id;
	judged_load = load;
	waiters = 0; /* the signal has told of those */
	overshoots = false;
	return load >= 1 ? STAND_STILL_MS : 0;
}

/* The rest that makes (1 - load) the share of time spent working. */
static int
rest_after(int worked_ms, double load)
{
	double rest;

	if (load >= 1)
		return STAND_STILL_MS;
	rest = worked_ms * load / (1 - load);
	return (int) Min(rest, MAX_REST_MS);
}

/* How long a step may work: less where the rest after it would be too long. */
int
refit_governor_budget(const RefitMigration *m)
{
	int budget = present_budget(m);
	double most;

	if (judged_id != m->id || judged_load <= 0 || judged_load >= 1)
		return budget;
	most = MAX_REST_MS * (1 - judged_load) / judged_load;
	return (int) Min(budget, Max(most, MIN_BUDGET_MS));
}

/* The budget of the next chunk. */
static int
next_budget(RefitMigration *m)
{
	int budget = present_budget(m);

	if (waiters > 0)
		budget /= 2;
	else if (judged_load < GROW_BELOW)
		budget += Max(budget / 10, 1);
	return Max(Min(budget, most_budget(m)), MIN_BUDGET_MS);
}

/* After a step that worked so long: ms to rest; sets progress.budget_ms. */
int
refit_governor_after(RefitMigration *m, int worked_ms)
{
	if (judged_id != m->id)
		(void) refit_governor_before(m);
	m->progress.budget_ms = next_budget(m);
	return rest_after(worked_ms, judged_load);
}

/*
 * Does somebody wait for a lock of ours, or has the migration m, if there is one,
 * gone too far?  A look now and then; what it has seen stands until the step
 * ends, even where the next question comes so soon that nobody looks again.
 */
static bool
must_give_way(RefitMigration *m, instr_time now)
{
	static instr_time looked_at;
	instr_time spent = now;

	if (waiters > 0 || overshoots)
		return true;
	INSTR_TIME_SUBTRACT(spent, looked_at);
	if (INSTR_TIME_GET_MILLISEC(spent) < WAITERS_LOOK_MS)
		return false;
	looked_at = now;
	waiters = refit_signals_count_waiters();
	overshoots = m != NULL && refit_signals_stop_step(m);
	return waiters > 0 || overshoots;
}

/* Within a step, often: does somebody wait? */
bool
refit_governor_is_waited_for(void)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	return must_give_way(NULL, now);
}

/* Within a step, often: has the budget run out, or does somebody wait? */
bool
refit_governor_step_over(const RefitBudget *budget)
{
	instr_time now;
	instr_time spent;

	INSTR_TIME_SET_CURRENT(now);
	spent = now;
	INSTR_TIME_SUBTRACT(spent, budget->start);
	return INSTR_TIME_GET_MILLISEC(spent) >= budget->chunk_ms ||
		   must_give_way(budget->m, now);
}

/* Holds one migration, or all, or lets them go. */
void
refit_governor_hold(int64 id, double ratio, Interval *expires)
{
	Oid types[3] = {INT8OID, FLOAT8OID, INTERVALOID};
	Datum values[3] = {Int64GetDatum(id), Float8GetDatum(ratio),
					   IntervalPGetDatum(expires)};
	bool nulls[3] = {false, false, expires == NULL};

	if (isnan(ratio) || ratio < 0 || ratio > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("throttle ratio %g is out of range", ratio),
				 errhint("Use 0 for full speed, 1 to stand still, or what is "
						 "between them.")));
	SPI_connect();
	if (ratio == 0)
		refit_sql("DELETE FROM refit.hold WHERE migration_id = $1", 1, types,
				  values, NULL);
	else
		refit_sql("INSERT INTO refit.hold (migration_id, ratio, expires_at)"
				  " VALUES ($1, $2, coalesce("
				  "pg_catalog.clock_timestamp() + $3, 'infinity'))"
				  " ON CONFLICT (migration_id) DO UPDATE"
				  " SET ratio = excluded.ratio,"
				  " expires_at = excluded.expires_at",
				  3, types, values, nulls);
	SPI_finish();
}
