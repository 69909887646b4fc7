/*-------------------------------------------------------------------------
 *
 * polite_lock.h
 *	  Locks that conflict with the application, taken without stopping it.
 *
 * A request for such a lock that has to wait makes everybody behind it wait
 * too.  So: look first who holds it.  Is it somebody who will take long (a
 * transaction older than the lock budget, a backup, an anti-wraparound
 * vacuum), do not queue at all; name him and come back.  Otherwise try without
 * queueing for a moment, then queue for refit.lock_timeout at most, then
 * go away and back off.  Plain autovacuum is asked to leave, as the deadlock
 * checker would.  Nobody else is cancelled here; who may be, where the options
 * of a migration say so, is the matter of job/blockers.h.
 *
 * Of several locks those on views are taken first, the outer ones before the
 * inner ones, as readers take them; then the one on the migration's table, since
 * most who hold the others hold it too; then the rest in order of oid.  A failed
 * try gives all of them back.  No wait is longer than the budget, nor than half
 * of deadlock_timeout: a client that waits for us while we wait for it has no
 * time to be told of a deadlock, and two migrations cannot deadlock for good.
 *
 * This is the only file that asks for a lock that conflicts with writers on a
 * relation that others use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_POLITE_LOCK_H
#define REFIT_POLITE_LOCK_H

#include "refit.h"

#include "storage/lockdefs.h"

typedef struct RefitLock
{
	Oid relid;
	LOCKMODE mode;
} RefitLock;

/* A member of the list to lock. */
extern RefitLock *refit_polite_lock_on(Oid relid, LOCKMODE mode);

/*
 * One try, in the caller's transaction.  True: all are held to its end.
 * False: none is; m->progress.waiting_for, lock_message and lock_detail say why.
 * Each try is noted in m->lock_tries.
 * A relation that does not exist any more is skipped.
 */
extern bool refit_polite_lock_try(RefitMigration *m, List *locks);
/*
 * Waits a moment for holders of conflicting locks who would stay for long.  False:
 * they do, and it is noted who it is, as by a try.
 */
extern bool refit_polite_lock_is_free(RefitMigration *m, List *locks);

/*
 * Notes that a statement was not given a lock that it asked for itself, having
 * these; it has been undone.
 */
extern void refit_polite_lock_note_failure(RefitMigration *m, List *locks);

/*
 * The longest that we wait for a lock while somebody may wait for us, in ms:
 * refit.lock_timeout, or half of deadlock_timeout.  A client who waits for us
 * while we wait for what it holds would else be told of a deadlock.
 */
extern int refit_polite_lock_budget(void);

/* ms to stay away after a failed try: with jitter, growing while tries fail. */
extern int refit_polite_lock_backoff(RefitMigration *m);

#endif /* REFIT_POLITE_LOCK_H */
