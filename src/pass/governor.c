/*-------------------------------------------------------------------------
 *
 * governor.c
 *	  How fast a migration may go: budget of a chunk, rest after it.
 *
 * Two loops, and neither needs to know what a step does.  The load of the
 * worst signal sets the share of time that is rest.  Somebody who waits for a
 * lock of ours ends the chunk and halves the next ones, which then grow back
 * by a tenth each: so a table with many short lock requests gets short chunks,
 * and one without gets long ones.
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
#define MAX_REST_MS 60000
#define STAND_STILL_MS 1000 /* between two looks while a signal says stop */
#define WAITERS_LOOK_MS 20	/* between two looks for waiters */
#define EVENT_PAUSE_MS 5000 /* between two events of one migration */

/* What the last look at the signals said. */
static int64 judged_id = 0;
static double judged_load = 0;

/* Waiters seen since the last step's end. */
static int waiters = 0;

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

/* Writes the event that a signal slows a migration, or that none does. */
static void
write_event(RefitMigration *m, const RefitSignal *signal)
{
	bool tells_reason =
		signal != NULL && signal->owner_may_know && signal->reason != NULL;

	if (signal == NULL)
		refit_catalog_event(m, "governor", "no signal slows the migration",
							NULL);
	else if (!signal->has_value)
		refit_catalog_event(m, "governor",
							psprintf("signal %s has no value", signal->name),
							psprintf("{\"signal\": \"%s\", \"load\": %.3f}",
									 signal->name, signal->load));
	else
		refit_catalog_event(
			m, "governor",
			psprintf("%s by signal %s: %.6g of %.6g %s%s%s",
					 signal->load >= 1 ? "stopped" : "slowed", signal->name,
					 signal->value, signal->hard_limit, signal->unit,
					 tells_reason ? ": " : "",
					 tells_reason ? signal->reason : ""),
			psprintf("{\"signal\": \"%s\", \"value\": %.6g, \"soft_limit\": "
					 "%.6g, \"hard_limit\": %.6g, \"load\": %.3f}",
					 signal->name, signal->value, signal->soft_limit,
					 signal->hard_limit, signal->load));
}

/*
 * Tells whoever reads the events that another signal slows the migration than
 * they know of.  A load that hovers around a limit changes with every chunk;
 * of those changes one in some seconds is told.
 */
static void
tell_change(RefitMigration *m, const RefitSignal *signal)
{
	static int64 told_id = 0;
	static char told[NAMEDATALEN] = "";
	static TimestampTz told_at = 0;
	const char *name = signal == NULL ? "" : signal->name;
	TimestampTz now = GetCurrentTimestamp();

	if (told_id != m->id)
	{
		const char *known = m->progress.throttled_by;

		told_id = m->id;
		strlcpy(told, known == NULL ? "" : known, sizeof(told));
		told_at = 0;
	}
	if (strcmp(told, name) == 0 ||
		!TimestampDifferenceExceeds(told_at, now, EVENT_PAUSE_MS))
		return;
	write_event(m, signal);
	strlcpy(told, name, sizeof(told));
	told_at = now;
}

/* Before a step: 0, or the ms to stand still. */
int
refit_governor_before(RefitMigration *m)
{
	RefitSignal *worst = find_worst(refit_signals_read(m));

	tell_change(m, worst);
	m->progress.throttled_by = worst == NULL ? NULL : pstrdup(worst->name);
	judged_id = m->id;
	judged_load = worst == NULL ? 0 : worst->load;
	return judged_load >= 1 ? STAND_STILL_MS : 0;
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

/* The budget of the next chunk. */
static int
next_budget(RefitMigration *m)
{
	int most = refit_catalog_option_ms(m, "chunk_time", refit_chunk_time);
	int budget = m->progress.budget_ms;

	if (budget <= 0)
		budget = most;
	if (waiters > 0)
		budget /= 2;
	else
		budget += Max(budget / 10, 1);
	return Max(Min(budget, most), MIN_BUDGET_MS);
}

/* After a step that worked so long: ms to rest; sets progress.budget_ms. */
int
refit_governor_after(RefitMigration *m, int worked_ms)
{
	if (judged_id != m->id)
		(void) refit_governor_before(m);
	m->progress.budget_ms = next_budget(m);
	waiters = 0;
	return rest_after(worked_ms, judged_load);
}

/* Does somebody wait for a lock of ours?  A look now and then. */
static bool
look_for_waiters(instr_time now)
{
	static instr_time looked_at;
	instr_time spent = now;

	INSTR_TIME_SUBTRACT(spent, looked_at);
	if (INSTR_TIME_GET_MILLISEC(spent) < WAITERS_LOOK_MS)
		return false;
	looked_at = now;
	waiters = refit_signals_count_waiters();
	return waiters > 0;
}

/* Within a step, often: does somebody wait? */
bool
refit_governor_is_waited_for(void)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	return look_for_waiters(now);
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
		   look_for_waiters(now);
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
