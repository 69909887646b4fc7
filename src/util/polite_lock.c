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
#include "util/holders.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Tries without queueing before we queue, and the pause between them. */
#define SPIN_TRIES 20
#define SPIN_PAUSE_US 1000

/* How often we look whether a slow holder has gone, and the pause between. */
#define PATIENCE_LOOKS 20
#define PATIENCE_PAUSE_US 10000

#define BACKOFF_FIRST_MS 50
#define BACKOFF_MOST_MS 400

/* Tries that are further apart are not one attempt: the migration rested. */
#define SERIES_GAP_MS 60000

/* One try for locks. */
typedef struct Try
{
	List *locks;
	instr_time start;
	instr_time first; /* since when others may wait for us; 0: never */
	bool queued;	  /* has a request of ours waited? */
} Try;

/* Tries of this process for one migration that have failed in a row. */
typedef struct Series
{
	int64 id; /* of the migration */
	int failures;
	instr_time first; /* when the first one failed */
	instr_time last;
} Series;

static Series series;
static Series broken; /* the one that ended when the last lock was granted */

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
lock_all(void *arg)
{
	Try *try = arg;
	ListCell *lc;
	int guc_level = NewGUCNestLevel();

	foreach(lc, try->locks)
	{
		RefitLock *lock = lfirst(lc);
		bool granted = lock_without_queueing(lock);

		if (foreach_current_index(lc) == 0)
			INSTR_TIME_SET_CURRENT(try->first);
		if (granted)
			continue;
		try->queued = true;
		lock_queueing(lock, try->first);
	}
	AtEOXact_GUC(false, guc_level);
}

/* ms since then; 0 where it was not. */
static double
ms_since(instr_time then)
{
	instr_time now;

	if (INSTR_TIME_IS_ZERO(then))
		return 0;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, then);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* Counts a try that has failed. */
static void
count_failure(const RefitMigration *m)
{
	if (series.id != m->id || ms_since(series.last) > SERIES_GAP_MS)
		series.failures = 0;
	series.id = m->id;
	INSTR_TIME_SET_CURRENT(series.last);
	if (series.failures++ == 0)
		series.first = series.last;
}

/* After a success: the next failure is the first one again. */
static void
end_series(void)
{
	broken = series;
	series.failures = 0;
}

/*
 * Notes a try for refit.lock_attempts.  Who queued behind us is looked up only where
 * we queued ourselves: it costs time with the locks held.
 */
static void
note_try(RefitMigration *m, const Try *try, const char *blocked_by)
{
	RefitLockTry *note = palloc0(sizeof(RefitLockTry));

	note->granted = blocked_by == NULL;
	note->waited_ms = ms_since(try->start);
	note->queued_ms = try->queued ? ms_since(try->first) : 0;
	note->locks = refit_holders_locks(try->locks);
	note->blocked_by = blocked_by;
	if (!note->granted)
		note->vain_ms = ms_since(series.first);
	if (try->queued)
		note->behind = refit_holders_behind(try->locks);
	m->lock_tries = lappend(m->lock_tries, note);
}

/* Writes down why a try failed. */
static void
note_failed_try(RefitMigration *m, const Try *try, const RefitHolders *holders)
{
	static const RefitHolders several = {.text = "several short transactions",
										 .all = "[]"};
	StringInfoData detail;
	Oid relid = m->relid;

	count_failure(m);
	if (holders == NULL)
		holders = &several;
	if (OidIsValid(holders->relid))
		relid = holders->relid;
	else if (try->locks != NIL)
		relid = ((RefitLock *) linitial(try->locks))->relid;
	m->progress.waiting_for = pstrdup(holders->text);
	initStringInfo(&detail);
	appendStringInfo(&detail, "{\"relation\": %u, \"blocked_by\": ", relid);
	escape_json(&detail, holders->text);
	appendStringInfoChar(&detail, '}');
	m->lock_message =
		psprintf("waiting for a lock on %s", refit_qualified_name(relid));
	m->lock_detail = detail.data;
	note_try(m, try, holders->all);
}

/*
 * Waits a moment for holders for whom queueing makes no sense to go, so that we are
 * there when he does.  False: he stays.
 */
static bool
wait_for_slow_holders(RefitMigration *m, const Try *try)
{
	RefitHolders *holders = NULL;

	for (int i = 0; i < PATIENCE_LOOKS; i++)
	{
		holders = refit_holders_of(m, try->locks);
		if (holders == NULL || !holders->slow)
			return true;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(PATIENCE_PAUSE_US);
	}
	note_failed_try(m, try, holders);
	return false;
}

/*
 * Takes all locks in a subtransaction, so that a time-out gives them back and
 * leaves the transaction alive.  One per try, never in a loop.
 */
static bool
lock_in_subtransaction(Try *try)
{
	ErrorData *edata = refit_attempt(lock_all, try, true);

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

		if (lock->relid == relid)
		{
			locks = foreach_delete_current(locks, lc);
			return list_insert_nth(locks, views, lock);
		}
		if (get_rel_relkind(lock->relid) == RELKIND_VIEW)
			views++;
	}
	return locks;
}

/* Is nobody in the way who stays? */
bool
refit_polite_lock_is_free(RefitMigration *m, List *locks)
{
	Try try = {.locks = locks};

	INSTR_TIME_SET_CURRENT(try.start);
	return wait_for_slow_holders(m, &try);
}

/* One try. */
bool
refit_polite_lock_try(RefitMigration *m, List *locks)
{
	Try try = {0};

	INSTR_TIME_SET_CURRENT(try.start);
	try.locks = in_order(locks, m->relid);
	if (!wait_for_slow_holders(m, &try))
		return false;
	if (!lock_in_subtransaction(&try))
	{
		note_failed_try(m, &try, refit_holders_of(m, try.locks));
		return false;
	}
	/*
	 * A lock is granted on what was dropped just before, too; but what is left
	 * of a tree without its root is to be cleaned up.
	 */
	if (OidIsValid(m->relid) &&
		(m->phase == NULL || strcmp(m->phase, "cleanup") != 0))
		(void) refit_relation_owner(m->relid);
	note_try(m, &try, NULL);
	m->progress.waiting_for = NULL;
	end_series();
	return true;
}

/* A statement that took the rest of its locks itself did not get one. */
void
refit_polite_lock_note_failure(RefitMigration *m, List *locks)
{
	Try try = {.locks = locks};

	if (series.failures == 0) /* what was granted before was so in vain */
		series = broken;
	note_failed_try(m, &try, refit_holders_of(m, locks));
}

/* ms to stay away after a failed try; grows while they fail. */
int
refit_polite_lock_backoff(RefitMigration *m)
{
	int most = BACKOFF_FIRST_MS;

	for (int i = 0; i < series.failures && most < BACKOFF_MOST_MS; i++)
		most *= 2;
	most = Min(most, BACKOFF_MOST_MS);
	return most / 2 + pg_prng_uint64_range(&pg_global_prng_state, 0, most / 2);
}
