/*-------------------------------------------------------------------------
 *
 * refuse.c
 *	  Which statements refit.ddl() does not run, and what to use instead.
 *
 * What PostgreSQL itself logs as DDL is run, with VACUUM, ANALYZE and REINDEX
 * CONCURRENTLY beside.  Left out of it is
 *	 - what concerns all databases of the server, or holds a password: a
 *	   migration's definition can be read by pg_read_all_stats;
 *	 - what belongs to a session: temporary objects;
 *	 - what rewrites a table under an exclusive lock by its nature, where another
 *	   function of ours does the same online.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"

#include "compat.h"
#include "ddl/refuse.h"
#include "ddl/statement.h"
#include "refit.h"

#define HINT_SERVER "It concerns the whole server. Run it yourself."
#define HINT_SECRET                                                        \
	"Its text may hold a password, which would stay in refit.migrations. " \
	"Run it yourself."
#define HINT_REPACK "Use refit.repack()."
#define HINT_REINDEX                                                     \
	"Use refit.rebuild_index(), or write REINDEX INDEX CONCURRENTLY or " \
	"REINDEX TABLE CONCURRENTLY."
#define HINT_ROWS                                                      \
	"refit.ddl() runs one statement that defines something. For rows " \
	"there are refit.backfill(), refit.purge() and refit.batched()."

/* Does this kind of object belong to the whole server? */
static bool
is_shared(ObjectType type)
{
	return type == OBJECT_DATABASE || type == OBJECT_ROLE ||
		   type == OBJECT_TABLESPACE;
}

/* A hint for statements on what is not in this database only, or NULL. */
static const char *
hint_for_server(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_AlterDatabaseSetStmt:
		case T_AlterDatabaseRefreshCollStmt:
		case T_CreateTableSpaceStmt:
		case T_DropTableSpaceStmt:
		case T_AlterTableSpaceOptionsStmt:
		case T_AlterSystemStmt:
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
		case T_AlterRoleSetStmt:
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
			return HINT_SERVER;
		case T_RenameStmt:
			return is_shared(((const RenameStmt *) node)->renameType)
					   ? HINT_SERVER
					   : NULL;
		case T_AlterOwnerStmt:
			return is_shared(((const AlterOwnerStmt *) node)->objectType)
					   ? HINT_SERVER
					   : NULL;
		case T_CreateSubscriptionStmt:
		case T_AlterSubscriptionStmt:
		case T_DropSubscriptionStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
			return HINT_SECRET;
		default:
			return NULL;
	}
}

/* Does the statement drop us? */
static bool
drops_extension(const DropStmt *stmt)
{
	ListCell *lc;

	if (stmt->removeType == OBJECT_EXTENSION)
		foreach(lc, stmt->objects)
			if (strcmp(strVal(lfirst(lc)), REFIT_EXTENSION) == 0)
				return true;
	return false;
}

/* A hint for statements that would stop the application for long, or NULL. */
static const char *
hint_for_long_lock(const Node *node)
{
	switch (nodeTag(node))
	{
		case T_ClusterStmt:
			return HINT_REPACK;
		case T_VacuumStmt:
			return refit_statement_has_option(
					   ((const VacuumStmt *) node)->options, "full")
					   ? HINT_REPACK
					   : NULL;
		case T_ReindexStmt:
			return ((const ReindexStmt *) node)->relation != NULL &&
						   refit_statement_has_option(
							   ((const ReindexStmt *) node)->params,
							   "concurrently")
					   ? NULL
					   : HINT_REINDEX;
		case T_AlterTableMoveAllStmt:
			return "Move the tables one by one.";
		case T_DropStmt:
			return drops_extension((const DropStmt *) node)
					   ? "It would take this migration away. Run it yourself."
					   : NULL;
		default:
			return NULL;
	}
}

/* Is it a definition, by what PostgreSQL logs as one, or maintenance? */
static bool
is_definition(Node *node)
{
	switch (nodeTag(node))
	{
		case T_VacuumStmt:
		case T_ReindexStmt:
		case T_TruncateStmt:
			return true;
		case T_ExplainStmt: /* these would be looked through */
		case T_PrepareStmt:
		case T_ExecuteStmt:
		case T_SelectStmt:
			return false;
		default:
			return GetCommandLogLevel(node) == LOGSTMT_DDL;
	}
}

/* Is the object that it makes temporary? */
static bool
is_temporary(const Node *node)
{
	const RangeVar *made = NULL;

	if (IsA(node, CreateStmt))
		made = ((const CreateStmt *) node)->relation;
	else if (IsA(node, CreateTableAsStmt))
		made = ((const CreateTableAsStmt *) node)->into->rel;
	else if (IsA(node, ViewStmt))
		made = ((const ViewStmt *) node)->view;
	else if (IsA(node, CreateSeqStmt))
		made = ((const CreateSeqStmt *) node)->sequence;
	return made != NULL && made->relpersistence == RELPERSISTENCE_TEMP;
}

/* An ERROR that says why and what to do, if it is one of them. */
void
refit_refuse_statement(Node *node)
{
	const char *hint = NULL;

	if (!is_definition(node))
		hint = HINT_ROWS;
	if (hint == NULL)
		hint = hint_for_server(node);
	if (hint == NULL)
		hint = hint_for_long_lock(node);
	if (hint != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("refit.ddl() does not run %s", CreateCommandName(node)),
				 errhint("%s", hint)));
	if (is_temporary(node))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("refit.ddl() does not make temporary objects"),
						errdetail("They belong to the session that makes them, "
								  "here a worker."),
						errhint("Run it yourself.")));
}
