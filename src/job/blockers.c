/*-------------------------------------------------------------------------
 *
 * blockers.c
 *	  Sessions that stay in the way of a polite lock, ended if that is asked for.
 *
 * See blockers.h.  No lock is held or asked for here: the try has given back all
 * that it had.  A signal goes out at once, its event with the step's commit; if
 * the process dies between the two, the server's log has it.
 *
 * Between the look at the holders and the signal a session may have gone on to
 * something else.  So its transaction must be as old as one that was in the way
 * is; a younger one is left.  What pg_cancel_backend cannot know is not known
 * here either: whether the statement ends by itself in that instant.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "job/blockers.h"
#include "job/catalog.h"
#include "util/holders.h"
#include "util/sqlutil.h"

/*
 * $1 migration, $2 phase, $3 the holders as JSON, $4 role, $5 ms of idleness to
 * terminate for and $6 least age in ms of a transaction to cancel; -1: never.
 *
 * Chosen first, ended then, each in a materialized step: the order in which
 * conditions of one WHERE are looked at is the planner's.  A statement is
 * cancelled once; of a session that is left it is told once in a transaction.
 */
#define END_QUERY                                                            \
	"WITH blocker AS MATERIALIZED (SELECT DISTINCT ON (a.pid) a.pid,"        \
	" a.usename, a.application_name, a.state, a.xact_start, a.query_start,"  \
	" u.rolname AS role, clock_timestamp() - a.xact_start AS age,"           \
	" clock_timestamp() - a.state_change AS rest,"                           \
	" a.state IN ('idle in transaction', 'idle in transaction (aborted)')"   \
	"  AS idle,"                                                             \
	" u.rolsuper OR NOT r.rolsuper AND (pg_has_role(u.oid, r.oid, 'USAGE')"  \
	"  OR pg_has_role(u.oid, 'pg_signal_backend', 'USAGE')) AS may,"         \
	" CASE WHEN pg_has_role(u.oid, r.oid, 'USAGE')"                          \
	"  OR pg_has_role(u.oid, 'pg_read_all_stats', 'USAGE')"                  \
	"  THEN left(a.query, 200) END AS query"                                 \
	" FROM jsonb_array_elements($3::jsonb) b"                                \
	" JOIN pg_catalog.pg_stat_activity a ON a.pid = (b ->> 'pid')::int4"     \
	" JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid"                      \
	" JOIN pg_catalog.pg_roles u ON u.oid = $4"                              \
	" WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()" \
	" AND NOT EXISTS (SELECT FROM refit.migration_progress p"                \
	"  WHERE p.worker_pid = a.pid)),"                                        \
	" chosen AS MATERIALIZED (SELECT *,"                                     \
	" CASE WHEN $5 >= 0 AND idle"                                            \
	"   AND rest > make_interval(secs => $5 / 1000.0)"                       \
	"  THEN CASE WHEN may THEN 'terminated' ELSE 'not allowed' END"          \
	"  WHEN $6 >= 0 AND age >= make_interval(secs => $6 / 1000.0)"           \
	"  THEN CASE WHEN NOT may THEN 'not allowed' WHEN idle THEN 'idle'"      \
	"   ELSE 'cancelled' END END AS what FROM blocker),"                     \
	" news AS MATERIALIZED (SELECT * FROM chosen c WHERE what IS NOT NULL"   \
	" AND NOT EXISTS (SELECT FROM refit.event e WHERE e.migration_id = $1"   \
	"  AND e.kind = 'lock' AND e.detail ->> 'what' = c.what"                 \
	"  AND (e.detail ->> 'pid')::int4 = c.pid AND CASE WHEN c.what ="        \
	"   'cancelled' THEN (e.detail ->> 'query_start')::timestamptz"          \
	"   = c.query_start ELSE (e.detail ->> 'xact_start')::timestamptz"       \
	"   = c.xact_start END))"                                                \
	" INSERT INTO refit.event (migration_id, kind, phase, message, detail)"  \
	" SELECT $1, 'lock', $2, CASE what"                                      \
	"  WHEN 'terminated' THEN format('terminated pid %s of %s, idle in"      \
	" transaction for %s', pid, usename, date_trunc('milliseconds', rest))"  \
	"  WHEN 'cancelled' THEN format('cancelled the statement of pid %s of"   \
	" %s, in a transaction of %s', pid, usename,"                            \
	"   date_trunc('milliseconds', age))"                                    \
	"  WHEN 'idle' THEN format('pid %s of %s is in the way and has no"       \
	" statement to cancel: idle in transaction for %s', pid, usename,"       \
	"   date_trunc('milliseconds', rest))"                                   \
	"  ELSE format('pid %s of %s is in the way, and %s may not signal it',"  \
	"   pid, usename, role) END,"                                            \
	" jsonb_strip_nulls(jsonb_build_object('what', what, 'pid', pid,"        \
	"  'user', usename, 'application', nullif(application_name, ''),"        \
	"  'state', state, 'query', nullif(query, ''),"                          \
	"  'age_ms', round(extract(epoch FROM age) * 1000),"                     \
	"  'xact_start', xact_start, 'query_start', query_start))"               \
	" FROM news WHERE CASE what"                                             \
	"  WHEN 'terminated' THEN pg_terminate_backend(pid)"                     \
	"  WHEN 'cancelled' THEN pg_cancel_backend(pid) ELSE true END"           \
	" RETURNING message"

/*
 * The least age in ms of a transaction that is to blame for a try that failed;
 * -1: it is too early to blame anybody.  Who came behind our request is younger
 * than the time that it stood in the queue.
 */
static int
age_to_blame(const RefitMigration *m, const RefitLockTry *try)
{
	int after = refit_catalog_option_ms(m, "cancel_blockers_after", -1);

	if (after < 0 || try->vain_ms < after)
		return -1;
	return try->queued_ms > 0 ? (int) try->queued_ms : REFIT_SLOW_HOLDER_MS;
}

/* Ends who may be ended, if the last try for locks was in vain. */
void
refit_blockers_end(const RefitMigration *m, Oid role)
{
	const RefitLockTry *try =
		m->lock_tries != NIL ? llast(m->lock_tries) : NULL;
	Oid types[6] = {INT8OID, TEXTOID, TEXTOID, OIDOID, INT4OID, INT4OID};
	Datum values[6];
	ListCell *lc;
	int idle_ms;
	int age_ms;

	if (try == NULL || try->granted || !OidIsValid(role))
		return;
	idle_ms =
		refit_catalog_option_ms(m, "cancel_idle_in_transaction_after", -1);
	age_ms = age_to_blame(m, try);
	if (idle_ms < 0 && age_ms < 0)
		return;
	values[0] = Int64GetDatum(m->id);
	values[1] = CStringGetTextDatum(m->phase);
	values[2] = CStringGetTextDatum(try->blocked_by);
	values[3] = ObjectIdGetDatum(role);
	values[4] = Int32GetDatum(idle_ms);
	values[5] = Int32GetDatum(age_ms);
	foreach(lc, refit_sql_list(END_QUERY, 6, types, values))
		ereport(LOG, (errmsg("migration " INT64_FORMAT ": %s", m->id,
							 (char *) lfirst(lc))));
}
