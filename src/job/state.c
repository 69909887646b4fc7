/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The only writer of a migration's state and phase.
 *
 * See state.h.  Locks: the row, until the end of the transaction.  Snapshots:
 * those of its statements.  Rights: refit_sql's.  A death undoes the transaction,
 * and listeners are told nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "utils/builtins.h"
#include "utils/json.h"

#include "job/catalog.h"
#include "job/state.h"
#include "util/sqlutil.h"

/* Runs a statement on the row with parameters id and three texts. */
uint64
refit_update_row(const RefitMigration *m, const char *sql, const char *a,
				 const char *b, const char *c)
{
	Oid types[4] = {INT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[4] = {Int64GetDatum(m->id)};
	bool nulls[4] = {false, a == NULL, b == NULL, c == NULL};
	const char *texts[3] = {a, b, c};
	uint64 n;

	for (int i = 0; i < 3; i++)
		values[i + 1] =
			texts[i] != NULL ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	SPI_connect();
	n = refit_sql(sql, 4, types, values, nulls);
	SPI_finish();
	return n;
}

/* Tells listeners. */
void
refit_notify(const RefitMigration *m)
{
	StringInfoData payload;

	initStringInfo(&payload);
	appendStringInfo(&payload, "{\"id\": " INT64_FORMAT ", \"name\": ", m->id);
	if (m->name != NULL)
		escape_json(&payload, m->name);
	else
		appendStringInfoString(&payload, "null");
	appendStringInfoString(&payload, ", \"kind\": ");
	escape_json(&payload, m->kind);
	appendStringInfoString(&payload, ", \"relation\": ");
	escape_json(&payload, m->relation);
	appendStringInfo(&payload, ", \"state\": \"%s\", \"phase\": ", m->state);
	if (m->phase != NULL)
		escape_json(&payload, m->phase);
	else
		appendStringInfoString(&payload, "null");
	appendStringInfoChar(&payload, '}');
	Async_Notify("refit", payload.data);
}

/*
 * The one transition function: from the state that was loaded to another.
 * An ERROR when the row is not in that state any more.
 */
void
refit_set_state(RefitMigration *m, const char *state)
{
	if (strcmp(m->state, state) == 0)
		return;
	if (refit_update_row(
			m,
			"UPDATE refit.migration SET state = $2,"
			" started_at = CASE WHEN $2 = 'running' THEN"
			"  coalesce(started_at, clock_timestamp())"
			"  ELSE started_at END,"
			" finished_at = CASE WHEN $2 IN ('completed', 'cancelled',"
			"  'failed', 'reverted') THEN clock_timestamp() END"
			" WHERE id = $1 AND state = $3 AND ($4 IS NULL)",
			state, m->state, NULL) != 1)
		ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						errmsg("the state of migration " INT64_FORMAT
							   " was changed by somebody else",
							   m->id),
						errhint("Try again.")));
	refit_catalog_event(m, "state", psprintf("%s -> %s", m->state, state),
						NULL);
	m->state = pstrdup(state);
	refit_notify(m);
}

/* Enters a phase. */
void
refit_set_phase(RefitMigration *m, const char *phase)
{
	refit_update_row(m,
					 "UPDATE refit.migration SET phase = $2, strategy = $3,"
					 " phase_started_at = clock_timestamp()"
					 " WHERE id = $1 AND ($4 IS NULL)",
					 phase, m->strategy, NULL);
	m->phase = phase != NULL ? pstrdup(phase) : NULL;
	m->progress.errors = 0;
	if (phase != NULL)
		refit_catalog_event(m, "phase", psprintf("phase %s begins", phase),
							NULL);
}

/* Leaves a note of what the worker shall do, or takes it off. */
void
refit_set_request(RefitMigration *m, const char *request)
{
	refit_update_row(m,
					 "UPDATE refit.migration SET request = $2 WHERE id = $1"
					 " AND ($3 IS NULL) AND ($4 IS NULL)",
					 request, NULL, NULL);
	m->request = request != NULL ? pstrdup(request) : NULL;
}

/* Sends the migration to phase cleanup, on the way to a final state. */
void
refit_set_goal(RefitMigration *m, const char *goal)
{
	refit_update_row(m,
					 "UPDATE refit.migration SET goal = $2 WHERE id = $1"
					 " AND ($3 IS NULL) AND ($4 IS NULL)",
					 goal, NULL, NULL);
	m->goal = pstrdup(goal);
	if (m->strategy == NULL)
		m->strategy = "rewrite";
	refit_set_phase(m, "cleanup");
	m->progress.waiting_for = NULL;
	m->progress.rate = 0;
}

/* Forgets all that the tries before have left in the row; now it is ours. */
void
refit_reset_row(const RefitMigration *m)
{
	refit_update_row(
		m,
		"UPDATE refit.migration SET home = refit._home(), goal = NULL,"
		" request = NULL,"
		" phase = NULL, strategy = NULL, error_code = NULL,"
		" error_message = NULL, error_detail = NULL, error_hint = NULL,"
		" error_context = NULL, verified_rows = NULL,"
		" discrepancies = NULL, revertible_until = NULL,"
		" started_at = NULL WHERE id = $1"
		" AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
		NULL, NULL, NULL);
	refit_update_row(m,
					 "DELETE FROM refit.migration_progress WHERE id = $1"
					 " AND ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
					 NULL, NULL, NULL);
	refit_update_row(m,
					 "INSERT INTO refit.migration_progress (id) SELECT $1"
					 " WHERE ($2 IS NULL) AND ($3 IS NULL) AND ($4 IS NULL)",
					 NULL, NULL, NULL);
}

/* Has a control function asked for this? */
bool
refit_is_requested(const RefitMigration *m, const char *request)
{
	return m->request != NULL && strcmp(m->request, request) == 0;
}

/* Is it one that a process works? */
bool
refit_is_at_work(const RefitMigration *m)
{
	return strcmp(m->state, "running") == 0 || strcmp(m->state, "ready") == 0 ||
		   strcmp(m->state, "revertible") == 0;
}

/* Is the migration over? */
bool
refit_migration_is_over(const RefitMigration *m)
{
	return strcmp(m->state, "completed") == 0 ||
		   strcmp(m->state, "cancelled") == 0 ||
		   strcmp(m->state, "failed") == 0 || strcmp(m->state, "reverted") == 0;
}
