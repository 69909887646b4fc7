/*-------------------------------------------------------------------------
 *
 * mirror.h
 *	  A column that is kept in step with another one: kinds mirror_column and
 *	  unmirror_column.
 *
 * mirror_column
 *	  install	a row trigger, see mirror_trigger.c, that keeps the pair in step
 *				for all writers from its commit on
 *	  divide, batches
 *				a backfill of the target, see batch.h
 * unmirror_column
 *	  detach	drops the trigger
 *
 * Why every row is in step at the end: the lock waits for the end of every
 * transaction that has written without the trigger.  So the last version of a row
 * was written either with the trigger, which has brought it in step; or before
 * the backfill began, and then it is where the backfill looks for it.  The
 * backfill's UPDATE takes the newest version, as any UPDATE does, and the trigger
 * fires for it too.
 *
 * A crash leaves the trigger or does not, as its transaction has committed or
 * not; the phase says which.  The trigger is not taken away by a backfill that
 * fails or is cancelled, since applications may write to the target by then.
 *
 * Locks: SHARE ROW EXCLUSIVE to install, ACCESS EXCLUSIVE to detach, on the table
 * and its partitions, politely, for one short transaction.  Rights: the trigger is
 * made by the bootstrap superuser, since nobody else may call its function; its
 * expressions were written by the owner, and are evaluated as the owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_MIRROR_H
#define REFIT_MIRROR_H

#include "refit.h"

/* The strategy of a kind, or NULL: it is none of these. */
extern const char *refit_mirror_strategy(const char *kind);

/* Phase plan: looks whether it can be done, and says so. */
extern char *refit_mirror_plan(RefitMigration *m);
/* Phases install and detach: one try. */
extern RefitOutcome refit_mirror_install(RefitMigration *m,
										 RefitBudget *budget);
extern RefitOutcome refit_mirror_detach(RefitMigration *m, RefitBudget *budget);

#endif /* REFIT_MIRROR_H */
