/*-------------------------------------------------------------------------
 *
 * constraint.h
 *	  Phase validate: checking existing rows against constraints that are NOT
 *	  VALID, in chunks.
 *
 * Block by block, each chunk with a snapshot of its own.  A row version that was
 * there when the check began stands in one place, and is looked at there.  What
 * was written since is held to a CHECK or NOT NULL by whoever wrote it, and to a
 * foreign key where it was inserted or its columns were changed.  But an UPDATE
 * that leaves these alone is not held to it, and may carry a row that violates
 * it from a block not yet read to one that was.  So a foreign key ends with a
 * look at all rows written since the check began, in one snapshot: of each row
 * it sees one version, and later ones have the same columns or were checked.
 *
 * VACUUM FULL and the like move rows too; the check begins again.
 *
 * Tables below, partitions or children, come first.  When one is found to have
 * come since, it is checked before the constraint above it is called valid.
 *
 * Locks: ACCESS SHARE on the tables for a chunk; SHARE UPDATE EXCLUSIVE, which
 * no reader or writer waits for, politely, for the last look and to mark the
 * constraint valid.  A last look that somebody waits for is given up and done
 * again.
 * Snapshots: one chunk, and of a foreign key's last look, which reads the table
 * once without evaluating much.
 * Rights: the owner's; row security does not hide rows from the check.
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
