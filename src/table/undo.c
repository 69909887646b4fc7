/*-------------------------------------------------------------------------
 *
 * undo.c
 *	  The way back for a whole tree.  See undo.h.
 *
 * The inverses are found by running them, one after the other, on the twins,
 * in a subtransaction that is rolled back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_class.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "table/inverse.h"
#include "table/obstacle.h"
#include "table/plan.h"
#include "table/tree.h"
#include "table/undo.h"
#include "util/attempt.h"
#include "util/sqlutil.h"

/* A search, for refit_attempt. */
typedef struct UndoSearch
{
	List *twins; /* of RefitTwin, the root first */
	const AlterTableStmt *stmt;
	const char *search_path;
	List *inverses; /* what is found */
	char *reason;
} UndoSearch;

/* Says which table of the tree a reason is about. */
static char *
name_member(const UndoSearch *search, const RefitTwin *t, char *reason)
{
	if (reason == NULL || t == linitial(search->twins))
		return reason;
	return psprintf("%s, in %s", reason, refit_qualified_name(t->source));
}

/* Can a table have rows? */
static bool
has_rows(const RefitTwin *t)
{
	return get_rel_relkind(t->source) != RELKIND_PARTITIONED_TABLE;
}

/* Is there something in a table that cannot come back? */
static char *
find_obstacle(const UndoSearch *search, const RefitTwin *t)
{
	Relation source = table_open(t->source, AccessShareLock);
	Relation twin = table_open(t->twin, NoLock);
	Oid key_index = InvalidOid;
	char *reason;

	if (has_rows(t))
		key_index = refit_plan_choose_key(source, t->twin, search->stmt,
										  search->search_path);
	reason = refit_obstacle_find(source, twin, key_index, search->stmt,
								 search->search_path);
	table_close(twin, NoLock);
	table_close(source, NoLock);
	return name_member(search, t, reason);
}

/* Finds the inverses by running them; what they do not bring back. */
static char *
find_by_running(UndoSearch *search)
{
	List *lost = NIL;
	char *reason = NULL;
	ListCell *lc;
	ListCell *lc_lost;

	foreach(lc, search->twins)
	{
		RefitTwin *t = lfirst(lc);

		lost = lappend(lost, refit_inverse_lost_columns(t->source, t->twin));
		refit_inverse_undrop(llast(lost), t->twin, t->source);
	}
	forboth(lc, search->twins, lc_lost, lost)
	{
		RefitTwin *t = lfirst(lc);
		char *inverse = refit_inverse_find(t->source, t->twin, search->stmt,
										   lfirst(lc_lost));

		refit_inverse_run_private(inverse, t->twin);
		search->inverses = lappend(search->inverses, inverse);
	}
	foreach(lc, search->twins)
	{
		RefitTwin *t = lfirst(lc);
		char *what = refit_inverse_difference(t->source, t->twin);

		if (what != NULL && reason == NULL)
			reason = name_member(search, t,
								 psprintf("%s would not be as it was", what));
	}
	return reason;
}

/* Searches. */
static void
find_inverses(void *arg)
{
	UndoSearch *search = arg;
	bool found_rows = false;
	ListCell *lc;

	foreach(lc, search->twins)
	{
		RefitTwin *t = lfirst(lc);

		found_rows = found_rows || has_rows(t);
		if (search->reason == NULL)
			search->reason = find_obstacle(search, t);
	}
	if (!found_rows)
		search->reason = pstrdup("there are no partitions, and so no old rows");
	if (search->reason == NULL)
		search->reason = find_by_running(search);
}

/* The inverses of the tables of a tree. */
List *
refit_undo_find(List *twins, const AlterTableStmt *stmt,
				const char *search_path, char **reason)
{
	UndoSearch search = {
		.twins = twins, .stmt = stmt, .search_path = search_path};
	ErrorData *edata = refit_attempt(find_inverses, &search, false);

	if (edata != NULL)
		ReThrowError(edata);
	*reason = search.reason;
	return search.reason == NULL ? search.inverses : NIL;
}
