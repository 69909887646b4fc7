/*-------------------------------------------------------------------------
 *
 * entries.c
 *	  Making the entries of a chunk of rows in an index that is in use.
 *
 * See entries.h.  The caller's snapshot sees each row that is added, so none of
 * their TIDs can be given to another row before the chunk has ended.
 *
 * Unique indexes: a conflict is first only noted (UNIQUE_CHECK_PARTIAL), since it
 * may be with a version that a running transaction has deleted or written, and to
 * wait for that one would keep the chunk's snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplesort.h"

#include "compat.h"
#include "import/btree_insert.h"
#include "index/duplicate.h"
#include "index/entries.h"
#include "pass/governor.h"

/* Sorted entries that are at hand at a time. */
#define BATCH_ENTRIES 2048

/* An entry to settle. */
typedef struct Doubtful
{
	ItemPointerData tid; /* hash key */
	bool is_there;
	IndexTuple entry;
} Doubtful;

struct RefitEntries
{
	Relation heap;
	Relation index;
	IndexInfo *info;
	RefitLook look;
	bool is_unique;
	const char *name;			 /* of the index, for messages */
	MemoryContext batch_context; /* of what is at hand */
	MemoryContext insert_context;
	Tuplesortstate *sort; /* of a btree's entries */
	RefitBtree *btree;
	IndexTuple *batch;
	int nbatch;
	IndexTuple last; /* the entry before the batch, of a unique index */
	HTAB *doubtful;
	int64 count;
	List *doubts; /* blocks */
};

/* What an access method's indexes allow. */
RefitLook
refit_entries_look(Oid access_method)
{
	switch (access_method)
	{
		case BTREE_AM_OID:
			return REFIT_LOOK_ALWAYS;
		case HASH_AM_OID:
			return REFIT_LOOK_BY_KEY;
		case GIST_AM_OID:
		case SPGIST_AM_OID:
			return REFIT_LOOK_BY_SCAN;
		default:
			return GetIndexAmRoutineByAmId(access_method, false)->amgettuple ==
						   NULL
					   ? REFIT_LOOK_NEVER
					   : REFIT_LOOK_IMPOSSIBLE;
	}
}

/* Is this a unique index, and still there? */
static bool
is_unique_index(Oid oid)
{
	HeapTuple tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(oid));
	bool result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_index) GETSTRUCT(tuple))->indisunique;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* Gets ready to make entries. */
RefitEntries *
refit_entries_open(Relation heap, Relation index, IndexInfo *info, Oid target)
{
	RefitEntries *e = palloc0(sizeof(RefitEntries));

	e->heap = heap;
	e->index = index;
	e->info = info;
	e->look = refit_entries_look(index->rd_rel->relam);
	e->is_unique = info->ii_Unique || is_unique_index(target);
	e->name = OidIsValid(target) ? get_rel_name(target)
								 : RelationGetRelationName(index);
	e->batch_context = AllocSetContextCreate(
		CurrentMemoryContext, "pg_refit entries", ALLOCSET_DEFAULT_SIZES);
	e->insert_context = AllocSetContextCreate(
		CurrentMemoryContext, "pg_refit entry", ALLOCSET_DEFAULT_SIZES);
	if (e->look == REFIT_LOOK_ALWAYS)
	{
		e->btree = refit_btree_open(heap, index, e->is_unique);
		e->batch = palloc(sizeof(IndexTuple) * BATCH_ENTRIES);
	}
	return e;
}

/* Notes that a block must be looked at once more. */
static void
add_doubt(RefitEntries *e, ItemPointer tid)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);

	if (e->doubts == NIL || llast_oid(e->doubts) != block)
		e->doubts = lappend_oid(e->doubts, block);
}

/* Has the access method inserted it without a conflict? */
static bool
insert_entry(RefitEntries *e, ItemPointer tid, Datum *values, bool *isnull,
			 IndexUniqueCheck check)
{
	MemoryContext old = MemoryContextSwitchTo(e->insert_context);
	bool result = index_insert(e->index, values, isnull, tid, e->heap, check,
							   false, e->info);

	MemoryContextSwitchTo(old);
	MemoryContextReset(e->insert_context);
	return result;
}

/* Inserts one entry by the access method. */
static void
insert_one(RefitEntries *e, ItemPointer tid, Datum *values, bool *isnull)
{
	if (!insert_entry(e, tid, values, isnull,
					  e->is_unique ? UNIQUE_CHECK_PARTIAL : UNIQUE_CHECK_NO) &&
		e->is_unique)
		add_doubt(e, tid);
	e->count++;
}

/* Is there an entry with this key and TID?  By a scan for the key. */
static bool
is_there(RefitEntries *e, ItemPointer tid, Datum value)
{
	Oid type = e->index->rd_opcintype[0];
	Oid op = get_opfamily_member(e->index->rd_opfamily[0], type, type,
								 HTEqualStrategyNumber);
	IndexScanDesc scan;
	ScanKeyData key;
	ItemPointer found;
	bool result = false;

	ScanKeyEntryInitialize(&key, 0, 1, HTEqualStrategyNumber, type,
						   e->index->rd_indcollation[0], get_opcode(op), value);
	scan = refit_index_beginscan(e->heap, e->index, GetActiveSnapshot(), 1);
	index_rescan(scan, &key, 1, NULL, 0);
	while (!result &&
		   (found = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
		result = ItemPointerEquals(found, tid);
	index_endscan(scan);
	return result;
}

/* Adds a row's entry. */
void
refit_entries_add(RefitEntries *e, ItemPointer tid, Datum *values, bool *isnull,
				  bool look)
{
	if (e->look == REFIT_LOOK_ALWAYS)
	{
		if (e->sort == NULL)
			e->sort = tuplesort_begin_index_btree(e->heap, e->index, false,
												  false, maintenance_work_mem,
												  NULL, TUPLESORT_NONE);
		tuplesort_putindextuplevalues(e->sort, e->index, tid, values, isnull);
	}
	else if (look && e->look == REFIT_LOOK_BY_SCAN)
		add_doubt(e, tid);
	else if (!(look && e->look == REFIT_LOOK_BY_KEY && !isnull[0] &&
			   is_there(e, tid, values[0])))
		insert_one(e, tid, values, isnull);
}

/*
 * Two rows that one snapshot sees have the same key of a unique index: an ERROR
 * that names them.
 */
static void
check_distinct(RefitEntries *e, IndexTuple entry)
{
	if (e->last != NULL && refit_btree_same_key(e->btree, e->last, entry))
		refit_duplicate_report(e->heap, e->index, e->name, e->last,
							   &entry->t_tid);
}

/* Takes the next sorted entries. */
static void
fill_batch(RefitEntries *e)
{
	MemoryContext old;
	IndexTuple entry;
	IndexTuple last = NULL;

	if (e->is_unique && e->nbatch > 0)
		last = CopyIndexTuple(e->batch[e->nbatch - 1]);
	MemoryContextReset(e->batch_context);
	old = MemoryContextSwitchTo(e->batch_context);
	e->last = last != NULL ? CopyIndexTuple(last) : NULL;
	e->nbatch = 0;
	while (e->nbatch < BATCH_ENTRIES &&
		   (entry = tuplesort_getindextuple(e->sort, true)) != NULL)
	{
		e->batch[e->nbatch] = CopyIndexTuple(entry);
		if (e->is_unique)
		{
			check_distinct(e, e->batch[e->nbatch]);
			e->last = e->batch[e->nbatch];
		}
		e->nbatch++;
	}
	MemoryContextSwitchTo(old);
	if (last != NULL)
		pfree(last);
}

/*
 * An entry that is there is one of a chunk that was lost, with what it had noted,
 * or of a command that has built the index without a check: its key is in doubt.
 */
static void
add_found(RefitEntries *e)
{
	List *found = refit_btree_take_found(e->btree);

	if (found == NIL)
		return;
	e->doubts = list_concat(e->doubts, found);
	list_sort(e->doubts, list_oid_cmp);
	list_deduplicate_oid(e->doubts);
}

/* Inserts what is at hand; false: somebody waits. */
static bool
insert_batch(RefitEntries *e)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];

	for (int i = 0; i < e->nbatch;)
	{
		int done = refit_btree_insert(e->btree, e->batch + i, e->nbatch - i,
									  &e->count);

		if (done == 0)
		{
			IndexTuple entry = e->batch[i];

			index_deform_tuple(entry, RelationGetDescr(e->index), values,
							   isnull);
			insert_one(e, &entry->t_tid, values, isnull);
			done = 1;
		}
		i += done;
		if (e->is_unique)
			add_found(e);
		CHECK_FOR_INTERRUPTS();
		if (refit_governor_is_waited_for())
			return false;
	}
	return true;
}

/* Makes what was added. */
bool
refit_entries_flush(RefitEntries *e)
{
	bool result = true;

	if (e->sort == NULL)
		return true;
	tuplesort_performsort(e->sort);
	e->nbatch = 0;
	do
	{
		fill_batch(e);
		result = insert_batch(e);
	} while (result && e->nbatch > 0);
	tuplesort_end(e->sort);
	e->sort = NULL;
	return result;
}

/* Ends it. */
void
refit_entries_close(RefitEntries *e)
{
	refit_index_insert_cleanup(e->index, e->info);
	MemoryContextDelete(e->batch_context);
	MemoryContextDelete(e->insert_context);
}

/* Entries made. */
int64
refit_entries_count(const RefitEntries *e)
{
	return e->count;
}

/* Blocks in doubt. */
List *
refit_entries_doubts(const RefitEntries *e)
{
	return e->doubts;
}

/*
 * Settling
 */

/* Adds a row in doubt. */
void
refit_entries_collect(RefitEntries *e, ItemPointer tid, Datum *values,
					  bool *isnull)
{
	MemoryContext old = MemoryContextSwitchTo(e->batch_context);
	Doubtful *d;
	bool found;

	if (e->doubtful == NULL)
	{
		HASHCTL info = {.keysize = sizeof(ItemPointerData),
						.entrysize = sizeof(Doubtful),
						.hcxt = e->batch_context};

		e->doubtful = hash_create("pg_refit rows in doubt", 1024, &info,
								  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	d = hash_search(e->doubtful, tid, HASH_ENTER, &found);
	d->is_there = false;
	d->entry = index_form_tuple(RelationGetDescr(e->index), values, isnull);
	d->entry->t_tid = *tid;
	MemoryContextSwitchTo(old);
}

/* Finds out which of the rows in doubt have entries. */
static void
look_through_index(RefitEntries *e)
{
	IndexScanDesc scan =
		refit_index_beginscan(e->heap, e->index, GetActiveSnapshot(), 0);
	ItemPointer tid;

	index_rescan(scan, NULL, 0, NULL, 0);
	while ((tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
	{
		Doubtful *d = hash_search(e->doubtful, tid, HASH_FIND, NULL);

		if (d != NULL)
			d->is_there = true;
		CHECK_FOR_INTERRUPTS();
	}
	index_endscan(scan);
}

/* Settles one row; its block stays in doubt if a transaction is to decide. */
static void
settle_one(RefitEntries *e, Doubtful *d, TransactionId *decides)
{
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];

	if (d->is_there)
		return;
	if (e->is_unique)
	{
		if (!refit_duplicate_check(e->heap, e->index, e->name, d->entry,
								   decides))
			add_doubt(e, &d->tid);
		return;
	}
	index_deform_tuple(d->entry, RelationGetDescr(e->index), values, isnull);
	insert_one(e, &d->tid, values, isnull);
}

/* Settles all. */
TransactionId
refit_entries_settle(RefitEntries *e)
{
	TransactionId decides = InvalidTransactionId;
	HASH_SEQ_STATUS status;
	Doubtful *d;

	if (e->doubtful == NULL)
		return decides;
	if (e->look == REFIT_LOOK_BY_SCAN)
		look_through_index(e);
	hash_seq_init(&status, e->doubtful);
	while ((d = hash_seq_search(&status)) != NULL)
	{
		settle_one(e, d, &decides);
		CHECK_FOR_INTERRUPTS();
	}
	e->doubtful = NULL;
	MemoryContextReset(e->batch_context);
	return decides;
}
