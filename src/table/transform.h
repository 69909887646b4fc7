/*-------------------------------------------------------------------------
 *
 * transform.h
 *	  From a row of the table to the row of its twin.
 *
 * For each attribute of the twin: not touched, the old value; its type
 * altered, the action's USING expression or else the assignment cast; new, its
 * default (the stored one where PostgreSQL evaluated it once, else evaluated
 * per row); generated, computed from the new row; dropped, NULL.
 * CHECK and NOT NULL constraints that the old rows have not been held to yet
 * are enforced.
 *
 * Locks: the caller's.  Rights: expressions run with the caller's, who has
 * switched to the table's owner.  Memory: everything lives in the context
 * current at refit_transform_open and goes with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_TRANSFORM_H
#define REFIT_TRANSFORM_H

#include "refit.h"

#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "utils/rel.h"
#include "utils/sortsupport.h"

typedef struct RefitTransform
{
	Relation source;
	Relation twin;
	Expr **exprs; /* per attribute of the twin */
	EState *estate;
	ResultRelInfo *result_rel; /* the twin's */
	TupleTableSlot *input;	   /* row being transformed, for messages */
	TupleTableSlot *output;
	TupleTableSlot *key_row; /* of the source, with only the key in it */
	ProjectionInfo *projection;
	ExprState **key_states; /* twin's key from the source's key */
	int nkeys;
	AttrNumber *key_attnums;
	List *checks;		 /* of RefitCheck */
	Bitmapset *not_null; /* attributes to look at */
	bool has_generated;
	int ncompared;			 /* columns whose value follows from the source */
	AttrNumber *compared;	 /* with to_compare only */
	ExprState **key_back;	 /* per key column, from the twin's row */
	SortSupport key_order;	 /* of the source's keys */
	bool key_must_lead_back; /* to the key that it was made from */
	TupleTableSlot *twin_key_row; /* of the twin, with only the key in it */

	/* on the way back, from the new definition to the old one */
	Bitmapset *kept;		 /* columns that only the old row has */
	TupleTableSlot *old_row; /* of the twin, set by the caller; or NULL */
	ExprState **forth;		 /* per attribute, to try a value; or NULL */
	Expr **forth_exprs;		 /* the actions, over the twin's row */
} RefitTransform;

/*
 * Where the migration's rewrite is reversed, the source is of the new
 * definition and the twin of the old one, unless it is to compare.
 *
 * to_compare: rows are made to be compared with those of the twin.  What a
 * volatile expression gives is left NULL and not compared, and no constraint
 * is enforced.  The source is always of the old definition then.
 */
extern RefitTransform *refit_transform_open(const RefitMigration *m,
											Relation source, Relation twin,
											bool to_compare);
extern void refit_transform_close(RefitTransform *t);

/* The twin's row, in a virtual slot that is valid until the next call. */
extern TupleTableSlot *refit_transform_row(RefitTransform *t,
										   TupleTableSlot *row);
/* The twin's key for a source key; valid until the next row or key. */
extern void refit_transform_key(RefitTransform *t, const Datum *source_key,
								Datum *key);
/*
 * Can the twin have a key for it?  An integer may be too large; and a row whose
 * key does not lead back from its new value is never in the twin.
 */
extern bool refit_transform_key_fits(RefitTransform *t,
									 const Datum *source_key);
/*
 * The source key that a row of the twin leads back to; valid until the next row
 * or key.  False: it cannot be cast back.
 */
extern bool refit_transform_trace_key(RefitTransform *t, TupleTableSlot *twin,
									  Datum *source_key);
/* The key of a row of the source, or of the twin. */
extern void refit_transform_get_key(RefitTransform *t, TupleTableSlot *row,
									Datum *key);
/* That key as text: (names)=(values). */
extern char *refit_transform_key_text(RefitTransform *t, TupleTableSlot *row);

/*
 * Per attribute of the twin, the expression over the source's row; simplified,
 * as the caller.  The plan looks at them too.
 */
extern Expr **refit_transform_exprs(Relation source, Relation twin,
									const AlterTableStmt *stmt,
									const char *search_path);
/* Are two values of a column's type the same?  1.5 and 1.50 are. */
extern bool refit_transform_is_same(Form_pg_attribute att, Datum a, Datum b);
/*
 * Does each value of the column lead to one that the cast back leads from to
 * this value?  Only where that is certain.
 */
extern bool refit_transform_is_invertible(Expr *expr);
/* Is this attribute just handed on? */
extern bool refit_transform_is_copied(Expr **exprs, AttrNumber attnum);

/*
 * In a PG_CATCH block of the caller: remembers which row was being worked, for
 * the message that the migration fails with.
 */
extern void refit_transform_note_failure(RefitTransform *t);
/* The same for a row whose key is known as text. */
extern void refit_transform_note_failing_key(const char *key);
/* Takes what was noted; NULL when no row was at fault. */
extern char *refit_transform_take_failure(void);

#endif /* REFIT_TRANSFORM_H */
