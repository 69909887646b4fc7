/*-------------------------------------------------------------------------
 *
 * shape.h
 *	  What a table looks like to a rewrite: its key, and a fingerprint of its
 *	  definition.
 *
 * Locks: any on the table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SHAPE_H
#define REFIT_SHAPE_H

#include "refit.h"

#include "executor/tuptable.h"
#include "utils/rel.h"

/*
 * Indexes that can serve as a table's key, best first: the primary key, then
 * any unique, immediate, valid index without predicate or expressions over
 * NOT NULL columns.
 */
extern List *refit_shape_key_indexes(Relation rel);
/* Columns of such an index in its order; returns their number. */
extern int refit_shape_key_attnums(Oid index, AttrNumber **attnums);
/* An index of rel over just these columns that can find a row; else 0. */
extern Oid refit_shape_find_index(Relation rel, int nkeys,
								  const AttrNumber *attnums);
/* Columns of a row as (names)=(values), for messages; none: its place. */
extern char *refit_shape_row_text(TupleTableSlot *row, int n,
								  const AttrNumber *attnums);
extern char *refit_shape_place_text(ItemPointer tid);
/*
 * Columns, defaults, constraints and indexes of a table as one short text.
 * Whatever makes two of them differ makes a plan worthless.
 */
extern char *refit_shape_fingerprint(Oid relid);
/* An ERROR when the table is not what the plan was made for. */
extern void refit_shape_check(const RefitMigration *m);

/* What helps where others have changed it, for an error. */
extern char *refit_shape_hint(const RefitMigration *m);

/*
 * Has a crash emptied the unlogged table since its copy began?  The blank holds
 * an empty page as a mark; being unlogged too it loses it in the same crash.
 */
extern void refit_shape_mark_unlogged(const RefitMigration *m);
extern bool refit_shape_was_emptied(const RefitMigration *m);

#endif /* REFIT_SHAPE_H */
