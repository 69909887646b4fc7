/*-------------------------------------------------------------------------
 *
 * migration.h
 *	  Working a migration: the state machine.
 *
 * Beside it: claim.h, who works a migration and when; state.h, writing its state
 * and phase; phase.h, which phases there are; submission.h and request.h, what
 * users do.
 *
 * State diagram, locks and what a crash leaves at each edge: docs/design.md.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_MIGRATION_H
#define REFIT_MIGRATION_H

#include "refit.h"

/*
 * Does one unit of work of a migration whose claim the caller holds, in the
 * caller's transaction.  Returns the rest to take before the next one in ms,
 * or -1 when this process is done with it.  An ERROR leaves the row untouched;
 * report it with refit_migration_failed in a new transaction, which returns
 * the same as a step.
 */
extern int refit_migration_step(int64 id);
extern int refit_migration_failed(int64 id, const ErrorData *edata);

/*
 * Does a chunk of a pass over rows for whoever has its claim.  Returns the rest to
 * take, or -1: there is no part to work, or nobody leads.  An ERROR is for the
 * leader to meet too; here it is undone and no more.
 */
extern int refit_migration_help(int64 id);

#endif /* REFIT_MIGRATION_H */
