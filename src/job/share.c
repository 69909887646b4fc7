/*-------------------------------------------------------------------------
 *
 * share.c
 *	  Which process works which part of a migration that several work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/walwriter.h"
#include "utils/timestamp.h"

#include "job/catalog.h"
#include "job/share.h"
#include "pass/governor.h"
#include "util/sqlutil.h"

/* The leader's part: of which migration, if he has done a chunk; and his term. */
static int64 begun_id = 0;
static TimestampTz stays_until = 0;

bool
refit_share_is_wanted(const RefitMigration *m)
{
	char *workers = refit_catalog_option(m, "workers");

	return workers != NULL && atoi(workers) > 1;
}

/*
 * Runs one of the statements, for good.  Who is alive must not be read from what
 * this transaction has read before: a helper may have begun since.
 */
static bool
mark(const RefitMigration *m, const char *sql, Oid type, Datum value)
{
	Oid types[2] = {INT8OID, type};
	Datum values[2] = {Int64GetDatum(m->id), value};
	bool found;

	pgstat_clear_snapshot();
	SPI_connect();
	found = refit_sql(sql, 2, types, values, NULL) > 0;
	SPI_finish();
	if (found)
		ForceSyncCommit();
	return found;
}

bool
refit_share_mark(const RefitMigration *m, const RefitShare *share)
{
	return mark(m, share->mark, INT4OID, Int32GetDatum(MyProcPid));
}

bool
refit_share_mark_own(const RefitMigration *m, const RefitShare *share)
{
	bool stays = begun_id != m->id || GetCurrentTimestamp() < stays_until;

	if (!mark(m, share->mark_own, BOOLOID, BoolGetDatum(stays)))
		return false;
	begun_id = 0;
	return true;
}

/*
 * What a process did before a crash may be lost as far back as a commit takes to be
 * flushed, three rounds of the WAL writer, with the chunk that it was at.
 */
void
refit_share_end_chunk(const RefitMigration *m)
{
	if (begun_id == m->id)
		return;
	begun_id = m->id;
	stays_until = TimestampTzPlusMilliseconds(
		GetCurrentTimestamp(), 3 * WalWriterDelay + refit_governor_budget(m));
}
