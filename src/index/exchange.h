/*-------------------------------------------------------------------------
 *
 * exchange.h
 *	  Giving the storage of a new index to the one that is rebuilt.
 *
 * The old index keeps its OID, name, constraint and dependencies; the new one
 * takes the old storage and is dropped with it.
 *
 * Who waits: everybody who uses the table, for the lock budget at most, and then
 * for milliseconds.  If the process dies: before the commit nothing has happened.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_EXCHANGE_H
#define REFIT_EXCHANGE_H

#include "refit.h"

#include "index/row.h"

/* One try for one index.  REFIT_MORE: it is done, and its row is gone. */
extern RefitOutcome refit_exchange_try(RefitMigration *m, RefitBudget *budget,
									   const RefitIndexRow *row);

#endif /* REFIT_EXCHANGE_H */
