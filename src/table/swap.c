/*-------------------------------------------------------------------------
 *
 * swap.c
 *	  Exchanging the storage of two tables, catalog rows only.
 *
 * What cluster.c's swap_relation_files() does for one table and one transient
 * heap is done here for a table, its TOAST table and each of its indexes,
 * without rebuilding anything, and in a way that can be done twice in one
 * transaction.
 *
 * TOAST tables change hands by link, because toast pointers in rows name the
 * TOAST table.  With the link go the dependency, the name (a later ALTER TABLE
 * makes a new one under the name that belongs to the table) and relrewrite (a
 * TOAST table that has it set is passed over by logical decoding).
 *
 * relfrozenxid and relminmxid describe the storage and go with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_statistic.h"
#include "commands/tablecmds.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "table/swap.h"
#include "table/twin.h"
#include "util/sqlutil.h"

#define SWAP(type, a, b)     \
	do                       \
	{                        \
		type swap_tmp = (a); \
		(a) = (b);           \
		(b) = swap_tmp;      \
	} while (0)

/* A pg_class row to change. */
static HeapTuple
class_tuple(Oid relid)
{
	HeapTuple tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	return tuple;
}

/*
 * Is a relation's storage one of this transaction?  The relation cache is made
 * to forget it.
 */
static bool
take_newness(Relation rel)
{
	bool result = rel->rd_createSubid != InvalidSubTransactionId ||
				  rel->rd_firstRelfilelocatorSubid != InvalidSubTransactionId;

	rel->rd_createSubid = InvalidSubTransactionId;
	rel->rd_newRelfilelocatorSubid = InvalidSubTransactionId;
	rel->rd_firstRelfilelocatorSubid = InvalidSubTransactionId;
	return result;
}

/*
 * Tells the relation cache that the storage behind two relations changes
 * places.  With wal_level = minimal it derives from a storage's newness whether
 * changes are in WAL.  cluster.c, where one of the two is always new, does it
 * more simply; here the twin's storage is old, and what ALTER TABLE has made
 * for the table may be new.
 */
static void
exchange_newness(Oid table, Oid work)
{
	Relation a = relation_open(table, NoLock);
	Relation b = relation_open(work, NoLock);
	bool a_was_new = take_newness(a);
	bool b_was_new = take_newness(b);

	if (a_was_new)
		refit_assume_new_storage(b);
	if (b_was_new)
		refit_assume_new_storage(a);
	relation_close(a, NoLock);
	relation_close(b, NoLock);
}

/* Exchanges what describes storage in two pg_class rows. */
static void
swap_class_rows(Oid table, Oid work)
{
	Relation pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple tuple_a = class_tuple(table);
	HeapTuple tuple_b = class_tuple(work);
	Form_pg_class a = (Form_pg_class) GETSTRUCT(tuple_a);
	Form_pg_class b = (Form_pg_class) GETSTRUCT(tuple_b);

	if (a->relpersistence != b->relpersistence || a->relam != b->relam ||
		a->relkind != b->relkind)
		elog(ERROR, "cannot exchange the storage of relations %u and %u", table,
			 work);
	if (a->relfilenode == InvalidOid || b->relfilenode == InvalidOid)
		elog(ERROR, "cannot exchange the storage of a mapped relation");
	exchange_newness(table, work);

	SWAP(Oid, a->relfilenode, b->relfilenode);
	SWAP(Oid, a->reltablespace, b->reltablespace);
	SWAP(int32, a->relpages, b->relpages);
	SWAP(float4, a->reltuples, b->reltuples);
	SWAP(int32, a->relallvisible, b->relallvisible);
#ifdef REFIT_HAS_RELALLFROZEN
	SWAP(int32, a->relallfrozen, b->relallfrozen);
#endif
	if (a->relkind != RELKIND_INDEX)
	{
		SWAP(TransactionId, a->relfrozenxid, b->relfrozenxid);
		SWAP(TransactionId, a->relminmxid, b->relminmxid);
		SWAP(Oid, a->reltoastrelid, b->reltoastrelid);
	}
	CatalogTupleUpdate(pg_class, &tuple_a->t_self, tuple_a);
	CatalogTupleUpdate(pg_class, &tuple_b->t_self, tuple_b);
	heap_freetuple(tuple_a);
	heap_freetuple(tuple_b);
	table_close(pg_class, RowExclusiveLock);

	/* as cluster.c: neither entry may keep the other's open file */
	refit_close_smgr(table);
	refit_close_smgr(work);
	CommandCounterIncrement();
}

/* Makes a TOAST table depend on its new owner, and on nothing else. */
static void
give_toast_to(Oid toast, Oid owner)
{
	ObjectAddress toast_object;
	ObjectAddress owner_object;

	if (!OidIsValid(toast))
		return;
	if (deleteDependencyRecordsFor(RelationRelationId, toast, false) != 1)
		elog(ERROR, "expected one dependency record for TOAST table %u", toast);
	ObjectAddressSet(toast_object, RelationRelationId, toast);
	ObjectAddressSet(owner_object, RelationRelationId, owner);
	recordDependencyOn(&toast_object, &owner_object, DEPENDENCY_INTERNAL);
}

/* Renames a TOAST table and its index. */
static void
rename_toast(Oid toast, const char *name)
{
	Relation rel;
	List *indexes;

	if (!OidIsValid(toast))
		return;
	rel = table_open(toast, AccessExclusiveLock); /* private: locked before */
	indexes = RelationGetIndexList(rel);
	table_close(rel, NoLock);
	RenameRelationInternal(toast, name, true, false);
	CommandCounterIncrement();
	RenameRelationInternal(linitial_oid(indexes), psprintf("%s_index", name),
						   true, true);
	CommandCounterIncrement();
}

/* The TOAST table a relation is linked to. */
static Oid
toast_of(Oid relid)
{
	HeapTuple tuple = class_tuple(relid);
	Oid toast = ((Form_pg_class) GETSTRUCT(tuple))->reltoastrelid;

	heap_freetuple(tuple);
	return toast;
}

/* After the links were exchanged: everything else about the TOAST tables. */
static void
settle_toast(Oid table, Oid work)
{
	Oid table_toast = toast_of(table);
	Oid work_toast = toast_of(work);

	give_toast_to(table_toast, table);
	give_toast_to(work_toast, work);
	CommandCounterIncrement();
	rename_toast(work_toast, psprintf("pg_toast_%u_refit", work));
	rename_toast(table_toast, psprintf("pg_toast_%u", table));
	rename_toast(work_toast, psprintf("pg_toast_%u", work));
	if (OidIsValid(table_toast))
		refit_twin_set_relrewrite(table_toast, InvalidOid);
	if (OidIsValid(work_toast))
		refit_twin_set_relrewrite(work_toast, table);
}

/* Exchanges the storage of a table and a work table. */
void
refit_swap_storage(Oid table, Oid work, List *table_indexes, List *work_indexes)
{
	ListCell *lc_table;
	ListCell *lc_work;

	swap_class_rows(table, work);
	settle_toast(table, work);
	forboth(lc_table, table_indexes, lc_work, work_indexes)
		swap_class_rows(lfirst_oid(lc_table), lfirst_oid(lc_work));
	CacheInvalidateRelcacheByRelid(table);
	CacheInvalidateRelcacheByRelid(work);
	CommandCounterIncrement();
}

/* Exchanges the storage of two indexes of one table. */
void
refit_swap_indexes(Oid a, Oid b)
{
	swap_class_rows(a, b);
}

/* Is the storage of two attributes the same? */
static bool
same_layout(Form_pg_attribute a, Form_pg_attribute b, bool same_generated)
{
	if (a->attisdropped != b->attisdropped || a->attlen != b->attlen ||
		a->attalign != b->attalign || a->attbyval != b->attbyval)
		return false;
	return a->attisdropped ||
		   (a->atttypid == b->atttypid && a->atttypmod == b->atttypmod &&
			a->attcollation == b->attcollation &&
			(!same_generated || a->attgenerated == b->attgenerated) &&
			namestrcmp(&a->attname, NameStr(b->attname)) == 0);
}

/* An ERROR unless rows of one can be read through the other. */
void
refit_swap_check_layout(Oid table, Oid work, bool same_generated)
{
	Relation a = table_open(table, NoLock);
	Relation b = table_open(work, NoLock);
	TupleDesc desc_a = RelationGetDescr(a);
	TupleDesc desc_b = RelationGetDescr(b);
	bool same = desc_a->natts == desc_b->natts;

	for (int i = 0; same && i < desc_a->natts; i++)
		same = same_layout(TupleDescAttr(desc_a, i), TupleDescAttr(desc_b, i),
						   same_generated);
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the actions did not do to %s what they did to its "
						"twin",
						refit_qualified_name(table)),
				 errhint("Does a type or function that they name mean "
						 "something else now?")));
	table_close(a, NoLock);
	table_close(b, NoLock);
}

/* The indexes of a relation, sorted by oid: the order they were made in. */
static List *
sorted_indexes(Oid relid)
{
	Relation rel = table_open(relid, NoLock);
	List *indexes = list_copy(RelationGetIndexList(rel));

	table_close(rel, NoLock);
	list_sort(indexes, list_oid_cmp);
	return indexes;
}

/* Have the operator classes of two indexes the same options? */
static bool
same_class_options(Relation a, Relation b)
{
	for (int i = 1; i <= a->rd_index->indnkeyatts; i++)
	{
		Datum x = get_attoptions(RelationGetRelid(a), i);
		Datum y = get_attoptions(RelationGetRelid(b), i);

		if ((x == (Datum) 0) != (y == (Datum) 0) ||
			(x != (Datum) 0 && !datumIsEqual(x, y, false, -1)))
			return false;
	}
	return true;
}

/* Do two indexes store the same, of columns of the same numbers? */
static bool
is_alike(Oid a, Oid b)
{
	Relation rel_a = index_open(a, NoLock);
	Relation rel_b = index_open(b, NoLock);
	IndexInfo *info_a = BuildIndexInfo(rel_a);
	IndexInfo *info_b = BuildIndexInfo(rel_b);
	int nkeys = info_a->ii_NumIndexKeyAttrs;
	bool same = info_a->ii_NumIndexAttrs == info_b->ii_NumIndexAttrs &&
				nkeys == info_b->ii_NumIndexKeyAttrs &&
				rel_a->rd_rel->relam == rel_b->rd_rel->relam &&
				memcmp(info_a->ii_IndexAttrNumbers, info_b->ii_IndexAttrNumbers,
					   sizeof(AttrNumber) * info_a->ii_NumIndexAttrs) == 0 &&
				memcmp(rel_a->rd_opfamily, rel_b->rd_opfamily,
					   sizeof(Oid) * nkeys) == 0 &&
				memcmp(rel_a->rd_opcintype, rel_b->rd_opcintype,
					   sizeof(Oid) * nkeys) == 0 &&
				memcmp(rel_a->rd_indcollation, rel_b->rd_indcollation,
					   sizeof(Oid) * nkeys) == 0 &&
				memcmp(rel_a->rd_indoption, rel_b->rd_indoption,
					   sizeof(int16) * nkeys) == 0 &&
				equal(info_a->ii_Expressions, info_b->ii_Expressions) &&
				equal(info_a->ii_Predicate, info_b->ii_Predicate) &&
				same_class_options(rel_a, rel_b);

	index_close(rel_a, NoLock);
	index_close(rel_b, NoLock);
	return same;
}

/* Are two indexes that store the same also held to the same? */
static bool
is_same_index(Oid a, Oid b)
{
	Relation rel_a = index_open(a, NoLock);
	Relation rel_b = index_open(b, NoLock);
	IndexInfo *info_a = BuildIndexInfo(rel_a);
	IndexInfo *info_b = BuildIndexInfo(rel_b);
	bool same =
		info_a->ii_Unique == info_b->ii_Unique &&
		info_a->ii_NullsNotDistinct == info_b->ii_NullsNotDistinct &&
		(info_a->ii_ExclusionOps == NULL) == (info_b->ii_ExclusionOps == NULL);

	index_close(rel_a, NoLock);
	index_close(rel_b, NoLock);
	return same && is_alike(a, b);
}

/* How good a partner is this index of the twin?  0: none. */
static int
rate_partner(Oid index, Oid candidate)
{
	if (!is_same_index(index, candidate))
		return 0;
	return 1 +
		   (get_rel_tablespace(index) == get_rel_tablespace(candidate) ? 1
																	   : 0) +
		   (strcmp(get_rel_name(index), get_rel_name(candidate)) == 0 ? 2 : 0);
}

/* The index of the list that goes best with an index of the table. */
static Oid
find_partner(Oid index, List *candidates)
{
	Oid best = InvalidOid;
	int best_rate = 0;
	ListCell *lc;

	foreach(lc, candidates)
	{
		int rate = rate_partner(index, lfirst_oid(lc));

		if (rate > best_rate)
		{
			best_rate = rate;
			best = lfirst_oid(lc);
		}
	}
	return best;
}

/*
 * Pairs the indexes of a table with those of its twin.
 *
 * Their names say little where partitions are concerned, whose indexes
 * PostgreSQL names after the partition.  But indexes that are built alike have
 * the same entries for the same rows, so each can stand for the other.
 */
void
refit_swap_pair_indexes(Oid table, Oid twin, List **table_indexes,
						List **twin_indexes)
{
	List *left = sorted_indexes(twin);
	ListCell *lc;

	*table_indexes = sorted_indexes(table);
	*twin_indexes = NIL;
	foreach(lc, *table_indexes)
	{
		Oid partner = find_partner(lfirst_oid(lc), left);

		if (!OidIsValid(partner))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("index %s has no counterpart on the twin of %s",
							refit_qualified_name(lfirst_oid(lc)),
							refit_qualified_name(table)),
					 errhint("Does an operator class or function that it uses "
							 "mean something else now?")));
		*twin_indexes = lappend_oid(*twin_indexes, partner);
		left = list_delete_oid(left, partner);
	}
}

/* Pairs the indexes of a table with those of a work table that are alike. */
void
refit_swap_pair_alike(Oid table, Oid work, List **table_indexes,
					  List **work_indexes)
{
	List *left = sorted_indexes(work);
	ListCell *lc;

	*table_indexes = sorted_indexes(table);
	*work_indexes = NIL;
	foreach(lc, *table_indexes)
	{
		Oid match = InvalidOid;
		ListCell *lc2;

		foreach(lc2, left)
			if (!OidIsValid(match) && is_alike(lfirst_oid(lc), lfirst_oid(lc2)))
				match = lfirst_oid(lc2);
		if (!OidIsValid(match))
			elog(ERROR, "index %u has no partner in the old copy",
				 lfirst_oid(lc));
		*work_indexes = lappend_oid(*work_indexes, match);
		left = list_delete_oid(left, match);
	}
}

/* Copies one row of pg_statistic for another relation. */
static void
copy_statistic(Relation pg_statistic, HeapTuple tuple, Oid to)
{
	HeapTuple copy = heap_copytuple(tuple);

	((Form_pg_statistic) GETSTRUCT(copy))->starelid = to;
	CatalogTupleInsert(pg_statistic, copy);
	heap_freetuple(copy);
}

/*
 * Goes over the statistics of a relation, those on what inherits from it too if
 * so wished.  to: copies them for that one; InvalidOid: deletes them.
 */
static void
walk_statistics(Oid relid, bool inherited, Oid to)
{
	Relation pg_statistic = table_open(StatisticRelationId, RowExclusiveLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;

	ScanKeyInit(&key, Anum_pg_statistic_starelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_statistic, StatisticRelidAttnumInhIndexId,
							  true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (((Form_pg_statistic) GETSTRUCT(tuple))->stainherit && !inherited)
			continue;
		if (OidIsValid(to))
			copy_statistic(pg_statistic, tuple, to);
		else
			CatalogTupleDelete(pg_statistic, &tuple->t_self);
	}
	systable_endscan(scan);
	table_close(pg_statistic, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Carries the planner's statistics of one relation over to another. */
void
refit_swap_copy_statistics(Oid from, Oid to, bool inherited)
{
	walk_statistics(to, inherited, InvalidOid);
	walk_statistics(from, inherited, to);
}
