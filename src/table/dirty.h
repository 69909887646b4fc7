/*-------------------------------------------------------------------------
 *
 * dirty.h
 *	  The entries of the capture logs that a batch of catch-up takes.
 *
 * Locks: the caller's, ROW EXCLUSIVE on the logs, and one on the table that keeps
 * TRUNCATE from it.  Snapshot: the caller's, younger than those.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DIRTY_H
#define REFIT_DIRTY_H

#include "refit.h"

#include "access/htup.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/sortsupport.h"

/* One entry of a log. */
typedef struct RefitDirtyKey
{
	Datum *key;	   /* NULL: the mark of a TRUNCATE */
	HeapTuple row; /* to be inserted, where it was kept */
	ItemPointerData tid;
	int8 log;
	bool ends_key; /* the last one for its key, in sorted order */
	bool owed;	   /* that: a row is still to be inserted */
} RefitDirtyKey;

/* Those of a batch. */
typedef struct RefitDirtyKeys
{
	Relation table;
	Relation logs[REFIT_LOGS];
	Snapshot snapshot;
	int nkeys;
	const AttrNumber *attnums; /* of the key */
	SortSupport order;		   /* per key column */
	RefitDirtyKey *entries;
	int64 n;
	int64 room;
	int64 nworkable; /* of them, with time for */
	bool complete;	 /* the snapshot sees no more */
	bool truncated;	 /* a TRUNCATE is among them */
} RefitDirtyKeys;

/*
 * Collects what the snapshot sees: keys up to the limit, 0 for none, and all
 * marks of TRUNCATE; sorted by key, the marks last.
 */
extern void refit_dirty_collect(RefitDirtyKeys *d, int64 limit);
/* Has the next batch begin in the logs where the last one began. */
extern void refit_dirty_step_back(const Oid *logs);
/* Is this the last of the entries for its key in the same form? */
extern bool refit_dirty_ends_form(const RefitDirtyKeys *d, int64 i);
/* Are two keys the same, in whatever form? */
extern bool refit_dirty_is_same_key(const RefitDirtyKeys *d, const Datum *a,
									const Datum *b);
extern Datum *refit_dirty_copy_key(const RefitDirtyKeys *d, const Datum *key);
/* Deletes the entries that are done with.  Returns how many. */
extern int64 refit_dirty_delete(RefitDirtyKeys *d);

#endif /* REFIT_DIRTY_H */
