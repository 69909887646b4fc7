/*-------------------------------------------------------------------------
 *
 * renewal.h
 *	  Giving a row of the twin its present values where it stands.
 *
 * Most updates of an application change a few columns that no index has, or a
 * key is dirty though its row has been brought up to date before.  Such a row of
 * the twin is left alone or updated in place, like the table's own, instead of
 * being taken out of and put into every index.
 *
 * Locks: the caller's, ROW EXCLUSIVE on the twin.  Snapshot: none of its own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_RENEWAL_H
#define REFIT_RENEWAL_H

#include "refit.h"

#include "table/transform.h"

typedef struct RefitRenewal
{
	RefitTransform *transform;
	CommandId cid;
	int nindexed;		 /* columns whose change needs new index entries */
	AttrNumber *indexed; /* including those of predicates and INCLUDE */
	int nothers;		 /* the other ones */
	AttrNumber *others;
	TupleTableSlot *new_row; /* of the twin */
} RefitRenewal;

/* cid: what the rows are written with. */
extern RefitRenewal *refit_renewal_open(RefitTransform *transform,
										CommandId cid);
extern void refit_renewal_close(RefitRenewal *r);

/*
 * Gives found, a row of the twin, the values of row, if they differ in no column
 * that an index has.  False: they do, and nothing was done.  Row may be altered:
 * what does not differ is taken from found.
 */
extern bool refit_renewal_try(RefitRenewal *r, TupleTableSlot *found,
							  TupleTableSlot *row);

#endif /* REFIT_RENEWAL_H */
