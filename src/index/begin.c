/*-------------------------------------------------------------------------
 *
 * begin.c
 *	  Phase begin: the catalog rows of an index, an empty index, the baseline.
 *
 * See incremental.h.  Of a partition tree this is done for one table after the
 * other, each in a transaction of its own, a partitioned table before its
 * partitions.  Whoever attaches or makes a partition after its parent has an index
 * gives the partition one; who is a partition by then is written down in the
 * transaction that makes the parent's.  A partition that has such an index already
 * gives that.
 *
 * The empty index is made by the access method itself, from an empty private table
 * that is gone when the transaction ends.
 *
 * Who waits: writers, for the lock budget at most, and for milliseconds once the
 * lock is there.  If the process dies: nothing is there, or an index that is in the
 * row and that all writers maintain.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_inherits.h"
#include "catalog/storage.h"
#include "catalog/storage_xlog.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "storage/smgr.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "index/definition.h"
#include "index/incremental.h"
#include "index/row.h"
#include "job/catalog.h"
#include "table/twin.h"
#include "util/baseline.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* What an index is called that is to give its storage to another. */
#define COPY_NAME_FORMAT "refit_" INT64_FORMAT "_%u"

/* An empty table of the same columns, and the schema that it is alone in. */
static Oid
create_empty_table(const RefitMigration *m, Relation source, Oid *schema)
{
	*schema = refit_twin_create_schema(m->id, source->rd_rel->relowner);
	return refit_twin_create_table(
		source, *schema, "$empty",
		CreateTupleDescCopy(RelationGetDescr(source)),
		source->rd_rel->relowner);
}

/* Gives an unlogged index the fork that it is made from after a crash. */
static void
create_init_fork(Relation index)
{
	if (index->rd_rel->relpersistence != RELPERSISTENCE_UNLOGGED ||
		smgrexists(RelationGetSmgr(index), INIT_FORKNUM))
		return;
	smgrcreate(RelationGetSmgr(index), INIT_FORKNUM, false);
	log_smgrcreate(&refit_locator(index), INIT_FORKNUM);
	index->rd_indam->ambuildempty(index);
}

/*
 * Gives an index its empty form.  A BRIN index says then that its first range has
 * no values; it must say nothing of it, which can be told to a valid one only.
 */
static void
build_empty(const RefitMigration *m, Oid relid, Oid index_oid)
{
	Relation source = table_open(relid, NoLock);
	Oid schema;
	Relation empty = table_open(create_empty_table(m, source, &schema), NoLock);
	Relation index = index_open(index_oid, /* private: just made */
								AccessExclusiveLock);

	(void) index->rd_indam->ambuild(empty, index, BuildIndexInfo(index));
	create_init_fork(index);
	if (index->rd_rel->relam == BRIN_AM_OID)
		DirectFunctionCall2(brin_desummarize_range, ObjectIdGetDatum(index_oid),
							Int64GetDatum(0));
	index_close(index, NoLock);
	table_close(empty, NoLock);
	table_close(source, NoLock);
	refit_twin_drop_schema(schema);
}

/* The statement that makes a row's index. */
static IndexStmt *
statement_for(const RefitMigration *m, const RefitIndexRow *row)
{
	IndexStmt *stmt;
	Relation parent_index;
	Relation parent;
	Relation rel;

	if (OidIsValid(row->target))
		return refit_definition_of_copy(
			row->target, psprintf(COPY_NAME_FORMAT, m->id, row->target));
	if (!OidIsValid(row->parent))
	{
		stmt = refit_definition_for(m->definition, row->relid, m->search_path);
		stmt->relation->inh = false; /* its partitions' come later */
		return stmt;
	}
	parent_index = index_open(row->parent, AccessShareLock);
	parent = table_open(parent_index->rd_index->indrelid, AccessShareLock);
	rel = table_open(row->relid, NoLock);
	stmt = refit_definition_of_partition(parent_index, parent, rel);
	if (!row->is_leaf) /* as ONLY: the parser has no part in this */
		stmt->relation = makeRangeVar(NULL, get_rel_name(row->relid), -1);
	if (!row->is_leaf)
		stmt->relation->inh = false;
	table_close(rel, NoLock);
	table_close(parent, NoLock);
	index_close(parent_index, NoLock);
	return stmt;
}

/* Is a partition's index like its parent's, and no partition of another? */
static bool
is_match(Relation index, Relation parent_index, AttrMap *map)
{
	return index->rd_index->indisvalid && !index->rd_rel->relispartition &&
		   CompareIndexInfo(BuildIndexInfo(index), BuildIndexInfo(parent_index),
							index->rd_indcollation,
							parent_index->rd_indcollation, index->rd_opfamily,
							parent_index->rd_opfamily, map);
}

/* Attaches an index that the partition has already; InvalidOid: it has none. */
static Oid
attach_existing(const RefitIndexRow *row)
{
	Relation parent_index = index_open(row->parent, AccessShareLock);
	Relation parent =
		table_open(parent_index->rd_index->indrelid, AccessShareLock);
	Relation rel = table_open(row->relid, NoLock);
	AttrMap *map =
		refit_attrmap_by_name(RelationGetDescr(rel), RelationGetDescr(parent));
	Oid result = InvalidOid;
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (!OidIsValid(result) && is_match(index, parent_index, map))
		{
			result = lfirst_oid(lc);
			IndexSetParentIndex(index, row->parent);
		}
		index_close(index, NoLock);
	}
	table_close(rel, NoLock);
	table_close(parent, NoLock);
	index_close(parent_index, NoLock);
	return result;
}

/* Writes down what follows from a partitioned table's index: its partitions'. */
static void
plan_partitions(RefitMigration *m, const RefitIndexRow *row)
{
	ListCell *lc;

	foreach(lc, find_inheritance_children(row->relid, NoLock))
	{
		RefitIndexRow part = {.relid = lfirst_oid(lc), .parent = row->index};
		char kind = get_rel_relkind(part.relid);

		part.is_leaf = kind != RELKIND_PARTITIONED_TABLE;
		if (kind != RELKIND_FOREIGN_TABLE)
			refit_index_row_plan(m, &part);
	}
}

/* Starts the walk of a table. */
static void
begin_walk(RefitIndexRow *row)
{
	Relation rel = table_open(row->relid, NoLock);

	refit_baseline_take(&row->baseline);
	row->begin_lsn =
		RelationNeedsWAL(rel) ? GetXLogInsertRecPtr() : InvalidXLogRecPtr;
	row->begin_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	row->filenode = rel->rd_rel->relfilenode;
	row->blocks = RelationGetNumberOfBlocks(rel);
	row->state = "inserting";
	table_close(rel, NoLock);
}

/*
 * Makes a table's index, under the lock.  The baseline comes first: what follows
 * has xids of its own.
 */
static void
make_index(RefitMigration *m, RefitIndexRow *row)
{
	begin_walk(row);
	row->index = refit_define_unbuilt_index(
		row->relid, statement_for(m, row), row->parent,
		!OidIsValid(row->parent) && !OidIsValid(row->target));
	CommandCounterIncrement();
	build_empty(m, row->relid, row->index);
	index_set_state_flags(row->index, INDEX_DROP_CLEAR_VALID);
	CommandCounterIncrement();
	CacheInvalidateRelcacheByRelid(row->relid);
}

/* Makes a partitioned table's index, which has no storage. */
static void
make_partitioned_index(RefitMigration *m, RefitIndexRow *row)
{
	row->index = refit_define_unbuilt_index(
		row->relid, statement_for(m, row), row->parent,
		!OidIsValid(row->parent) && !OidIsValid(row->target));
	CommandCounterIncrement();
	row->state = "built";
	plan_partitions(m, row);
}

/* What there is to do for a table, under the lock. */
static void
begin_table(RefitMigration *m, RefitIndexRow *row)
{
	RefitRights save;
	Oid existing = InvalidOid;

	refit_rights_begin(&save, refit_relation_owner(row->relid), true);
	if (row->is_leaf && OidIsValid(row->parent))
		existing = attach_existing(row);
	if (OidIsValid(existing))
	{
		refit_catalog_event(m, "partition",
							psprintf("index %s is taken for %s",
									 refit_qualified_name(existing),
									 refit_qualified_name(row->relid)),
							NULL);
		refit_index_row_delete(m, row->number);
	}
	else if (row->is_leaf)
		make_index(m, row);
	else
		make_partitioned_index(m, row);
	refit_rights_end(&save);
	if (!OidIsValid(existing))
		refit_index_row_save(m, row);
}

/* Has a table gone that the row is about, or left its tree? */
static bool
is_gone(const RefitIndexRow *row)
{
	if (OidIsValid(row->parent) && (get_rel_name(row->relid) == NULL ||
									!get_rel_relispartition(row->relid)))
		return true;
	return OidIsValid(row->target) && get_rel_name(row->target) == NULL;
}

/* One table. */
RefitOutcome
refit_index_begin(RefitMigration *m, RefitBudget *budget)
{
	RefitIndexRow *row = refit_index_row_next(m, "planned");

	if (row == NULL)
		return REFIT_NEXT;
	if (!refit_polite_lock_try(
			m, list_make1(refit_polite_lock_on(row->relid, ShareLock))))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("begin.locked");
	if (is_gone(row))
		refit_index_row_delete(m, row->number);
	else
		begin_table(m, row);
	refit_index_row_sum(m);
	REFIT_FAULT("begin.made");
	return REFIT_MORE;
}
