/*-------------------------------------------------------------------------
 *
 * conflict.c
 *	  Which row of the twin is in the way of one that is to be inserted?  See
 *	  conflict.h.
 *
 * ExecCheckIndexConstraints() asks the same for ON CONFLICT, but not of
 * deferrable constraints.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "nodes/execnodes.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "table/conflict.h"

/* What an index has of a row. */
typedef struct IndexedRow
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
} IndexedRow;

/* What an index of the twin demands of any two rows. */
typedef struct IndexRule
{
	RefitTransform *t;
	Relation index;
	IndexInfo *info;
	const Oid *procs;
	const uint16 *strategies;
	int nkeys;
} IndexRule;

/* What an index demands; false: nothing. */
static bool
get_rule(IndexRule *c, RefitTransform *t, int i)
{
	IndexInfo *info = t->result_rel->ri_IndexRelationInfo[i];
	bool is_exclusion = info->ii_ExclusionOps != NULL;

	if (!is_exclusion && !info->ii_Unique)
		return false;
	c->t = t;
	c->index = t->result_rel->ri_IndexRelationDescs[i];
	c->info = info;
	if (!is_exclusion && info->ii_UniqueProcs == NULL)
		BuildSpeculativeIndexInfo(c->index, info);
	c->procs = is_exclusion ? info->ii_ExclusionProcs : info->ii_UniqueProcs;
	c->strategies =
		is_exclusion ? info->ii_ExclusionStrats : info->ii_UniqueStrats;
	c->nkeys = info->ii_NumIndexKeyAttrs;
	return true;
}

/* Computes what the index has of a row. */
static void
form_row(const IndexRule *c, TupleTableSlot *row, IndexedRow *result)
{
	GetPerTupleExprContext(c->t->estate)->ecxt_scantuple = row;
	FormIndexDatum(c->info, row, c->t->estate, result->values, result->isnull);
}

/* Has a partial index the row? */
static bool
is_indexed(const IndexRule *c, TupleTableSlot *row)
{
	ExprContext *econtext = GetPerTupleExprContext(c->t->estate);

	if (c->info->ii_Predicate == NIL)
		return true;
	if (c->info->ii_PredicateState == NULL)
		c->info->ii_PredicateState =
			ExecPrepareQual(c->info->ii_Predicate, c->t->estate);
	econtext->ecxt_scantuple = row;
	return ExecQual(c->info->ii_PredicateState, econtext);
}

/* Can the row conflict with any other? */
static bool
can_conflict(const IndexRule *c, const IndexedRow *row)
{
	for (int i = 0; i < c->nkeys && !c->info->ii_NullsNotDistinct; i++)
		if (row->isnull[i])
			return false;
	return true;
}

/* Does a row that a lossy scan has found conflict? */
static bool
conflicts(const IndexRule *c, const IndexedRow *row, TupleTableSlot *found)
{
	IndexedRow other;

	form_row(c, found, &other);
	for (int i = 0; i < c->nkeys; i++)
		if (other.isnull[i] || !DatumGetBool(OidFunctionCall2Coll(
								   c->procs[i], c->index->rd_indcollation[i],
								   other.values[i], row->values[i])))
			return false;
	return true;
}

/* Looks for a row that conflicts. */
static bool
scan_index(const IndexRule *c, const IndexedRow *row, TupleTableSlot *found)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	SnapshotData dirty;
	IndexScanDesc scan;
	bool result = false;

	for (int i = 0; i < c->nkeys; i++)
		ScanKeyEntryInitialize(
			&keys[i], row->isnull[i] ? SK_ISNULL | SK_SEARCHNULL : 0, i + 1,
			c->strategies[i], InvalidOid, c->index->rd_indcollation[i],
			c->procs[i], row->values[i]);
	InitDirtySnapshot(dirty);
	scan = refit_index_beginscan(c->t->twin, c->index, &dirty, c->nkeys);
	index_rescan(scan, keys, c->nkeys, NULL, 0);
	while (!result && index_getnext_slot(scan, ForwardScanDirection, found))
		result = !scan->xs_recheck || conflicts(c, row, found);
	index_endscan(scan);
	return result;
}

/* Finds a row in the way. */
bool
refit_conflict_find(RefitTransform *t, TupleTableSlot *row,
					TupleTableSlot *found)
{
	IndexRule c;
	IndexedRow indexed;

	for (int i = 0; i < t->result_rel->ri_NumIndices; i++)
	{
		if (!get_rule(&c, t, i) || !is_indexed(&c, row))
			continue;
		form_row(&c, row, &indexed);
		if (can_conflict(&c, &indexed) && scan_index(&c, &indexed, found))
			return true;
	}
	return false;
}
