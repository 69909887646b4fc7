/*-------------------------------------------------------------------------
 *
 * actions.c
 *	  Parsing, checking and running the actions of a migration.
 *
 * The parse trees are PostgreSQL's own, so whatever it accepts is accepted
 * here as long as the kind of action is in the table below.  A kind that is
 * not there is refused before anything is touched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "commands/tablecmds.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "table/actions.h"
#include "util/sqlutil.h"

#define DDL_HINT "Use refit.ddl() for it, or a plain ALTER TABLE."

/* A name that the parsed statement stands for until it is run. */
#define PLACEHOLDER "pg_refit_placeholder"

/* May an action of this kind be part of an online change? */
static bool
is_supported(AlterTableType type)
{
	switch (type)
	{
		case AT_AddColumn:
		case AT_ColumnDefault:
		case AT_DropNotNull:
		case AT_SetNotNull:
		case AT_DropExpression:
		case AT_SetStatistics:
		case AT_SetOptions:
		case AT_ResetOptions:
		case AT_SetStorage:
		case AT_SetCompression:
		case AT_DropColumn:
		case AT_AddConstraint:
		case AT_AlterConstraint:
		case AT_ValidateConstraint:
		case AT_DropConstraint:
		case AT_AlterColumnType:
		case AT_SetLogged:
		case AT_SetUnLogged:
		case AT_SetAccessMethod:
		case AT_SetTableSpace:
		case AT_SetRelOptions:
		case AT_ResetRelOptions:
		case AT_AddIdentity:
		case AT_SetIdentity:
		case AT_DropIdentity:
#ifdef REFIT_HAS_SET_EXPRESSION
		case AT_SetExpression:
#endif
			return true;
		default:
			return false;
	}
}

/* Parses the text; exactly one ALTER TABLE comes out, or an ERROR. */
static AlterTableStmt *
parse_one(const char *actions)
{
	List *statements;
	Node *node;

	statements =
		refit_sql_parse(psprintf("ALTER TABLE " PLACEHOLDER " %s", actions));
	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("actions must be what follows ALTER TABLE and the "
						"table's name, nothing else"),
				 errdetail("The text holds %d statements.",
						   list_length(statements)),
				 errhint("Separate several actions with commas.")));

	node = linitial_node(RawStmt, statements)->stmt;
	if (!IsA(node, AlterTableStmt))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("this action is not an online table change: %s",
							   actions),
						errhint(DDL_HINT)));
	return (AlterTableStmt *) node;
}

/* Parses and checks a list of actions. */
AlterTableStmt *
refit_actions_parse(const char *actions)
{
	AlterTableStmt *stmt;
	ListCell *lc;

	if (actions[strspn(actions, " \t\r\n")] == '\0')
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("actions must not be empty"),
						errhint("Write what follows ALTER TABLE and the "
								"table's name in SQL.")));

	stmt = parse_one(actions);
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (!is_supported(cmd->subtype))
			ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
							errmsg("this action is not an online table "
								   "change: %s",
								   actions),
							errhint(DDL_HINT)));
	}
	return stmt;
}

/* The actions of a migration, or NULL. */
AlterTableStmt *
refit_actions_of(const RefitMigration *m)
{
	return strcmp(m->kind, "alter_table") == 0
			   ? refit_actions_parse(m->definition)
			   : NULL;
}

/* Is this the name of a foreign key of the table? */
static bool
is_foreign_key(Oid relid, const char *name)
{
	Oid conoid = get_relation_constraint_oid(relid, name, true);
	HeapTuple tuple;
	bool result;

	if (!OidIsValid(conoid))
		return false;
	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(conoid));
	if (!HeapTupleIsValid(tuple))
		return false;
	result =
		((Form_pg_constraint) GETSTRUCT(tuple))->contype == CONSTRAINT_FOREIGN;
	ReleaseSysCache(tuple);
	return result;
}

/* A column definition without REFERENCES and its attributes. */
static void
strip_references(ColumnDef *column)
{
	List *kept = NIL;
	ListCell *lc;
	bool after_foreign = false;

	foreach(lc, column->constraints)
	{
		Constraint *c = lfirst_node(Constraint, lc);
		bool attribute = c->contype == CONSTR_ATTR_DEFERRABLE ||
						 c->contype == CONSTR_ATTR_NOT_DEFERRABLE ||
						 c->contype == CONSTR_ATTR_DEFERRED ||
						 c->contype == CONSTR_ATTR_IMMEDIATE;

		if (!attribute)
			after_foreign = c->contype == CONSTR_FOREIGN;
		if (!after_foreign)
			kept = lappend(kept, c);
	}
	column->constraints = kept;
}

/*
 * The parts of the actions that a twin can take.
 *
 * A foreign key on the twin would lock the table it refers to and put
 * triggers there, which would act on the twin's half-copied rows.
 */
AlterTableStmt *
refit_actions_for_twin(const AlterTableStmt *original, Oid relid)
{
	AlterTableStmt *stmt = copyObject((AlterTableStmt *) original);
	List *kept = NIL;
	ListCell *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		switch (cmd->subtype)
		{
			case AT_AddColumn:
				strip_references(castNode(ColumnDef, cmd->def));
				break;
			case AT_AddConstraint:
				if (castNode(Constraint, cmd->def)->contype == CONSTR_FOREIGN)
					continue;
				break;
			case AT_AlterConstraint:
				continue;
			case AT_ValidateConstraint:
			case AT_DropConstraint:
				if (is_foreign_key(relid, cmd->name))
					continue;
				break;
			default:
				break;
		}
		kept = lappend(kept, cmd);
	}
	stmt->cmds = kept;
	return stmt;
}

/* The statement as PostgreSQL's utility hooks want it. */
static PlannedStmt *
wrap_utility(AlterTableStmt *stmt)
{
	PlannedStmt *wrapper = makeNode(PlannedStmt);

	wrapper->commandType = CMD_UTILITY;
	wrapper->canSetTag = true;
	wrapper->utilityStmt = (Node *) stmt;
	wrapper->stmt_location = -1;
	return wrapper;
}

/* The relation's name as a parse node. */
static RangeVar *
range_var_of(Oid relid)
{
	return makeRangeVar(get_namespace_name(get_rel_namespace(relid)),
						get_rel_name(relid), -1);
}

/* Runs actions on a work table; no event trigger fires. */
void
refit_actions_run_private(const AlterTableStmt *original, Oid relid,
						  const char *search_path)
{
	AlterTableStmt *stmt = copyObject((AlterTableStmt *) original);
	AlterTableUtilityContext context = {0};
	int guc_level;

	if (stmt->cmds == NIL)
		return;
	stmt->relation = range_var_of(relid);
	context.pstmt = wrap_utility(stmt);
	context.queryString = "ALTER TABLE (pg_refit work table)";
	context.relid = relid;

	guc_level = NewGUCNestLevel();
	if (search_path != NULL)
		refit_set_local("search_path", search_path);
	AlterTable(stmt, AlterTableGetLockLevel(stmt->cmds), &context);
	CommandCounterIncrement();
	AtEOXact_GUC(true, guc_level);
}

/* Runs actions that we wrote ourselves on a work table. */
void
refit_actions_run_own(const char *actions, Oid relid)
{
	refit_actions_run_private(parse_one(actions), relid, NULL);
}

/* Runs actions on the table itself. */
void
refit_actions_run_public(const AlterTableStmt *original, Oid relid,
						 const char *actions, const char *search_path)
{
	AlterTableStmt *stmt = copyObject((AlterTableStmt *) original);
	int guc_level = NewGUCNestLevel();

	stmt->relation = range_var_of(relid);
	refit_set_local("search_path", search_path);
	ProcessUtility(
		wrap_utility(stmt),
		psprintf("ALTER TABLE %s %s", refit_qualified_name(relid), actions),
		false, PROCESS_UTILITY_QUERY, NULL, NULL, None_Receiver, NULL);
	CommandCounterIncrement();
	AtEOXact_GUC(true, guc_level);
}

/* Does the statement alter this column's type, and with which expression? */
bool
refit_actions_alters_type(const AlterTableStmt *stmt, const char *column,
						  Node **using_expr)
{
	ListCell *lc;

	*using_expr = NULL;
	if (stmt == NULL)
		return false;
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AlterColumnType &&
			strcmp(cmd->name, column) == 0)
		{
			*using_expr = castNode(ColumnDef, cmd->def)->raw_default;
			return true;
		}
	}
	return false;
}

/*
 * Makes one constraint NOT VALID, if it is of a kind that can be and is not that
 * already.  NOT NULL can where it is an action of its own, which it can be from
 * PostgreSQL 18 on.
 */
static bool
make_not_valid(Constraint *c, bool is_action)
{
	if (c->contype != CONSTR_CHECK && c->contype != CONSTR_FOREIGN &&
		!(c->contype == CONSTR_NOTNULL && is_action))
		return false;
	if (c->skip_validation)
		return false;
	c->skip_validation = true;
	c->initially_valid = false;
	return true;
}

/*
 * Moves CHECK and REFERENCES of a new column to actions of their own, where
 * they can be NOT VALID.
 */
static List *
lift_constraints(ColumnDef *column)
{
	List *kept = NIL;
	List *lifted = NIL;
	ListCell *lc;

	foreach(lc, column->constraints)
	{
		Constraint *c = lfirst_node(Constraint, lc);
		AlterTableCmd *cmd;

		if (!make_not_valid(c, false))
		{
			kept = lappend(kept, c);
			continue;
		}
		if (c->contype == CONSTR_FOREIGN)
			c->fk_attrs = list_make1(makeString(column->colname));
		cmd = makeNode(AlterTableCmd);
		cmd->subtype = AT_AddConstraint;
		cmd->def = (Node *) c;
		lifted = lappend(lifted, cmd);
	}
	column->constraints = kept;
	return lifted;
}

/*
 * Takes the constraints out of the actions that rows are to be checked against,
 * makes them NOT VALID and returns them.  What is submitted as NOT VALID stays.
 */
AlterTableStmt *
refit_actions_split_constraints(AlterTableStmt *stmt)
{
	AlterTableStmt *split = copyObject(stmt);
	List *kept = NIL;
	ListCell *lc;

	split->cmds = NIL;
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AddConstraint &&
			make_not_valid(castNode(Constraint, cmd->def), true))
		{
			split->cmds = lappend(split->cmds, cmd);
			continue;
		}
		if (cmd->subtype == AT_AddColumn)
			split->cmds = list_concat(
				split->cmds, lift_constraints(castNode(ColumnDef, cmd->def)));
		kept = lappend(kept, cmd);
	}
	stmt->cmds = kept;
	return split;
}

/* Names of the constraints that the actions drop, as name[]. */
Datum
refit_actions_dropped_constraints(const AlterTableStmt *stmt)
{
	Datum *names = palloc(sizeof(Datum) * Max(1, list_length(stmt->cmds)));
	int n = 0;
	ListCell *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_DropConstraint)
			names[n++] =
				DirectFunctionCall1(namein, CStringGetDatum(cmd->name));
	}
	return PointerGetDatum(
		construct_array(names, n, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
}
