/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Passes that run a statement over a table's rows, batch by batch: the
 *	  kinds backfill, purge and batched.
 *
 * One chunk is one transaction of several batches, each in a subtransaction, with
 * the cursor behind them.  So every row is done once, whatever dies in between.
 *
 * A batch that fails is tried again if the reason may pass; otherwise half of it
 * is, until the row that fails stands alone.  It is named in refit.events, and
 * fails the migration or, with on_error skip, is left out.
 *
 * Locks: ROW EXCLUSIVE on the table and the locks of the rows that are written,
 * until the end of the chunk.  Somebody who waits for one of these rows ends the
 * chunk after the batch at hand, which takes some 50 ms.
 *
 * Snapshots: one for each statement.  Rights: the table's owner's, restricted as
 * in maintenance commands; deferrable constraints are checked at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_BATCH_H
#define REFIT_BATCH_H

#include "refit.h"

#include "rows/statement.h"

/*
 * An ERROR, before anything is touched, for clauses that cannot be worked; as
 * the owner of the table, which exists and is the caller's.
 */
extern void refit_batch_check(Oid relid, const RefitClauses *clauses);

/* Phase plan: divides the table.  What is to be said of it. */
extern char *refit_batch_plan(RefitMigration *m);

/* Phase batches. */
extern RefitOutcome refit_batch_step(RefitMigration *m, RefitBudget *budget);
/*
 * A chunk of it by a process that is not the leader, and writes no progress.
 * REFIT_NEXT: there is no part for it.
 */
extern RefitOutcome refit_batch_help(RefitMigration *m, RefitBudget *budget);

#endif /* REFIT_BATCH_H */
