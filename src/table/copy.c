/*-------------------------------------------------------------------------
 *
 * copy.c
 *	  Phase copy: filling the twin, chunk by chunk in physical order.
 *
 * Which rows
 *	  A chunk looks at the row versions that its own snapshot sees in a range
 *	  of blocks.  With the baseline (see capture.h):
 *	  - not frozen: finished before capture, copy it; otherwise its key is in
 *		the log, skip it;
 *	  - frozen: the raw xmin may be of any age.  No normal xid, outside the
 *		window from the baseline's xmin to the next xid, or finished before
 *		capture: copy it.  Otherwise it is new and was frozen since, or exactly
 *		2^32 old: skip it and mark its key dirty;
 *	  - ambiguous (see capture.h): skip it and mark its key dirty.
 *	  Every row that exists at the end was either written before capture and
 *	  not touched since, then its one version stands in one block and is copied
 *	  when that block is read; or its key is dirty.  No key is copied twice: a
 *	  version written before capture stands in one place only, and of one key at
 *	  most one such version is visible to any snapshot taken since, all versions
 *	  that replace it being new.  A row that is copied and changed later is in
 *	  the log.  Blocks behind the end noted when capture was installed hold new
 *	  versions only.
 *
 * Exactly once
 *	  Rows go in frozen, which makes the twin all-visible from the start, but
 *	  means that they outlive an aborted chunk.  So the length of the twin is
 *	  committed with each chunk, a chunk cuts the twin to that length before it
 *	  begins, and begins on a new page, so that no page holds rows of two
 *	  chunks.
 *	  So it is with the values out of line, but their table has an index and
 *	  cannot be cut: those of an aborted chunk are deleted, row by row.  A crash
 *	  may have kept a value and lost its index entry, so they must not be left
 *	  as they are, although nobody refers to them.
 *
 * If the table's storage was exchanged (VACUUM FULL, CLUSTER, TRUNCATE) the
 * copy starts again.  The baseline stays true: these commands keep xmin.  So
 * does it after a crash that emptied an unlogged twin.
 *
 * Several processes
 *	  Of a tree, helpers copy other leaves meanwhile, see share.h.  Who works a
 *	  chunk has the row of its leaf in refit.rewrite locked and reads it after
 *	  that, so it does not matter who did the chunk before.  The leader goes from
 *	  the first leaf to the last, they from the last: they meet at the end, where
 *	  it waits for the leaf that one of them has.
 *
 * If the process dies: the chunk's transaction is gone, the next one cuts the
 * twin back.  A commit that was lost with synchronous_commit = off is the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/hio.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/storage.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "job/catalog.h"
#include "job/share.h"
#include "pass/governor.h"
#include "table/capture.h"
#include "table/copy.h"
#include "table/shape.h"
#include "table/transform.h"
#include "table/verify.h"
#include "util/baseline.h"
#include "util/fault.h"

/* Blocks scanned before the clock is looked at, if no row makes us sooner. */
#define EXTENT_BLOCKS 64

/* Rows and bytes that go into one multi-insert. */
#define BATCH_ROWS 1000
#define BATCH_BYTES (1024 * 1024)

/* Between two looks, in ms, at a leaf that a helper copies. */
#define REST_HELPED 100

static const RefitShare leaves =
	REFIT_SHARE("rewrite", "copied_blocks < source_blocks");

/* One chunk at work. */
typedef struct CopyChunk
{
	RefitMigration *m;
	RefitBudget *budget;
	Relation source;
	Relation twin;
	Relation log; /* opened for the first dirty key */
	RefitTransform *transform;
	TransactionId next_xid; /* end of the window for frozen rows */
	BulkInsertState bulk;
	CommandId cid;
	MemoryContext batch_context;
	TupleTableSlot *slots[BATCH_ROWS];
	int nslots; /* made */
	int nrows;	/* filled */
	Size nbytes;
	int64 copied;
} CopyChunk;

/* The chunk's work on one row version. */
typedef enum RowFate
{
	ROW_COPY,
	ROW_SKIP,
	ROW_DIRTY
} RowFate;

/* Decides about a version that the chunk's snapshot sees. */
static RowFate
row_fate(const CopyChunk *c, HeapTupleHeader header)
{
	const RefitBaseline *baseline = &c->m->rewrite.baseline;
	bool frozen = HeapTupleHeaderXminFrozen(header);

	switch (refit_baseline_version_age(
		baseline, HeapTupleHeaderGetRawXmin(header), frozen, c->next_xid))
	{
		case REFIT_BEFORE_CAPTURE:
			return ROW_COPY;
		case REFIT_AFTER_CAPTURE:
			return ROW_SKIP;
		case REFIT_AMBIGUOUS:
			return ROW_DIRTY;
	}
	return ROW_DIRTY;
}

/* Writes the batch. */
static void
flush_batch(CopyChunk *c)
{
	if (c->nrows == 0)
		return;
	table_multi_insert(c->twin, c->slots, c->nrows, c->cid,
					   TABLE_INSERT_FROZEN | TABLE_INSERT_SKIP_FSM, c->bulk);
	for (int i = 0; i < c->nrows; i++)
		ExecClearTuple(c->slots[i]);
	c->copied += c->nrows;
	c->nrows = 0;
	c->nbytes = 0;
	MemoryContextReset(c->batch_context);
}

/* Transforms a row and adds it to the batch. */
static void
copy_row(CopyChunk *c, TupleTableSlot *row)
{
	TupleTableSlot *result = refit_transform_row(c->transform, row);
	MemoryContext old = MemoryContextSwitchTo(c->batch_context);
	HeapTuple tuple = ExecCopySlotHeapTuple(result);

	MemoryContextSwitchTo(old);
	if (c->nrows == c->nslots)
		c->slots[c->nslots++] = MakeSingleTupleTableSlot(
			RelationGetDescr(c->twin), &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, c->slots[c->nrows++], true);
	c->nbytes += tuple->t_len;
	if (c->nrows == BATCH_ROWS || c->nbytes >= BATCH_BYTES)
		flush_batch(c);
}

/* Marks a row's key dirty. */
static void
mark_dirty(CopyChunk *c, TupleTableSlot *row)
{
	if (c->log == NULL)
		c->log = table_open(c->m->rewrite.logs[0], RowExclusiveLock);
	refit_capture_mark_dirty(c->log, row, c->transform->nkeys,
							 c->transform->key_attnums);
}

/* Copies one range of blocks; stops at a block boundary when time is up. */
static BlockNumber
copy_extent(CopyChunk *c, TableScanDesc scan, TupleTableSlot *row,
			BlockNumber from, BlockNumber end)
{
	BlockNumber block = from;

	heap_setscanlimits(scan, from, end - from);
	while (table_scan_getnextslot(scan, ForwardScanDirection, row))
	{
		BufferHeapTupleTableSlot *tuple = (BufferHeapTupleTableSlot *) row;
		BlockNumber at = ItemPointerGetBlockNumber(&row->tts_tid);

		if (at != block)
		{
			CHECK_FOR_INTERRUPTS();
			if (at > from && refit_governor_step_over(c->budget))
				return at;
			block = at;
		}
		switch (row_fate(c, tuple->base.tuple->t_data))
		{
			case ROW_COPY:
				copy_row(c, row);
				break;
			case ROW_DIRTY:
				mark_dirty(c, row);
				break;
			case ROW_SKIP:
				break;
		}
	}
	return end;
}

/* Copies from the cursor until the budget is spent. */
static void
copy_blocks(CopyChunk *c)
{
	RefitProgress *p = &c->m->progress;
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan;
	TupleTableSlot *row = table_slot_create(c->source, NULL);
	BlockNumber end = Min(p->cursor_end, RelationGetNumberOfBlocks(c->source));

	PushActiveSnapshot(snapshot);
	scan = table_beginscan_strat(c->source, snapshot, 0, NULL, true, false);
	while (p->cursor < end)
	{
		p->cursor = copy_extent(c, scan, row, p->cursor,
								Min(end, p->cursor + EXTENT_BLOCKS));
		if (refit_governor_step_over(c->budget))
			break;
		table_rescan(scan, NULL);
	}
	flush_batch(c);
	if (p->cursor >= end)
		p->cursor = p->cursor_end;
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(row);
	PopActiveSnapshot();
	UnregisterSnapshot(snapshot);
}

/* A table's length without a last page that nothing was written to. */
static BlockNumber
used_blocks(Relation rel)
{
	BlockNumber length = RelationGetNumberOfBlocks(rel);
	Buffer buffer;

	if (length == 0)
		return 0;
	buffer = ReadBuffer(rel, length - 1);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	if (PageGetMaxOffsetNumber(BufferGetPage(buffer)) == 0)
		length--;
	UnlockReleaseBuffer(buffer);
	return length;
}

/* Deletes the rows of a TOAST table from one of its blocks on. */
static void
delete_values(Relation toast, BlockNumber from)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan =
		table_beginscan_strat(toast, snapshot, 0, NULL, true, false);
	HeapTuple tuple;

	heap_setscanlimits(scan, from, RelationGetNumberOfBlocks(toast) - from);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		simple_heap_delete(toast, &tuple->t_self);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}

/*
 * Deletes values of a chunk that was not committed, and has this chunk's begin
 * on a page of their own, by which the next one will know them.
 */
static void
prepare_values(CopyChunk *c)
{
	Oid oid = c->twin->rd_rel->reltoastrelid;
	Relation toast;
	BlockNumber used;

	if (!OidIsValid(oid))
		return;
	toast = table_open(oid, RowExclusiveLock);
	used = used_blocks(toast);
	if (used > c->m->rewrite.toast_blocks)
		delete_values(toast, c->m->rewrite.toast_blocks);
	if (used > 0)
		RelationSetTargetBlock(toast, used < RelationGetNumberOfBlocks(toast)
										  ? used
										  : refit_extend_by_page(toast));
	table_close(toast, NoLock);
}

/* Notes where the values of the chunks so far end. */
static void
note_values(CopyChunk *c)
{
	Oid oid = c->twin->rd_rel->reltoastrelid;
	Relation toast;

	if (!OidIsValid(oid))
		return;
	toast = table_open(oid, NoLock);
	c->m->rewrite.toast_blocks = used_blocks(toast);
	table_close(toast, NoLock);
}

/* Starts the copy from the beginning. */
static void
start_again(CopyChunk *c, const char *why)
{
	RefitMigration *m = c->m;

	heap_truncate_one_rel(c->twin);
	m->rewrite.filenode = c->source->rd_rel->relfilenode;
	m->rewrite.twin_blocks = 0;
	m->rewrite.toast_blocks = 0;
	m->rewrite.source_blocks = RelationGetNumberOfBlocks(c->source);
	m->rewrite.copied_blocks = 0;
	m->rewrite.copied_rows = 0;
	refit_verify_reset(m);
	refit_shape_mark_unlogged(m);
	refit_catalog_event(m, "restart", why, NULL);
}

/* Brings the twin to the state of the last committed chunk. */
static void
prepare_twin(CopyChunk *c)
{
	RefitMigration *m = c->m;
	BlockNumber length = RelationGetNumberOfBlocks(c->twin);

	if (c->source->rd_rel->relfilenode != m->rewrite.filenode)
		start_again(c, "the table was rewritten or truncated: the copy starts "
					   "again");
	else if (length < m->rewrite.twin_blocks || refit_shape_was_emptied(m))
		start_again(c, "an unlogged table was emptied by a crash: the copy "
					   "starts again");
	else if (length > m->rewrite.twin_blocks)
		RelationTruncate(c->twin, m->rewrite.twin_blocks);
	if (m->rewrite.twin_blocks > 0)
		RelationSetTargetBlock(c->twin, refit_extend_by_page(c->twin));
	prepare_values(c);
}

/* Opens what a chunk needs. */
static CopyChunk *
begin_chunk(RefitMigration *m, RefitBudget *budget)
{
	CopyChunk *c = palloc0(sizeof(CopyChunk));

	c->m = m;
	c->budget = budget;
	c->source = table_open(m->leaf, AccessShareLock);
	refit_shape_check(m); /* now that nobody can alter it any more */
	c->twin = table_open(m->rewrite.twin, AccessExclusiveLock); /* private: */
	c->next_xid = XidFromFullTransactionId(ReadNextFullTransactionId());
	c->transform = refit_transform_open(m, c->source, c->twin, false);
	c->bulk = GetBulkInsertState();
	c->cid = GetCurrentCommandId(true);
	c->batch_context = AllocSetContextCreate(
		CurrentMemoryContext, "pg_refit copy batch", ALLOCSET_DEFAULT_SIZES);
	return c;
}

/* Closes what a chunk opened, and brings the counters up to date. */
static void
end_chunk(CopyChunk *c)
{
	RefitMigration *m = c->m;

	FreeBulkInsertState(c->bulk);
	table_finish_bulk_insert(c->twin,
							 TABLE_INSERT_FROZEN | TABLE_INSERT_SKIP_FSM);
	for (int i = 0; i < c->nslots; i++)
		ExecDropSingleTupleTableSlot(c->slots[i]);
	refit_transform_close(c->transform);
	m->rewrite.twin_blocks = RelationGetNumberOfBlocks(c->twin);
	note_values(c);
	m->rewrite.copied_blocks = m->progress.cursor;
	m->rewrite.copied_rows += c->copied;
	if (c->log != NULL)
		table_close(c->log, NoLock);
	table_close(c->twin, NoLock);
	table_close(c->source, NoLock);
}

/* Is this leaf's copy complete?  It may have been another's that was lost. */
static bool
is_copied(const RefitMigration *m)
{
	return m->rewrite.source_blocks > 0 &&
		   m->rewrite.copied_blocks >= m->rewrite.source_blocks &&
		   !refit_shape_was_emptied(m);
}

/*
 * One chunk.  How far a leaf's copy is stands with the leaf, in refit.rewrite;
 * the cursor is there for people.
 */
static RefitOutcome
copy_leaf(RefitMigration *m, RefitBudget *budget)
{
	CopyChunk *c;

	if (is_copied(m))
		return REFIT_NEXT;
	c = begin_chunk(m, budget);
	prepare_twin(c);
	m->progress.cursor = m->rewrite.copied_blocks;
	m->progress.cursor_end = m->rewrite.source_blocks;
	PG_TRY();
	{
		copy_blocks(c);
	}
	PG_CATCH();
	{
		refit_transform_note_failure(c->transform);
		PG_RE_THROW();
	}
	PG_END_TRY();
	end_chunk(c);
	REFIT_FAULT("copy.chunk");
	refit_catalog_save_rewrite(m);
	m->progress.pending = refit_capture_pending(m);
	if (m->progress.cursor < m->progress.cursor_end)
		return REFIT_MORE;
	REFIT_FAULT("copy.done");
	return REFIT_NEXT;
}

/* The leaf goes on in the next step, which sees its end. */
static RefitOutcome
copy_own(RefitMigration *m, RefitBudget *budget)
{
	int number = m->rewrite.number;

	if (!refit_catalog_lock_begun(m, 0))
		return REFIT_WAIT;
	(void) copy_leaf(m, budget);
	refit_share_end_chunk(m);
	(void) refit_catalog_select_leaf(m, number);
	return REFIT_MORE;
}

/* One chunk of the leader.  The leaf at work is the first that is not complete. */
RefitOutcome
refit_copy_step(RefitMigration *m, RefitBudget *budget)
{
	RefitOutcome outcome = REFIT_WAIT;

	if (m->nleaves > 1 && !is_copied(m) && refit_share_is_wanted(m))
	{
		if (refit_share_mark_own(m, &leaves))
			return REFIT_MORE;
		outcome = copy_own(m, budget);
	}
	if (outcome == REFIT_WAIT)
	{
		if (m->nleaves <= 1 || refit_catalog_lock_leaf(m, m->rewrite.number))
			outcome = copy_leaf(m, budget);
		else
			budget->pause_ms = REST_HELPED;
	}
	refit_catalog_sum_copied(m); /* of all, whoever has copied it */
	return outcome;
}

/* One chunk of a helper, who begins with the last leaf. */
RefitOutcome
refit_copy_help(RefitMigration *m, RefitBudget *budget)
{
	if (!refit_catalog_lock_begun(m, MyProcPid))
		return refit_share_mark(m, &leaves) ? REFIT_MORE : REFIT_NEXT;
	REFIT_FAULT("copy.help");
	(void) copy_leaf(m, budget);
	return REFIT_MORE;
}
