/*-------------------------------------------------------------------------
 *
 * concurrent.c
 *	  Method concurrently of refit.create_index and refit.rebuild_index.
 *
 * See concurrent.h.  The definition is CREATE INDEX or REINDEX INDEX without
 * CONCURRENTLY; here it gets it.  An index without a name gets one as PostgreSQL
 * would choose it, in the step that begins, so that it is known after a crash.
 *
 * Locks, rights and what a death leaves: ddl/ddl.c, ddl/command.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"

#include "ddl/ddl.h"
#include "index/concurrent.h"
#include "util/sqlutil.h"

/* The name that the index got when its build began, or NULL. */
static char *
find_name(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	return refit_sql_text("SELECT name FROM refit.command WHERE id = $1", 1,
						  types, values);
}

/* A name after the table and the columns, that nothing else has. */
static char *
choose_name(const RefitMigration *m, const IndexStmt *stmt)
{
	StringInfoData columns;
	ListCell *lc;

	initStringInfo(&columns);
	foreach(lc, list_concat_copy(stmt->indexParams, stmt->indexIncludingParams))
	{
		IndexElem *element = lfirst_node(IndexElem, lc);

		appendStringInfo(&columns, "%s%s", columns.len > 0 ? "_" : "",
						 element->name != NULL ? element->name : "expr");
	}
	return ChooseRelationName(get_rel_name(m->relid), columns.data, "idx",
							  get_rel_namespace(m->relid), false);
}

/* The command that makes the index. */
static void
complete_create(const RefitMigration *m, IndexStmt *stmt)
{
	stmt->concurrent = true;
	if (stmt->idxname == NULL)
		stmt->idxname = find_name(m);
	if (stmt->idxname == NULL)
		stmt->idxname = choose_name(m, stmt);
}

/* Phase concurrently: one look, or one run. */
RefitOutcome
refit_concurrent_step(RefitMigration *m, RefitBudget *budget)
{
	RefitStatement s = {.top_level = true, .tag = "CREATE INDEX"};

	s.node = linitial_node(RawStmt, refit_sql_parse(m->definition))->stmt;
	if (IsA(s.node, IndexStmt))
		complete_create(m, (IndexStmt *) s.node);
	else
	{
		ReindexStmt *stmt = castNode(ReindexStmt, s.node);

		s.tag = "REINDEX";
		stmt->params =
			lappend(stmt->params, makeDefElem("concurrently", NULL, -1));
	}
	return refit_ddl_work_command(m, budget, &s);
}
