/*-------------------------------------------------------------------------
 *
 * catchup.c
 *	  Phase catchup: bringing the twin up to date with the capture logs.
 *
 * One batch, one snapshot: the dirty keys that it sees are deleted from the
 * twin, then the rows that the table has for them in the same snapshot are
 * transformed and inserted, and the log entries deleted.  When time is up the
 * entries of the keys that are left stay in the log.  A key says "look at
 * the present state", so a batch can be any set of entries, in any order, and
 * applying one twice does no harm.
 *
 * Unique indexes of the twin
 *	  Delete first, insert after: with all visible entries in one batch the twin
 *	  becomes what the table is in that snapshot, and the table obeys its own
 *	  indexes.  A bounded batch can meet a row that another dirty key will
 *	  remove; then all entries are taken at once.  A conflict that is left is a
 *	  constraint added by the actions that the data violates: that is an error.
 *
 * TRUNCATE: its mark commits before any entry for a row written after it, so a
 * snapshot that sees such an entry sees the mark; and a batch takes every mark
 * that it sees, however few keys it takes.  The twin is emptied on the
 * spot; should the transaction abort, the mark is still there and it is emptied
 * again.
 *
 * If the process dies: the batch is gone, its entries are still in the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "job/catalog.h"
#include "pass/governor.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/finder.h"
#include "table/shape.h"
#include "table/transform.h"
#include "util/attempt.h"
#include "util/fault.h"

/* Entries in the first bounded batch; later ones follow the clock. */
#define FIRST_BATCH 5000
#define SMALLEST_BATCH 500
#define LARGEST_BATCH 1000000

/* A complete batch that took less than this is followed by the cutover. */
#define CUTOVER_BUDGET_MS 50
/* So is one that had no more keys than this, however slow the machine is. */
#define FEW_KEYS 200

/* Keys that a batch works at least, however late it is. */
#define LEAST_KEYS 100

/* Steps that may lose ground before we say that we do. */
#define DIVERGING_STEPS 20

/* One entry of a log. */
typedef struct DirtyKey
{
	Datum *key;
	ItemPointerData tid;
	int log;
} DirtyKey;

/*
 * What this process knows about a log.  Nothing depends on it but the time that
 * a batch takes: another process begins at the log's begin, and looks for marks.
 */
typedef struct LogMemory
{
	Oid log;		  /* hash key */
	Oid unmarked;	  /* storage of the table for which there is no mark */
	BlockNumber next; /* where to go on */
} LogMemory;

/* A walk through a log. */
typedef struct LogWalk
{
	int log;
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool looks_for_marks;
	BlockNumber full_at; /* of the first entry that the limit left out */
} LogWalk;

/* One batch at work. */
typedef struct CatchUp
{
	RefitMigration *m;
	RefitBatch *batch;
	Relation source;
	Relation twin;
	Relation logs[REFIT_LOGS];
	Relation source_key; /* indexes */
	Relation twin_key;
	RefitTransform *transform;
	Snapshot snapshot;
	CommandId cid;
	DirtyKey *entries;
	int64 nentries;
	int64 nworkable; /* of them, with time for */
	int64 room;
	SortSupport sort;	 /* per key column */
	TupleTableSlot *row; /* of the table */
	TupleTableSlot *twin_row;
	TupleTableSlot *old_row; /* of the twin, before the batch */
} CatchUp;

/* Remembers an entry. */
static void
add_entry(CatchUp *c, TupleTableSlot *slot, int log)
{
	TupleDesc desc = slot->tts_tupleDescriptor;
	DirtyKey *entry;

	slot_getallattrs(slot);
	if (slot->tts_isnull[0])
		c->batch->truncated = true;
	if (c->nentries == c->room)
	{
		c->room = Max(1024, c->room * 2);
		c->entries =
			c->entries == NULL
				? palloc_extended(sizeof(DirtyKey) * c->room, MCXT_ALLOC_HUGE)
				: repalloc_huge(c->entries, sizeof(DirtyKey) * c->room);
	}
	entry = &c->entries[c->nentries++];
	entry->log = log;
	entry->tid = slot->tts_tid;
	entry->key = NULL;
	if (slot->tts_isnull[0])
		return;
	entry->key = palloc(sizeof(Datum) * desc->natts);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		/* a long key stands out of line in the log */
		entry->key[i] =
			att->attlen == -1
				? PointerGetDatum(PG_DETOAST_DATUM_COPY(slot->tts_values[i]))
				: datumCopy(slot->tts_values[i], att->attbyval, att->attlen);
	}
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
		memory->next = 0;
	}
	return memory;
}

/*
 * Collects entries from a range of a log's blocks, until there is one more than
 * the limit allows; then goes on only if it looks for marks.
 */
static void
collect_range(CatchUp *c, LogWalk *walk, BlockNumber from, BlockNumber end)
{
	if (from >= end)
		return;
	table_rescan(walk->scan, NULL);
	heap_setscanlimits(walk->scan, from, end - from);
	while (table_scan_getnextslot(walk->scan, ForwardScanDirection, walk->slot))
	{
		if (c->batch->limit == 0 || c->nentries < c->batch->limit ||
			slot_attisnull(walk->slot, 1))
			add_entry(c, walk->slot, walk->log);
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
collect_from_log(CatchUp *c, int log)
{
	Oid storage = c->source->rd_rel->relfilenode;
	LogMemory *memory = remember_log(RelationGetRelid(c->logs[log]));
	LogWalk walk = {.log = log, .full_at = InvalidBlockNumber};
	BlockNumber nblocks;
	BlockNumber begin;

	walk.scan =
		table_beginscan_strat(c->logs[log], c->snapshot, 0, NULL, true, false);
	walk.slot = table_slot_create(c->logs[log], NULL);
	walk.looks_for_marks = memory->unmarked != storage;
	nblocks = ((HeapScanDesc) walk.scan)->rs_nblocks;
	begin = memory->next < nblocks ? memory->next : 0;

	collect_range(c, &walk, begin, nblocks);
	if (walk.full_at == InvalidBlockNumber || walk.looks_for_marks)
		collect_range(c, &walk, 0, begin);
	if (walk.full_at != InvalidBlockNumber)
		c->batch->complete = false;
	memory->next = walk.full_at != InvalidBlockNumber ? walk.full_at : 0;
	if (walk.looks_for_marks && !c->batch->truncated)
		memory->unmarked = storage;
	ExecDropSingleTupleTableSlot(walk.slot);
	table_endscan(walk.scan);
}

/* Collects the entries that the snapshot sees. */
static void
collect_entries(CatchUp *c)
{
	c->batch->complete = true;
	for (int i = 0; i < REFIT_LOGS; i++)
		collect_from_log(c, i);
	c->batch->entries = c->nentries;
}

/*
 * Deletes entries from the logs: those of the keys that were worked, and marks
 * of TRUNCATE, for which the twin must not be emptied again.  An entry whose key
 * there was no time for stays, and with it the key stays dirty.
 */
static void
delete_entries(CatchUp *c, int64 worked)
{
	for (int64 i = 0; i < c->nentries; i++)
		if (i < worked || c->entries[i].key == NULL)
			simple_heap_delete(c->logs[c->entries[i].log], &c->entries[i].tid);
}

/* Orders entries by key; marks of TRUNCATE come last. */
static int
compare_entries(const void *a, const void *b, void *arg)
{
	const DirtyKey *x = a;
	const DirtyKey *y = b;
	const CatchUp *c = arg;

	if (x->key == NULL || y->key == NULL)
		return (x->key == NULL) - (y->key == NULL);
	return refit_finder_compare(c->sort, c->transform->nkeys, x->key, y->key);
}

/* Is this the last of the entries for its key, in sorted order? */
static bool
ends_key(CatchUp *c, int64 i)
{
	return c->entries[i].key != NULL &&
		   (i + 1 == c->nentries ||
			compare_entries(&c->entries[i], &c->entries[i + 1], c) != 0);
}

/* Has a batch of so many keys, in this part of it, had its time? */
static bool
is_time_up(const CatchUp *c, int64 keys, bool half)
{
	RefitBudget budget;

	if (c->batch->budget == NULL || keys < LEAST_KEYS)
		return false;
	budget = *c->batch->budget;
	if (half)
		budget.chunk_ms /= 2;
	return refit_governor_step_over(&budget);
}

/*
 * Is this the last of the entries for its key in the same form?  Keys may be
 * equal and differ, such as 1.0 and 1.00; such entries may stand in any order.
 */
static bool
ends_form(CatchUp *c, int64 i)
{
	if (ends_key(c, i))
		return true;
	for (int k = 0; k < c->transform->nkeys; k++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(c->source),
											  c->transform->key_attnums[k] - 1);

		if (!datum_image_eq(c->entries[i].key[k], c->entries[i + 1].key[k],
							att->attbyval, att->attlen))
			return true;
	}
	return false;
}

/*
 * Deletes the row of the twin that was found for a key, if it was made from a
 * row of that key.  In the twin the key of another may be equal to it, under
 * another collation: that row stays, and the conflict is met by the insert.  The
 * row may have been deleted for another form of the key.
 */
static void
delete_found(CatchUp *c, const Datum *key)
{
	TM_FailureData failure;
	TM_Result result;

	for (int k = 0; k < c->transform->nkeys; k++)
	{
		AttrNumber attnum = c->transform->key_attnums[k];
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(c->twin), attnum - 1);
		bool isnull;
		Datum found = slot_getattr(c->twin_row, attnum, &isnull);

		if (isnull ||
			!datum_image_eq(found, key[k], att->attbyval, att->attlen))
			return;
	}
	result =
		refit_tuple_delete(c->twin, &c->twin_row->tts_tid,
						   GetCurrentCommandId(true), c->snapshot, &failure);
	if (result != TM_Ok && result != TM_SelfModified)
		elog(ERROR, "could not delete a row of the twin: %d", result);
}

/*
 * Deletes the dirty keys' rows from the twin.  When half of the time is up the
 * batch ends there: the keys after it stay in the log.
 */
static void
delete_rows(CatchUp *c)
{
	int64 keys = 0;
	RefitFinder *finder = refit_finder_open(c->twin, c->twin_key, c->snapshot,
											c->transform->nkeys);

	for (int64 i = 0; i < c->nentries; i++)
	{
		Datum key[INDEX_MAX_KEYS];

		CHECK_FOR_INTERRUPTS();
		if (!ends_form(c, i))
			continue;
		if (ends_key(c, i) && is_time_up(c, keys++, true))
		{
			c->batch->complete = false;
			c->nworkable = i;
			break;
		}
		if (!refit_transform_key_fits(c->transform, c->entries[i].key))
			continue;
		refit_transform_key(c->transform, c->entries[i].key, key);
		if (refit_finder_find(finder, key, c->twin_row))
			delete_found(c, key);
	}
	ExecClearTuple(c->twin_row);
	refit_finder_close(finder);
}

/*
 * Finds the row that the twin had for a key when the batch began, where it has
 * columns that the table has not.
 */
static void
find_old_row(CatchUp *c, RefitFinder *finder, const Datum *source_key)
{
	Datum key[INDEX_MAX_KEYS];

	c->transform->old_row = NULL;
	if (c->transform->kept == NULL ||
		!refit_transform_key_fits(c->transform, source_key))
		return;
	refit_transform_key(c->transform, source_key, key);
	if (refit_finder_find(finder, key, c->old_row))
		c->transform->old_row = c->old_row;
}

/* Inserts one row into the twin and its indexes. */
static void
insert_row(CatchUp *c, TupleTableSlot *row)
{
	List *recheck;

	ExecCopySlot(c->twin_row, refit_transform_row(c->transform, row));
	table_tuple_insert(c->twin, c->twin_row, c->cid, 0, NULL);
	recheck = refit_insert_index_tuples(c->transform->result_rel, c->twin_row,
										c->transform->estate);

	/* a deferrable constraint that may be violated; nobody checks it later */
	if (recheck != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("duplicate key value violates unique constraint \"%s\"",
						get_rel_name(linitial_oid(recheck)))));
}

/*
 * Inserts the rows that the table has for the dirty keys, until time is up.
 * Returns the number of entries that are done with.
 *
 * Old rows of a revert window have values that nothing else has.  What was
 * deleted of them goes back in the same batch, however late it is.
 */
static int64
insert_rows(CatchUp *c)
{
	int64 worked = 0;
	int nkeys = c->transform->nkeys;
	RefitFinder *finder =
		refit_finder_open(c->source, c->source_key, c->snapshot, nkeys);
	RefitFinder *in_twin =
		refit_finder_open(c->twin, c->twin_key, c->snapshot, nkeys);

	for (int64 i = 0; i < c->nworkable; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!ends_key(c, i))
			continue;
		find_old_row(c, in_twin, c->entries[i].key);
		if (refit_finder_find(finder, c->entries[i].key, c->row))
			insert_row(c, c->row);
		worked = i + 1;
		c->batch->keys++;
		if (worked < c->nworkable && c->transform->kept == NULL &&
			is_time_up(c, c->batch->keys, false))
		{
			c->batch->complete = false;
			break;
		}
	}
	ExecClearTuple(c->row);
	ExecClearTuple(c->old_row);
	refit_finder_close(finder);
	refit_finder_close(in_twin);
	return worked;
}

/* Opens what a batch needs. */
static CatchUp *
begin_batch(RefitMigration *m, RefitBatch *batch)
{
	CatchUp *c = palloc0(sizeof(CatchUp));
	Oid twin_key;

	c->m = m;
	c->batch = batch;
	c->source = table_open(m->leaf, AccessShareLock);
	refit_shape_check(m); /* now that nobody can alter it any more */
	c->twin = table_open(m->rewrite.target, RowExclusiveLock);
	for (int i = 0; i < REFIT_LOGS; i++)
		c->logs[i] = table_open(m->rewrite.logs[i], RowExclusiveLock);
	c->transform = refit_transform_open(m, c->source, c->twin, false);
	c->source_key = index_open(m->rewrite.key_index, AccessShareLock);
	twin_key = refit_shape_find_index(c->twin, c->transform->nkeys,
									  c->transform->key_attnums);
	if (!OidIsValid(twin_key))
		elog(ERROR, "twin of migration " INT64_FORMAT " has no key", m->id);
	c->twin_key = index_open(twin_key, RowExclusiveLock);
	ExecOpenIndices(c->transform->result_rel, false);
	c->row = table_slot_create(c->source, NULL);
	c->twin_row = table_slot_create(c->twin, NULL);
	c->old_row = table_slot_create(c->twin, NULL);
	c->cid = GetCurrentCommandId(true);
	c->sort = refit_finder_order(c->source, c->source_key, c->transform->nkeys);
	return c;
}

/* Closes it again. */
static void
end_batch(CatchUp *c)
{
	ExecDropSingleTupleTableSlot(c->row);
	ExecDropSingleTupleTableSlot(c->twin_row);
	ExecDropSingleTupleTableSlot(c->old_row);
	index_close(c->twin_key, NoLock);
	index_close(c->source_key, NoLock);
	refit_transform_close(c->transform);
	for (int i = 0; i < REFIT_LOGS; i++)
		table_close(c->logs[i], NoLock);
	table_close(c->twin, NoLock);
	table_close(c->source, NoLock);
}

/* The work of a batch, under its snapshot. */
static void
work_batch(CatchUp *c)
{
	collect_entries(c);
	if (c->nentries == 0)
		return;
	qsort_arg(c->entries, c->nentries, sizeof(DirtyKey), compare_entries, c);
	c->nworkable = c->nentries;
	if (c->batch->truncated)
	{
		LockRelation(c->twin, AccessExclusiveLock); /* private: */
		heap_truncate_one_rel(c->twin);
	}
	else
		delete_rows(c);
	REFIT_FAULT("catchup.deleted");
	delete_entries(c, insert_rows(c));
	CommandCounterIncrement();
}

/* Applies one batch. */
void
refit_catchup_apply(RefitMigration *m, RefitBatch *batch)
{
	CatchUp *c = begin_batch(m, batch);

	c->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(c->snapshot);
	PG_TRY();
	{
		work_batch(c);
	}
	PG_CATCH();
	{
		refit_transform_note_failure(c->transform);
		PG_RE_THROW();
	}
	PG_END_TRY();
	PopActiveSnapshot();
	UnregisterSnapshot(c->snapshot);
	end_batch(c);
}

/* A batch to apply, for refit_attempt. */
typedef struct BatchTry
{
	RefitMigration *m;
	RefitBatch *batch;
} BatchTry;

/* Applies it. */
static void
apply_batch(void *arg)
{
	BatchTry *try = arg;

	refit_catchup_apply(try->m, try->batch);
}

/*
 * Applies one batch in a subtransaction.  False: it met a conflict that more
 * entries may solve, and did nothing.
 */
static bool
try_batch(RefitMigration *m, RefitBatch *batch)
{
	BatchTry try = {m, batch};
	ErrorData *edata = refit_attempt(apply_batch, &try, true);

	if (edata == NULL)
		return true;
	if (batch->complete || (edata->sqlerrcode != ERRCODE_UNIQUE_VIOLATION &&
							edata->sqlerrcode != ERRCODE_EXCLUSION_VIOLATION))
		ReThrowError(edata);
	(void) refit_transform_take_failure();
	return false;
}

/* The next batch's limit, from how long this one took. */
static int64
next_limit(const RefitBatch *batch, const RefitBudget *budget, double ms)
{
	double factor = Min(Max(budget->chunk_ms / Max(ms, 1.0), 0.25), 2.0);

	return (int64) Min(Max(batch->limit * factor, SMALLEST_BATCH),
					   LARGEST_BATCH);
}

/* Says so when the log grows faster than we apply it. */
static void
note_convergence(RefitMigration *m, const RefitBatch *batch, double ms)
{
	RefitProgress *p = &m->progress;
	int64 before = p->pending;

	p->pending = batch->complete ? 0 : refit_capture_pending(m);
	p->cursor_end =
		batch->complete || p->pending <= before ? 0 : p->cursor_end + 1;
	if (p->cursor_end < DIVERGING_STEPS)
		return;
	p->cursor_end = 0;
	p->message = psprintf("not converging: " INT64_FORMAT
						  " changes pending, applying %.0f a second",
						  p->pending, batch->keys * 1000.0 / Max(ms, 1.0));
	refit_catalog_event(m, "catchup", p->message, NULL);
}

/* Is there nothing to do for the leaf? */
static bool
is_idle(const RefitMigration *m)
{
	return refit_capture_is_idle(m) && !refit_shape_was_emptied(m);
}

/*
 * Goes on to the next leaf that has something to apply, or to the last one, so
 * that a round over many partitions which nobody writes to is one step.
 */
static void
skip_idle_leaves(RefitMigration *m)
{
	int number = m->rewrite.number;
	ListCell *lc;

	if (number >= m->nleaves || !is_idle(m))
		return;
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	foreach(lc, refit_catalog_leaves(m))
	{
		RefitLeaf *leaf = lfirst(lc);

		if (leaf->rewrite.number <= number)
			continue;
		refit_catalog_use_leaf(m, leaf);
		if (!is_idle(m))
			return;
	}
}

/*
 * One batch of one leaf.  In this phase progress.cursor is the limit of the next batch,
 * -1 for none, and cursor_end counts the steps that lost ground.
 */
RefitOutcome
refit_catchup_step(RefitMigration *m, RefitBudget *budget)
{
	RefitBatch batch = {0};
	instr_time now;
	double ms;

	m->next_phase = "copy";
	if (strcmp(m->phase, "catchup") == 0)
		skip_idle_leaves(m);
	if (!m->rewrite.reversed && refit_shape_was_emptied(m))
		return REFIT_RETURN;
	if (m->progress.cursor == 0)
		m->progress.cursor = FIRST_BATCH;
	batch.limit = m->progress.cursor < 0 ? 0 : m->progress.cursor;
	batch.budget = batch.limit > 0 ? budget : NULL;

	refit_capture_check(m);
	refit_capture_recycle(m);
	if (!try_batch(m, &batch))
	{
		m->progress.cursor = -1;
		return REFIT_MORE;
	}
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, budget->start);
	ms = INSTR_TIME_GET_MILLISEC(now);

	note_convergence(m, &batch, ms);
	m->progress.rows_done += batch.keys;
	m->progress.rows_total = m->progress.rows_done + m->progress.pending;
	m->progress.cursor =
		next_limit(&batch, budget, ms) * (batch.limit > 0 ? 1 : 0);
	REFIT_FAULT("catchup.batch");
	if (batch.complete && (ms < CUTOVER_BUDGET_MS || batch.keys < FEW_KEYS))
		return REFIT_NEXT;
	return REFIT_MORE;
}
