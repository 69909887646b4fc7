/*-------------------------------------------------------------------------
 *
 * catchup.h
 *	  Phase catchup: bringing the twin up to date with the capture logs.
 *
 * Locks: ACCESS SHARE on the table for one batch.  Snapshot: one a batch.
 * cutover.c calls refit_catchup_apply for the last batch, under its own lock:
 * the one place where a step uses another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CATCHUP_H
#define REFIT_CATCHUP_H

#include "refit.h"

/* What a batch did. */
typedef struct RefitBatch
{
	int64 limit;			   /* entries to take at most; 0: all */
	const RefitBudget *budget; /* NULL: no matter how long it takes */
	bool clears_way;		   /* of rows in the way of an insert */
	int64 entries;			   /* entries taken */
	int64 worked;			   /* of them, done with */
	int64 keys;				   /* distinct keys among those */
	bool complete;			   /* all visible entries were taken */
	bool truncated;			   /* a TRUNCATE was among them */
	int64 displaced;		   /* rows that were in the way */
} RefitBatch;

extern RefitOutcome refit_catchup_step(RefitMigration *m, RefitBudget *budget);

/* The same.  *complete: all that its snapshot saw is applied. */
extern RefitOutcome refit_catchup_round(RefitMigration *m, RefitBudget *budget,
										bool *complete);

/* Applies one batch in the caller's transaction. */
extern void refit_catchup_apply(RefitMigration *m, RefitBatch *batch);

#endif /* REFIT_CATCHUP_H */
