/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  What an index is to be.  See definition.h.
 *
 * The definition is tried when it is submitted, on an empty copy of the table, so
 * that PostgreSQL itself says whatever is wrong with it, before anything else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "parser/parse_utilcmd.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "index/definition.h"
#include "table/tree.h"
#include "table/twin.h"
#include "util/attempt.h"
#include "util/sqlutil.h"

/* What is tried, for refit_attempt. */
typedef struct Trial
{
	const char *definition;
	Oid relid;
	const char *search_path;
} Trial;

/* Refuses what does not go with building online. */
static void
check_statement(const IndexStmt *stmt)
{
	if (stmt->concurrent)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the definition must not say CONCURRENTLY"),
				 errhint("No method blocks the application. To have CREATE "
						 "INDEX CONCURRENTLY run, use method => "
						 "'concurrently'.")));
	if (stmt->if_not_exists)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the definition must not say IF NOT EXISTS"),
				 errdetail("It would take an invalid index of that name for "
						   "the one that is wanted."),
				 errhint("To submit it again without harm, give the migration "
						 "a name.")));
	if (!stmt->relation->inh)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the definition must not say ONLY"),
				 errhint("Use refit.ddl() for an index on a partitioned table "
						 "alone.")));
}

/* Parses a definition. */
IndexStmt *
refit_definition_parse(const char *definition)
{
	List *statements = refit_sql_parse(pstrdup(definition));
	IndexStmt *stmt;

	if (list_length(statements) != 1 ||
		!IsA(linitial_node(RawStmt, statements)->stmt, IndexStmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("the definition must be one CREATE INDEX statement"),
				 errhint("Write, for example, 'CREATE INDEX ON orders "
						 "(customer_id)'.")));
	stmt = (IndexStmt *) linitial_node(RawStmt, statements)->stmt;
	check_statement(stmt);
	return stmt;
}

/* With its names looked up. */
IndexStmt *
refit_definition_for(const char *definition, Oid relid, const char *search_path)
{
	int guc_level = NewGUCNestLevel();
	IndexStmt *stmt = refit_definition_parse(definition);

	refit_set_local("search_path", search_path);
	stmt = transformIndexStmt(relid, stmt, definition);
	AtEOXact_GUC(false, guc_level);
	return stmt;
}

/* Makes the index on a copy; for refit_attempt. */
static void
try_definition(void *arg)
{
	const Trial *trial = arg;
	Oid owner = refit_relation_owner(trial->relid);
	int guc_level;
	RefitRights save;
	IndexStmt *stmt;
	Oid schema;
	Oid twin;

	refit_rights_begin(&save, owner, true);
	schema = refit_twin_create_schema(-MyProcPid, owner);
	twin = ((RefitTwin *) linitial(
				refit_tree_create_twins(trial->relid, schema, NULL)))
			   ->twin;
	guc_level = NewGUCNestLevel();
	refit_set_local("search_path", trial->search_path);
	stmt = refit_definition_for(trial->definition, twin, trial->search_path);
	stmt->relation = NULL; /* the twins' partitions too */
	(void) refit_define_index(twin, stmt, true);
	AtEOXact_GUC(false, guc_level);
	refit_rights_end(&save);
}

/* Tries it and throws the copy away. */
void
refit_definition_try(const char *definition, Oid relid, const char *search_path)
{
	Trial trial = {definition, relid, search_path};
	ErrorData *error = refit_attempt(try_definition, &trial, false);

	if (error == NULL)
		return;
	error->cursorpos = 0; /* it is one in the definition's text */
	ReThrowError(error);
}

/* A partition's part of a partitioned index. */
IndexStmt *
refit_definition_of_partition(Relation parent_index, Relation parent,
							  Relation partition)
{
	AttrMap *map = refit_attrmap_by_name(RelationGetDescr(partition),
										 RelationGetDescr(parent));
	Oid constraint;
	IndexStmt *stmt =
		generateClonedIndexStmt(NULL, parent_index, map, &constraint);

	free_attrmap(map);
	return stmt;
}

/* An index that stores what another one does. */
IndexStmt *
refit_definition_of_copy(Oid index, const char *name)
{
	Relation rel = index_open(index, AccessShareLock);
	Relation heap = table_open(rel->rd_index->indrelid, NoLock);
	int natts = RelationGetDescr(heap)->natts;
	AttrMap *map = make_attrmap(natts);
	Oid constraint;
	IndexStmt *stmt;

	for (int i = 0; i < natts; i++)
		map->attnums[i] = i + 1;
	stmt = generateClonedIndexStmt(NULL, rel, map, &constraint);
	free_attrmap(map);
	table_close(heap, NoLock);
	index_close(rel, NoLock);
	stmt->idxname = pstrdup(name);
	stmt->idxcomment = NULL;
	stmt->unique = false;
	stmt->primary = false;
	stmt->isconstraint = false;
	stmt->deferrable = false;
	stmt->initdeferred = false;
	refit_forget_exclusion(stmt);
	return stmt;
}
