/*-------------------------------------------------------------------------
 *
 * claim.h
 *	  Who works a migration, and when it is its turn.
 *
 * Whoever works a migration holds its claim, a session-level lock that goes
 * away with the process.  A control function takes the claim for its
 * transaction, and where somebody has it leaves a request instead.
 *
 * The migrations of one table are worked one after the other: the one that has
 * begun, then the one with the smallest id.
 *
 * Who helps with a pass over rows, or a copy, has no claim, but a lock for each
 * chunk.  He begins one only while somebody leads; whoever puts an end to the work,
 * by state paused or phase cleanup, keeps him out first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CLAIM_H
#define REFIT_CLAIM_H

#include "refit.h"

/* Does not wait.  False: somebody else has it. */
extern bool refit_migration_claim(int64 id, bool for_session);
/* Gives back a claim for the session. */
extern void refit_migration_release(int64 id);
/* Of a session that has the claim, where only a worker can go on. */
extern void refit_leave_to_worker(RefitMigration *m);

/* May a chunk of help begin?  If so, until the end of the transaction. */
extern bool refit_begin_help(int64 id);
/*
 * Waits for the chunks of those who help to end, lock_timeout at most, and keeps
 * them from beginning others until our commit.
 */
extern void refit_stop_help(const RefitMigration *m);

/* Takes a migration out of the queue.  False: not its turn, or no work. */
extern bool refit_migration_start(RefitMigration *m);
/* Is another migration of the same table before this one? */
extern bool refit_must_wait_in_queue(const RefitMigration *m);
/* Ids of migrations of this database that a worker could be started for. */
extern List *refit_migration_startable(void);

#endif /* REFIT_CLAIM_H */
