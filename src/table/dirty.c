/*-------------------------------------------------------------------------
 *
 * dirty.c
 *	  The entries of the capture logs that a batch of catch-up takes.  See
 *	  dirty.h.
 *
 * If the process dies nothing is lost: where a batch begins in a log is for speed
 * only, and entries are deleted by the transaction that has worked their keys.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "utils/datum.h"

#include "compat.h"
#include "table/dirty.h"
#include "table/finder.h"

/*
 * What this process knows about a log.  Nothing depends on it but the time that
 * a batch takes: another process begins at the log's begin, and looks for marks.
 */
typedef struct LogMemory
{
	Oid log;		   /* hash key */
	Oid unmarked;	   /* storage of the table for which there is no mark */
	BlockNumber begin; /* of the last batch */
	BlockNumber next;  /* where to go on */
} LogMemory;

/* A walk through a log. */
typedef struct LogWalk
{
	int log;
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool looks_for_marks;
	int64 limit;		 /* of entries in all; 0: none */
	BlockNumber full_at; /* of the first entry that the limit left out */
} LogWalk;

/* A copy of a key.  A long one stands out of line in the log. */
Datum *
refit_dirty_copy_key(const RefitDirtyKeys *d, const Datum *key)
{
	Datum *result = palloc(sizeof(Datum) * d->nkeys);

	for (int i = 0; i < d->nkeys; i++)
	{
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(d->table), d->attnums[i] - 1);

		result[i] = att->attlen == -1
						? PointerGetDatum(PG_DETOAST_DATUM_COPY(key[i]))
						: datumCopy(key[i], att->attbyval, att->attlen);
	}
	return result;
}

/* Remembers an entry. */
static void
add_entry(RefitDirtyKeys *d, TupleTableSlot *slot, int log)
{
	RefitDirtyKey *entry;

	slot_getallattrs(slot);
	if (slot->tts_isnull[0])
		d->truncated = true;
	if (d->n == d->room)
	{
		d->room = Max(1024, d->room * 2);
		d->entries =
			d->entries == NULL
				? palloc_extended(sizeof(RefitDirtyKey) * d->room,
								  MCXT_ALLOC_HUGE)
				: repalloc_huge(d->entries, sizeof(RefitDirtyKey) * d->room);
	}
	entry = &d->entries[d->n++];
	*entry = (RefitDirtyKey){.log = log, .tid = slot->tts_tid};
	if (slot->tts_isnull[0])
		return;
	entry->key = refit_dirty_copy_key(d, slot->tts_values);
}

/* What is known about a log, by its oid. */
static LogMemory *
remember_log(Oid log)
{
	static HTAB *logs = NULL;
	LogMemory *memory;
	bool found;

	if (logs == NULL)
	{
		HASHCTL info = {.keysize = sizeof(Oid), .entrysize = sizeof(LogMemory)};

		logs = hash_create("pg_refit logs", 16, &info, HASH_ELEM | HASH_BLOBS);
	}
	memory = hash_search(logs, &log, HASH_ENTER, &found);
	if (!found)
	{
		memory->unmarked = InvalidOid;
		memory->begin = 0;
		memory->next = 0;
	}
	return memory;
}

/*
 * Collects entries from a range of a log's blocks, until there is one more than
 * the limit allows; then goes on only if it looks for marks.
 */
static void
collect_range(RefitDirtyKeys *d, LogWalk *walk, BlockNumber from,
			  BlockNumber end)
{
	if (from >= end)
		return;
	table_rescan(walk->scan, NULL);
	heap_setscanlimits(walk->scan, from, end - from);
	while (table_scan_getnextslot(walk->scan, ForwardScanDirection, walk->slot))
	{
		if (walk->limit == 0 || d->n < walk->limit ||
			slot_attisnull(walk->slot, 1))
			add_entry(d, walk->slot, walk->log);
		else if (walk->full_at == InvalidBlockNumber)
			walk->full_at = ItemPointerGetBlockNumber(&walk->slot->tts_tid);
		if (walk->full_at != InvalidBlockNumber && !walk->looks_for_marks)
			break;
	}
}

/*
 * Collects the entries of one log that the snapshot sees: keys up to the limit,
 * but marks of TRUNCATE always.  A key of a row written after a TRUNCATE must
 * not be worked before its mark, which would then take that row away again.
 *
 * So that a batch takes no longer where the log is longer, it begins where the
 * one before it ended, and goes round; and the rest is searched for marks only
 * where there can be one.  TRUNCATE gives the table other storage.  We hold a
 * lock on the table, so none is under way, and our snapshot, which is younger
 * than the lock, sees the marks of all that have been.  Hence once a walk
 * through the whole log has seen no mark, there is none as long as the table's
 * storage is the same.
 */
static void
collect_from_log(RefitDirtyKeys *d, int log, int64 limit)
{
	Oid storage = d->table->rd_rel->relfilenode;
	LogMemory *memory = remember_log(RelationGetRelid(d->logs[log]));
	LogWalk walk = {.log = log, .limit = limit, .full_at = InvalidBlockNumber};
	BlockNumber nblocks;

	walk.scan =
		table_beginscan_strat(d->logs[log], d->snapshot, 0, NULL, true, false);
	walk.slot = table_slot_create(d->logs[log], NULL);
	walk.looks_for_marks = memory->unmarked != storage;
	nblocks = ((HeapScanDesc) walk.scan)->rs_nblocks;
	memory->begin = memory->next < nblocks ? memory->next : 0;

	collect_range(d, &walk, memory->begin, nblocks);
	if (walk.full_at == InvalidBlockNumber || walk.looks_for_marks)
		collect_range(d, &walk, 0, memory->begin);
	if (walk.full_at != InvalidBlockNumber)
		d->complete = false;
	memory->next = walk.full_at != InvalidBlockNumber ? walk.full_at : 0;
	if (walk.looks_for_marks && !d->truncated)
		memory->unmarked = storage;
	ExecDropSingleTupleTableSlot(walk.slot);
	table_endscan(walk.scan);
}

/*
 * Deletes entries from the logs: those of the keys that were worked, and marks
 * of TRUNCATE, for which the twin must not be emptied again.  An entry whose key
 * there was no time for stays, and with it the key stays dirty.
 */
int64
refit_dirty_delete(RefitDirtyKeys *d)
{
	bool stays = true;
	int64 deleted = 0;

	for (int64 i = d->n - 1; i >= 0; i--)
	{
		RefitDirtyKey *entry = &d->entries[i];

		if (i < d->nworkable && entry->ends_key)
			stays = entry->owed;
		if (stays && entry->key != NULL)
			continue;
		simple_heap_delete(d->logs[entry->log], &entry->tid);
		deleted++;
	}
	return deleted;
}

/* Orders entries by key; marks of TRUNCATE come last. */
static int
compare_entries(const void *a, const void *b, void *arg)
{
	const RefitDirtyKey *x = a;
	const RefitDirtyKey *y = b;
	const RefitDirtyKeys *d = arg;

	if (x->key == NULL || y->key == NULL)
		return (x->key == NULL) - (y->key == NULL);
	return refit_finder_compare(d->order, d->nkeys, x->key, y->key);
}

/* Collects entries and sorts them, and finds the last one for each key. */
void
refit_dirty_collect(RefitDirtyKeys *d, int64 limit)
{
	d->complete = true;
	for (int i = 0; i < REFIT_LOGS; i++)
		collect_from_log(d, i, limit);
	if (d->n == 0)
		return;
	qsort_arg(d->entries, d->n, sizeof(RefitDirtyKey), compare_entries, d);
	for (int64 i = 0; i < d->n; i++)
		d->entries[i].ends_key =
			d->entries[i].key != NULL &&
			(i + 1 == d->n ||
			 compare_entries(&d->entries[i], &d->entries[i + 1], d) != 0);
	d->nworkable = d->n;
}

/* Has the next batch begin where the last one began. */
void
refit_dirty_step_back(const Oid *logs)
{
	for (int i = 0; i < REFIT_LOGS; i++)
	{
		LogMemory *memory = remember_log(logs[i]);

		memory->next = memory->begin;
	}
}

/* Are two keys the same? */
bool
refit_dirty_is_same_key(const RefitDirtyKeys *d, const Datum *a, const Datum *b)
{
	return refit_finder_compare(d->order, d->nkeys, a, b) == 0;
}

/*
 * Is this the last of the entries for its key in the same form?  Keys may be
 * equal and differ, such as 1.0 and 1.00; such entries may stand in any order.
 */
bool
refit_dirty_ends_form(const RefitDirtyKeys *d, int64 i)
{
	if (d->entries[i].ends_key)
		return true;
	if (d->entries[i].key == NULL)
		return false;
	for (int k = 0; k < d->nkeys; k++)
	{
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(d->table), d->attnums[k] - 1);

		if (!datum_image_eq(d->entries[i].key[k], d->entries[i + 1].key[k],
							att->attbyval, att->attlen))
			return true;
	}
	return false;
}
