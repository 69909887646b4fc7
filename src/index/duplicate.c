/*-------------------------------------------------------------------------
 *
 * duplicate.c
 *	  Rows with the same key under a unique index that is being built.
 *
 * The message names both rows, by the table's key, or by their place where it has
 * none.  Rights: the table's owner's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "index/duplicate.h"
#include "table/shape.h"

/* How a row is named: by its key, or by the place of its chain. */
static char *
name_row(Relation heap, ItemPointer tid)
{
	IndexFetchTableData *fetch = refit_index_fetch_begin(heap);
	TupleTableSlot *slot = table_slot_create(heap, NULL);
	List *keys = refit_shape_key_indexes(heap);
	ItemPointerData place = *tid;
	bool call_again = false;
	AttrNumber *attnums;
	char *name;

	if (keys != NIL && table_index_fetch_tuple(fetch, &place, SnapshotSelf,
											   slot, &call_again, NULL))
	{
		int n = refit_shape_key_attnums(linitial_oid(keys), &attnums);

		name = refit_shape_row_text(slot, n, attnums);
	}
	else
		name = refit_shape_place_text(tid);
	ExecDropSingleTupleTableSlot(slot);
	table_index_fetch_end(fetch);
	return name;
}

/* An ERROR that names both rows. */
void
refit_duplicate_report(Relation heap, Relation index, const char *name,
					   IndexTuple entry, ItemPointer other)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
	char *key;

	index_deform_tuple(entry, RelationGetDescr(index), values, isnull);
	key = BuildIndexValueDescription(index, values, isnull);
	ereport(ERROR,
			(errcode(ERRCODE_UNIQUE_VIOLATION),
			 errmsg("could not create unique index \"%s\"", name),
			 errdetail("%s is the key of two rows: %s and %s.",
					   key != NULL ? psprintf("Key %s", key) : "One value",
					   name_row(heap, &entry->t_tid), name_row(heap, other)),
			 errhint("Change or delete one of them, and use refit.retry().")));
}

/* Sets up a search for an entry's key. */
static int
make_keys(Relation index, const Datum *values, const bool *isnull, ScanKey keys)
{
	int n = IndexRelationGetNumberOfKeyAttributes(index);

	for (int i = 0; i < n; i++)
	{
		Oid type = index->rd_opcintype[i];
		Oid op = get_opfamily_member(index->rd_opfamily[i], type, type,
									 BTEqualStrategyNumber);

		ScanKeyEntryInitialize(
			&keys[i], isnull[i] ? SK_ISNULL | SK_SEARCHNULL : 0, i + 1,
			isnull[i] ? InvalidStrategy : BTEqualStrategyNumber,
			isnull[i] ? InvalidOid : type, index->rd_indcollation[i],
			isnull[i] ? InvalidOid : get_opcode(op), values[i]);
	}
	return n;
}

/* What becomes of a row with the key. */
typedef enum Fate
{
	ROW_GONE,
	ROW_LIVES,
	ROW_IN_FLIGHT /* a running transaction has inserted or deleted it */
} Fate;

/* What becomes of the row whose chain begins there. */
static Fate
fate_of(Relation heap, IndexFetchTableData *fetch, TupleTableSlot *slot,
		ItemPointer root, TransactionId *decides)
{
	SnapshotData dirty;
	ItemPointerData place = *root;
	bool call_again = false;
	Fate result = ROW_GONE;

	InitDirtySnapshot(dirty);
	do
	{
		if (!table_index_fetch_tuple(fetch, &place, &dirty, slot, &call_again,
									 NULL))
			continue;
		if (TransactionIdIsValid(dirty.xmin) ||
			TransactionIdIsValid(dirty.xmax))
		{
			*decides =
				TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
			return ROW_IN_FLIGHT;
		}
		result = ROW_LIVES;
	} while (call_again);
	return result;
}

/* Looks at all other rows with the key; sets other to one that decides. */
static Fate
fate_of_others(Relation heap, Relation index, IndexFetchTableData *fetch,
			   TupleTableSlot *slot, IndexTuple entry, ItemPointer other,
			   TransactionId *decides)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
	ScanKeyData keys[INDEX_MAX_KEYS];
	Fate result = ROW_GONE;
	IndexScanDesc scan;
	ItemPointer tid;
	int n;

	index_deform_tuple(entry, RelationGetDescr(index), values, isnull);
	n = make_keys(index, values, isnull, keys);
	scan = refit_index_beginscan(heap, index, SnapshotSelf, n);
	index_rescan(scan, keys, n, NULL, 0);
	while (result == ROW_GONE &&
		   (tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
	{
		*other = *tid;
		if (!ItemPointerEquals(tid, &entry->t_tid))
			result = fate_of(heap, fetch, slot, other, decides);
	}
	index_endscan(scan);
	return result;
}

/* Is a part of the key null, so that nothing equals it? */
static bool
has_null(Relation index, IndexTuple entry)
{
	if (index->rd_index->indnullsnotdistinct)
		return false;
	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
	{
		bool isnull;

		(void) index_getattr(entry, i + 1, RelationGetDescr(index), &isnull);
		if (isnull)
			return true;
	}
	return false;
}

/* Is the key of an entry unique? */
bool
refit_duplicate_check(Relation heap, Relation index, const char *name,
					  IndexTuple entry, TransactionId *decides)
{
	IndexFetchTableData *fetch;
	TupleTableSlot *slot;
	ItemPointerData other;
	Fate own = ROW_GONE;
	Fate others;

	if (has_null(index, entry))
		return true;
	fetch = refit_index_fetch_begin(heap);
	slot = table_slot_create(heap, NULL);
	others = fate_of_others(heap, index, fetch, slot, entry, &other, decides);
	if (others != ROW_GONE)
		own = fate_of(heap, fetch, slot, &entry->t_tid, decides);
	ExecDropSingleTupleTableSlot(slot);
	table_index_fetch_end(fetch);
	if (others == ROW_LIVES && own == ROW_LIVES)
		refit_duplicate_report(heap, index, name, entry, &other);
	return others == ROW_GONE || own == ROW_GONE;
}
