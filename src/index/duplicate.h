/*-------------------------------------------------------------------------
 *
 * duplicate.h
 *	  Rows with the same key under a unique index that is being built.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DUPLICATE_H
#define REFIT_DUPLICATE_H

#include "refit.h"

#include "access/itup.h"
#include "utils/rel.h"

/*
 * An ERROR that says that the entry's row and another have the same key under the
 * index, which is known by that name.
 */
extern void refit_duplicate_report(Relation heap, Relation index,
								   const char *name, IndexTuple entry,
								   ItemPointer other);
/*
 * Is the key of an entry, which is in the index, unique?  An ERROR if not.  False:
 * that is for a running transaction to decide, whose xid is returned.
 *
 * Whoever inserts the key from now on finds the entry.
 */
extern bool refit_duplicate_check(Relation heap, Relation index,
								  const char *name, IndexTuple entry,
								  TransactionId *decides);

#endif /* REFIT_DUPLICATE_H */
