/*-------------------------------------------------------------------------
 *
 * polite_lock.c
 *	  Locks that conflict with the application, taken without stopping it.
 *
 * See polite_lock.h.  Whoever has to wait behind our queued request waits for
 * at most refit.lock_timeout, all locks of one try together; half of
 * deadlock_timeout where that is less.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "guc.h"
#include "util/attempt.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Tries without queueing before we queue, and the pause between them. */
#define SPIN_TRIES 20
#define SPIN_PAUSE_US 1000

/* A transaction that is older will not end within our lock budget. */
#define SLOW_HOLDER_MS 1000

/* How often we look whether a slow holder has gone, and the pause between. */
#define PATIENCE_LOOKS 20
#define PATIENCE_PAUSE_US 10000

#define BACKOFF_FIRST_MS 50
#define BACKOFF_MOST_MS 400

/* Who holds a lock that is in our way. */
typedef struct Holder
{
	char *text; /* pid, query, age: for people */
	Oid relid;
	bool is_slow;
} Holder;

/* Tries of this process that have failed since one succeeded. */
static int failures = 0;

/* A member of the list to lock. */
RefitLock *
refit_polite_lock_on(Oid relid, LOCKMODE mode)
{
	RefitLock *lock = palloc(sizeof(RefitLock));

	lock->relid = relid;
	lock->mode = mode;
	return lock;
}

/* Sorts by relation: views last to first, then the rest first to last. */
static int
compare_locks(const ListCell *a, const ListCell *b)
{
	const RefitLock *x = lfirst(a);
	const RefitLock *y = lfirst(b);
	bool x_is_view = get_rel_relkind(x->relid) == RELKIND_VIEW;
	bool y_is_view = get_rel_relkind(y->relid) == RELKIND_VIEW;

	if (x_is_view != y_is_view)
		return x_is_view ? -1 : 1;
	if (x->relid == y->relid)
		return 0;
	return (x->relid < y->relid) != x_is_view ? -1 : 1;
}

/*
 * Who holds locks that conflict with those of a list, on which relation of it:
 * first those who will keep them long.  That is one who waits for us, too, such
 * as CREATE INDEX CONCURRENTLY for the end of our snapshot: to queue behind it
 * would be a deadlock.  One look for all, since a partition tree has hundreds.
 * Materialized, so that each plain autovacuum worker is asked to leave, and not
 * the first only.
 *
 * The table's owner reads the text, so it has the query only where he might see
 * that in pg_stat_activity too.
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
	" CASE WHEN a.backend_type = 'autovacuum worker'"                       \
	"  AND a.query NOT LIKE '%(to prevent wraparound)'"                     \
	"  THEN pg_cancel_backend(a.pid) END"                                   \
	" FROM unnest($1, $2) WITH ORDINALITY AS w(relation, mode, n)"          \
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
	" AND (w.mode >= 8 OR l.mode NOT IN ('AccessShareLock',"                \
	"  'RowShareLock')))"                                                   \
	" SELECT text, slow, relation FROM holder"                              \
	" ORDER BY slow DESC, n, xact_start NULLS FIRST LIMIT 1"

/* The relations or the modes of a list of locks as an array. */
static Datum
array_of(const List *locks, bool modes)
{
	Datum *elements = palloc(sizeof(Datum) * (list_length(locks) + 1));
	ListCell *lc;

	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);

		elements[foreach_current_index(lc)] =
			modes ? Int32GetDatum(lock->mode) : ObjectIdGetDatum(lock->relid);
	}
	return PointerGetDatum(construct_array(elements, list_length(locks),
										   modes ? INT4OID : OIDOID,
										   sizeof(int32), true, TYPALIGN_INT));
}

/* The holder that is most in our way, or NULL. */
static Holder *
find_holder(const RefitMigration *m, const List *locks)
{
	Oid types[4] = {OIDARRAYOID, INT4ARRAYOID, INT4OID, OIDOID};
	Datum values[4] = {array_of(locks, false), array_of(locks, true),
					   Int32GetDatum(SLOW_HOLDER_MS),
					   ObjectIdGetDatum(m->relid)};
	MemoryContext context = CurrentMemoryContext;
	Holder *holder = NULL;

	SPI_connect();
	if (refit_sql(HOLDER_QUERY, 4, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		char *text = SPI_getvalue(row, desc, 1);
		char *slow = SPI_getvalue(row, desc, 2);

		holder = MemoryContextAlloc(context, sizeof(Holder));
		holder->text =
			MemoryContextStrdup(context, text != NULL ? text : "unknown");
		holder->is_slow = slow != NULL && slow[0] == 't';
		holder->relid = strtoul(SPI_getvalue(row, desc, 3), NULL, 10);
	}
	SPI_finish();
	return holder;
}

/* Tries without queueing, for a moment. */
static bool
lock_without_queueing(const RefitLock *lock)
{
	for (int i = 0; i < SPIN_TRIES; i++)
	{
		if (ConditionalLockRelationOid(lock->relid, lock->mode))
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(SPIN_PAUSE_US);
	}
	return false;
}

/* The longest wait in ms. */
int
refit_polite_lock_budget(void)
{
	return Min(refit_lock_timeout, Max(DeadlockTimeout / 2, 1));
}

/* Queues, for what is left of the lock budget. */
static void
lock_queueing(const RefitLock *lock, instr_time start)
{
	instr_time now;
	int left;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	left = refit_polite_lock_budget() - (int) INSTR_TIME_GET_MILLISEC(now);
	refit_set_local("lock_timeout", psprintf("%d", Max(left, 1)));
	LockRelationOid(lock->relid, lock->mode);
}

/*
 * Takes all locks, or raises lock_not_available.  The budget begins when the
 * first one is granted, or queued for: from then on somebody may wait for us.
 */
static void
lock_all(List *locks)
{
	instr_time start = {0};
	ListCell *lc;
	int guc_level = NewGUCNestLevel();

	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);
		bool granted = lock_without_queueing(lock);

		if (foreach_current_index(lc) == 0)
			INSTR_TIME_SET_CURRENT(start);
		if (!granted)
			lock_queueing(lock, start);
	}
	AtEOXact_GUC(false, guc_level);
}

/* Writes down why a try failed. */
static void
note_failed_try(RefitMigration *m, Oid relid, const char *holder)
{
	StringInfoData detail;

	failures++;
	m->progress.waiting_for = pstrdup(holder);
	initStringInfo(&detail);
	appendStringInfo(&detail, "{\"relation\": %u, \"blocked_by\": ", relid);
	escape_json(&detail, holder);
	appendStringInfoChar(&detail, '}');
	m->lock_message =
		psprintf("waiting for a lock on %s", refit_qualified_name(relid));
	m->lock_detail = detail.data;
}

/*
 * Waits a moment for holders for whom queueing makes no sense to go, so that we are
 * there when he does.  False: he stays.
 */
static bool
wait_for_slow_holders(RefitMigration *m, List *locks)
{
	Holder *holder = NULL;

	for (int i = 0; i < PATIENCE_LOOKS; i++)
	{
		holder = find_holder(m, locks);
		if (holder == NULL || !holder->is_slow)
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(PATIENCE_PAUSE_US);
	}
	note_failed_try(m, holder->relid, holder->text);
	return false;
}

/* lock_all() for refit_attempt. */
static void
lock_all_of(void *arg)
{
	lock_all(arg);
}

/*
 * Takes all locks in a subtransaction, so that a time-out gives them back and
 * leaves the transaction alive.  One per try, never in a loop.
 */
static bool
lock_in_subtransaction(List *locks)
{
	ErrorData *edata = refit_attempt(lock_all_of, locks, true);

	if (edata != NULL && edata->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
		edata->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
		ReThrowError(edata);
	return edata == NULL;
}

/*
 * The order in which locks are taken: views before the table that they are on,
 * as whoever reads a view takes them; then the table itself, since most who hold
 * the rest hold it too.
 */
static List *
in_order(List *locks, Oid relid)
{
	int views = 0;
	ListCell *lc;

	list_sort(locks, compare_locks);
	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);

		if (get_rel_relkind(lock->relid) == RELKIND_VIEW)
			views++;
		if (lock->relid != relid)
			continue;
		locks = foreach_delete_current(locks, lc);
		return list_insert_nth(locks, views, lock);
	}
	return locks;
}

/* Is nobody in the way who stays? */
bool
refit_polite_lock_is_free(RefitMigration *m, List *locks)
{
	return wait_for_slow_holders(m, locks);
}

/* One try. */
bool
refit_polite_lock_try(RefitMigration *m, List *locks)
{
	locks = in_order(locks, m->relid);
	if (!wait_for_slow_holders(m, locks))
		return false;
	if (!lock_in_subtransaction(locks))
	{
		Holder *holder = find_holder(m, locks);

		if (holder != NULL)
			note_failed_try(m, holder->relid, holder->text);
		else
			note_failed_try(m, ((RefitLock *) linitial(locks))->relid,
							"several short transactions");
		return false;
	}
	/* a lock is granted on what was dropped just before, too */
	(void) refit_relation_owner(m->relid);
	m->progress.waiting_for = NULL;
	failures = 0;
	return true;
}

/* ms to stay away after a failed try; grows while they fail. */
int
refit_polite_lock_backoff(RefitMigration *m)
{
	int most = BACKOFF_FIRST_MS;

	for (int i = 0; i < failures && most < BACKOFF_MOST_MS; i++)
		most *= 2;
	most = Min(most, BACKOFF_MOST_MS);
	return most / 2 + pg_prng_uint64_range(&pg_global_prng_state, 0, most / 2);
}
