/*-------------------------------------------------------------------------
 *
 * incremental.c
 *	  Phase insert: walking the table, chunk by chunk.
 *
 * See incremental.h for why it is right.
 *
 * A user's expressions must not run while a page is locked.  So a page is looked
 * at under its lock, which gives the places of the versions that are to be
 * indexed; then they are read under the pin, which keeps them where they are.
 *
 * A chunk is one transaction, the time for which is shared between collecting and
 * inserting as the last chunk of this process has shared it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/brin.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "index/entries.h"
#include "index/incremental.h"
#include "index/plan.h"
#include "index/row.h"
#include "job/catalog.h"
#include "pass/governor.h"
#include "table/shape.h"
#include "table/transform.h"
#include "util/baseline.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Blocks of the first chunk, at most; each may be twice as long as the last. */
#define FIRST_REACH 256

/* Chunks whose blocks in doubt are settled in one step. */
#define SETTLE_LISTS 64

/* ms until a transaction is looked at again that has to decide. */
#define REST_DECISION 200

/* The share of a chunk that is for collecting, before it is known. */
#define COLLECT_SHARE 0.4

/* xids after which a plain comparison with the baseline's could be wrong. */
#define MOST_XIDS ((uint64) 1 << 30)

/* What is to be done about a version that the snapshot sees. */
typedef enum Fate
{
	ROW_INSERT,
	ROW_LOOK, /* and insert unless it is there */
	ROW_SKIP
} Fate;

/* A version that is to be indexed. */
typedef struct Version
{
	OffsetNumber offset;
	OffsetNumber root;
	bool look;
} Version;

/* One chunk at work. */
typedef struct Walk
{
	RefitMigration *m;
	RefitBudget *budget;
	RefitIndexRow *row;
	Relation heap;
	Relation index;
	IndexInfo *info;
	EState *estate;
	ExprContext *econtext;
	ExprState *predicate;
	TupleTableSlot *slot;
	Snapshot snapshot;
	TransactionId next_xid; /* end of the window for frozen versions */
	bool looks;				/* no age can be told */
	bool settles;			/* rows in doubt are collected */
	int nkeys;				/* of the table's key, for messages */
	AttrNumber *key_attnums;
	RefitEntries *entries;
	BufferAccessStrategy strategy;
	BlockNumber block;
	int nversions;
	Version versions[MaxHeapTuplesPerPage];
} Walk;

/* What this process has committed last, unless a chunk has begun since. */
static struct
{
	int64 id;
	int number;
	int64 next;
} committed = {0};

/* As the last chunk has shared its time. */
static double collect_share = COLLECT_SHARE;

/*
 * Which versions
 */

/* Whether the inserter of a version was before the begin. */
static RefitAge
age_of(const Walk *w, HeapTupleHeader header)
{
	if (w->looks)
		return REFIT_AMBIGUOUS;
	return refit_baseline_version_age(
		&w->row->baseline, HeapTupleHeaderGetRawXmin(header),
		HeapTupleHeaderXminFrozen(header), w->next_xid);
}

/* What an age means for an entry. */
static Fate
fate_by_age(RefitAge age)
{
	return age == REFIT_BEFORE_CAPTURE	? ROW_INSERT
		   : age == REFIT_AFTER_CAPTURE ? ROW_SKIP
										: ROW_LOOK;
}

/* Decides about a version by the age of its chain's root. */
static Fate
fate_of(const Walk *w, Page page, HeapTupleHeader header, OffsetNumber root)
{
	RefitAge age = age_of(w, header);
	ItemId item;

	if (age == REFIT_BEFORE_CAPTURE || !HeapTupleHeaderIsHeapOnly(header))
		return fate_by_age(age);
	item = PageGetItemId(page, root);
	if (ItemIdIsRedirected(item))
		return ROW_LOOK;
	return fate_by_age(age_of(w, (HeapTupleHeader) PageGetItem(page, item)));
}

/* Notes a version, unless its writer has indexed it. */
static void
note_version(Walk *w, Page page, HeapTupleHeader header, OffsetNumber offset,
			 OffsetNumber root, bool is_old)
{
	Fate fate = is_old ? ROW_INSERT : fate_of(w, page, header, root);
	Version *version = &w->versions[w->nversions];

	if (!OffsetNumberIsValid(root))
		ereport(
			ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("no parent tuple was found for heap-only tuple (%u,%u) "
					"in table %s",
					w->block, offset, refit_qualified_name(w->row->relid))));
	if (fate == ROW_SKIP)
		return;
	version->offset = offset;
	version->root = root;
	version->look = fate == ROW_LOOK || w->block < w->row->looking_to;
	w->nversions++;
}

/* Notes the versions of a page that are to be indexed; the caller locks it. */
static void
look_at_page(Walk *w, Buffer buffer)
{
	Page page = BufferGetPage(buffer);
	OffsetNumber most = PageGetMaxOffsetNumber(page);
	OffsetNumber roots[MaxHeapTuplesPerPage];
	bool all_visible = PageIsAllVisible(page);
	bool is_old = BufferGetLSNAtomic(buffer) < w->row->begin_lsn;

	w->nversions = 0;
	heap_get_root_tuples(page, roots);
	for (OffsetNumber i = FirstOffsetNumber; i <= most; i = OffsetNumberNext(i))
	{
		ItemId item = PageGetItemId(page, i);
		HeapTupleData tuple;

		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = w->row->relid;
		ItemPointerSet(&tuple.t_self, w->block, i);
		if (all_visible ||
			HeapTupleSatisfiesVisibility(&tuple, w->snapshot, buffer))
			note_version(w, page, tuple.t_data, i, roots[i - 1], is_old);
	}
}

/* Adds the entry of a version, if the predicate wants it. */
static void
add_entry(Walk *w, Buffer buffer, const Version *version)
{
	ItemId item = PageGetItemId(BufferGetPage(buffer), version->offset);
	Datum values[INDEX_MAX_KEYS];
	bool isnull[INDEX_MAX_KEYS];
	HeapTupleData tuple;
	ItemPointerData tid;

	tuple.t_data = (HeapTupleHeader) PageGetItem(BufferGetPage(buffer), item);
	tuple.t_len = ItemIdGetLength(item);
	tuple.t_tableOid = w->row->relid;
	ItemPointerSet(&tuple.t_self, w->block, version->offset);
	ItemPointerSet(&tid, w->block, version->root);

	ResetExprContext(w->econtext);
	ExecStoreBufferHeapTuple(&tuple, w->slot, buffer);
	if (w->predicate != NULL && !ExecQual(w->predicate, w->econtext))
		return;
	FormIndexDatum(w->info, w->slot, w->estate, values, isnull);
	if (w->settles)
		refit_entries_collect(w->entries, &tid, values, isnull);
	else
		refit_entries_add(w->entries, &tid, values, isnull, version->look);
}

/* Adds the entries of a block. */
static void
walk_block(Walk *w, BlockNumber block)
{
	Buffer buffer = ReadBufferExtended(w->heap, MAIN_FORKNUM, block, RBM_NORMAL,
									   w->strategy);

	w->block = block;
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	look_at_page(w, buffer);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	for (int i = 0; i < w->nversions; i++)
		add_entry(w, buffer, &w->versions[i]);
	ExecClearTuple(w->slot);
	ReleaseBuffer(buffer);
}

/*
 * The chunk
 */

/* Remembers the row that an error was raised for. */
static void
note_failure(const Walk *w)
{
	if (!TTS_EMPTY(w->slot))
		refit_transform_note_failing_key(
			refit_shape_row_text(w->slot, w->nkeys, w->key_attnums));
}

/* Opens the table and the index; false: the index is complete already. */
static bool
open_relations(Walk *w)
{
	RefitIndexRow *row = w->row;

	w->heap = table_open(row->relid, AccessShareLock);
	w->index = try_relation_open(row->index, RowExclusiveLock);
	if (w->index == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the index that the migration was building on %s is "
						"gone",
						refit_qualified_name(row->relid)),
				 errdetail("It was dropped, or replaced by an ALTER TABLE or a "
						   "REINDEX CONCURRENTLY."),
				 errhint("Look at the table's indexes. To build it again, use "
						 "refit.retry(" INT64_FORMAT ").",
						 w->m->id)));
	return !w->index->rd_index->indisvalid;
}

/* Gets ready to evaluate what the index is of. */
static void
open_expressions(Walk *w)
{
	List *keys;

	w->info = BuildIndexInfo(w->index);
	w->estate = CreateExecutorState();
	w->econtext = GetPerTupleExprContext(w->estate);
	w->slot = table_slot_create(w->heap, NULL);
	w->econtext->ecxt_scantuple = w->slot;
	w->predicate = ExecPrepareQual(w->info->ii_Predicate, w->estate);
	w->entries = refit_entries_open(w->heap, w->index, w->info, w->row->target);
	keys = refit_shape_key_indexes(w->heap);
	if (keys != NIL)
		w->nkeys = refit_shape_key_attnums(linitial_oid(keys), &w->key_attnums);
}

/* Sets what the options say, until the end of the step. */
static void
use_options(const RefitMigration *m)
{
	char *memory = refit_catalog_option(m, "maintenance_work_mem");

	if (memory != NULL)
		refit_set_local("maintenance_work_mem", memory);
}

/* Opens what a chunk needs; false: there is nothing left to do. */
static bool
open_walk(Walk *w, RefitMigration *m, RefitBudget *budget, RefitIndexRow *row)
{
	FullTransactionId next = ReadNextFullTransactionId();

	memset(w, 0, offsetof(Walk, versions));
	w->m = m;
	w->budget = budget;
	w->row = row;
	w->block = InvalidBlockNumber;
	use_options(m);
	if (!open_relations(w))
		return false;
	w->next_xid = XidFromFullTransactionId(next);
	w->looks = U64FromFullTransactionId(next) - row->begin_xid > MOST_XIDS;
	w->strategy = GetAccessStrategy(BAS_BULKREAD);
	w->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(w->snapshot);
	open_expressions(w);
	return true;
}

/* Closes it. */
static void
close_walk(Walk *w)
{
	if (w->entries != NULL)
	{
		refit_entries_close(w->entries);
		ExecDropSingleTupleTableSlot(w->slot);
		FreeExecutorState(w->estate);
		PopActiveSnapshot();
		UnregisterSnapshot(w->snapshot);
		FreeAccessStrategy(w->strategy);
	}
	relation_close(w->index, NoLock);
	table_close(w->heap, NoLock);
}

/* This process. */
static char *
name_worker(void)
{
	return psprintf("%d/" INT64_FORMAT, MyProcPid, (int64) MyStartTimestamp);
}

/*
 * Is it known that no chunk after the last committed one was lost?  If not, says
 * so in the row: what such a chunk may have reached is looked at carefully.
 */
static bool
take_over(RefitMigration *m, RefitIndexRow *row)
{
	char *worker = name_worker();
	bool known = strcmp(row->worker, worker) == 0 && committed.id == m->id &&
				 committed.number == row->number && committed.next == row->next;

	committed.id = known ? 0 : m->id;
	committed.number = row->number;
	committed.next = row->next;
	if (known)
		return false;
	if (row->worker[0] == '\0') /* nobody has walked yet */
		row->reach = FIRST_REACH;
	else
		row->looking_to = Max(row->looking_to, row->reach);
	row->worker = worker;
	refit_index_row_save(m, row);
	return true;
}

/* Begins the walk again, if the table has other storage than it had. */
static void
check_storage(Walk *w)
{
	RefitIndexRow *row = w->row;

	if (w->heap->rd_rel->relfilenode == row->filenode)
		return;
	row->filenode = w->heap->rd_rel->relfilenode;
	row->blocks = RelationGetNumberOfBlocks(w->heap);
	row->next = 0;
	row->looking_to = row->blocks;
	row->reach = FIRST_REACH;
	refit_catalog_event(w->m, "restart",
						"the table was rewritten or truncated: the walk starts "
						"again",
						NULL);
}

/* Adds entries from the next block on; returns where it has ended. */
static int64
collect(Walk *w)
{
	RefitIndexRow *row = w->row;
	RefitBudget part = *w->budget;
	int64 next = row->next;
	int64 end = Min(Min(row->blocks, row->reach),
					(int64) RelationGetNumberOfBlocks(w->heap));

	part.chunk_ms = Max((int) (part.chunk_ms * collect_share), 1);
	while (next < end)
	{
		CHECK_FOR_INTERRUPTS();
		walk_block(w, (BlockNumber) next);
		next++;
		if (refit_governor_step_over(&part))
			return next;
	}
	return end < Min(row->blocks, row->reach) ? row->blocks : next;
}

/* Remembers how a chunk has shared its time. */
static void
note_share(instr_time begun, instr_time collected)
{
	instr_time now;
	double collecting;
	double inserting;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, collected);
	INSTR_TIME_SUBTRACT(collected, begun);
	inserting = INSTR_TIME_GET_MILLISEC(now);
	collecting = INSTR_TIME_GET_MILLISEC(collected);
	if (collecting + inserting > 1)
		collect_share =
			Max(Min(collecting / (collecting + inserting), 0.9), 0.1);
}

/*
 * A chunk's work.  Where somebody waits for a lock of ours, what is inserted is
 * left as it is, and the same blocks are done again.
 */
static void
work_chunk(Walk *w)
{
	RefitIndexRow *row = w->row;
	int64 begun_at = row->next;
	instr_time begun;
	instr_time collected;
	int64 next;

	INSTR_TIME_SET_CURRENT(begun);
	next = collect(w);
	INSTR_TIME_SET_CURRENT(collected);
	REFIT_FAULT("insert.collected");
	if (refit_entries_flush(w->entries))
	{
		row->next = next;
		row->reach = next + Max(FIRST_REACH, 2 * (next - begun_at));
		note_share(begun, collected);
	}
	else
		row->looking_to = Max(row->looking_to, next);
	row->entries += refit_entries_count(w->entries);
	refit_index_row_doubt(w->m, row, refit_entries_doubts(w->entries));
}

/*
 * Summarizes ranges from the next block on.  PostgreSQL does so for valid indexes
 * only; so it is one until the end of this transaction, which nobody else sees.
 */
static void
summarize_ranges(RefitIndexRow *row, BlockNumber pages, RefitBudget *budget)
{
	index_set_state_flags(row->index, INDEX_CREATE_SET_VALID);
	CommandCounterIncrement();
	while (row->next < row->blocks)
	{
		row->entries += DatumGetInt32(DirectFunctionCall2(
			brin_summarize_range, ObjectIdGetDatum(row->index),
			Int64GetDatum(row->next)));
		row->next += pages;
		if (refit_governor_step_over(budget))
			break;
	}
	index_set_state_flags(row->index, INDEX_DROP_CLEAR_VALID);
	CommandCounterIncrement();
}

/*
 * A chunk of a BRIN index.  It needs no walk of ours: PostgreSQL can summarize a
 * range beside writers, and what is not summarized is read.
 */
static RefitOutcome
summarize(RefitMigration *m, RefitBudget *budget, RefitIndexRow *row)
{
	List *locks =
		list_make1(refit_polite_lock_on(row->relid, ShareUpdateExclusiveLock));
	Walk w = {.m = m, .row = row};
	bool is_incomplete;
	BlockNumber pages;

	if (!refit_polite_lock_try(m, locks))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	is_incomplete = open_relations(&w);
	pages = BrinGetPagesPerRange(w.index);
	row->blocks = RelationGetNumberOfBlocks(w.heap);
	relation_close(w.index, NoLock);
	table_close(w.heap, NoLock);
	if (is_incomplete)
		summarize_ranges(row, pages, budget);
	REFIT_FAULT("insert.summarized");
	return is_incomplete && row->next < row->blocks ? REFIT_MORE : REFIT_NEXT;
}

/* One chunk of an index. */
static RefitOutcome
insert_chunk(RefitMigration *m, RefitBudget *budget, RefitIndexRow *row)
{
	int64 begun_at = row->next;
	bool is_incomplete;
	Walk w;

	if (take_over(m, row))
		return REFIT_MORE;
	is_incomplete = open_walk(&w, m, budget, row);
	if (is_incomplete)
	{
		check_storage(&w);
		PG_TRY();
		{
			work_chunk(&w);
		}
		PG_CATCH();
		{
			note_failure(&w);
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	close_walk(&w);
	REFIT_FAULT("insert.chunk");
	if (row->next > begun_at)
		committed.id = m->id;
	committed.next = row->next;
	return is_incomplete && row->next < row->blocks ? REFIT_MORE : REFIT_NEXT;
}

/*
 * Settling
 */

/* Names who has to decide whether a key is unique. */
static void
name_decider(RefitMigration *m, TransactionId xid)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum((int64) xid)};
	char *who = refit_sql_text(
		"SELECT format('pid %s, %s, transaction of %s: %s', a.pid, a.state,"
		"  date_trunc('second', clock_timestamp() - a.xact_start),"
		"  left(a.query, 200))"
		" FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a"
		"  USING (pid) WHERE l.locktype = 'transactionid' AND l.granted"
		"  AND l.transactionid::text::int8 = $1 LIMIT 1",
		1, types, values);

	m->progress.waiting_for =
		who != NULL ? who : psprintf("transaction %u", xid);
}

/* Keeps VACUUM out where an index can only be looked through as a whole. */
static bool
keep_vacuum_out(RefitMigration *m, const RefitIndexRow *row)
{
	Oid am = refit_index_access_method(row->index);
	List *locks =
		list_make1(refit_polite_lock_on(row->relid, ShareUpdateExclusiveLock));

	return !OidIsValid(am) || refit_entries_look(am) != REFIT_LOOK_BY_SCAN ||
		   !refit_index_row_has_doubts(m, row) ||
		   refit_polite_lock_try(m, locks);
}

/* Settles the rows of some blocks; the xid that has to decide about others. */
static TransactionId
settle_blocks(Walk *w, List *blocks)
{
	BlockNumber end = RelationGetNumberOfBlocks(w->heap);
	TransactionId decides;
	ListCell *lc;

	w->settles = true;
	foreach(lc, blocks)
	{
		CHECK_FOR_INTERRUPTS();
		if (lfirst_oid(lc) < end)
			walk_block(w, lfirst_oid(lc));
	}
	w->block = InvalidBlockNumber;
	decides = refit_entries_settle(w->entries);
	w->row->entries += refit_entries_count(w->entries);
	refit_index_row_doubt(w->m, w->row, refit_entries_doubts(w->entries));
	return decides;
}

/* What is in doubt of an index, some of it. */
static RefitOutcome
settle_chunk(RefitMigration *m, RefitBudget *budget, RefitIndexRow *row)
{
	List *blocks;
	TransactionId decides = InvalidTransactionId;
	Walk w;

	if (!keep_vacuum_out(m, row))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("insert.settle");
	blocks = refit_index_row_take_doubts(m, row, SETTLE_LISTS);
	if (blocks == NIL)
		return REFIT_NEXT;
	m->progress.message =
		psprintf("settling what is in doubt: %d blocks", list_length(blocks));
	if (open_walk(&w, m, budget, row))
		decides = settle_blocks(&w, blocks);
	close_walk(&w);
	if (!TransactionIdIsValid(decides))
		return REFIT_MORE;
	name_decider(m, decides);
	budget->pause_ms = REST_DECISION;
	return REFIT_WAIT;
}

/*
 * The phase
 */

/* Says which of several indexes is at work. */
static void
name_index(RefitMigration *m, const RefitIndexRow *row)
{
	m->progress.message =
		psprintf("index %s on %s", quote_identifier(get_rel_name(row->index)),
				 refit_qualified_name(row->relid));
}

/* Works on one index, as the owner of its table. */
static RefitOutcome
work_index(RefitMigration *m, RefitBudget *budget, RefitIndexRow *row)
{
	bool settles = strcmp(row->state, "settling") == 0;
	RefitRights save;
	RefitOutcome outcome;

	refit_rights_begin(&save, refit_relation_owner(row->relid), true);
	if (settles)
		outcome = settle_chunk(m, budget, row);
	else if (refit_index_access_method(row->index) == BRIN_AM_OID)
		outcome = summarize(m, budget, row);
	else
		outcome = insert_chunk(m, budget, row);
	refit_rights_end(&save);
	if (outcome == REFIT_NEXT)
	{
		row->next = row->blocks;
		row->state = settles ? "built" : "settling";
		outcome = REFIT_MORE;
	}
	refit_index_row_save(m, row);
	return outcome;
}

/* One chunk. */
RefitOutcome
refit_index_insert(RefitMigration *m, RefitBudget *budget)
{
	RefitIndexRow *row = refit_index_row_next(m, "inserting");
	RefitOutcome outcome;

	if (row == NULL)
		row = refit_index_row_next(m, "settling");
	if (row == NULL)
		return REFIT_NEXT;
	m->progress.waiting_for = NULL;
	if (get_rel_name(row->relid) == NULL && row->relid != m->relid)
	{
		refit_index_row_delete(m, row->number); /* a partition was dropped */
		return REFIT_MORE;
	}
	if (get_rel_name(row->index) != NULL)
		name_index(m, row);
	outcome = work_index(m, budget, row);
	refit_index_row_sum(m);
	return outcome;
}
