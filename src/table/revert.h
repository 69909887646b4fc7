/*-------------------------------------------------------------------------
 *
 * revert.h
 *	  The revert window: the old rows kept in step after the cutover, and put
 *	  back on request.
 *
 * The cutover leaves the old rows in the blank, which then is a private table
 * of the old definition with indexes, constraints and defaults of its own.  In
 * the same transaction capture is installed again, with logs for the new key,
 * and the rewrite is marked reversed: from there on catch-up applies changes of
 * the table to the blank, through the inverse of the actions.
 *
 *	  window	catch-up goes on; ends by refit.finish(), by time, or by
 *				refit.revert(), which leads to
 *	  catchback	the rest of the changes is applied,
 *	  recheck	table and blank are compared, as before the cutover,
 *	  references	foreign keys that come back are tried on the old rows,
 *	  revert	the cutover the other way.
 *
 * A row that the old definition cannot hold stops catch-up; it is named, and
 * until it is changed or deleted the log keeps what comes after it.  Nothing
 * else suffers from it: a migration in its window does not fail.  An error on
 * the way back leads to the window again.
 *
 * Locks: ACCESS SHARE on the table for a batch; those of the cutover for the
 * revert.  If the process dies: as in catch-up and cutover.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_REVERT_H
#define REFIT_REVERT_H

#include "refit.h"

#include "nodes/parsenodes.h"
#include "utils/rel.h"

/* In phase prepare, for a leaf, after the actions were run on the twins. */
extern void refit_revert_prepare(RefitMigration *m, Relation source,
								 Oid schema);
/* In the cutover, for a leaf, after its new storage was put in place. */
extern void refit_revert_open_window(RefitMigration *m);

/* Before the way back: verification begins anew. */
extern void refit_revert_begin(RefitMigration *m);
/* All that it will do, for whoever looks at what hangs on the columns. */
extern AlterTableStmt *refit_revert_stmt(RefitMigration *m);
/* Under the locks of the revert: leaf by leaf, all together, leaf by leaf. */
extern void refit_revert_empty_leaf(RefitMigration *m);
extern void refit_revert_alter(RefitMigration *m, const AlterTableStmt *stmt);
extern void refit_revert_fill_leaf(RefitMigration *m);

/* Phase references: one look at every old row, chunk by chunk. */
extern RefitOutcome refit_revert_check_references(RefitMigration *m,
												  RefitBudget *budget);
/* Phase window: one batch of one leaf. */
extern RefitOutcome refit_revert_window_step(RefitMigration *m,
											 RefitBudget *budget);

#endif /* REFIT_REVERT_H */
