/*-------------------------------------------------------------------------
 *
 * phase.h
 *	  The strategies, their phases, and which of them a migration goes through.
 *
 * The first phase of each migration is plan, which chooses its strategy by the
 * kind and by the table as it is then.  The phases of a strategy follow each
 * other in the order of the table in phase.c; the last one is cleanup.  On the
 * way back from a revert window they are those of "revert".
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_PHASE_H
#define REFIT_PHASE_H

#include "refit.h"

/* One phase of a strategy. */
typedef struct RefitPhase
{
	const char *strategy;
	const char *name;
	RefitStep step;
	bool after_cutover; /* cannot be cancelled any more */
	bool per_leaf;		/* done for one leaf after the other */
	RefitStep help;		/* of a process that helps, or NULL */
} RefitPhase;

/* The entry of m->phase, which is set. */
extern const RefitPhase *refit_find_phase(const RefitMigration *m);
/* The phase after this one, or NULL. */
extern const RefitPhase *refit_following_phase(const RefitMigration *m,
											   const RefitPhase *phase);
/* Are there commands in this phase that only a worker can run? */
extern bool refit_needs_worker(const RefitPhase *phase);
/* Is the change in place already, in m->phase? */
extern bool refit_is_too_late(const RefitMigration *m);
/* Is the old definition to come back? */
extern bool refit_is_reverting(const RefitMigration *m);
/* Is it a statement of refit.ddl()?  It may be about no relation. */
extern bool refit_is_ddl(const RefitMigration *m);

#endif /* REFIT_PHASE_H */
