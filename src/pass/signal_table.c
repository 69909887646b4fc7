/*-------------------------------------------------------------------------
 *
 * signal_table.c
 *	  What the migration's table says: vacuums of it, and its dead rows.
 *
 * See signals.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"

#include "job/catalog.h"
#include "pass/signals.h"
#include "util/sqlutil.h"

/* Values of signal vacuum. */
#define PLAIN_VACUUM 1
#define WRAPAROUND_VACUUM 2

/*
 * Dead rows that a backfill may leave without a word in its options: as many as
 * make a table a third larger.  A table of less than a gigabyte may double, as it
 * does by one UPDATE: to wait for autovacuum would take longer than the pass.
 */
#define DEFAULT_DEAD_RATIO 0.25
#define DEFAULT_DEAD_BYTES INT64CONST(1073741824)

/* Is the migration in a phase that a vacuum and we would hinder each other in? */
static bool
is_in_pass(const RefitMigration *m)
{
	static const char *const passes[] = {"copy", "order", "index", "validate",
										 "batches"};

	for (int i = 0; i < lengthof(passes); i++)
		if (m->phase != NULL && strcmp(m->phase, passes[i]) == 0)
			return true;
	return false;
}

/*
 * vacuum: 1, 2 to prevent wraparound.  Is the table, its TOAST table or the partition at work being
 * vacuumed?  In the phases that go over the table, where
 * we would dirty and read what it does.  Elsewhere it waits for us or we for it
 * at the lock, and the longer catch-up stands still the more there is of it.
 */
void
refit_signal_vacuum(RefitMigration *m, RefitSignal *signal, char *reason)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m == NULL ? 0 : m->id)};

	signal->unit = "level";
	signal->soft_limit = 0;
	signal->hard_limit = WRAPAROUND_VACUUM;
	signal->has_value = true;
	signal->owner_may_know = true;
	if (m != NULL && !is_in_pass(m))
		return;

	SPI_connect();
	if (refit_sql(
			"SELECT a.query LIKE 'autovacuum: %(to prevent wraparound)',"
			" v.pid, v.relid::pg_catalog.regclass"
			" FROM pg_catalog.pg_stat_get_progress_info('VACUUM') AS v"
			" (pid, datid, relid)"
			" JOIN pg_catalog.pg_stat_get_activity(NULL) a ON a.pid = v.pid"
			" WHERE v.datid = (SELECT oid FROM pg_catalog.pg_database"
			"  WHERE datname = pg_catalog.current_database())"
			" AND v.relid IN (SELECT t.oid FROM refit.migration m"
			"  LEFT JOIN refit.migration_progress p USING (id)"
			"  LEFT JOIN refit.pass s ON s.id = m.id AND NOT s.done"
			"  JOIN pg_catalog.pg_class c"
			"   ON c.oid IN (m.relid, p.leaf, s.relid)"
			"  JOIN pg_catalog.pg_class t ON t.oid IN (c.oid, c.reltoastrelid)"
			"  WHERE (m.id = $1 OR $1 = 0) AND m.state IN ('queued', 'running',"
			"   'paused', 'ready', 'revertible'))"
			" ORDER BY 1 DESC LIMIT 1",
			1, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool wraps = SPI_getvalue(row, desc, 1)[0] == 't';

		signal->value = wraps ? WRAPAROUND_VACUUM : PLAIN_VACUUM;
		snprintf(reason, REFIT_REASON_SIZE, "pid %s vacuums %s%s",
				 SPI_getvalue(row, desc, 2), SPI_getvalue(row, desc, 3),
				 wraps ? " to prevent wraparound" : "");
	}
	SPI_finish();
}

/*
 * Of the tables that a pass over rows is in the middle of, the one nearest to its
 * limit: share of dead rows, limit, what autovacuum waits for, and its name.
 *
 * The share at which autovacuum begins is the least that is waited at: below it
 * nobody would ever take the dead rows away, and so it is where autovacuum is off.
 */
#define DEAD_ROWS_QUERY                                                     \
	"SELECT d.share, greatest(d.most, d.due * 1.1), d.most IS NULL, d.off," \
	" d.relid::pg_catalog.regclass"                                         \
	" FROM (SELECT s.relid, coalesce(pg_stat_get_dead_tuples(s.relid)"      \
	"  / nullif(pg_stat_get_dead_tuples(s.relid)"                           \
	"  + pg_stat_get_live_tuples(s.relid), 0)::float8, 0) AS share,"        \
	"  coalesce((m.options ->> 'max_dead_ratio')::float8,"                  \
	"   CASE WHEN m.kind = 'backfill'"                                      \
	"   AND pg_relation_size(s.relid) > $3 THEN $2 END) AS most,"           \
	"  a.threshold / nullif(a.threshold + c.reltuples, 0) AS due,"          \
	"  NOT a.enabled AS off FROM refit.migration m"                         \
	"  JOIN (SELECT DISTINCT id, relid FROM refit.pass"                     \
	"   WHERE NOT done AND scanned > 0) s USING (id)"                       \
	"  JOIN pg_catalog.pg_class c ON c.oid = s.relid"                       \
	"  CROSS JOIN LATERAL (SELECT coalesce(max(o.option_value) FILTER"      \
	"   (WHERE o.option_name = 'autovacuum_vacuum_threshold'),"             \
	"   current_setting('autovacuum_vacuum_threshold'))::float8"            \
	"   + coalesce(max(o.option_value) FILTER"                              \
	"   (WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),"          \
	"   current_setting('autovacuum_vacuum_scale_factor'))::float8"         \
	"   * greatest(c.reltuples, 0) AS threshold,"                           \
	"   current_setting('autovacuum')::bool"                                \
	"   AND coalesce(max(o.option_value) FILTER"                            \
	"    (WHERE o.option_name = 'autovacuum_enabled'), 'on')::bool"         \
	"   AS enabled FROM pg_catalog.pg_options_to_table(c.reloptions) o) a"  \
	"  WHERE (m.id = $1 OR $1 = 0) AND m.state IN ('running', 'ready')) d"  \
	" ORDER BY d.share / d.most DESC NULLS LAST LIMIT 1"

/* dead_rows: the dead share of the table that a pass over rows is working. */
void
refit_signal_dead_rows(RefitMigration *m, RefitSignal *signal, char *reason)
{
	Oid types[3] = {INT8OID, FLOAT8OID, INT8OID};
	Datum values[3] = {Int64GetDatum(m == NULL ? 0 : m->id),
					   Float8GetDatum(DEFAULT_DEAD_RATIO),
					   Int64GetDatum(DEFAULT_DEAD_BYTES)};

	signal->unit = "ratio";
	signal->has_value = true;
	signal->owner_may_know = true;
	signal->is_off = true;
	if (m != NULL && (m->phase == NULL || strcmp(m->phase, "batches") != 0))
		return;

	SPI_connect();
	if (refit_sql(DEAD_ROWS_QUERY, 3, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		bool no_vacuum = SPI_getvalue(row, desc, 4)[0] == 't';

		signal->value = refit_signals_number(0, 1, 0);
		signal->hard_limit = refit_signals_number(0, 2, 1);
		signal->soft_limit = signal->hard_limit / 2;
		signal->is_off = SPI_getvalue(row, desc, 3)[0] == 't' || no_vacuum;
		if (SPI_getvalue(row, desc, 3)[0] == 'f' &&
			signal->value > signal->soft_limit)
			snprintf(reason, REFIT_REASON_SIZE,
					 no_vacuum ? "autovacuum is off for %s: nobody would take "
								 "its dead rows away"
							   : "the dead rows of %s wait for autovacuum",
					 SPI_getvalue(row, desc, 5));
	}
	SPI_finish();
}
