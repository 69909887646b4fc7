/*-------------------------------------------------------------------------
 *
 * tree.c
 *	  The tables of a tree, and the tree of their twins.  See tree.h.
 *
 * Partitions that are attached, detached, created or dropped while a migration
 * runs make it fail before the cutover.  To take a new one in would mean to run
 * the actions for it alone, which PostgreSQL does for no partition, nor for a
 * table that inherits.
 *
 * If the process dies: the twins are made in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "job/catalog.h"
#include "table/actions.h"
#include "table/inherit.h"
#include "table/shape.h"
#include "table/tree.h"
#include "table/twin.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* What a twin is called when its table's name is taken: by its table's oid. */
#define PARTITION_FORMAT "$partition_%u"

/* The topmost table of the tree that a table is in. */
Oid
refit_tree_root(Oid relid)
{
	return get_rel_relispartition(relid)
			   ? llast_oid(get_partition_ancestors(relid))
			   : relid;
}

/* The table and all below it that the actions reach. */
List *
refit_tree_reach(Oid relid, const AlterTableStmt *stmt)
{
	char kind = get_rel_relkind(relid);

	if (kind == RELKIND_PARTITIONED_TABLE ||
		(kind == RELKIND_RELATION && refit_inherit_recurses(stmt)))
		return find_all_inheritors(relid, NoLock, NULL);
	return OidIsValid(relid) ? list_make1_oid(relid) : NIL;
}

/* The table and its partitions. */
List *
refit_tree_members(Oid relid)
{
	return refit_tree_reach(relid, NULL);
}

/* What members of the tree are called. */
const char *
refit_tree_word(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? "partition"
															   : "table";
}

/* What tables that could overlap have in common. */
Oid
refit_tree_queue(Oid relid)
{
	return refit_inherit_has_relatives(relid) ? InheritsRelationId
											  : refit_tree_root(relid);
}

/* What the actions reach as an oid[]. */
Datum
refit_tree_reach_array(Oid relid, const AlterTableStmt *stmt)
{
	List *members = refit_tree_reach(relid, stmt);
	Datum *elements = palloc(sizeof(Datum) * (list_length(members) + 1));
	ListCell *lc;

	foreach(lc, members)
		elements[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elements, list_length(members),
										   OIDOID, sizeof(Oid), true,
										   TYPALIGN_INT));
}

/* ACCESS EXCLUSIVE on all members. */
List *
refit_tree_locks(Oid relid, const AlterTableStmt *stmt)
{
	List *locks = NIL;
	ListCell *lc;

	foreach(lc, refit_tree_reach(relid, stmt))
		locks = lappend(
			locks, refit_polite_lock_on(lfirst_oid(lc), AccessExclusiveLock));
	return locks;
}

/* The twin of a table among those made so far. */
static Oid
find_twin(List *twins, Oid source)
{
	ListCell *lc;

	foreach(lc, twins)
		if (((RefitTwin *) lfirst(lc))->source == source)
			return ((RefitTwin *) lfirst(lc))->twin;
	elog(ERROR, "partitioned table %u has no twin", source);
	return InvalidOid;
}

/* Puts a twin into the tree, with the bounds that its table has. */
static void
attach_twin(Oid source, Oid twin, Oid parent)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(source)};
	char *bound = refit_sql_text("SELECT pg_get_expr(relpartbound, oid)"
								 " FROM pg_catalog.pg_class WHERE oid = $1",
								 1, types, values);

	refit_actions_run_own(
		psprintf("ATTACH PARTITION %s %s", refit_qualified_name(twin), bound),
		parent);
}

/*
 * The name of a partition's twin: its table's, which PostgreSQL's messages show,
 * unless another schema has a table of that name too.
 */
static char *
choose_name(Relation source, Oid schema)
{
	if (!OidIsValid(get_relname_relid(RelationGetRelationName(source), schema)))
		return pstrdup(RelationGetRelationName(source));
	return psprintf(PARTITION_FORMAT, RelationGetRelid(source));
}

/* Makes the twin of one member. */
static RefitTwin *
create_twin(List *twins, Oid relid, Oid schema)
{
	RefitTwin *result = palloc0(sizeof(RefitTwin));
	Relation source = table_open(relid, AccessShareLock);

	if (source->rd_rel->relkind == RELKIND_FOREIGN_TABLE) /* since the plan */
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("foreign table \"%s\" has become one of the "
							   "tables to change",
							   RelationGetRelationName(source))));
	result->source = relid;
	result->is_leaf = source->rd_rel->relkind != RELKIND_PARTITIONED_TABLE;
	result->fingerprint = refit_shape_fingerprint(relid);
	if (twins == NIL)
		result->twin = refit_twin_create(source, schema, NULL);
	else
	{
		result->twin =
			refit_twin_create(source, schema, choose_name(source, schema));
		if (source->rd_rel->relispartition)
			attach_twin(relid, result->twin,
						find_twin(twins, get_partition_parent(relid, false)));
	}
	table_close(source, NoLock);
	return result;
}

/* Makes the twins. */
List *
refit_tree_create_twins(Oid relid, Oid schema, const AlterTableStmt *stmt)
{
	List *twins = NIL;
	ListCell *lc;

	foreach(lc, refit_tree_reach(relid, stmt))
		twins = lappend(twins, create_twin(twins, lfirst_oid(lc), schema));
	refit_inherit_link(twins);
	return twins;
}

/* Refuses to go on: members have come or gone. */
static void
refuse_change(const RefitMigration *m, const char *members, const char *change)
{
	const char *table = refit_qualified_name(m->relid);
	const char *way_out =
		get_rel_relkind(m->relid) == RELKIND_PARTITIONED_TABLE
			? "Detach a partition that has come, or attach again one that was "
			  "detached"
			: "Use NO INHERIT on a child that has come";

	if (m->rewrite.reversed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the %s of %s were changed in its revert window: %s",
						members, table, change),
				 errdetail("There are old rows for the %s that there were, "
						   "and for no others.",
						   members),
				 errhint("%s; or end the window with refit.finish(" INT64_FORMAT
						 ").",
						 way_out, m->id)));
	ereport(
		ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		 errmsg("the %s of %s were changed while its migration was "
				"running: %s",
				members, table, change),
		 errdetail("The table was not touched."),
		 errhint("Start it again with refit.retry(" INT64_FORMAT ").", m->id)));
}

/* Have tables come or gone that inherit from this one? */
static void
check_inheritors(const RefitMigration *m)
{
	Oid types[2] = {INT8OID, OIDOID};
	Datum values[2] = {Int64GetDatum(m->id), ObjectIdGetDatum(m->relid)};
	char *change = refit_sql_text(
		"WITH RECURSIVE tree(relid) AS (SELECT $2 UNION SELECT i.inhrelid"
		" FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relid)"
		" SELECT format(CASE WHEN r.relid IS NULL THEN 'table %s has come'"
		" ELSE 'table %s has gone' END,"
		" coalesce(r.relation, t.relid::regclass::text))"
		" FROM tree t FULL JOIN (SELECT relid, relation FROM refit.rewrite"
		"  WHERE id = $1) r USING (relid)"
		" WHERE r.relid IS NULL OR t.relid IS NULL LIMIT 1",
		2, types, values);

	if (change != NULL)
		refuse_change(m, "children", change);
}

/* Have partitions come or gone? */
static void
check_partitions(const RefitMigration *m)
{
	Oid types[2] = {INT8OID, OIDOID};
	Datum values[2] = {Int64GetDatum(m->id), ObjectIdGetDatum(m->relid)};
	char *change = refit_sql_text(
		"WITH RECURSIVE tree(relid, pending) AS ("
		" SELECT $2, false UNION ALL SELECT i.inhrelid, i.inhdetachpending"
		" FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relid)"
		" SELECT format(CASE WHEN r.relid IS NULL THEN 'partition %s was"
		" attached' WHEN t.relid IS NULL THEN 'partition %s was detached or"
		" dropped' ELSE 'partition %s is being detached' END,"
		" coalesce(r.relation, t.relid::regclass::text))"
		" FROM tree t FULL JOIN (SELECT relid, relation FROM refit.rewrite"
		"  WHERE id = $1) r USING (relid)"
		" WHERE r.relid IS NULL OR t.relid IS NULL OR t.pending LIMIT 1",
		2, types, values);

	if (change != NULL)
		refuse_change(m, "partitions", change);
}

/* Have members come or gone? */
void
refit_tree_check(const RefitMigration *m)
{
	if (get_rel_relkind(m->relid) == RELKIND_PARTITIONED_TABLE)
		check_partitions(m);
	else if (refit_inherit_recurses(refit_actions_of(m)))
		check_inheritors(m);
}

/* Are the tables without a leaf what the plan was made for? */
void
refit_tree_check_parents(RefitMigration *m)
{
	RefitLeaf leaf = {.relid = m->leaf, .rewrite = m->rewrite};
	ListCell *lc;

	foreach(lc, refit_catalog_parents(m))
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		refit_shape_check(m);
	}
	refit_catalog_use_leaf(m, &leaf);
}
