/*-------------------------------------------------------------------------
 *
 * entries.h
 *	  Making the entries of a chunk of rows in an index that is in use.
 *
 * An entry stands for a row by the TID of its chain's root.  Where it may be there
 * already it must be looked for first, in the way that the access method allows:
 *
 *	btree			sorted, and inserted leaf by leaf; whether an entry is there is
 *					seen on the way, so each one is looked for
 *	hash			looked for among those with the same key
 *	gist, spgist	cannot be looked for by key and TID.  The block is noted as one
 *					in doubt; when all others are done, one scan of the index
 *					tells which of the doubtful rows have entries
 *	gin and others	that only make bitmaps: a second entry is no harm
 *
 * A key of a unique index that may be a duplicate is inserted without waiting, and
 * its block noted as one in doubt too: checked when the others are done.
 *
 * Locks: the index, ROW EXCLUSIVE, by the caller.  Rights: the table's owner's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_ENTRIES_H
#define REFIT_ENTRIES_H

#include "refit.h"

#include "nodes/execnodes.h"
#include "utils/rel.h"

/* How an entry that may be there already is found. */
typedef enum RefitLook
{
	REFIT_LOOK_ALWAYS,	  /* on the way, at no cost */
	REFIT_LOOK_BY_KEY,	  /* by an index scan for the key */
	REFIT_LOOK_BY_SCAN,	  /* only by a scan of the whole index */
	REFIT_LOOK_NEVER,	  /* a second entry is no harm */
	REFIT_LOOK_IMPOSSIBLE /* this access method cannot be worked */
} RefitLook;

typedef struct RefitEntries RefitEntries;

/* What an access method's indexes allow. */
extern RefitLook refit_entries_look(Oid access_method);

/*
 * The relations are open.  target: the index that it is built for, whose name and
 * uniqueness count, or InvalidOid.
 */
extern RefitEntries *refit_entries_open(Relation heap, Relation index,
										IndexInfo *info, Oid target);
/* Adds a row's entry; look: it may be there already. */
extern void refit_entries_add(RefitEntries *e, ItemPointer tid, Datum *values,
							  bool *isnull, bool look);
/* Makes what was added last; false: ended before its end, somebody waits. */
extern bool refit_entries_flush(RefitEntries *e);
extern void refit_entries_close(RefitEntries *e);

/* Entries made, and blocks in doubt as a list of oids. */
extern int64 refit_entries_count(const RefitEntries *e);
extern List *refit_entries_doubts(const RefitEntries *e);

/*
 * Settling: the entries of rows in doubt.  The rows are added by collect; then
 * settle makes those that are missing, or finds out whether keys are unique: an
 * ERROR names both rows if not.  Returns the xid of a running transaction that has
 * to end before the last of them is known, or InvalidTransactionId; blocks that
 * stay in doubt are in refit_entries_doubts().
 */
extern void refit_entries_collect(RefitEntries *e, ItemPointer tid,
								  Datum *values, bool *isnull);
extern TransactionId refit_entries_settle(RefitEntries *e);

#endif /* REFIT_ENTRIES_H */
