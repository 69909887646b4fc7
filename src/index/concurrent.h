/*-------------------------------------------------------------------------
 *
 * concurrent.h
 *	  Method concurrently: PostgreSQL's own CREATE INDEX CONCURRENTLY and REINDEX
 *	  INDEX CONCURRENTLY, run by a worker.
 *
 * What they leave when they die or fail, an invalid index, is dropped, and they
 * are run again; see ddl/ddl.h.  A rebuilt index has another oid: PostgreSQL makes
 * a new one and gives it the name, the constraint and what depends on it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CONCURRENT_H
#define REFIT_CONCURRENT_H

#include "refit.h"

/* Phase concurrently of create_index and rebuild_index: one look, or one run. */
extern RefitOutcome refit_concurrent_step(RefitMigration *m,
										  RefitBudget *budget);

#endif /* REFIT_CONCURRENT_H */
