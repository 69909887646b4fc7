/*-------------------------------------------------------------------------
 *
 * finder.h
 *	  Finding rows by key, and ordering keys.
 *
 * Keys are arrays of datums, one per column of a btree index, in its order.
 *
 * Locks: the caller's, on table and index.  Snapshot: the caller's, registered
 * for as long as the finder is open.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_FINDER_H
#define REFIT_FINDER_H

#include "refit.h"

#include "access/genam.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/sortsupport.h"

typedef struct RefitFinder
{
	int nkeys;
	IndexScanDesc scan;
	ScanKeyData keys[INDEX_MAX_KEYS];
} RefitFinder;

extern RefitFinder *refit_finder_open(Relation table, Relation index,
									  Snapshot snapshot, int nkeys);
/* Finds a row with the key that the snapshot sees. */
extern bool refit_finder_find(RefitFinder *finder, const Datum *key,
							  TupleTableSlot *slot);
/* Finds another one after that. */
extern bool refit_finder_next(RefitFinder *finder, TupleTableSlot *slot);
extern void refit_finder_close(RefitFinder *finder);

/* How keys of an index's columns are ordered. */
extern SortSupport refit_finder_order(Relation table, Relation index,
									  int nkeys);
extern int refit_finder_compare(SortSupport order, int nkeys, const Datum *a,
								const Datum *b);

#endif /* REFIT_FINDER_H */
