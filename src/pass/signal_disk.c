/*-------------------------------------------------------------------------
 *
 * signal_disk.c
 *	  The room on the file systems that a migration writes to.
 *
 * See signals.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"

#include "guc.h"
#include "pass/signals.h"
#include "util/disk.h"
#include "util/sqlutil.h"

/* Slow down from this many times refit.min_free_disk on. */
#define FREE_DISK_SOFT 1.2

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
		Oid candidate = (Oid) refit_signals_number(i, 1, 0);

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
	snprintf(reason, REFIT_REASON_SIZE, "%s has %s free of %s%s%s",
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
void
refit_signal_free_disk(RefitMigration *m, RefitSignal *signal, char *reason)
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
