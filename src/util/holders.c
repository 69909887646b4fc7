/*-------------------------------------------------------------------------
 *
 * holders.c
 *	  Who is in the way of a lock, and who queues behind it.
 *
 * See holders.h.  JSON has the query of each session, whoever it is of: it is
 * for the table refit.lock_attempt, whose view shows each reader what he would
 * see in pg_stat_activity.  The text is for the table's owner, so it has the
 * query only where he might.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/json.h"

#include "util/holders.h"
#include "util/sqlutil.h"

/* Locks named in JSON; a partition tree has hundreds. */
#define MOST_NAMED 50

/* What JSON tells of a session a. */
#define SESSION                                                      \
	"'pid', a.pid, 'user', a.usename, 'usesysid', a.usesysid::int8," \
	" 'application', nullif(a.application_name, ''),"                \
	" 'backend', nullif(a.backend_type, 'client backend'),"          \
	" 'state', nullif(a.state, ''), 'query', nullif(left(a.query, 200), '')"

/*
 * Who holds locks that conflict with those of a list, on which relation of it:
 * first those who will keep them long.  That is one who waits for us, too, such
 * as CREATE INDEX CONCURRENTLY for the end of our snapshot: to queue behind it
 * would be a deadlock.  One look for all, since a partition tree has hundreds.
 * Materialized, so that each plain autovacuum worker is asked to leave, and not
 * the first only.
 */
#define HOLDER_QUERY                                                        \
	"WITH holder AS MATERIALIZED (SELECT l.relation::int8, w.n,"            \
	" coalesce('pid ' || a.pid, 'prepared transaction '"                    \
	"  || coalesce(x.gid, '?'))"                                            \
	" || coalesce(' (' || nullif(a.backend_type, 'client backend') || ')'," \
	"  '')"                                                                 \
	" || coalesce(', ' || nullif(a.state, ''), '')"                         \
	" || coalesce(', for ' || date_trunc('milliseconds',"                   \
	"  clock_timestamp() - a.xact_start), '')"                              \
	" || CASE WHEN a.usesysid IS NULL OR pg_has_role("                      \
	"  (SELECT relowner FROM pg_catalog.pg_class WHERE oid = $4),"          \
	"  a.usesysid, 'USAGE')"                                                \
	"  THEN coalesce(': ' || left(a.query, 200), '') ELSE '' END AS text,"  \
	" a.pid IS NULL OR coalesce(clock_timestamp() - a.xact_start >"         \
	"  make_interval(secs => $3 / 1000.0), false)"                          \
	"  OR a.query LIKE '%(to prevent wraparound)' OR f.for_us AS slow,"     \
	" a.xact_start,"                                                        \
	" jsonb_strip_nulls(jsonb_build_object(" SESSION ", 'prepared', x.gid," \
	"  'relation', l.relation::regclass::text, 'mode', l.mode,"             \
	"  'age_ms', round(extract(epoch FROM clock_timestamp()"                \
	"   - a.xact_start) * 1000))) AS session,"                              \
	" CASE WHEN a.backend_type = 'autovacuum worker'"                       \
	"  AND a.query NOT LIKE '%(to prevent wraparound)'"                     \
	"  THEN pg_cancel_backend(a.pid) END"                                   \
	" FROM unnest($1, $2) WITH ORDINALITY AS w(relation, conflicts, n)"     \
	" JOIN pg_catalog.pg_locks l USING (relation)"                          \
	" LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)"                  \
	" LEFT JOIN pg_catalog.pg_locks t ON l.pid IS NULL AND t.pid IS NULL"   \
	"  AND t.locktype = 'transactionid'"                                    \
	"  AND t.virtualtransaction = l.virtualtransaction"                     \
	" LEFT JOIN pg_catalog.pg_prepared_xacts x"                             \
	"  ON x.transaction = t.transactionid"                                  \
	" CROSS JOIN LATERAL (SELECT CASE WHEN a.wait_event_type = 'Lock'"      \
	"  THEN pg_backend_pid() = ANY (pg_blocking_pids(a.pid)) ELSE false"    \
	"  END) AS f(for_us)"                                                   \
	" WHERE l.locktype = 'relation' AND l.granted"                          \
	" AND l.database = (SELECT oid FROM pg_catalog.pg_database"             \
	"  WHERE datname = current_database())"                                 \
	" AND l.pid IS DISTINCT FROM pg_backend_pid()"                          \
	" AND (w.conflicts >> array_position(ARRAY['AccessShareLock',"          \
	"  'RowShareLock', 'RowExclusiveLock', 'ShareUpdateExclusiveLock',"     \
	"  'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"              \
	"  'AccessExclusiveLock'], l.mode)) & 1 = 1)"                           \
	" SELECT text, slow, relation, (SELECT jsonb_agg(session) FROM (SELECT" \
	"  session FROM holder ORDER BY slow DESC, n, xact_start NULLS FIRST"   \
	"  LIMIT 10) s) FROM holder"                                            \
	" ORDER BY slow DESC, n, xact_start NULLS FIRST LIMIT 1"

/* The modes that conflict with one, as bits. */
static int32
conflicts_of(LOCKMODE mode)
{
	int32 result = 0;

	for (LOCKMODE other = AccessShareLock; other <= AccessExclusiveLock;
		 other++)
		if (DoLockModesConflict(mode, other))
			result |= 1 << other;
	return result;
}

/* The relations of a list of locks, or what conflicts with each, as an array. */
static Datum
array_of(const List *locks, bool conflicts)
{
	Datum *elements = palloc(sizeof(Datum) * (list_length(locks) + 1));
	ListCell *lc;

	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);

		elements[foreach_current_index(lc)] =
			conflicts ? Int32GetDatum(conflicts_of(lock->mode))
					  : ObjectIdGetDatum(lock->relid);
	}
	return PointerGetDatum(construct_array(elements, list_length(locks),
										   conflicts ? INT4OID : OIDOID,
										   sizeof(int32), true, TYPALIGN_INT));
}

/* Those in the way of the locks, or NULL. */
RefitHolders *
refit_holders_of(const RefitMigration *m, const List *locks)
{
	Oid types[4] = {OIDARRAYOID, INT4ARRAYOID, INT4OID, OIDOID};
	Datum values[4] = {array_of(locks, false), array_of(locks, true),
					   Int32GetDatum(REFIT_SLOW_HOLDER_MS),
					   ObjectIdGetDatum(m->relid)};
	MemoryContext context = CurrentMemoryContext;
	RefitHolders *holders = NULL;

	SPI_connect();
	if (refit_sql(HOLDER_QUERY, 4, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		char *text = SPI_getvalue(row, desc, 1);
		char *slow = SPI_getvalue(row, desc, 2);

		holders = MemoryContextAlloc(context, sizeof(RefitHolders));
		holders->text =
			MemoryContextStrdup(context, text != NULL ? text : "unknown");
		holders->slow = slow != NULL && slow[0] == 't';
		holders->relid = strtoul(SPI_getvalue(row, desc, 3), NULL, 10);
		holders->all = MemoryContextStrdup(context, SPI_getvalue(row, desc, 4));
	}
	SPI_finish();
	return holders;
}

/* Those who wait behind this session. */
char *
refit_holders_behind(const List *locks)
{
	Oid types[1] = {OIDARRAYOID};
	Datum values[1] = {array_of(locks, false)};

	return refit_sql_text(
		"SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(" SESSION
		", 'relation', l.relation::regclass::text, 'mode', l.mode,"
		" 'waited_ms', round((extract(epoch FROM clock_timestamp()"
		"  - l.waitstart) * 1000)::numeric, 1))))"
		" FROM pg_catalog.pg_locks l"
		" JOIN pg_catalog.pg_stat_activity a USING (pid)"
		" WHERE l.locktype = 'relation' AND NOT l.granted"
		" AND l.relation = ANY ($1) AND l.pid <> pg_backend_pid()"
		" AND l.database = (SELECT oid FROM pg_catalog.pg_database"
		"  WHERE datname = current_database())",
		1, types, values);
}

/* The locks as JSON. */
char *
refit_holders_locks(const List *locks)
{
	StringInfoData json;
	ListCell *lc;

	initStringInfo(&json);
	appendStringInfoChar(&json, '[');
	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);

		if (foreach_current_index(lc) == MOST_NAMED)
			break;
		appendStringInfo(&json, "%s{\"relation\": ",
						 foreach_current_index(lc) > 0 ? ", " : "");
		escape_json(&json, refit_qualified_name(lock->relid));
		appendStringInfo(&json, ", \"mode\": \"%s\"}",
						 GetLockmodeName(DEFAULT_LOCKMETHOD, lock->mode));
	}
	appendStringInfoChar(&json, ']');
	return json.data;
}
