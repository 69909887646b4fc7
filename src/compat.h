/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between the PostgreSQL majors that we build against.
 *
 * Callers write the newest signature; here it is mapped to the older ones.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_COMPAT_H
#define REFIT_COMPAT_H

#include "access/attmap.h"
#include "access/genam.h"
#include "access/multixact.h"
#include "access/nbtree.h"
#include "catalog/heap.h"
#include "catalog/index.h"
#include "catalog/pg_attrdef.h"
#include "catalog/pg_class.h"
#include "access/table.h"
#include "access/tableam.h"
#if PG_VERSION_NUM >= 190000
#include "commands/repack.h"
#else
#include "commands/cluster.h"
#endif
#include "commands/defrem.h"
#include "commands/vacuum.h"
#include "executor/executor.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/typcache.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "pg_refit needs PostgreSQL 15 or later"
#endif

/* 16 renamed the file node and made it a type of its own. */
#if PG_VERSION_NUM < 160000
#define refit_assume_new_storage(rel) RelationAssumeNewRelfilenode(rel)
#define rd_newRelfilelocatorSubid rd_newRelfilenodeSubid
#define rd_firstRelfilelocatorSubid rd_firstRelfilenodeSubid
#else
#define refit_assume_new_storage(rel) RelationAssumeNewRelfilelocator(rel)
#endif

/* 18 knows a second kind of column statistics in pg_class. */
#if PG_VERSION_NUM >= 180000
#define REFIT_HAS_RELALLFROZEN 1
#endif

/* 17 can change the expression of a generated column. */
#if PG_VERSION_NUM >= 170000
#define REFIT_HAS_SET_EXPRESSION 1
#endif

/* 17 hands identity columns down to partitions. */
#if PG_VERSION_NUM >= 170000
#define REFIT_HAS_PARTITION_IDENTITY 1
#endif

/* 18 can add a NOT VALID foreign key to a partitioned table. */
#if PG_VERSION_NUM >= 180000
#define REFIT_HAS_PARTITIONED_NOT_VALID 1
#endif

/* 18 keeps NOT NULL as rows of pg_constraint, and compact attributes. */
#if PG_VERSION_NUM >= 180000
#define REFIT_HAS_NOT_NULL_CONSTRAINTS 1
#endif

static inline void
refit_populate_compact(TupleDesc desc)
{
#if PG_VERSION_NUM >= 180000
	for (int i = 0; i < desc->natts; i++)
		populate_compact_attribute(desc, i);
#endif
}

/* 16 gave DefineIndex the number of partitions, for progress reports. */
static inline ObjectAddress
refit_define_index(Oid relid, IndexStmt *stmt, bool quiet)
{
#if PG_VERSION_NUM >= 190000
	return DefineIndex(NULL, relid, stmt, InvalidOid, InvalidOid, InvalidOid,
					   -1, false, false, false, false, quiet);
#elif PG_VERSION_NUM >= 160000
	return DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, -1,
					   false, false, false, false, quiet);
#else
	return DefineIndex(relid, stmt, InvalidOid, InvalidOid, InvalidOid, false,
					   false, false, false, quiet);
#endif
}

/*
 * An index without entries: its catalog rows and an empty file.  The caller holds
 * SHARE on the table.
 */
static inline Oid
refit_define_unbuilt_index(Oid relid, IndexStmt *stmt, Oid parent,
						   bool check_rights)
{
#if PG_VERSION_NUM >= 190000
	return DefineIndex(NULL, relid, stmt, InvalidOid, parent, InvalidOid, -1,
					   false, check_rights, true, true, true)
		.objectId;
#elif PG_VERSION_NUM >= 160000
	return DefineIndex(relid, stmt, InvalidOid, parent, InvalidOid, -1, false,
					   check_rights, true, true, true)
		.objectId;
#else
	return DefineIndex(relid, stmt, InvalidOid, parent, InvalidOid, false,
					   check_rights, true, true, true)
		.objectId;
#endif
}

/* 19 takes flags and options that we do not use, in other places. */
static inline IndexFetchTableData *
refit_index_fetch_begin(Relation rel)
{
#if PG_VERSION_NUM >= 190000
	return table_index_fetch_begin(rel, 0);
#else
	return table_index_fetch_begin(rel);
#endif
}

static inline TM_Result
refit_tuple_delete(Relation rel, ItemPointer tid, CommandId cid,
				   Snapshot snapshot, TM_FailureData *failure)
{
#if PG_VERSION_NUM >= 190000
	return table_tuple_delete(rel, tid, cid, 0, snapshot, InvalidSnapshot, true,
							  failure);
#else
	return table_tuple_delete(rel, tid, cid, snapshot, InvalidSnapshot, true,
							  failure, false);
#endif
}

static inline PlannedStmt *
refit_plan_query(Query *query, const char *text)
{
#if PG_VERSION_NUM >= 190000
	return pg_plan_query(query, text, 0, NULL, NULL);
#else
	return pg_plan_query(query, text, 0, NULL);
#endif
}

/* 19 has no type of its own for what is put into a page. */
#if PG_VERSION_NUM >= 190000
typedef const void *Item;
#endif

/* Frees the way down to a leaf; 19 leaves it to the memory context. */
static inline void
refit_bt_freestack(BTStack stack)
{
#if PG_VERSION_NUM < 190000
	_bt_freestack(stack);
#endif
}

/* 16 wants the table, 17 no snapshot; 19 asks whether to return the way down. */
static inline BTStack
refit_bt_search(Relation index, Relation heap, BTScanInsert key, Buffer *buffer,
				int access)
{
#if PG_VERSION_NUM >= 190000
	return _bt_search(index, heap, key, buffer, access, true);
#elif PG_VERSION_NUM >= 170000
	return _bt_search(index, heap, key, buffer, access);
#elif PG_VERSION_NUM >= 160000
	return _bt_search(index, heap, key, buffer, access, NULL);
#else
	return _bt_search(index, key, buffer, access, NULL);
#endif
}

/* 17 lets access methods keep something between insertions. */
static inline void
refit_index_insert_cleanup(Relation index, IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

/* 18 knows how much of a table is frozen. */
static inline void
refit_set_index_stats(Relation index, BlockNumber pages, double entries)
{
#if PG_VERSION_NUM >= 180000
	vac_update_relstats(index, pages, entries, 0, 0, false,
						InvalidTransactionId, InvalidMultiXactId, NULL, NULL,
						false);
#else
	vac_update_relstats(index, pages, entries, 0, false, InvalidTransactionId,
						InvalidMultiXactId, NULL, NULL, false);
#endif
}

/* 18 has exclusion constraints that say they are unique or primary keys. */
static inline void
refit_forget_exclusion(IndexStmt *stmt)
{
	stmt->excludeOpNames = NIL;
#if PG_VERSION_NUM >= 180000
	stmt->iswithoutoverlaps = false;
#endif
}

/* 16 can leave out columns that are missing. */
static inline AttrMap *
refit_attrmap_by_name(TupleDesc indesc, TupleDesc outdesc)
{
#if PG_VERSION_NUM >= 160000
	return build_attrmap_by_name(indesc, outdesc, false);
#else
	return build_attrmap_by_name(indesc, outdesc);
#endif
}

/* 16 renamed the file node. */
#if PG_VERSION_NUM >= 160000
#define refit_locator(rel) ((rel)->rd_locator)
#else
#define refit_locator(rel) ((rel)->rd_node)
#endif

/* 17 renamed the number of a backend. */
#if PG_VERSION_NUM >= 170000
#define refit_vxid_backend(vxid) ((vxid).procNumber)
#else
#define refit_vxid_backend(vxid) ((vxid).backendId)
#endif

/* 18 dropped the parameter that told ADD COLUMN from SET DEFAULT. */
static inline void
refit_store_default(Relation rel, AttrNumber attnum, Node *expr)
{
#if PG_VERSION_NUM >= 180000
	StoreAttrDefault(rel, attnum, expr, true);
#else
	StoreAttrDefault(rel, attnum, expr, true, false);
#endif
}

/* 17 added the statement to reindex_index, for event triggers. */
static inline void
refit_reindex_index(Oid index, char persistence, ReindexParams *params)
{
#if PG_VERSION_NUM >= 170000
	reindex_index(NULL, index, false, persistence, params);
#else
	reindex_index(index, false, persistence, params);
#endif
}

/* 18 added instrumentation to index scans, 19 flags. */
static inline IndexScanDesc
refit_index_beginscan(Relation heap, Relation index, Snapshot snapshot,
					  int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0, 0);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* 17 lets extensions name their wait events. */
#if PG_VERSION_NUM >= 170000
#define refit_new_wait_event(name) WaitEventExtensionNew(name)
#else
#define refit_new_wait_event(name) PG_WAIT_EXTENSION
#endif

/*
 * 16 made the lists of the lock manager doubly linked ones.  Returns what
 * follows prev in a partition of a process's lock list, its first entry for
 * NULL, NULL at its end.  The caller holds the partition's lock, except to
 * see whether its own list is empty.
 */
static inline PROCLOCK *
refit_next_proclock(PGPROC *proc, int partition, PROCLOCK *prev)
{
#if PG_VERSION_NUM >= 160000
	dlist_head *list = &proc->myProcLocks[partition];

	if (prev == NULL ? dlist_is_empty(list)
					 : !dlist_has_next(list, &prev->procLink))
		return NULL;
	return dlist_container(PROCLOCK, procLink,
						   prev == NULL
							   ? dlist_head_node(list)
							   : dlist_next_node(list, &prev->procLink));
#else
	SHM_QUEUE *list = &proc->myProcLocks[partition];

	return (PROCLOCK *) SHMQueueNext(list,
									 prev == NULL ? list : &prev->procLink,
									 offsetof(PROCLOCK, procLink));
#endif
}

/* 19 can tell whether the constraints are volatile. */
static inline bool
refit_domain_has_constraints(Oid type)
{
#if PG_VERSION_NUM >= 190000
	return DomainHasConstraints(type, NULL);
#else
	return DomainHasConstraints(type);
#endif
}

/* 18 wants the table open. */
static inline void
refit_cluster(Oid table, Oid index)
{
	ClusterParams params = {0};

#if PG_VERSION_NUM >= 190000
	/* private: the twin */
	cluster_rel(REPACK_COMMAND_CLUSTER, table_open(table, AccessExclusiveLock),
				index, &params, true);
#elif PG_VERSION_NUM >= 180000
	cluster_rel(table_open(table, AccessExclusiveLock), /* private: the twin */
				index, &params);
#else
	cluster_rel(table, index, &params);
#endif
}

/* 16 added a flag for summarizing indexes. */
static inline List *
refit_insert_index_tuples(ResultRelInfo *rel, TupleTableSlot *slot,
						  EState *estate)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(rel, estate, 0, slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rel, slot, estate, false, false, NULL, NIL,
								 false);
#else
	return ExecInsertIndexTuples(rel, slot, estate, false, false, NULL, NIL);
#endif
}

/*
 * 16 tells what only summarizing indexes have, such as BRIN, from what keeps an
 * update from being HOT.
 */
static inline Bitmapset *
refit_hot_blocking_columns(Relation rel)
{
#if PG_VERSION_NUM >= 160000
	return RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_HOT_BLOCKING);
#else
	return RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_ALL);
#endif
}

#if PG_VERSION_NUM < 160000
typedef bool TU_UpdateIndexes;
#define TU_None false
#endif

static inline TM_Result
refit_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot,
				   CommandId cid, TU_UpdateIndexes *indexes)
{
	TM_FailureData failure;
	LockTupleMode mode;

#if PG_VERSION_NUM >= 190000
	return table_tuple_update(rel, tid, slot, cid, 0, InvalidSnapshot,
							  InvalidSnapshot, true, &failure, &mode, indexes);
#else
	return table_tuple_update(rel, tid, slot, cid, InvalidSnapshot,
							  InvalidSnapshot, true, &failure, &mode, indexes);
#endif
}

/* Entries for a version that refit_tuple_update says needs some. */
static inline List *
refit_update_index_tuples(ResultRelInfo *rel, TupleTableSlot *slot,
						  EState *estate, TU_UpdateIndexes indexes)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(
		rel, estate,
		EIIT_IS_UPDATE |
			(indexes == TU_Summarizing ? EIIT_ONLY_SUMMARIZING : 0),
		slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rel, slot, estate, true, false, NULL, NIL,
								 indexes == TU_Summarizing);
#else
	return ExecInsertIndexTuples(rel, slot, estate, true, false, NULL, NIL);
#endif
}

/* 17 has no function that closes a relation's files by oid. */
static inline void
refit_close_smgr(Oid relid)
{
#if PG_VERSION_NUM < 170000
	RelationCloseSmgrByOid(relid);
#endif
}

/* Has an UPDATE as written a RETURNING?  18 has a node for it. */
static inline bool
refit_update_returns(const UpdateStmt *stmt)
{
#if PG_VERSION_NUM >= 180000
	return stmt->returningClause != NULL;
#else
	return stmt->returningList != NIL;
#endif
}

/* Checkpoints since the statistics were reset; 17 gave the counters new names. */
typedef struct RefitCheckpoints
{
	int64 timed;
	int64 requested;
} RefitCheckpoints;

static inline RefitCheckpoints
refit_count_checkpoints(void)
{
	PgStat_CheckpointerStats *stats = pgstat_fetch_stat_checkpointer();
	RefitCheckpoints result;

#if PG_VERSION_NUM >= 170000
	result.timed = stats->num_timed;
	result.requested = stats->num_requested;
#else
	result.timed = stats->timed_checkpoints;
	result.requested = stats->requested_checkpoints;
#endif
	return result;
}

/* Extends a private table by one empty page.  16 has an interface for it. */
static inline BlockNumber
refit_extend_by_page(Relation rel)
{
	BlockNumber result;
	Buffer buffer;

#if PG_VERSION_NUM >= 160000
	buffer = ExtendBufferedRel(BMR_REL(rel), MAIN_FORKNUM, NULL, EB_LOCK_FIRST);
#else
	buffer =
		ReadBufferExtended(rel, MAIN_FORKNUM, P_NEW, RBM_ZERO_AND_LOCK, NULL);
#endif
	result = BufferGetBlockNumber(buffer);
	UnlockReleaseBuffer(buffer);
	return result;
}

/* 18 dropped the parameter that said that a portal is run once. */
static inline void
refit_portal_run(Portal portal, DestReceiver *dest)
{
#if PG_VERSION_NUM >= 180000
	(void) PortalRun(portal, FETCH_ALL, true, dest, dest, NULL);
#else
	(void) PortalRun(portal, FETCH_ALL, true, true, dest, dest, NULL);
#endif
}

/* 19 has CLUSTER and VACUUM FULL in one statement with REPACK. */
#if PG_VERSION_NUM >= 190000
#define T_ClusterStmt T_RepackStmt
#endif

#endif /* REFIT_COMPAT_H */
