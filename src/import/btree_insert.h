/*-------------------------------------------------------------------------
 *
 * btree_insert.h
 *	  Inserting sorted entries into a btree, leaf by leaf.
 *
 * aminsert descends from the root for each entry.  Of sorted entries many belong
 * to one leaf: here it is searched for once, and gets all that have room.
 *
 * An entry with the same key and TID is found on the way, at no cost, and is not
 * inserted again.  What needs more than adding an item to a page (a split, a
 * posting list to be split, a key that may be a duplicate of a unique index) is
 * left to the access method.
 *
 * Locks: the index, ROW EXCLUSIVE; a leaf's buffer for a moment.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_BTREE_INSERT_H
#define REFIT_BTREE_INSERT_H

#include "postgres.h"

#include "access/itup.h"
#include "nodes/pg_list.h"
#include "utils/rel.h"

typedef struct RefitBtree RefitBtree;

/* unique: an entry whose key another one may have is left to aminsert. */
extern RefitBtree *refit_btree_open(Relation heap, Relation index, bool unique);

/*
 * Inserts entries, in the index's order by key and TID, from the first one on, as
 * far as one leaf has room.  Returns how many it has dealt with, and adds to
 * inserted those that were not there.  0: the first one is for aminsert.
 */
extern int refit_btree_insert(RefitBtree *b, IndexTuple *entries, int n,
							  int64 *inserted);

/* Of a unique index: takes the blocks of entries that were there, as oids. */
extern List *refit_btree_take_found(RefitBtree *b);

/* Have two entries equal keys?  Not if one is null, unless nulls are equal. */
extern bool refit_btree_same_key(RefitBtree *b, IndexTuple x, IndexTuple y);

#endif /* REFIT_BTREE_INSERT_H */
