/*-------------------------------------------------------------------------
 *
 * polite_lock.c
 *	  Locks that conflict with the application, taken without stopping it.
 *
 * See polite_lock.h.  Whoever has to wait behind our queued request waits for
 * at most refit.lock_timeout, all locks of one try together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "guc.h"
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

/* Sorts by relation. */
static int
compare_locks(const ListCell *a, const ListCell *b)
{
	const RefitLock *x = lfirst(a);
	const RefitLock *y = lfirst(b);

	return x->relid < y->relid ? -1 : x->relid > y->relid;
}

/*
 * The holder of a conflicting lock on a relation who will keep it longest, or
 * NULL.  That is one who waits for us, such as CREATE INDEX CONCURRENTLY for the
 * end of our snapshot: to queue behind it would be a deadlock.  Asks plain
 * autovacuum workers to leave on the way.
 */
static Holder *
find_holder(const RefitLock *lock)
{
	static const char *const query =
		"SELECT coalesce('pid ' || a.pid, 'prepared transaction '"
		"  || coalesce(x.gid, '?'))"
		" || coalesce(' (' || nullif(a.backend_type, 'client backend') || ')',"
		"  '')"
		" || coalesce(', ' || nullif(a.state, ''), '')"
		" || coalesce(', for ' || date_trunc('milliseconds',"
		"  clock_timestamp() - a.xact_start), '')"
		" || coalesce(': ' || left(a.query, 200), ''),"
		" a.pid IS NULL OR coalesce(clock_timestamp() - a.xact_start >"
		"  make_interval(secs => $3 / 1000.0), false)"
		"  OR a.query LIKE '%(to prevent wraparound)' OR w.for_us,"
		" CASE WHEN a.backend_type = 'autovacuum worker'"
		"  AND a.query NOT LIKE '%(to prevent wraparound)'"
		"  THEN pg_cancel_backend(a.pid) END"
		" FROM pg_catalog.pg_locks l"
		" LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)"
		" LEFT JOIN pg_catalog.pg_locks t ON l.pid IS NULL AND t.pid IS NULL"
		"  AND t.locktype = 'transactionid'"
		"  AND t.virtualtransaction = l.virtualtransaction"
		" LEFT JOIN pg_catalog.pg_prepared_xacts x"
		"  ON x.transaction = t.transactionid"
		" CROSS JOIN LATERAL (SELECT CASE WHEN a.wait_event_type = 'Lock'"
		"  THEN pg_backend_pid() = ANY (pg_blocking_pids(a.pid)) ELSE false"
		"  END) AS w(for_us)"
		" WHERE l.locktype = 'relation' AND l.granted"
		" AND l.database = (SELECT oid FROM pg_catalog.pg_database"
		"  WHERE datname = current_database())"
		" AND l.relation = $1 AND l.pid IS DISTINCT FROM pg_backend_pid()"
		" AND ($2 >= 8 OR l.mode NOT IN ('AccessShareLock', 'RowShareLock'))"
		" ORDER BY w.for_us DESC, a.xact_start NULLS FIRST LIMIT 1";
	Oid types[3] = {OIDOID, INT4OID, INT4OID};
	Datum values[3] = {ObjectIdGetDatum(lock->relid), Int32GetDatum(lock->mode),
					   Int32GetDatum(SLOW_HOLDER_MS)};
	MemoryContext context = CurrentMemoryContext;
	Holder *holder = NULL;

	SPI_connect();
	if (refit_sql(query, 3, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		char *text = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
		char *slow = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);

		holder = MemoryContextAlloc(context, sizeof(Holder));
		holder->text =
			MemoryContextStrdup(context, text != NULL ? text : "unknown");
		holder->is_slow = slow != NULL && slow[0] == 't';
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

/* Queues, for what is left of the lock budget. */
static void
lock_queueing(const RefitLock *lock, instr_time start)
{
	instr_time now;
	int left;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, start);
	left = refit_lock_timeout - (int) INSTR_TIME_GET_MILLISEC(now);
	refit_set_local("lock_timeout", psprintf("%d", Max(left, 1)));
	LockRelationOid(lock->relid, lock->mode);
}

/* Takes all locks, or raises lock_not_available. */
static void
lock_all(List *locks)
{
	instr_time start = {0};
	ListCell *lc;
	bool queued = false;
	int guc_level = NewGUCNestLevel();

	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);

		if (lock_without_queueing(lock))
			continue;
		if (!queued)
			INSTR_TIME_SET_CURRENT(start);
		queued = true;
		lock_queueing(lock, start);
	}
	AtEOXact_GUC(false, guc_level);
}

/* Writes down why a try failed. */
static void
note_failed_try(RefitMigration *m, const RefitLock *lock, const char *holder)
{
	StringInfoData detail;

	failures++;
	m->progress.waiting_for = pstrdup(holder);
	initStringInfo(&detail);
	appendStringInfo(&detail,
					 "{\"relation\": %u, \"blocked_by\": ", lock->relid);
	escape_json(&detail, holder);
	appendStringInfoChar(&detail, '}');
	m->lock_message =
		psprintf("waiting for a lock on %s", refit_qualified_name(lock->relid));
	m->lock_detail = detail.data;
}

/* Somebody for whom queueing makes no sense, or NULL. */
static Holder *
find_slow_holder(List *locks, RefitLock **lock)
{
	ListCell *lc;

	foreach(lc, locks)
	{
		Holder *holder = find_holder(lfirst(lc));

		*lock = lfirst(lc);
		if (holder != NULL && holder->is_slow)
			return holder;
	}
	return NULL;
}

/*
 * Waits a moment, without queueing, for such a holder to go, so that we are
 * there when he does.  False: he stays.
 */
static bool
wait_for_slow_holders(RefitMigration *m, List *locks)
{
	RefitLock *lock = NULL;
	Holder *holder = NULL;

	for (int i = 0; i < PATIENCE_LOOKS; i++)
	{
		holder = find_slow_holder(locks, &lock);
		if (holder == NULL)
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(PATIENCE_PAUSE_US);
	}
	note_failed_try(m, lock, holder->text);
	return false;
}

/*
 * Takes all locks in a subtransaction, so that a time-out gives them back and
 * leaves the transaction alive.  One per try, never in a loop.
 */
static bool
lock_in_subtransaction(List *locks)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool result = true;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		lock_all(locks);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (edata->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
			edata->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
			ReThrowError(edata);
		result = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return result;
}

/* Moves the lock on a relation to the front. */
static List *
put_first(List *locks, Oid relid)
{
	ListCell *lc;

	foreach(lc, locks)
	{
		RefitLock *lock = lfirst(lc);

		if (lock->relid != relid)
			continue;
		locks = foreach_delete_current(locks, lc);
		return lcons(lock, locks);
	}
	return locks;
}

/* One try. */
bool
refit_polite_lock_try(RefitMigration *m, List *locks)
{
	/* the table itself comes first: most who hold the rest hold it too */
	list_sort(locks, compare_locks);
	locks = put_first(locks, m->relid);
	if (!wait_for_slow_holders(m, locks))
		return false;
	if (!lock_in_subtransaction(locks))
	{
		Holder *holder = NULL;
		ListCell *lc;
		RefitLock *lock = linitial(locks);

		foreach(lc, locks)
		{
			holder = find_holder(lfirst(lc));
			lock = lfirst(lc);
			if (holder != NULL)
				break;
		}
		note_failed_try(m, lock,
						holder != NULL ? holder->text
									   : "several short transactions");
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
