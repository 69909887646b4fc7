/*-------------------------------------------------------------------------
 *
 * plan.c
 *	  How a migration will be done, found by trying it.  See plan.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/dependency.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "ddl/fate.h"
#include "table/actions.h"
#include "table/dependents.h"
#include "table/inherit.h"
#include "table/inverse.h"
#include "table/plan.h"
#include "table/shape.h"
#include "table/space.h"
#include "table/transform.h"
#include "table/tree.h"
#include "table/twin.h"
#include "table/undo.h"
#include "util/attempt.h"
#include "util/sqlutil.h"

/* What a table looks like before and after the actions. */
typedef struct TwinState
{
	Oid filenode;
	char persistence;
	List *index_filenodes;
	List *checks; /* oids of valid CHECK constraints */
	List *check_names;
	int natts;
	int not_null; /* NOT NULL columns among the first natts */
} TwinState;

/* Refuses a kind of relation. */
static void
refuse_kind(Relation rel, const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
					errmsg("\"%s\" is %s", RelationGetRelationName(rel), what),
					errdetail("Online changes work on ordinary tables."),
					hint != NULL ? errhint("%s", hint) : 0));
}

/* Refuses relations that are no ordinary tables. */
static void
check_kind(Relation rel)
{
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
			break;
		case RELKIND_VIEW:
			refuse_kind(rel, "a view", "Name the table that it reads.");
			break;
		case RELKIND_MATVIEW:
			refuse_kind(rel, "a materialized view",
						"Use REFRESH MATERIALIZED VIEW CONCURRENTLY.");
			break;
		case RELKIND_FOREIGN_TABLE:
			refuse_kind(rel, "a foreign table",
						"Change it on the server where its rows are.");
			break;
		default:
			refuse_kind(rel, "not a table", NULL);
	}
	if (IsCatalogRelation(rel) || IsToastRelation(rel))
		refuse_kind(rel, "a system catalog", NULL);
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_kind(rel, "a temporary table",
					"Nobody else uses it: a plain statement will do.");
	if (rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_tableam != GetHeapamTableAmRoutine())
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("\"%s\" does not use the heap access method",
							   RelationGetRelationName(rel))));
}

/*
 * Is it one that a migration is building?  Whatever is submitted now has its turn
 * when that is over, and is checked again then.
 */
static bool
is_being_built(Oid index)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(index)};

	return refit_sql_text("SELECT 1 FROM refit.index_build b WHERE b.index = $1"
						  " UNION ALL SELECT 1" REFIT_DEBRIS_FROM
						  " AND c.oid = $1"
						  " LIMIT 1",
						  1, types, values) != NULL;
}

/* Refuses a table with an index that does not have all rows. */
static void
check_indexes(Relation rel)
{
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool valid = index->rd_index->indisvalid;

		index_close(index, NoLock);
		if (!valid && !is_being_built(lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("index \"%s\" of \"%s\" is invalid",
							get_rel_name(lfirst_oid(lc)),
							RelationGetRelationName(rel)),
					 errdetail("A CREATE INDEX CONCURRENTLY has failed, or is "
							   "still running."),
					 errhint("Drop or rebuild that index first.")));
	}
}

/* Refuses relations whose place among others we cannot keep. */
static void
check_relatives(Relation rel, bool alters)
{
	const char *name = RelationGetRelationName(rel);
	Oid relid = RelationGetRelid(rel);

	if (rel->rd_rel->relispartition && alters)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is a partition", name),
				 errdetail("Its definition is that of the partitioned table."),
				 errhint("Alter %s, and with it all its partitions.",
						 refit_qualified_name(refit_tree_root(relid)))));
	if (OidIsValid(rel->rd_rel->reloftype))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("\"%s\" is a typed table", name),
						errhint("Alter its type instead.")));
}

/* Refuses a tree for one of its partitions. */
static void
refuse_partition(Relation rel, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("partition \"%s\" %s", RelationGetRelationName(rel), what),
			 errdetail("A partition tree is changed as a whole."),
			 errhint("%s", hint)));
}

/* Refuses a tree with a partition that cannot be worked. */
static void
check_partition(Relation rel, Relation root)
{
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		refuse_partition(rel, "is a foreign table",
						 "Detach it first, and attach it again afterwards.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_partition(rel, "is a temporary table", "Drop it first.");
	if (rel->rd_rel->relowner != root->rd_rel->relowner)
		refuse_partition(rel, "has another owner than its parent",
						 "Use ALTER TABLE ... OWNER TO first.");
	check_kind(rel);
}

/* Refuses a tree with a partition that is on its way out. */
static void
check_detached(Oid root)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(root)};
	char *name = refit_sql_text(
		"WITH RECURSIVE tree(relid, pending) AS ("
		" SELECT $1, false UNION ALL SELECT i.inhrelid, i.inhdetachpending"
		" FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relid)"
		" SELECT relid::regclass FROM tree WHERE pending LIMIT 1",
		1, types, values);

	if (name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition %s is being detached", name),
				 errhint("Use ALTER TABLE ... DETACH PARTITION ... FINALIZE "
						 "first.")));
}

/* Looks at all partitions. */
static void
check_partitions(Relation root)
{
	ListCell *lc;

	if (root->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	check_detached(RelationGetRelid(root));
	foreach(lc, refit_tree_members(RelationGetRelid(root)))
	{
		Relation rel = try_relation_open(lfirst_oid(lc), AccessShareLock);

		if (rel == NULL)
			continue;
		check_partition(rel, root);
		check_indexes(rel);
		relation_close(rel, NoLock);
	}
}

/* Refuses actions for one of the tables that inherit. */
static void
refuse_child(Relation rel, const char *what, const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("child table \"%s\" %s",
						   RelationGetRelationName(rel), what),
					errdetail("The actions reach all tables that inherit."),
					errhint("%s", hint)));
}

/* Refuses a table that inherits and cannot be worked. */
static void
check_child(Relation rel, Oid owner)
{
	if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		refuse_child(
			rel, "is a foreign table",
			"Use ALTER FOREIGN TABLE ... NO INHERIT first, and INHERIT "
			"again afterwards.");
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_child(rel, "is a temporary table", "Drop it first.");
	if (rel->rd_rel->relowner != owner)
		refuse_child(rel, "has another owner than its parent",
					 "Use ALTER TABLE ... OWNER TO first.");
	check_kind(rel);
	check_indexes(rel);
}

/* Looks at the tables that inherit and that the actions reach. */
static void
check_children(const RefitPlanRequest *request)
{
	ListCell *lc;

	if (get_rel_relkind(request->relid) != RELKIND_RELATION)
		return;
	foreach(lc, refit_tree_reach(request->relid, request->stmt))
	{
		Relation rel = lfirst_oid(lc) != request->relid
						   ? try_relation_open(lfirst_oid(lc), AccessShareLock)
						   : NULL;

		if (rel == NULL)
			continue;
		check_child(rel, refit_relation_owner(request->relid));
		relation_close(rel, NoLock);
	}
}

/* Opens a relation of users that is an ordinary table of the caller. */
static Relation
open_owned(Oid relid)
{
	Relation rel = try_relation_open(relid, AccessShareLock);

	if (rel == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
						errmsg("relation with OID %u does not exist", relid)));
	check_kind(rel);
	if (!refit_owns_relation(relid))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE,
					   RelationGetRelationName(rel));
	if (OidIsValid(getExtensionOfObject(RelationRelationId, relid)) &&
		RelationGetNamespace(rel) == get_namespace_oid(REFIT_SCHEMA, true))
		refuse_kind(rel, "one of pg_refit's own tables", NULL);
	return rel;
}

/* An ERROR unless the rows of this table can be worked, by the caller. */
void
refit_plan_check_rows(Oid relid)
{
	Relation rel = open_owned(relid);
	ListCell *lc;

	foreach(lc, find_all_inheritors(relid, AccessShareLock, NULL))
	{
		Relation child = relation_open(lfirst_oid(lc), NoLock);

		check_partition(child, rel);
		relation_close(child, NoLock);
	}
	relation_close(rel, NoLock);
}

/* An ERROR unless this is a table of users, and the caller's. */
void
refit_plan_check_owned(Oid relid)
{
	relation_close(open_owned(relid), NoLock);
}

/* An ERROR unless this is a table that can be worked, by the caller. */
void
refit_plan_check_table(Oid relid, bool alters)
{
	Relation rel = open_owned(relid);

	check_relatives(rel, alters);
	check_indexes(rel);
	check_partitions(rel);
	relation_close(rel, NoLock);
}

/* The valid CHECK constraints of a table. */
static void
collect_checks(Oid relid, TwinState *state)
{
	Relation rel = table_open(relid, NoLock);
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
	{
		char *name = constr->check[i].ccname;

		if (!constr->check[i].ccvalid)
			continue;
		state->checks = lappend_oid(
			state->checks, get_relation_constraint_oid(relid, name, false));
		state->check_names =
			lappend(state->check_names, makeString(pstrdup(name)));
	}
	table_close(rel, NoLock);
}

/*
 * What a table looks like now.  natts: how many columns it had at first; 0: all
 * that it has.
 */
static TwinState *
look_at(Oid relid, int natts)
{
	TwinState *state = palloc0(sizeof(TwinState));
	Relation rel = table_open(relid, NoLock);
	ListCell *lc;

	if (natts == 0)
		natts = RelationGetDescr(rel)->natts;

	state->filenode = rel->rd_rel->relfilenode;
	state->persistence = rel->rd_rel->relpersistence;
	state->natts = natts;
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		state->index_filenodes =
			lappend_oid(state->index_filenodes, index->rd_rel->relfilenode);
		index_close(index, NoLock);
	}
	for (int i = 0; i < natts; i++)
		if (TupleDescAttr(RelationGetDescr(rel), i)->attnotnull)
			state->not_null++;
	table_close(rel, NoLock);
	collect_checks(relid, state);
	return state;
}

/* Do the actions add a foreign key, and must existing rows obey it? */
static bool
adds_foreign_key(const AlterTableStmt *stmt, bool *in_column)
{
	bool result = false;
	ListCell *lc;

	*in_column = false;
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		ListCell *lc2;

		if (cmd->subtype == AT_AddConstraint &&
			castNode(Constraint, cmd->def)->contype == CONSTR_FOREIGN &&
			!castNode(Constraint, cmd->def)->skip_validation)
			result = true;
		if (cmd->subtype != AT_AddColumn)
			continue;
		foreach(lc2, castNode(ColumnDef, cmd->def)->constraints)
			if (lfirst_node(Constraint, lc2)->contype == CONSTR_FOREIGN)
				*in_column = true;
	}
	return result;
}

/* Does a list of actions have one of a kind? */
static bool
has_action(const AlterTableStmt *stmt, AlterTableType type)
{
	ListCell *lc;

	foreach(lc, stmt->cmds)
		if (lfirst_node(AlterTableCmd, lc)->subtype == type)
			return true;
	return false;
}

/* Names the strategy, from what the actions did to one copy. */
static void
choose_strategy_for(RefitPlan *plan, const AlterTableStmt *stmt,
					const TwinState *before, const TwinState *after)
{
	List *new_checks = list_difference_oid(after->checks, before->checks);
	bool in_column;
	bool foreign_key = adds_foreign_key(stmt, &in_column);
	ListCell *lc;

	plan->strategy = "rewrite";
	if (before->persistence != after->persistence)
		plan->reason = "the table becomes logged or unlogged";
	else if (before->filenode != after->filenode)
		plan->reason = "every row is written anew";
	else if (list_difference_oid(after->index_filenodes,
								 before->index_filenodes) != NIL)
		plan->reason = "an index is built";
	else if (in_column)
		plan->reason = "a new column has a foreign key";
	else
	{
		plan->strategy = "instant";
		plan->reason = "only catalogs change";
		foreach(lc, after->checks)
			if (list_member_oid(new_checks, lfirst_oid(lc)) &&
				list_member(
					before->check_names,
					list_nth(after->check_names, foreach_current_index(lc))))
			{
				plan->strategy = "rewrite";
				plan->reason = "a CHECK constraint on a retyped column must "
							   "hold for every row";
				return;
			}
		if (new_checks != NIL || foreign_key ||
			after->not_null > before->not_null ||
			has_action(stmt, AT_ValidateConstraint))
		{
			plan->strategy = "validate";
			plan->reason = "existing rows are checked against a constraint";
		}
	}
}

/*
 * Can a key's new value be told from its old value alone, and cast back?
 * certain: and it is known to lead back, so that two keys never become one.
 */
static bool
can_follow_key(Relation source, Relation twin, Expr **exprs, int nkeys,
			   const AttrNumber *attnums, bool certain)
{
	Bitmapset *allowed = NULL;

	for (int i = 0; i < nkeys; i++)
		allowed = bms_add_member(
			allowed, attnums[i] - FirstLowInvalidHeapAttributeNumber);
	for (int i = 0; i < nkeys; i++)
	{
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(twin), attnums[i] - 1);
		Node *expr = (Node *) exprs[attnums[i] - 1];
		Bitmapset *used = NULL;

		if (att->attisdropped || att->attgenerated != '\0' ||
			contain_volatile_functions(expr))
			return false;
		pull_varattnos(expr, 1, &used);
		if (!bms_is_subset(used, allowed))
			return false;
		if (certain && !refit_transform_is_invertible((Expr *) expr))
			return false;
		if (refit_inverse_cast(
				twin, TupleDescAttr(RelationGetDescr(source), attnums[i] - 1),
				attnums[i]) == NULL)
			return false;
	}
	return true;
}

/* The first of some indexes that can be followed, or InvalidOid. */
static Oid
find_followable(Relation source, Relation twin, Expr **exprs, List *candidates,
				bool certain)
{
	ListCell *lc;

	foreach(lc, candidates)
	{
		AttrNumber *attnums;
		int nkeys = refit_shape_key_attnums(lfirst_oid(lc), &attnums);

		if (can_follow_key(source, twin, exprs, nkeys, attnums, certain))
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* The table's key that can be followed through the actions. */
Oid
refit_plan_choose_key(Relation source, Oid twin_oid, const AlterTableStmt *stmt,
					  const char *search_path)
{
	List *candidates = refit_shape_key_indexes(source);
	Relation twin = table_open(twin_oid, NoLock);
	Expr **exprs = refit_transform_exprs(source, twin, stmt, search_path);
	Oid result = find_followable(source, twin, exprs, candidates, true);

	if (!OidIsValid(result))
		result = find_followable(source, twin, exprs, candidates, false);
	table_close(twin, NoLock);
	if (candidates == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key that rows can be found by",
						RelationGetRelationName(source)),
				 errhint("Give it a primary key, or a unique index on NOT NULL "
						 "columns without a predicate.")));
	if (!OidIsValid(result))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("no key of table \"%s\" can be followed through the "
						"actions",
						RelationGetRelationName(source)),
				 errdetail("A key column is dropped, or its new value depends "
						   "on other columns or on a volatile function, or "
						   "cannot be cast back to the old one."),
				 errhint("Add another unique index on NOT NULL columns.")));
	return result;
}

/* How much work a strategy is. */
static int
rank(const char *strategy)
{
	if (strcmp(strategy, "rewrite") == 0)
		return 2;
	return strcmp(strategy, "validate") == 0 ? 1 : 0;
}

/* Names the strategy: the strongest that any table with rows needs. */
static void
choose_strategy(RefitPlan *plan, const AlterTableStmt *stmt, const List *twins,
				const List *before)
{
	ListCell *lc;
	ListCell *lc_before;

	plan->strategy = "instant";
	plan->reason = "only catalogs change";
	forboth(lc, twins, lc_before, before)
	{
		RefitTwin *t = lfirst(lc);
		TwinState *state = lfirst(lc_before);
		RefitPlan one = {0};

		if (!t->is_leaf)
			continue;
		choose_strategy_for(&one, stmt, state, look_at(t->twin, state->natts));
		if (rank(one.strategy) > rank(plan->strategy))
		{
			plan->strategy = one.strategy;
			plan->reason = one.reason;
		}
	}
}

/* A plan in the making. */
typedef struct Trial
{
	const RefitPlanRequest *request;
	RefitPlan *plan;
	List *twins; /* of RefitTwin, the root first */
} Trial;

/* Looks whether the actions can be undone; for refit_attempt. */
static void
try_inverse(void *arg)
{
	Trial *trial = arg;
	const RefitPlanRequest *request = trial->request;

	(void) refit_undo_find(trial->twins, request->stmt, request->search_path,
						   &trial->plan->irreversible);
}

/* Finds out whether the migration could be reverted. */
static void
judge_revert(Trial *trial)
{
	RefitPlan *plan = trial->plan;
	ErrorData *edata;

	if (trial->request->stmt == NULL)
	{
		plan->irreversible = pstrdup("a repack does not change the definition");
		return;
	}
	edata = refit_attempt(try_inverse, trial, true);
	if (edata == NULL)
		return;
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		edata->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
		ReThrowError(edata);
	plan->irreversible = edata->message;
}

/* Runs the actions on the copies and looks at what has become of them. */
static void
try_actions(Trial *trial)
{
	const RefitPlanRequest *request = trial->request;
	List *before = NIL;
	ListCell *lc;

	foreach(lc, trial->twins)
		before = lappend(before, look_at(((RefitTwin *) lfirst(lc))->twin, 0));
	refit_actions_run_private(
		refit_actions_for_twin(request->stmt, request->relid),
		((RefitTwin *) linitial(trial->twins))->twin, request->search_path);
	choose_strategy(trial->plan, request->stmt, trial->twins, before);
	refit_dependents_check(request->relid, request->stmt, trial->twins);
	if (!request->revertible)
		refit_inherit_leave_untouched(trial->twins);
}

/*
 * Before 18, PostgreSQL adds a foreign key to a partitioned table only with a
 * look at all rows under its lock.
 */
static void
check_partitioned_foreign_key(Oid relid, const AlterTableStmt *stmt,
							  const RefitPlan *plan)
{
#ifndef REFIT_HAS_PARTITIONED_NOT_VALID
	bool in_column;

	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE &&
		strcmp(plan->strategy, "validate") == 0 &&
		adds_foreign_key(stmt, &in_column))
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a foreign key cannot be added to partitioned table %s "
					"online",
					refit_qualified_name(relid)),
			 errdetail("This version of PostgreSQL has no NOT VALID foreign "
					   "keys on partitioned tables."),
			 errhint("Add it NOT VALID to each partition, validate it "
					 "there, and add it to the partitioned table then, "
					 "which takes those over without looking at rows.")));
#endif
}

/* What the rewrite of one leaf needs. */
static void
plan_leaf(const RefitTwin *t, const RefitPlanRequest *request, RefitPlan *plan)
{
	bool ordered = request->order_by != NULL && request->order_by[0] != '\0';
	Relation source = table_open(t->source, AccessShareLock);

	if (ordered)
		refit_twin_create_order_index(t->twin, request->order_by,
									  request->search_path);
	if (strcmp(plan->strategy, "rewrite") == 0)
	{
		plan->key_index = refit_plan_choose_key(source, t->twin, request->stmt,
												request->search_path);
		plan->needs = refit_space_add(
			plan->needs,
			refit_space_of_rewrite(source, t->twin, plan->key_index, ordered));
	}
	plan->nindexes += list_length(RelationGetIndexList(source));
	plan->bytes += (int64) RelationGetNumberOfBlocks(source) * BLCKSZ;
	table_close(source, NoLock);
}

/* Tries it all on copies, in the present subtransaction. */
static void
try_plan(Trial *trial)
{
	const RefitPlanRequest *request = trial->request;
	RefitPlan *plan = trial->plan;
	Oid schema = refit_twin_create_schema(-MyProcPid,
										  refit_relation_owner(request->relid));
	ListCell *lc;

	trial->twins =
		refit_tree_create_twins(request->relid, schema, request->stmt);
	plan->strategy = "rewrite";
	plan->reason = "every row is written anew";
	if (request->stmt != NULL)
	{
		try_actions(trial);
		check_partitioned_foreign_key(request->relid, request->stmt, plan);
	}
	foreach(lc, trial->twins)
		plan->nleaves += ((RefitTwin *) lfirst(lc))->is_leaf;
	if (request->stmt == NULL && plan->nleaves == 0)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("%s has no partitions",
							   refit_qualified_name(request->relid)),
						errdetail("There is nothing to repack.")));
	if (request->revertible && strcmp(plan->strategy, "rewrite") != 0)
	{
		plan->strategy = "rewrite";
		plan->reason = "the old rows are kept for a revert window";
	}
	foreach(lc, trial->twins)
		if (((RefitTwin *) lfirst(lc))->is_leaf)
			plan_leaf(lfirst(lc), request, plan);
	if (request->revertible || request->show)
		judge_revert(trial);
}

/* Are the tables that new foreign keys refer to there? */
static void
check_foreign_keys(const AlterTableStmt *stmt, const char *search_path)
{
	int guc_level = NewGUCNestLevel();
	ListCell *lc;

	refit_set_local("search_path", search_path);
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AddConstraint &&
			castNode(Constraint, cmd->def)->contype == CONSTR_FOREIGN)
			(void) RangeVarGetRelid(castNode(Constraint, cmd->def)->pktable,
									NoLock, false);
	}
	AtEOXact_GUC(true, guc_level);
}

/* Tries the actions, as the owner; for refit_attempt. */
static void
try_as_owner(void *arg)
{
	Trial *trial = arg;
	const RefitPlanRequest *request = trial->request;
	RefitRights save;

	refit_rights_begin(&save, refit_relation_owner(request->relid), true);
	if (request->stmt != NULL)
		check_foreign_keys(request->stmt, request->search_path);
	try_plan(trial);
	refit_rights_end(&save);
}

/* Tries the actions and throws the copy away. */
RefitPlan *
refit_plan_make(const RefitPlanRequest *request)
{
	Trial trial = {.request = request};
	ErrorData *edata;

	check_children(request);
	trial.plan = palloc0(sizeof(RefitPlan));
	edata = refit_attempt(try_as_owner, &trial, false);
	if (edata != NULL)
	{
		edata->cursorpos = 0; /* it is one in the actions' text */
		ReThrowError(edata);
	}
	return trial.plan;
}
