/*-------------------------------------------------------------------------
 *
 * verify.h
 *	  Phase verify: no cutover before the twin was found equal to the table.
 *
 * The comparison (compare.h) walks both tables chunk by chunk.  Each chunk is
 * preceded by a batch of catch-up, so that few keys are dirty in it.
 *
 * A row that differs is named in refit.events, remembered among the suspects,
 * and mended: its key is marked dirty, so that catch-up makes it anew; a row
 * that only the twin has is deleted.  After the walk the suspects are compared
 * again.  One that differs still fails the migration, and so do more than a
 * hundred of them, a key that stands for two rows, and a walk in which no row of
 * a table that has rows was compared.
 *
 *	  walking	the walk is under way
 *	  suspect	it is over, or was passed before, and there are suspects
 *	  passed	the cutover may come; while a manual one waits the walk goes
 *				round slowly, and may find suspects
 *	  failed	for good: written by the step that finds it, in its own
 *				transaction, and read by the next one, which raises the error
 *
 * The state is part of the rewrite's row.  The cutover looks at it, so what
 * ever is restarted in between, none comes after a verification that failed or
 * was not finished.  It begins anew where the copy does, and where the table's
 * storage was exchanged.
 *
 * Locks: ACCESS SHARE on the table for a chunk.  Snapshot: one a chunk.
 * verify.c calls refit_catchup_step: as cutover.c does, a step that uses
 * another.
 *
 * If the process dies: the chunk is gone with what it found and mended.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_VERIFY_H
#define REFIT_VERIFY_H

#include "refit.h"

#include "utils/rel.h"

extern RefitOutcome refit_verify_step(RefitMigration *m, RefitBudget *budget);

/* May the cutover come, as far as verification goes? */
extern bool refit_verify_is_passed(const RefitMigration *m);

/* Begins anew; of the twin nothing is known. */
extern void refit_verify_reset(RefitMigration *m);

/* Makes the table of suspects in the work schema. */
extern Oid refit_verify_create_suspects(Relation source, Relation twin,
										Oid schema, const char *name,
										Oid key_index);

#endif /* REFIT_VERIFY_H */
