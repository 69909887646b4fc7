/*-------------------------------------------------------------------------
 *
 * history.c
 *	  Removes what is older than refit.history_retention.  See history.h.
 *
 * Whoever ends his work does it: a worker, and a scan worker, which the launcher
 * sends to each database once a day and a submission starts where there is none.
 * One call is one transaction and bounded, so that it neither keeps a snapshot nor
 * floods a standby.  What dies in between leaves the rest to the next one.
 *
 * Locks: of the rows, which nobody else writes; and an advisory one of our own, so
 * that two do not do the same.  Nobody waits for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "guc.h"
#include "job/history.h"
#include "util/sqlutil.h"

/* Last field of the lock's tag: a kind that no SQL function uses. */
#define LOCK_HISTORY 0x5233

/* Rows removed at once. */
#define EVENTS_AT_ONCE 2000
#define MIGRATIONS_AT_ONCE 200

/* Runs one of the statements with what is kept, in s, and how many at once. */
static uint64
purge(const char *sql, int at_once)
{
	Oid types[2] = {INT4OID, INT4OID};
	Datum values[2] = {Int32GetDatum(refit_history_retention),
					   Int32GetDatum(at_once)};

	return refit_sql(sql, 2, types, values, NULL);
}

/* Events; those without a migration too. */
static uint64
purge_events(void)
{
	return purge("DELETE FROM refit.event WHERE ctid = ANY (ARRAY("
				 "SELECT e.ctid FROM refit.event e"
				 " LEFT JOIN refit.migration m ON m.id = e.migration_id"
				 " WHERE e.at < now() - make_interval(secs => $1)"
				 " AND (m.id IS NULL OR m.finished_at IS NOT NULL)"
				 " ORDER BY e.at LIMIT $2))",
				 EVENTS_AT_ONCE);
}

/* Migrations with all that hangs on them. */
static uint64
purge_migrations(void)
{
	return purge(
		"WITH gone AS (DELETE FROM refit.migration WHERE id = ANY (ARRAY("
		" SELECT m.id FROM refit.migration m"
		" WHERE m.finished_at < now() - make_interval(secs => $1)"
		"  AND (m.name IS NULL OR m.state <> 'completed')"
		"  AND NOT EXISTS (SELECT FROM refit.rewrite r WHERE r.id = m.id)"
		" ORDER BY m.finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))"
		" RETURNING id),"
		" a AS (DELETE FROM refit.migration_progress x USING gone"
		"  WHERE x.id = gone.id),"
		" b AS (DELETE FROM refit.pass x USING gone WHERE x.id = gone.id),"
		" c AS (DELETE FROM refit.owed x USING gone WHERE x.id = gone.id),"
		" d AS (DELETE FROM refit.space x USING gone WHERE x.id = gone.id),"
		" e AS (DELETE FROM refit.hold x USING gone"
		"  WHERE x.migration_id = gone.id),"
		" f AS (DELETE FROM refit.event x USING gone"
		"  WHERE x.migration_id = gone.id)"
		" SELECT id FROM gone",
		MIGRATIONS_AT_ONCE);
}

/* Holds that are over. */
static void
purge_holds(void)
{
	(void) refit_sql("DELETE FROM refit.hold"
					 " WHERE expires_at < now() - interval '1 day'",
					 0, NULL, NULL, NULL);
}

/* Removes some of what is too old. */
bool
refit_history_purge_some(void)
{
	LOCKTAG tag;
	uint64 events;
	uint64 migrations;

	if (refit_history_retention <= 0)
		return false;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_HISTORY);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	SPI_connect();
	events = purge_events();
	migrations = purge_migrations();
	purge_holds();
	SPI_finish();
	return events == EVENTS_AT_ONCE || migrations == MIGRATIONS_AT_ONCE;
}
