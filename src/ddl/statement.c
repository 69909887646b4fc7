/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  One DDL statement of a user: what it is, on which relations, under which
 *	  locks.
 *
 * See statement.h.  Nothing here locks anything: what is looked up may be another
 * thing a moment later, so whoever has taken the locks looks once more.
 *
 * Only who might take a lock himself, with LOCK TABLE or as the owner, has it
 * taken for him beforehand.  A statement that needs one on another's table, as
 * a foreign key does, takes it itself, after PostgreSQL's own checks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/tablecmds.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "ddl/refuse.h"
#include "ddl/statement.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Is this among the options, and not switched off? */
bool
refit_statement_has_option(const List *options, const char *name)
{
	ListCell *lc;

	foreach(lc, options)
	{
		DefElem *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && defGetBoolean(option))
			return true;
	}
	return false;
}

/* The partition that ALTER TABLE detaches concurrently, or NULL. */
PartitionCmd *
refit_statement_detaches(const Node *node)
{
	ListCell *lc;

	if (!IsA(node, AlterTableStmt))
		return NULL;
	foreach(lc, ((const AlterTableStmt *) node)->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_DetachPartition &&
			castNode(PartitionCmd, cmd->def)->concurrent)
			return castNode(PartitionCmd, cmd->def);
	}
	return NULL;
}

/* Does PostgreSQL run it in transactions of its own? */
static bool
is_top_level(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_IndexStmt:
			return ((const IndexStmt *) node)->concurrent;
		case T_DropStmt:
			return ((const DropStmt *) node)->concurrent;
		case T_VacuumStmt:
		case T_ReindexStmt: /* concurrent: others are refused */
			return true;
		default:
			return refit_statement_detaches(node) != NULL;
	}
}

/* Parses one statement of a kind that we run. */
RefitStatement *
refit_statement_parse(char *sql)
{
	List *list = refit_sql_parse(sql);
	RefitStatement *s = palloc0(sizeof(RefitStatement));

	if (list_length(list) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("refit.ddl() takes one statement, not %d",
						list_length(list)),
				 errhint("Submit each statement by itself. Migrations of one "
						 "relation run in order of id.")));
	s->node = linitial_node(RawStmt, list)->stmt;
	refit_refuse_statement(s->node);
	s->tag = CreateCommandName(s->node);
	s->top_level = is_top_level(s->node);
	return s;
}

/* Would a lock of the statement stop writers, or readers? */
bool
refit_statement_stops_clients(const RefitStatement *s)
{
	ListCell *lc;

	foreach(lc, s->locks)
		if (((RefitLock *) lfirst(lc))->mode >= ShareLock)
			return true;
	return false;
}

/*
 * Adding locks
 */

/* May this role lock the relation by itself? */
static bool
may_lock(Oid relid)
{
	return refit_owns_relation(relid) ||
		   pg_class_aclcheck(relid, GetUserId(),
							 ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE) ==
			   ACLCHECK_OK;
}

/* Adds a lock, or raises the mode of one that is there. */
static void
add_lock(RefitStatement *s, Oid relid, LOCKMODE mode)
{
	ListCell *lc;

	if (get_rel_name(relid) == NULL || !may_lock(relid))
		return;
	foreach(lc, s->locks)
	{
		RefitLock *lock = lfirst(lc);

		if (lock->relid != relid)
			continue;
		lock->mode = Max(lock->mode, mode);
		return;
	}
	s->locks = lappend(s->locks, refit_polite_lock_on(relid, mode));
}

/* Adds a lock on a relation and on what inherits from it. */
static void
add_tree(RefitStatement *s, Oid relid, LOCKMODE mode)
{
	ListCell *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
		add_lock(s, lfirst_oid(lc), mode);
}

/* Adds a lock on a relation by its name, if there is one. */
static Oid
add_named(RefitStatement *s, const RangeVar *name, LOCKMODE mode)
{
	Oid relid =
		name != NULL ? RangeVarGetRelid(name, NoLock, true) : InvalidOid;

	if (OidIsValid(relid))
		add_lock(s, relid, mode);
	return relid;
}

/* Adds ACCESS EXCLUSIVE on the default partition, whose constraint changes. */
static void
add_default_partition(RefitStatement *s, Oid parent)
{
	if (OidIsValid(parent) &&
		get_rel_relkind(parent) == RELKIND_PARTITIONED_TABLE)
		add_lock(s, get_default_partition_oid(parent), AccessExclusiveLock);
}

/* Adds a lock on each relation that a query of constraints names. */
static void
add_by_query(RefitStatement *s, const char *sql, Oid relid, const char *name,
			 LOCKMODE mode)
{
	Oid types[2] = {OIDOID, TEXTOID};
	Datum values[2] = {ObjectIdGetDatum(relid),
					   CStringGetTextDatum(name != NULL ? name : "")};
	ListCell *lc;

	foreach(lc, refit_sql_list(sql, 2, types, values))
		add_lock(s, strtoul(lfirst(lc), NULL, 10), mode);
}

/* Adds the tables that foreign keys to be dropped with a table refer to. */
static void
add_references(RefitStatement *s, Oid relid, bool cascade)
{
	add_by_query(s,
				 "SELECT DISTINCT confrelid::int8"
				 " FROM pg_catalog.pg_constraint WHERE conrelid = $1"
				 " AND contype = 'f' AND $2 IS NOT NULL",
				 relid, NULL, AccessExclusiveLock);
	if (cascade)
		add_by_query(s,
					 "SELECT DISTINCT conrelid::int8"
					 " FROM pg_catalog.pg_constraint WHERE confrelid = $1"
					 " AND contype = 'f' AND $2 IS NOT NULL",
					 relid, NULL, AccessExclusiveLock);
}

/* Adds the tables that new foreign keys refer to. */
static void
add_referenced(RefitStatement *s, const List *constraints)
{
	ListCell *lc;

	foreach(lc, constraints)
	{
		Constraint *c = lfirst(lc);

		if (IsA(c, Constraint) && c->contype == CONSTR_FOREIGN)
			(void) add_named(s, c->pktable, ShareRowExclusiveLock);
	}
}

/* The relation that the statement is about; an ERROR when it cannot be. */
static Oid
main_relation(RefitStatement *s, const RangeVar *name, bool missing_ok)
{
	Oid relid = RangeVarGetRelid(name, NoLock, missing_ok);

	if (!OidIsValid(relid))
		return InvalidOid;
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" is a temporary table", get_rel_name(relid)),
				 errhint("Only the session that made it can change it.")));
	if (!OidIsValid(s->relid))
		s->relid = relid;
	return relid;
}

/* The same, which must be the caller's or in a schema of his. */
static Oid
own_relation(RefitStatement *s, const RangeVar *name, bool missing_ok)
{
	Oid relid = main_relation(s, name, missing_ok);

	if (OidIsValid(relid) && !refit_owns_relation(relid) &&
		!refit_owns_schema(get_rel_namespace(relid)))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
	return relid;
}

/* Makes the table of an index the main relation, and adds both. */
static void
add_index(RefitStatement *s, Oid index, LOCKMODE table_mode,
		  LOCKMODE index_mode)
{
	Oid table = OidIsValid(index) ? IndexGetRelation(index, true) : InvalidOid;

	if (!OidIsValid(table))
		return;
	if (s->relid == index)
		s->relid = table;
	add_lock(s, table, table_mode);
	add_lock(s, index, index_mode);
}

/*
 * By kind of statement
 */

/* The relations of one action of ALTER TABLE. */
static void
resolve_action(RefitStatement *s, Oid relid, const AlterTableCmd *cmd)
{
	const RangeVar *other;

	switch (cmd->subtype)
	{
		case AT_AddConstraint:
			add_referenced(s, list_make1(cmd->def));
			break;
		case AT_AddColumn:
			add_referenced(s, castNode(ColumnDef, cmd->def)->constraints);
			break;
		case AT_DropConstraint:
			add_by_query(s,
						 "SELECT DISTINCT confrelid::int8"
						 " FROM pg_catalog.pg_constraint WHERE conrelid = $1"
						 " AND contype = 'f' AND conname = $2::name",
						 relid, cmd->name, AccessExclusiveLock);
			break;
		case AT_DropColumn:
			add_by_query(
				s,
				"SELECT DISTINCT confrelid::int8"
				" FROM pg_catalog.pg_constraint c"
				" JOIN pg_catalog.pg_attribute a"
				"  ON a.attrelid = c.conrelid AND a.attnum = ANY (conkey)"
				" WHERE conrelid = $1 AND contype = 'f'"
				" AND attname = $2::name",
				relid, cmd->name, AccessExclusiveLock);
			break;
		case AT_AttachPartition:
		case AT_DetachPartition:
		case AT_DetachPartitionFinalize:
			other = castNode(PartitionCmd, cmd->def)->name;
			(void) add_named(s, other,
							 castNode(PartitionCmd, cmd->def)->concurrent
								 ? ShareUpdateExclusiveLock
								 : AccessExclusiveLock);
			add_default_partition(s, relid);
			break;
		case AT_AddInherit:
		case AT_DropInherit:
			(void) add_named(s, (RangeVar *) cmd->def,
							 ShareUpdateExclusiveLock);
			break;
		default:
			break;
	}
}

/* ALTER TABLE, INDEX, VIEW, …; it goes down to what inherits. */
static void
resolve_alter(RefitStatement *s, AlterTableStmt *stmt)
{
	LOCKMODE mode = AlterTableGetLockLevel(stmt->cmds);
	Oid relid = own_relation(s, stmt->relation, stmt->missing_ok);
	bool alone = !stmt->relation->inh;
	ListCell *lc;

	if (!OidIsValid(relid))
		return;
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AttachPartition ||
			cmd->subtype == AT_DetachPartition ||
			cmd->subtype == AT_DetachPartitionFinalize)
			alone = true;
	}
	if (alone)
		add_lock(s, relid, mode);
	else
		add_tree(s, relid, mode);
	foreach(lc, stmt->cmds)
		resolve_action(s, relid, lfirst(lc));
	if (get_rel_relkind(relid) == RELKIND_INDEX)
		s->relid = IndexGetRelation(relid, false);
}

/* One relation that DROP names. */
static void
resolve_dropped(RefitStatement *s, const DropStmt *stmt, Oid relid)
{
	char kind = get_rel_relkind(relid);

	if (kind == RELKIND_INDEX && stmt->concurrent)
		add_index(s, relid, ShareUpdateExclusiveLock, ShareUpdateExclusiveLock);
	else if (kind == RELKIND_INDEX || kind == RELKIND_PARTITIONED_INDEX)
		add_index(s, relid, AccessExclusiveLock, AccessExclusiveLock);
	else
	{
		add_tree(s, relid, AccessExclusiveLock);
		add_references(s, relid, stmt->behavior == DROP_CASCADE);
		if (get_rel_relispartition(relid))
		{
			Oid parent = get_partition_parent(relid, true);

			add_lock(s, parent, AccessExclusiveLock);
			add_default_partition(s, parent);
		}
	}
}

/* DROP of relations, or of something on a relation. */
static void
resolve_drop(RefitStatement *s, const DropStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->objects)
	{
		List *name;
		Oid relid;

		switch (stmt->removeType)
		{
			case OBJECT_TABLE:
			case OBJECT_SEQUENCE:
			case OBJECT_VIEW:
			case OBJECT_MATVIEW:
			case OBJECT_INDEX:
			case OBJECT_FOREIGN_TABLE:
				relid = own_relation(
					s, makeRangeVarFromNameList(castNode(List, lfirst(lc))),
					stmt->missing_ok);
				if (OidIsValid(relid))
					resolve_dropped(s, stmt, relid);
				break;
			case OBJECT_TRIGGER:
			case OBJECT_POLICY:
			case OBJECT_RULE:
				name = list_copy(castNode(List, lfirst(lc)));
				name = list_truncate(name, list_length(name) - 1);
				relid = own_relation(s, makeRangeVarFromNameList(name),
									 stmt->missing_ok);
				add_lock(s, relid, AccessExclusiveLock);
				break;
			default:
				break;
		}
	}
}

/* RENAME: of a relation, or of a part of it. */
static void
resolve_rename(RefitStatement *s, const RenameStmt *stmt)
{
	Oid relid;

	if (stmt->relation == NULL)
		return;
	relid = own_relation(s, stmt->relation, stmt->missing_ok);
	if (!OidIsValid(relid))
		return;
	if (get_rel_relkind(relid) == RELKIND_INDEX ||
		get_rel_relkind(relid) == RELKIND_PARTITIONED_INDEX)
	{
		add_lock(s, relid, ShareUpdateExclusiveLock);
		s->relid = IndexGetRelation(relid, false);
	}
	else if (stmt->renameType == OBJECT_TABLE || !stmt->relation->inh)
		add_lock(s, relid, AccessExclusiveLock);
	else
		add_tree(s, relid, AccessExclusiveLock);
}

/* CREATE TABLE: its parents and what its foreign keys refer to. */
static void
resolve_create_table(RefitStatement *s, const CreateStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->inhRelations)
	{
		Oid parent =
			add_named(s, lfirst(lc),
					  stmt->partbound != NULL ? AccessExclusiveLock
											  : ShareUpdateExclusiveLock);

		add_default_partition(s, parent);
		if (stmt->partbound != NULL)
			s->relid = parent;
	}
	add_referenced(s, stmt->constraints);
	add_referenced(s, stmt->tableElts);
	foreach(lc, stmt->tableElts)
		if (IsA(lfirst(lc), ColumnDef))
			add_referenced(s, lfirst_node(ColumnDef, lc)->constraints);
}

/* TRUNCATE: with CASCADE what refers to the tables too, one step far. */
static void
resolve_truncate(RefitStatement *s, const TruncateStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->relations)
	{
		RangeVar *name = lfirst_node(RangeVar, lc);
		Oid relid = main_relation(s, name, false);

		if (!may_lock(relid))
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(relid));
		if (name->inh)
			add_tree(s, relid, AccessExclusiveLock);
		else
			add_lock(s, relid, AccessExclusiveLock);
		if (stmt->behavior == DROP_CASCADE)
			add_references(s, relid, true);
	}
}

/* VACUUM and ANALYZE of named tables. */
static void
resolve_vacuum(RefitStatement *s, const VacuumStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->rels)
	{
		VacuumRelation *rel = lfirst_node(VacuumRelation, lc);

		if (rel->relation != NULL)
			add_lock(s, own_relation(s, rel->relation, false),
					 ShareUpdateExclusiveLock);
	}
}

/* REINDEX CONCURRENTLY of an index or a table. */
static void
resolve_reindex(RefitStatement *s, const ReindexStmt *stmt)
{
	Oid relid = own_relation(s, stmt->relation, false);

	if (get_rel_relkind(relid) == RELKIND_INDEX)
		add_index(s, relid, ShareUpdateExclusiveLock, ShareUpdateExclusiveLock);
	else if (get_rel_relkind(relid) == RELKIND_PARTITIONED_INDEX)
		s->relid = IndexGetRelation(relid, false);
	else
		add_tree(s, relid, ShareUpdateExclusiveLock);
}

/* CREATE INDEX. */
static void
resolve_index(RefitStatement *s, const IndexStmt *stmt)
{
	Oid relid = own_relation(s, stmt->relation, false);

	if (stmt->concurrent)
		add_lock(s, relid, ShareUpdateExclusiveLock);
	else if (stmt->relation->inh)
		add_tree(s, relid, ShareLock);
	else
		add_lock(s, relid, ShareLock);
}

/* Statements about one relation that they lock in one mode. */
static bool
resolve_simple(RefitStatement *s)
{
	switch (nodeTag(s->node))
	{
		case T_AlterObjectSchemaStmt:
		{
			AlterObjectSchemaStmt *stmt = (AlterObjectSchemaStmt *) s->node;

			if (stmt->relation != NULL)
				add_lock(s, own_relation(s, stmt->relation, stmt->missing_ok),
						 AccessExclusiveLock);
			return true;
		}
		case T_CreateTrigStmt:
		{
			CreateTrigStmt *stmt = (CreateTrigStmt *) s->node;
			Oid relid = main_relation(s, stmt->relation, false);

			if (pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER) !=
				ACLCHECK_OK)
				aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE,
							   get_rel_name(relid));
			add_lock(s, relid, ShareRowExclusiveLock);
			(void) add_named(s, stmt->constrrel, ShareRowExclusiveLock);
			return true;
		}
		case T_RuleStmt:
			add_lock(s,
					 own_relation(s, ((RuleStmt *) s->node)->relation, false),
					 AccessExclusiveLock);
			return true;
		case T_CreatePolicyStmt:
			add_lock(
				s,
				own_relation(s, ((CreatePolicyStmt *) s->node)->table, false),
				AccessExclusiveLock);
			return true;
		case T_AlterPolicyStmt:
			add_lock(
				s, own_relation(s, ((AlterPolicyStmt *) s->node)->table, false),
				AccessExclusiveLock);
			return true;
		case T_ViewStmt:
			if (((ViewStmt *) s->node)->replace)
				add_lock(s, own_relation(s, ((ViewStmt *) s->node)->view, true),
						 AccessExclusiveLock);
			return true;
		case T_RefreshMatViewStmt:
		{
			RefreshMatViewStmt *stmt = (RefreshMatViewStmt *) s->node;

			add_lock(s, own_relation(s, stmt->relation, false),
					 stmt->concurrent ? ExclusiveLock : AccessExclusiveLock);
			return true;
		}
		default:
			return false;
	}
}

/* Looks up the relations. */
void
refit_statement_resolve(RefitStatement *s)
{
	s->relid = InvalidOid;
	s->locks = NIL;
	if (resolve_simple(s))
		return;
	switch (nodeTag(s->node))
	{
		case T_AlterTableStmt:
			resolve_alter(s, (AlterTableStmt *) s->node);
			break;
		case T_DropStmt:
			resolve_drop(s, (DropStmt *) s->node);
			break;
		case T_RenameStmt:
			resolve_rename(s, (RenameStmt *) s->node);
			break;
		case T_CreateStmt:
			resolve_create_table(s, (CreateStmt *) s->node);
			break;
		case T_TruncateStmt:
			resolve_truncate(s, (TruncateStmt *) s->node);
			break;
		case T_IndexStmt:
			resolve_index(s, (IndexStmt *) s->node);
			break;
		case T_ReindexStmt:
			resolve_reindex(s, (ReindexStmt *) s->node);
			break;
		case T_VacuumStmt:
			resolve_vacuum(s, (VacuumStmt *) s->node);
			break;
		default:
			break;
	}
}
