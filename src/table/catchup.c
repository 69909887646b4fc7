/*-------------------------------------------------------------------------
 *
 * catchup.c
 *	  Phase catchup: bringing the twin up to date with the capture logs.
 *
 * One batch, one snapshot.  First half: for each dirty key that it sees, the row
 * that the table has in the same snapshot is transformed and held against that
 * of the twin.  What is the same is left alone; what differs where no index sees
 * it is updated where it stands (renewal.c); else the twin's row is deleted.
 * Second half: the rows that the twin then lacks are inserted, and the log
 * entries deleted.  When time is up the entries of the keys that are left stay in
 * the log.  A key says "look at the present state", so a batch can be any set of
 * entries, in any order, and applying one twice does no harm.
 *
 * Unique indexes of the twin
 *	  Delete first, insert after.  When the inserts begin, the twin has of the
 *	  batch's keys only rows that are what the table has in the snapshot.  An
 *	  update changes nothing that an index has, so it conflicts with nothing that
 *	  the row did not conflict with before.  With all visible entries in one batch
 *	  the twin becomes what the table is in that snapshot, and the table obeys its
 *	  own indexes.
 *
 *	  A bounded batch can meet a row of another key, which is dirty too.  Then it is
 *	  undone and done again, from the same place in the log, and looks before each
 *	  insert for the rows in its way (conflict.c).  Such a row is deleted, the key
 *	  that it was made from is told by the cast back, and what the table has for
 *	  that key in the same snapshot is inserted after it, which may have others make
 *	  way.  No row is lost by that, be its key dirty or not: for each that is
 *	  deleted the same transaction inserts the table's, or, where time is up,
 *	  writes an entry for its key to the log, where it stays for another batch.
 *	  Old rows of a revert window have values that nothing else has: there no time
 *	  is up, and the row that made way gives them to the one that comes.  It ends,
 *	  since rows that make way are older than the batch and those that come are
 *	  the batch's own.
 *
 *	  Two of the batch's own that conflict are both what the table has.  Then, and
 *	  where a key cannot be cast back, the batch is undone and all entries are
 *	  taken at once, however long it takes.  A conflict that is left is a
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

#include "access/sysattr.h"
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
#include "table/conflict.h"
#include "table/dirty.h"
#include "table/finder.h"
#include "table/renewal.h"
#include "table/shape.h"
#include "table/transform.h"
#include "util/attempt.h"
#include "util/fault.h"

/* Entries in the first bounded batch; later ones follow the clock. */
#define FIRST_BATCH 5000
#define SMALLEST_BATCH 500
#define LARGEST_BATCH 1000000
/* After one that was late, so many times of what it has worked. */
#define LATE_FACTOR 1.25

/* The place of a limit where a batch has none. */
#define TAKE_ALL (-1)

/* A complete batch that took less than this is followed by the cutover. */
#define CUTOVER_BUDGET_MS 50
/* So is one that had no more keys than this, however slow the machine is. */
#define FEW_KEYS 200

/* Keys that a batch works at least, however late it is. */
#define LEAST_KEYS 100

/* Steps that may lose ground before we say that we do. */
#define DIVERGING_STEPS 20

/* One batch at work. */
typedef struct CatchUp
{
	RefitMigration *m;
	RefitBatch *batch;
	Relation source;
	Relation twin;
	Relation source_key; /* indexes */
	Relation twin_key;
	RefitTransform *transform;
	Snapshot snapshot;
	CommandId cid;
	RefitDirtyKeys dirty;
	int64 nowed; /* rows still to be inserted */
	Size kept;	 /* bytes of rows that are kept for that */
	RefitFinder *in_source;
	RefitFinder *in_twin; /* as it was before the batch */
	RefitRenewal *renewal;
	TupleTableSlot *row;	  /* of the table */
	TupleTableSlot *twin_row; /* of the twin, before the batch */
	TupleTableSlot *new_row;  /* of the twin */
	TupleTableSlot *in_way;	  /* of it */
	List *displaced; /* of RefitDirtyKey: rows that were, to be inserted */
} CatchUp;

/* Has a batch of so many keys, in this share of its time, had that? */
static bool
is_time_up(const CatchUp *c, int64 keys, double share)
{
	RefitBudget budget;

	if (c->batch->budget == NULL || keys < LEAST_KEYS)
		return false;
	budget = *c->batch->budget;
	budget.chunk_ms *= share;
	return refit_governor_step_over(&budget);
}

/*
 * Finds the row that the twin had for a key when the batch began.  *is_its_own:
 * it was made from a row of that key.  In the twin the key of another may be
 * equal to it, under another collation: that row stays, and the conflict is met
 * by the insert.
 */
static bool
find_in_twin(CatchUp *c, const Datum *source_key, bool *is_its_own)
{
	Datum key[INDEX_MAX_KEYS];

	*is_its_own = false;
	if (!refit_transform_key_fits(c->transform, source_key))
		return false;
	refit_transform_key(c->transform, source_key, key);
	ExecClearTuple(c->twin_row); /* a page that we look at is not pruned */
	if (!refit_finder_find(c->in_twin, key, c->twin_row))
		return false;
	for (int k = 0; k < c->transform->nkeys; k++)
	{
		AttrNumber attnum = c->transform->key_attnums[k];
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(c->twin), attnum - 1);
		bool isnull;
		Datum found = slot_getattr(c->twin_row, attnum, &isnull);

		if (isnull ||
			!datum_image_eq(found, key[k], att->attbyval, att->attlen))
			return true;
	}
	*is_its_own = true;
	return true;
}

/*
 * Deletes a row of the twin that was found.  It may have been deleted for another
 * form of the key.
 */
static void
delete_row(CatchUp *c, TupleTableSlot *row)
{
	TM_FailureData failure;
	TM_Result result =
		refit_tuple_delete(c->twin, &row->tts_tid, GetCurrentCommandId(true),
						   c->snapshot, &failure);

	if (result != TM_Ok && result != TM_SelfModified)
		elog(ERROR, "could not delete a row of the twin: %d", result);
}

/*
 * Finds the table's row for a key and makes the twin's of it; NULL: there is
 * none.  was: the row that the twin had, for values that only it has; or NULL.
 */
static TupleTableSlot *
make_row(CatchUp *c, const Datum *source_key, TupleTableSlot *was)
{
	c->transform->old_row = was;
	if (!refit_finder_find(c->in_source, source_key, c->row))
		return NULL;
	return refit_transform_row(c->transform, c->row);
}

/* Leaves a row to be inserted; keeps it for that where there is room. */
static void
owe_row(CatchUp *c, RefitDirtyKey *entry, TupleTableSlot *row)
{
	entry->owed = true;
	c->nowed++;
	if (c->kept >= work_mem * (Size) 1024)
		return;
	entry->row = ExecCopySlotHeapTuple(row);
	c->kept += entry->row->t_len;
}

/*
 * Brings the twin up to date for a key, but for a row that has to be inserted.
 * one_form: the twin's row cannot be of another one.
 */
static void
work_key(CatchUp *c, RefitDirtyKey *entry, bool one_form)
{
	bool is_its_own;
	bool was = find_in_twin(c, entry->key, &is_its_own);
	TupleTableSlot *row = make_row(c, entry->key, was ? c->twin_row : NULL);

	if (row == NULL || !is_its_own || !one_form ||
		!refit_renewal_try(c->renewal, c->twin_row, row))
	{
		if (is_its_own)
			delete_row(c, c->twin_row);
		if (row != NULL)
			owe_row(c, entry, row);
	}
	if (!entry->owed)
		c->batch->keys++;
}

/*
 * First half: leaves alone, updates or deletes the twin's rows of the dirty
 * keys.  The batch ends where there is just time left for the inserts, taking
 * one to cost as much as a key does here: the keys after it stay in the log.
 */
static void
work_keys(CatchUp *c)
{
	int64 keys = 0;
	int forms = 0;

	for (int64 i = 0; i < c->dirty.n; i++)
	{
		RefitDirtyKey *entry = &c->dirty.entries[i];
		bool is_its_own;

		CHECK_FOR_INTERRUPTS();
		if (!refit_dirty_ends_form(&c->dirty, i))
			continue;
		forms++;
		if (!entry->ends_key)
		{
			if (find_in_twin(c, entry->key, &is_its_own) && is_its_own)
				delete_row(c, c->twin_row);
			continue;
		}
		if (is_time_up(c, keys, (double) keys / Max(keys + c->nowed, 1)))
		{
			c->batch->complete = false;
			c->dirty.nworkable = i;
			break;
		}
		keys++;
		work_key(c, entry, forms == 1);
		forms = 0;
	}
}

/* After a TRUNCATE: all keys' rows are to be inserted. */
static void
owe_all_rows(CatchUp *c)
{
	for (int64 i = 0; i < c->dirty.n; i++)
	{
		c->dirty.entries[i].owed = c->dirty.entries[i].ends_key;
		c->nowed += c->dirty.entries[i].owed;
	}
}

/* Inserts one row into the twin and its indexes. */
static void
insert_row(CatchUp *c, TupleTableSlot *row)
{
	List *recheck;

	table_tuple_insert(c->twin, row, c->cid, 0, NULL);
	recheck = refit_insert_index_tuples(c->transform->result_rel, row,
										c->transform->estate);

	/* a deferrable constraint that may be violated; nobody checks it later */
	if (recheck != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("duplicate key value violates unique constraint \"%s\"",
						get_rel_name(linitial_oid(recheck)))));
}

/* Was a row written by this transaction? */
static bool
is_of_this_batch(TupleTableSlot *row)
{
	bool isnull;
	Datum xmin = slot_getsysattr(row, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/*
 * Deletes a row of the twin that is in the way of the one for a key, and leaves
 * to be inserted what the table has for its key.  False: it may not be, or its
 * key cannot be told.
 */
static bool
displace(CatchUp *c, const RefitDirtyKey *entry)
{
	RefitDirtyKey *other;
	Datum key[INDEX_MAX_KEYS];
	bool same_key;
	TupleTableSlot *row;

	if (is_of_this_batch(c->in_way) ||
		!refit_transform_trace_key(c->transform, c->in_way, key))
		return false;
	other = palloc0(sizeof(RefitDirtyKey));
	other->key = refit_dirty_copy_key(&c->dirty, key);
	same_key = refit_dirty_is_same_key(&c->dirty, entry->key,
									   key); /* in another form */
	if (same_key && c->transform->kept != NULL)
		return false;
	delete_row(c, c->in_way);
	c->batch->displaced++;
	row = same_key ? NULL : make_row(c, other->key, c->in_way);
	if (row == NULL)
		return true;
	other->row = ExecCopySlotHeapTuple(row);
	c->displaced = lappend(c->displaced, other);
	return true;
}

/*
 * Has the rows make way that are in the way of the new one.  If one does not, the
 * insert fails on it.
 */
static void
clear_way(CatchUp *c, const RefitDirtyKey *entry)
{
	while (refit_conflict_find(c->transform, c->new_row, c->in_way))
		if (!displace(c, entry))
			break;
	ExecClearTuple(c->in_way);
}

/* Inserts the row that is owed for a key, as it was kept or made again. */
static void
insert_owed(CatchUp *c, RefitDirtyKey *entry)
{
	if (entry->row != NULL)
	{
		ExecStoreHeapTuple(entry->row, c->new_row, true);
		entry->row = NULL;
	}
	else
	{
		bool is_its_own;
		bool was = c->transform->kept != NULL &&
				   find_in_twin(c, entry->key, &is_its_own);
		TupleTableSlot *row = make_row(c, entry->key, was ? c->twin_row : NULL);

		if (row == NULL)
			return;
		ExecCopySlot(c->new_row, row);
	}
	if (c->batch->clears_way)
		clear_way(c, entry);
	insert_row(c, c->new_row);
}

/*
 * Inserts the rows that had to make way, each of which may have others make way.
 * Where there is no time for all, keys are marked dirty instead.
 */
static void
insert_displaced(CatchUp *c)
{
	bool late = false;

	for (int i = 0; i < list_length(c->displaced); i++)
	{
		RefitDirtyKey *entry = list_nth(c->displaced, i);

		CHECK_FOR_INTERRUPTS();
		if (c->transform->kept == NULL && is_time_up(c, i, 1.0))
			late = true;
		if (late)
			refit_capture_mark_key(c->dirty.logs[0], entry->key);
		else
			insert_owed(c, entry);
	}
	if (late)
		c->batch->complete = false;
	list_free_deep(c->displaced);
	c->displaced = NIL;
}

/*
 * Second half: inserts the rows that are owed, until time is up.
 *
 * Old rows of a revert window have values that nothing else has.  What was
 * deleted of them goes back in the same batch, however late it is.
 */
static void
insert_rows(CatchUp *c)
{
	int64 inserted = 0;

	for (int64 i = 0; i < c->dirty.nworkable && c->nowed > 0; i++)
	{
		if (!c->dirty.entries[i].owed)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (c->transform->kept == NULL && is_time_up(c, inserted, 1.0))
		{
			c->batch->complete = false;
			break;
		}
		insert_owed(c, &c->dirty.entries[i]);
		insert_displaced(c);
		c->dirty.entries[i].owed = false;
		c->nowed--;
		inserted++;
		c->batch->keys++;
	}
	ExecClearTuple(c->new_row);
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
		c->dirty.logs[i] = table_open(m->rewrite.logs[i], RowExclusiveLock);
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
	c->in_way = table_slot_create(c->twin, NULL);
	c->new_row =
		MakeSingleTupleTableSlot(RelationGetDescr(c->twin), &TTSOpsHeapTuple);
	c->cid = GetCurrentCommandId(true);
	c->renewal = refit_renewal_open(c->transform, c->cid);
	c->dirty.table = c->source;
	c->dirty.nkeys = c->transform->nkeys;
	c->dirty.attnums = c->transform->key_attnums;
	c->dirty.order =
		refit_finder_order(c->source, c->source_key, c->dirty.nkeys);
	return c;
}

/* Closes it again. */
static void
end_batch(CatchUp *c)
{
	ExecDropSingleTupleTableSlot(c->row);
	ExecDropSingleTupleTableSlot(c->twin_row);
	ExecDropSingleTupleTableSlot(c->new_row);
	ExecDropSingleTupleTableSlot(c->in_way);
	refit_renewal_close(c->renewal);
	index_close(c->twin_key, NoLock);
	index_close(c->source_key, NoLock);
	refit_transform_close(c->transform);
	for (int i = 0; i < REFIT_LOGS; i++)
		table_close(c->dirty.logs[i], NoLock);
	table_close(c->twin, NoLock);
	table_close(c->source, NoLock);
}

/* Brings the twin up to date with the entries that were collected. */
static void
work_entries(CatchUp *c)
{
	int nkeys = c->transform->nkeys;

	c->in_source =
		refit_finder_open(c->source, c->source_key, c->snapshot, nkeys);
	c->in_twin = refit_finder_open(c->twin, c->twin_key, c->snapshot, nkeys);
	if (c->batch->truncated)
		owe_all_rows(c);
	else
		work_keys(c);
	REFIT_FAULT("catchup.deleted");
	insert_rows(c);
	ExecClearTuple(c->row);
	ExecClearTuple(c->twin_row);
	refit_finder_close(c->in_source);
	refit_finder_close(c->in_twin);
}

/* The work of a batch, under its snapshot. */
static void
work_batch(CatchUp *c)
{
	refit_dirty_collect(&c->dirty, c->batch->limit);
	c->batch->entries = c->dirty.n;
	c->batch->complete = c->dirty.complete;
	c->batch->truncated = c->dirty.truncated;
	if (c->dirty.n == 0)
		return;
	if (c->batch->truncated)
	{
		LockRelation(c->twin, AccessExclusiveLock); /* private: */
		heap_truncate_one_rel(c->twin);
	}
	work_entries(c);
	c->batch->worked = refit_dirty_delete(&c->dirty);
	CommandCounterIncrement();
}

/* Applies one batch. */
void
refit_catchup_apply(RefitMigration *m, RefitBatch *batch)
{
	CatchUp *c = begin_batch(m, batch);

	c->snapshot = RegisterSnapshot(GetLatestSnapshot());
	c->dirty.snapshot = c->snapshot;
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

/*
 * The next batch's limit, from how long this one took.  Entries that there was no
 * time for were sorted in vain.
 */
static int64
next_limit(const RefitBatch *batch, const RefitBudget *budget, double ms)
{
	double factor = Min(Max(budget->chunk_ms / Max(ms, 1.0), 0.25), 2.0);
	double limit = batch->limit * factor;

	if (batch->worked < batch->entries)
		limit = Min(limit, batch->worked * LATE_FACTOR);
	return (int64) Min(Max(limit, SMALLEST_BATCH), LARGEST_BATCH);
}

/*
 * Says so when the log grows faster than we apply it.  While a batch that took
 * everything was at work for long, others have come.
 */
static void
note_convergence(RefitMigration *m, const RefitBatch *batch, double ms)
{
	RefitProgress *p = &m->progress;
	int64 before = p->pending;

	p->pending = batch->complete && ms < CUTOVER_BUDGET_MS
					 ? 0
					 : refit_capture_pending(m);
	p->cursor_end = p->pending <= before ? 0 : p->cursor_end + 1;
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
 * The next batch.  In this phase progress.cursor is its limit, negative if it
 * clears its way, and TAKE_ALL for none; cursor_end counts the steps that lost
 * ground.
 */
static RefitBatch
plan_batch(const RefitProgress *p, const RefitBudget *budget)
{
	RefitBatch batch = {0};

	if (p->cursor == TAKE_ALL)
		return batch;
	batch.limit = p->cursor == 0  ? FIRST_BATCH
				  : p->cursor > 0 ? p->cursor
								  : -p->cursor;
	batch.budget = budget;
	batch.clears_way = p->cursor < 0;
	return batch;
}

/*
 * What to do after a batch that has met a conflict: first clear the way, from the
 * same place on, then take everything.
 */
static void
plan_retry(RefitMigration *m, const RefitBatch *batch)
{
	refit_dirty_step_back(m->rewrite.logs);
	m->progress.cursor = batch->clears_way ? TAKE_ALL : -batch->limit;
	elog(DEBUG1, "a batch of " INT64_FORMAT " changes met a conflict: %s",
		 batch->entries,
		 batch->clears_way ? "all are taken" : "the way is cleared");
	m->progress.pending = refit_capture_pending(m);
}

/* The time since a step began, in ms. */
static double
ms_since(instr_time begin)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, begin);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* One batch of one leaf. */
RefitOutcome
refit_catchup_round(RefitMigration *m, RefitBudget *budget, bool *complete)
{
	RefitProgress *p = &m->progress;
	RefitBatch batch;
	double ms;

	*complete = false;
	m->next_phase = "copy";
	if (strcmp(m->phase, "catchup") == 0)
		skip_idle_leaves(m);
	if (!m->rewrite.reversed && refit_shape_was_emptied(m))
		return REFIT_RETURN;

	refit_capture_check(m);
	refit_capture_recycle(m);
	batch = plan_batch(p, budget);
	if (!try_batch(m, &batch))
	{
		plan_retry(m, &batch);
		return REFIT_MORE;
	}
	ms = ms_since(budget->start);

	note_convergence(m, &batch, ms);
	p->rows_done += batch.keys;
	p->rows_total = p->rows_done + p->pending;
	p->cursor = batch.limit > 0 ? next_limit(&batch, budget, ms) : 0;
	if (batch.displaced > 0)
	{
		p->cursor = -p->cursor; /* there will be more of them */
		elog(DEBUG1,
			 "a batch of " INT64_FORMAT " changes had " INT64_FORMAT
			 " rows make way",
			 batch.entries, batch.displaced);
	}
	REFIT_FAULT("catchup.batch");
	*complete = batch.complete;
	if (batch.complete && (ms < CUTOVER_BUDGET_MS || batch.keys < FEW_KEYS))
		return REFIT_NEXT;
	return REFIT_MORE;
}

/* The same, as a step. */
RefitOutcome
refit_catchup_step(RefitMigration *m, RefitBudget *budget)
{
	bool complete;

	return refit_catchup_round(m, budget, &complete);
}
