/*-------------------------------------------------------------------------
 *
 * compare.h
 *	  Comparing a table with its twin, row by row, in one snapshot.
 *
 * A comparison is of one transaction: it leaves out the keys that are dirty in
 * its snapshot, since the twin need not have their rows yet.  For any other key
 * the twin has either the row that the table's row is transformed to, or none
 * where the table has none.
 *
 * Both tables are walked side by side in physical order.  The copy keeps the
 * order of rows, so mostly the next row of one is the partner of the next row
 * of the other, and the two are compared without a look at any index.  A row
 * that is out of step is looked up by its key on the other side.  So every row
 * of either table is either met together with its partner or looked for; the
 * order is for speed and proves nothing.
 *
 * After the cutover, with a revert window, the roles are exchanged: the blank is
 * what the table, now of the new definition, must be what it is transformed to.
 *
 * Locks: ACCESS SHARE on the table, any on the twin, the caller's.  Snapshot:
 * one, for the caller's budget.  Rights: the owner's, who the caller is; what a
 * row is transformed with runs as in the copy, volatile expressions do not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_COMPARE_H
#define REFIT_COMPARE_H

#include "refit.h"

#include "table/finder.h"
#include "table/transform.h"

/* What can be wrong with a row. */
typedef enum RefitFinding
{
	REFIT_DIFFERS,	   /* a column has another value */
	REFIT_MISSING,	   /* the twin has no such row */
	REFIT_EXTRA,	   /* the table has no such row */
	REFIT_TWO_VERSIONS /* the twin has two rows of one key */
} RefitFinding;

typedef struct RefitComparison RefitComparison;

/*
 * Told of each finding.  key_text: the key as text; column: that differs, or
 * NULL.  source_key is NULL where only the twin has the row.
 */
typedef void (*RefitFindingHandler)(void *arg, RefitFinding finding,
									const char *key_text, const char *column,
									const Datum *source_key,
									const Datum *twin_key, ItemPointer tid);

/* One side of a walk. */
typedef struct RefitWalk
{
	Relation rel;
	TableScanDesc scan;
	TupleTableSlot *row;
	BlockNumber next; /* all rows of the blocks before it are done with */
	BlockNumber extent_end;
	BlockNumber end;
	BlockNumber stride; /* look at one extent of so many */
	bool has_row;		/* row is one that is not done with */
} RefitWalk;

struct RefitComparison
{
	RefitMigration *m;
	RefitTransform *transform;
	Relation source;
	Relation twin;
	Relation source_key; /* indexes */
	Relation twin_key;
	Snapshot snapshot;
	RefitFinder *in_twin;
	RefitFinder *in_source;
	SortSupport order; /* of the twin's keys */
	Datum **dirty;	   /* keys of the twin, sorted */
	int64 ndirty;
	bool truncated; /* a TRUNCATE is not applied yet: all keys are dirty */
	TupleTableSlot *partner; /* of the twin */
	TupleTableSlot *found;	 /* another one of the twin */
	TupleTableSlot *origin;	 /* of the source */
	RefitWalk source_walk;
	RefitWalk twin_walk;
	RefitFindingHandler handler;
	void *handler_arg;
	List *told;		/* what it was told */
	bool stop;		/* set by the handler: go no further */
	int64 compared; /* rows of the table that were held against the twin */
	int64 skipped;	/* dirty ones */
};

extern RefitComparison *refit_compare_open(RefitMigration *m,
										   RefitFindingHandler handler,
										   void *handler_arg);
extern void refit_compare_close(RefitComparison *c);

/*
 * Walks on from two blocks, of the table and of the twin, until the budget is
 * spent; they are set to where the walk ended.  stride > 1: a sample only.
 * True: both tables are walked to their ends.
 */
extern bool refit_compare_walk(RefitComparison *c, const RefitBudget *budget,
							   BlockNumber stride, int64 *source_block,
							   int64 *twin_block);

/*
 * Compares one row again, named by its source key or, where that is NULL, by
 * its twin key.  False: it is dirty and cannot be compared now.
 */
extern bool refit_compare_key(RefitComparison *c, const Datum *source_key,
							  const Datum *twin_key);

/* Has the table, or the twin, a row that the snapshot sees? */
extern bool refit_compare_has_rows(RefitComparison *c);

#endif /* REFIT_COMPARE_H */
