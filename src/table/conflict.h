/*-------------------------------------------------------------------------
 *
 * conflict.h
 *	  Which row of the twin is in the way of one that is to be inserted?
 *
 * Locks: the caller's, ROW EXCLUSIVE on the twin.  Nobody but the caller writes
 * to it, so nobody is waited for.  Rights: expressions and predicates of indexes
 * are evaluated with the step's, which are the table's owner's, restricted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CONFLICT_H
#define REFIT_CONFLICT_H

#include "refit.h"

#include "table/transform.h"

/*
 * Finds a row that a unique index or an exclusion constraint, deferrable or not,
 * does not let stand beside row.
 */
extern bool refit_conflict_find(RefitTransform *t, TupleTableSlot *row,
								TupleTableSlot *found);

#endif /* REFIT_CONFLICT_H */
