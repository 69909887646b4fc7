/*-------------------------------------------------------------------------
 *
 * row.h
 *	  The indexes that a migration builds: rows of refit.index_build.
 *
 * There is one for each table of a partition tree that is to get an index,
 * numbered so that a partitioned table comes before its partitions; or a single
 * one.  A row is written in the transaction that does what it says is done.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_INDEX_ROW_H
#define REFIT_INDEX_ROW_H

#include "refit.h"

#include "access/xlogdefs.h"

typedef struct RefitIndexRow
{
	int number; /* from 1 */
	Oid relid;
	bool is_leaf;			/* a table with rows, not a partitioned one */
	Oid parent;				/* the index above it, or InvalidOid */
	Oid target;				/* whose storage it is to become, or InvalidOid */
	Oid index;				/* once it is there */
	char *state;			/* planned | inserting | settling | built */
	RefitBaseline baseline; /* from inserting on */
	XLogRecPtr begin_lsn;	/* what is on a page since has a later one */
	uint64 begin_xid;		/* next full xid then */
	Oid filenode;			/* the table's storage that is being walked */
	int64 blocks;			/* end of the walk */
	int64 next;				/* next block */
	int64 reach;			/* a chunk ends here at the latest */
	int64 looking_to;		/* blocks before may have entries by a lost chunk */
	char *worker;			/* the process that walks */
	int64 entries;			/* made by us */
} RefitIndexRow;

/* Plans an index; returns its number. */
extern void refit_index_row_plan(const RefitMigration *m,
								 const RefitIndexRow *row);
/* The first one in that state, or NULL; and all of them. */
extern RefitIndexRow *refit_index_row_next(const RefitMigration *m,
										   const char *state);
extern List *refit_index_row_list(const RefitMigration *m);
extern void refit_index_row_save(const RefitMigration *m,
								 const RefitIndexRow *row);
/* Forgets one, or all of the migration with what belongs to them. */
extern void refit_index_row_delete(const RefitMigration *m, int number);
extern void refit_index_row_delete_all(const RefitMigration *m);
/* Brings the counters of progress up to date, over all of them. */
extern void refit_index_row_sum(RefitMigration *m);

/* Blocks in doubt: a chunk's list; are there any; takes so many lists. */
extern void refit_index_row_doubt(const RefitMigration *m,
								  const RefitIndexRow *row, List *blocks);
extern bool refit_index_row_has_doubts(const RefitMigration *m,
									   const RefitIndexRow *row);
extern List *refit_index_row_take_doubts(const RefitMigration *m,
										 const RefitIndexRow *row, int lists);

/* Who is waited for before the indexes may be used: a text, or NULL. */
extern char *refit_index_row_waits(const RefitMigration *m);
extern void refit_index_row_save_waits(const RefitMigration *m,
									   const char *waits);

#endif /* REFIT_INDEX_ROW_H */
