/*-------------------------------------------------------------------------
 *
 * constraint.h
 *	  Phase validate: checking existing rows against constraints that are NOT
 *	  VALID, in chunks.
 *
 * Every row written since the constraint is there obeys it, so each row version
 * has to be looked at once: block by block, with a fresh snapshot a chunk.
 *
 * Locks: ACCESS SHARE on the tables for a chunk; SHARE UPDATE EXCLUSIVE, which
 * no reader or writer waits for, to mark the constraint valid.
 * Rights: the owner's; row security does not hide rows from the check.  A foreign
 * key between tables of two owners is checked row by row, with the rights that
 * its triggers have.
 * If the process dies: the chunk is done again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CONSTRAINT_H
#define REFIT_CONSTRAINT_H

#include "refit.h"

extern RefitOutcome refit_constraint_step(RefitMigration *m,
										  RefitBudget *budget);

#endif /* REFIT_CONSTRAINT_H */
