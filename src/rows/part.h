/*-------------------------------------------------------------------------
 *
 * part.h
 *	  The parts of a pass over a table: ranges of keys with a cursor each.
 *
 * A part is a row of refit.pass.  A plain table has one, a partition tree one for
 * each partition, and each of them several where more than one process is to work
 * on it.  Together they have every row, and no two of them the same.
 *
 * The cursor is written in the transaction that does what it says is done.  It is
 * a key of an index, or where the table has none to go by, a row's position.
 * Parts outlive a failed or cancelled migration, so that refit.retry() goes on
 * from them: nothing is done twice.
 *
 * Keys are stored as text, read and written under fixed settings, with what the
 * key's columns were.  Another index with the same columns takes the place of one
 * that is gone, as after REINDEX CONCURRENTLY; one with others does not.
 *
 * Who works a part holds its row's lock until the end of the chunk; who of several
 * processes has which is in share.h.
 *
 * Locks: the caller's, on the table.  Rights: rows of ours are read and written
 * as the bootstrap superuser; the planner is asked as the caller.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_PART_H
#define REFIT_PART_H

#include "refit.h"

#include "access/genam.h"
#include "rows/statement.h"

typedef struct RefitPart
{
	int number;
	Oid relid;
	Relation rel;	/* NULL: it is gone, or not in the tree any more */
	Relation index; /* NULL: by positions */
	bool by_where; /* the index has, or finds, what the where clause asks for */
	bool is_unique; /* a key stands for one row */
	int nkeys;		/* 0: by positions */
	AttrNumber attnums[INDEX_MAX_KEYS];
	Oid types[INDEX_MAX_KEYS];
	Datum *low;		/* last key that is done with; NULL: none yet */
	Datum *high;	/* last key of the part; NULL: all that come */
	int64 position; /* next one, see refit_part_tid() */
	int64 position_end;
	int64 batch;	/* rows, or positions, of a batch */
	int64 limit;	/* of a batch near a row that fails; 0: none */
	int64 suspects; /* rows from low on, one of which fails */
	int errors;		/* failures at this place */
	bool poison;	/* the next row has failed by itself */
	int64 total;	/* rows, about */
	int64 scanned;	/* rows gone over */
	int64 touched;	/* rows that the statement has written */
	int64 skipped;	/* rows that failed and were left out */
	bool done;
} RefitPart;

/* Of all parts together. */
typedef struct RefitPartSums
{
	int count;
	int left; /* of them, not done */
	int64 total;
	int64 scanned;
	int64 touched;
	int64 skipped;
} RefitPartSums;

/*
 * What a migration's row says of the clauses; alias is the name that the table had
 * when they were submitted.
 */
extern RefitClauses *refit_part_clauses(const RefitMigration *m);

/*
 * Divides the table into parts, so many for each table that has rows, unless that
 * was done before.  Returns what is to be said of it: by which index it goes.
 */
extern char *refit_part_divide(const RefitMigration *m,
							   const RefitClauses *clauses, int each);
/* Adds parts for partitions that have come since; false: there are none. */
extern bool refit_part_add_new(const RefitMigration *m,
							   const RefitClauses *clauses);

/*
 * Where a table without a key was gone over by positions, rows may have moved
 * behind the cursor meanwhile: adds a part that goes over it again.  False: none
 * is needed.
 */
extern bool refit_part_add_rounds(const RefitMigration *m);

/*
 * The next part to work, locked, with its table and index opened; NULL: there is
 * none that nobody has.  A helper's is one that it has marked.
 */
extern RefitPart *refit_part_next(const RefitMigration *m, bool helps);
extern void refit_part_close(RefitPart *part);
extern void refit_part_save(const RefitMigration *m, const RefitPart *part);
extern RefitPartSums refit_part_sums(const RefitMigration *m);

/*
 * Runs a query for a key of the part, as refit_statement_bound() makes it, in the
 * caller's memory context; NULL: it has no row.
 */
extern Datum *refit_part_fetch_key(const RefitPart *part,
								   const RefitClauses *clauses, const char *sql,
								   int nargs, Oid *types, Datum *values);

/* Fills in what follows from the index. */
extern void refit_part_know_key(RefitPart *part);
/* A key as (names)=(values), for messages. */
extern char *refit_part_key_text(const RefitPart *part, const Datum *key);
/* The row at a position, by the table's key if it has one. */
extern char *refit_part_row_text(const RefitPart *part, ItemPointer tid);

/* Positions: the tid of one, and the first of a block. */
extern void refit_part_tid(int64 position, ItemPointer tid);
extern int64 refit_part_position(BlockNumber block);

#endif /* REFIT_PART_H */
