/*-------------------------------------------------------------------------
 *
 * copy.h
 *	  Phase copy: filling the twin, chunk by chunk in physical order.
 *
 * Locks: ACCESS SHARE on the table for one chunk; nobody waits for it but a
 * command that needs ACCESS EXCLUSIVE.  Snapshot: one a chunk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_COPY_H
#define REFIT_COPY_H

#include "refit.h"

extern RefitOutcome refit_copy_step(RefitMigration *m, RefitBudget *budget);
/* A chunk of a leaf that nobody copies, by a process that helps. */
extern RefitOutcome refit_copy_help(RefitMigration *m, RefitBudget *budget);

#endif /* REFIT_COPY_H */
