/*-------------------------------------------------------------------------
 *
 * renewal.c
 *	  Giving a row of the twin its present values where it stands.  See
 *	  renewal.h.
 *
 * Why no unique index or exclusion constraint can be in the way: the row keeps
 * every value that an index is made of, expressions and predicates included, so
 * whatever it conflicts with now it has conflicted with before.  A new entry,
 * where the new version does not fit into the page, meets the old one of the
 * same row, which this transaction has made dead.
 *
 * Values out of line: two of another length differ without a look at them.
 * Others must be read, which is less than writing them.  One that is the same is
 * taken from the old row, pointer and all, so that PostgreSQL keeps it and sees
 * that an indexed column has not changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/tableam.h"
#include "nodes/bitmapset.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "compat.h"
#include "table/renewal.h"

/* Sorts the twin's columns into those that an index has, and others. */
static void
sort_columns(RefitRenewal *r)
{
	Relation twin = r->transform->twin;
	TupleDesc desc = RelationGetDescr(twin);
	Bitmapset *indexed = refit_hot_blocking_columns(twin);

	r->indexed = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));
	r->others = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));
	for (AttrNumber attnum = 1; attnum <= desc->natts; attnum++)
	{
		if (TupleDescAttr(desc, attnum - 1)->attisdropped)
			continue;
		if (bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, indexed))
			r->indexed[r->nindexed++] = attnum;
		else
			r->others[r->nothers++] = attnum;
	}
	bms_free(indexed);
}

/* Prepares. */
RefitRenewal *
refit_renewal_open(RefitTransform *transform, CommandId cid)
{
	RefitRenewal *r = palloc0(sizeof(RefitRenewal));

	r->transform = transform;
	r->cid = cid;
	r->new_row = MakeSingleTupleTableSlot(RelationGetDescr(transform->twin),
										  &TTSOpsHeapTuple);
	sort_columns(r);
	return r;
}

/* Gives back what it holds. */
void
refit_renewal_close(RefitRenewal *r)
{
	ExecDropSingleTupleTableSlot(r->new_row);
}

/* Have two rows the same value in a column, to the bit? */
static bool
is_same(TupleTableSlot *a, TupleTableSlot *b, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(a->tts_tupleDescriptor, attnum - 1);
	bool null_a;
	bool null_b;
	Datum value_a = slot_getattr(a, attnum, &null_a);
	Datum value_b = slot_getattr(b, attnum, &null_b);

	if (null_a || null_b)
		return null_a == null_b;
	return value_a == value_b || /* kept from the old row, for one */
		   datum_image_eq(value_a, value_b, att->attbyval, att->attlen);
}

/* Does an index see a difference? */
static bool
concerns_index(const RefitRenewal *r, TupleTableSlot *found,
			   TupleTableSlot *row)
{
	for (int i = 0; i < r->nindexed; i++)
		if (!is_same(found, row, r->indexed[i]))
			return true;
	return false;
}

/* Takes over what is the same.  Is there something that is not? */
static bool
take_over(const RefitRenewal *r, TupleTableSlot *found, TupleTableSlot *row)
{
	bool differs = false;

	for (int i = 0; i < r->nothers; i++)
	{
		int column = r->others[i] - 1;

		if (is_same(found, row, r->others[i]))
			row->tts_values[column] = found->tts_values[column];
		else
			differs = true;
	}
	if (differs)
		for (int i = 0; i < r->nindexed; i++)
			row->tts_values[r->indexed[i] - 1] =
				found->tts_values[r->indexed[i] - 1];
	return differs;
}

/* Writes the new version. */
static void
update_row(RefitRenewal *r, ItemPointer tid, TupleTableSlot *row)
{
	RefitTransform *t = r->transform;
	List *recheck = NIL;
	TU_UpdateIndexes indexes;
	TM_Result result;

	ExecCopySlot(r->new_row, row);
	result = refit_tuple_update(t->twin, tid, r->new_row, r->cid, &indexes);
	if (result != TM_Ok)
		elog(ERROR, "could not update a row of the twin: %d", result);
	if (indexes != TU_None)
		recheck = refit_update_index_tuples(t->result_rel, r->new_row,
											t->estate, indexes);
	if (recheck != NIL)
		elog(ERROR, "a row of the twin conflicts in index \"%s\"",
			 get_rel_name(linitial_oid(recheck)));
}

/* Renews a row, if it can be where it stands. */
bool
refit_renewal_try(RefitRenewal *r, TupleTableSlot *found, TupleTableSlot *row)
{
	if (concerns_index(r, found, row))
		return false;
	if (take_over(r, found, row))
		update_row(r, &found->tts_tid, row);
	return true;
}
