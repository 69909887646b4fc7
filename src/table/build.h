/*-------------------------------------------------------------------------
 *
 * build.h
 *	  Phases prepare, index and analyze: making the work tables, building the
 *	  twin's indexes in bulk, and gathering its statistics; and cleanup, which
 *	  takes the work tables away.
 *
 * Locks: ACCESS SHARE on the table in prepare; the twin is private.  cleanup
 * needs ACCESS EXCLUSIVE on the table, politely, where capture is still there.
 * Snapshot: one index build holds one as long as it takes; that is the only
 * long one of a rewrite.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_BUILD_H
#define REFIT_BUILD_H

#include "refit.h"

extern RefitOutcome refit_build_prepare(RefitMigration *m, RefitBudget *budget);
extern RefitOutcome refit_build_order(RefitMigration *m, RefitBudget *budget);
extern RefitOutcome refit_build_index(RefitMigration *m, RefitBudget *budget);
extern RefitOutcome refit_build_analyze(RefitMigration *m, RefitBudget *budget);
extern RefitOutcome refit_build_settle(RefitMigration *m, RefitBudget *budget);
extern RefitOutcome refit_build_cleanup(RefitMigration *m, RefitBudget *budget);

#endif /* REFIT_BUILD_H */
