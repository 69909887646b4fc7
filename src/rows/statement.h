/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  The statements of a pass over a table: what one batch of rows runs.
 *
 * A batch is a range of keys, or of row positions where the table has no key.
 * The clauses are the user's; they are parsed by themselves first, so that no
 * text can reach out of its place, and names in them are looked up by the
 * search_path of whoever submitted them.  The caller has switched to the rights
 * of the table's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_STATEMENT_H
#define REFIT_STATEMENT_H

#include "refit.h"

#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "utils/rel.h"

/* What the user wants done. */
typedef struct RefitClauses
{
	const char *kind;	   /* backfill | purge | batched */
	const char *set;	   /* of a backfill */
	const char *where;	   /* of a backfill or a purge; NULL: every row */
	const char *statement; /* of batched */
	const char *alias;	   /* the name that they know the table by */
	const char *search_path;
} RefitClauses;

/* Which ends a range has. */
typedef struct RefitEnds
{
	bool low;		/* keys after it, or positions from it on */
	bool high;		/* keys up to it, or positions before it */
	bool inclusive; /* keys from low on */
	bool prefix;	/* low is the first column's value, inclusive */
	bool by_where;	/* of rows that the where clause is true for */
} RefitEnds;

extern bool refit_statement_is_kind(const char *kind);

/*
 * An ERROR for clauses that make no statement on this table.  Nothing is run,
 * and nothing changed.  For batched: key_types are those of the key's columns.
 */
extern void refit_statement_check(Relation rel, const RefitClauses *clauses,
								  int nkeys, const Oid *key_types);

/* The columns that a backfill of this table writes. */
extern Bitmapset *refit_statement_columns(Relation rel,
										  const RefitClauses *clauses);
/* Do the new values depend on what the backfill itself writes? */
extern bool refit_statement_reads_its_own(Relation rel,
										  const RefitClauses *clauses);

/*
 * The where clause as an analyzed query on the table, SELECT FROM it WHERE that,
 * or NULL where there is none.
 */
extern Query *refit_statement_analyze_where(Relation rel,
											const RefitClauses *clauses);

/*
 * One batch's statement: $1 and on are the low key, then the high one.  nkeys 0:
 * positions.  A row that holds its new values already is left alone, where that
 * can be known without evaluating anything volatile.
 */
extern char *refit_statement_batch(Relation rel, const RefitClauses *clauses,
								   Relation index, int nkeys, RefitEnds ends);

/*
 * For rows that have the same key: where they are, locked there; and the
 * statement for some of them, by an array of positions in $1.
 */
extern char *refit_statement_positions(Relation rel,
									   const RefitClauses *clauses,
									   Relation index, int nkeys,
									   RefitEnds ends);
extern char *refit_statement_rows(Relation rel, const RefitClauses *clauses);

/*
 * Asks for a key of the range: the one so many rows on, in a parameter after those
 * of the ends; or with backwards the last one, of columns alone.
 */
extern char *refit_statement_bound(Relation rel, const RefitClauses *clauses,
								   Relation index, int nkeys, RefitEnds ends,
								   bool backwards);

#endif /* REFIT_STATEMENT_H */
