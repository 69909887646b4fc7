/*-------------------------------------------------------------------------
 *
 * finder.c
 *	  Finding rows by key, and ordering keys.  See finder.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "table/finder.h"

/* Prepares the condition on one column. */
static void
prepare_key(ScanKey key, Relation index, int column)
{
	Oid type = index->rd_opcintype[column];
	Oid operator= get_opfamily_member(index->rd_opfamily[column], type, type,
									  BTEqualStrategyNumber);

	ScanKeyEntryInitialize(key, 0, column + 1, BTEqualStrategyNumber,
						   InvalidOid, index->rd_indcollation[column],
						   get_opcode(operator), (Datum) 0);
}

/* Opens a finder. */
RefitFinder *
refit_finder_open(Relation table, Relation index, Snapshot snapshot, int nkeys)
{
	RefitFinder *finder = palloc0(sizeof(RefitFinder));

	finder->nkeys = nkeys;
	for (int i = 0; i < nkeys; i++)
		prepare_key(&finder->keys[i], index, i);
	finder->scan = refit_index_beginscan(table, index, snapshot, nkeys);
	return finder;
}

/* Finds a row with the key. */
bool
refit_finder_find(RefitFinder *finder, const Datum *key, TupleTableSlot *slot)
{
	for (int i = 0; i < finder->nkeys; i++)
		finder->keys[i].sk_argument = key[i];
	index_rescan(finder->scan, finder->keys, finder->nkeys, NULL, 0);
	return index_getnext_slot(finder->scan, ForwardScanDirection, slot);
}

/* Finds another one. */
bool
refit_finder_next(RefitFinder *finder, TupleTableSlot *slot)
{
	return index_getnext_slot(finder->scan, ForwardScanDirection, slot);
}

/* Ends the scan. */
void
refit_finder_close(RefitFinder *finder)
{
	index_endscan(finder->scan);
	pfree(finder);
}

/* How keys are ordered: by their types' own order, in the index's collations. */
SortSupport
refit_finder_order(Relation table, Relation index, int nkeys)
{
	SortSupport order = palloc0(sizeof(SortSupportData) * nkeys);
	TupleDesc desc = RelationGetDescr(table);

	for (int i = 0; i < nkeys; i++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[i];
		TypeCacheEntry *type = lookup_type_cache(
			TupleDescAttr(desc, attnum - 1)->atttypid, TYPECACHE_LT_OPR);

		order[i].ssup_cxt = CurrentMemoryContext;
		order[i].ssup_collation = index->rd_indcollation[i];
		order[i].ssup_attno = i + 1;
		PrepareSortSupportFromOrderingOp(type->lt_opr, &order[i]);
	}
	return order;
}

/* Compares two keys. */
int
refit_finder_compare(SortSupport order, int nkeys, const Datum *a,
					 const Datum *b)
{
	for (int i = 0; i < nkeys; i++)
	{
		int result = ApplySortComparator(a[i], false, b[i], false, &order[i]);

		if (result != 0)
			return result;
	}
	return 0;
}
