/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  How an index will be built, rebuilt or dropped.  See plan.h.
 *
 * Method auto: CREATE INDEX CONCURRENTLY is faster and makes a denser index, but
 * holds a snapshot for as long as it takes, and cannot be slowed down.  So it is
 * chosen where that is short and nobody is in need of slowness: for a table of at
 * most CONCURRENTLY_BYTES while no signal of the governor slows the migration; and
 * for an access method that cannot be worked incrementally.  It is never chosen
 * for a partitioned table, where PostgreSQL does not have it, with option check, or
 * to rebuild an index, whose OID would not stay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "storage/bufmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "index/definition.h"
#include "index/entries.h"
#include "index/plan.h"
#include "index/row.h"
#include "job/catalog.h"
#include "pass/governor.h"
#include "table/plan.h"
#include "util/fault.h"
#include "util/sqlutil.h"

/* The longest table, in bytes, that method auto gives to CONCURRENTLY. */
#define CONCURRENTLY_BYTES ((int64) 256 * 1024 * 1024)

/* Is this a kind of migration that is about an index? */
bool
refit_index_is_kind(const char *kind)
{
	return strcmp(kind, "create_index") == 0 ||
		   strcmp(kind, "rebuild_index") == 0 ||
		   strcmp(kind, "drop_index") == 0;
}

/* The access method of an index. */
Oid
refit_index_access_method(Oid index)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index));
	Oid result = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_class) GETSTRUCT(tuple))->relam;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Checks
 */

/* Refuses a method that cannot build indexes of this access method. */
static void
check_method(const char *method, Oid access_method)
{
	if (strcmp(method, "incremental") == 0 &&
		refit_entries_look(access_method) == REFIT_LOOK_IMPOSSIBLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("access method \"%s\" does not support incremental "
						"builds",
						get_am_name(access_method)),
				 errdetail("Whether an entry is in such an index already "
						   "cannot be found out."),
				 errhint("Use method \"concurrently\".")));
}

/* Refuses option check where it cannot be done. */
void
refit_index_check_amcheck(Oid access_method)
{
	if (access_method != BTREE_AM_OID)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("option \"check\" is for btree indexes")));
	if (!OidIsValid(get_extension_oid("amcheck", true)))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("option \"check\" needs extension amcheck"),
						errhint("Use CREATE EXTENSION amcheck.")));
}

/* Refuses a name that is taken. */
static void
check_name(Oid relid, const IndexStmt *stmt)
{
	Oid taken =
		stmt->idxname == NULL
			? InvalidOid
			: get_relname_relid(stmt->idxname, get_rel_namespace(relid));

	if (!OidIsValid(taken))
		return;
	if (get_rel_relkind(taken) == RELKIND_INDEX && !get_index_isvalid(taken))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", stmt->idxname),
				 errdetail("It is an invalid index: its build has failed, or "
						   "goes on."),
				 errhint("If it is not being built, drop it with "
						 "refit.drop_index().")));
	ereport(ERROR, (errcode(ERRCODE_DUPLICATE_TABLE),
					errmsg("relation \"%s\" already exists", stmt->idxname)));
}

/* An ERROR unless such an index can be made. */
void
refit_index_check_create(Oid relid, const char *definition, const char *method,
						 const char *search_path)
{
	IndexStmt *stmt = refit_definition_parse(definition);

	refit_plan_check_owned(relid);
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE &&
		strcmp(method, "concurrently") == 0)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("cannot create index on partitioned table "
							   "\"%s\" concurrently",
							   get_rel_name(relid)),
						errhint("Use method \"incremental\".")));
	check_method(method, get_index_am_oid(stmt->accessMethod, false));
	check_name(relid, stmt);
	refit_definition_try(definition, relid, search_path);
}

/* An ERROR unless it is an index of the caller's. */
static Form_pg_index
check_index(Oid index, Relation *rel)
{
	if (get_rel_relkind(index) == '\0')
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("index with OID %u does not exist", index)));
	if (get_rel_relkind(index) != RELKIND_INDEX &&
		get_rel_relkind(index) != RELKIND_PARTITIONED_INDEX)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not an index", get_rel_name(index))));
	refit_plan_check_owned(IndexGetRelation(index, false));
	*rel = index_open(index, AccessShareLock);
	return (*rel)->rd_index;
}

/* An ERROR unless that index can be rebuilt. */
void
refit_index_check_rebuild(Oid index, const char *method)
{
	Relation rel;
	Form_pg_index form = check_index(index, &rel);

	if (!form->indisvalid || !form->indisready)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("index \"%s\" is invalid", RelationGetRelationName(rel)),
			 errdetail("Its build has failed, or goes on."),
			 errhint("Drop it with refit.drop_index(), and create it with "
					 "refit.create_index().")));
	check_method(method, rel->rd_rel->relam);
	index_close(rel, NoLock);
}

/* An ERROR unless that index can be dropped. */
void
refit_index_check_drop(Oid index)
{
	Relation rel;
	Oid constraint;

	(void) check_index(index, &rel);
	constraint = get_index_constraint(index);
	if (OidIsValid(constraint))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop index %s because constraint %s on table "
						"%s requires it",
						get_rel_name(index), get_constraint_name(constraint),
						get_rel_name(rel->rd_index->indrelid)),
				 errhint("Drop the constraint instead, with "
						 "refit.alter_table().")));
	if (rel->rd_rel->relispartition)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop index %s because index %s requires it",
						get_rel_name(index),
						get_rel_name(get_partition_parent(index, false))),
				 errhint("Drop the index of the partitioned table.")));
	index_close(rel, NoLock);
}

/*
 * Planning
 */

/* Is it the time, and the table, for CREATE INDEX CONCURRENTLY? */
static bool
suits_concurrently(RefitMigration *m, Oid access_method, const char **reason)
{
	Relation rel;
	int64 bytes;

	if (strcmp(m->kind, "create_index") != 0 ||
		get_rel_relkind(m->relid) != RELKIND_RELATION)
		return false;
	*reason = "the access method does not support incremental builds";
	if (refit_entries_look(access_method) == REFIT_LOOK_IMPOSSIBLE)
		return true;
	if (refit_catalog_option(m, "check") != NULL)
		return false;
	rel = table_open(m->relid, AccessShareLock);
	bytes = (int64) RelationGetNumberOfBlocks(rel) * BLCKSZ;
	table_close(rel, NoLock);
	*reason = "the table is small and the server is not loaded";
	return bytes <= CONCURRENTLY_BYTES && refit_governor_before(m) == 0 &&
		   m->progress.throttled_by == NULL;
}

/* Chooses the method. */
static const char *
choose_method(RefitMigration *m, Oid access_method, const char **reason)
{
	if (strcmp(m->method, "auto") != 0)
		*reason = psprintf("method %s was asked for", m->method);
	else if (suits_concurrently(m, access_method, reason))
		return "concurrently";
	else
	{
		*reason = "built in chunks, which can be slowed down and paused";
		return "incremental";
	}
	return m->method;
}

/* Writes down the table's index to be made; partitions follow at the begin. */
static void
plan_create(RefitMigration *m)
{
	RefitIndexRow row = {.relid = m->relid};

	row.is_leaf = get_rel_relkind(m->relid) != RELKIND_PARTITIONED_TABLE;
	refit_index_row_plan(m, &row);
}

/* Writes down the indexes with storage, of a partitioned index or one itself. */
static void
plan_rebuild(RefitMigration *m)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(m->object, NoLock, NULL))
	{
		RefitIndexRow row = {.is_leaf = true, .target = lfirst_oid(lc)};

		if (get_rel_relkind(row.target) != RELKIND_INDEX)
			continue;
		row.relid = IndexGetRelation(row.target, false);
		refit_index_row_plan(m, &row);
	}
}

/* Phase plan. */
char *
refit_index_plan(RefitMigration *m)
{
	const char *reason;
	bool creates = strcmp(m->kind, "create_index") == 0;
	Oid access_method;

	if (strcmp(m->kind, "drop_index") == 0)
	{
		m->strategy = "drop";
		return pstrdup("one short transaction");
	}
	if (!creates && get_rel_relkind(m->object) == '\0')
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("the index does not exist any more")));
	if (!creates)
		refit_index_check_rebuild(m->object, m->method);
	access_method =
		creates
			? get_index_am_oid(
				  refit_definition_parse(m->definition)->accessMethod, false)
			: refit_index_access_method(m->object);
	m->strategy = pstrdup(choose_method(m, access_method, &reason));
	refit_index_row_delete_all(m);
	if (strcmp(m->strategy, "incremental") != 0)
		return pstrdup(reason);
	if (creates)
		plan_create(m);
	else
		plan_rebuild(m);
	REFIT_FAULT("plan.index");
	return pstrdup(reason);
}
