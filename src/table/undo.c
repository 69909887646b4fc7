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
#include "utils/rel.h"

#include "table/inverse.h"
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

/* Says which partition a reason is about. */
static char *
name_member(const UndoSearch *search, const RefitTwin *t, char *reason)
{
	if (reason == NULL || t == linitial(search->twins))
		return reason;
	return psprintf("%s, in %s", reason, refit_qualified_name(t->source));
}

/* Is there something in a table that cannot come back? */
static char *
find_obstacle(const UndoSearch *search, const RefitTwin *t)
{
	Relation source = table_open(t->source, AccessShareLock);
	Relation twin = table_open(t->twin, NoLock);
	Oid key_index = InvalidOid;
	char *reason;

	if (t->is_leaf)
		key_index = refit_plan_choose_key(source, t->twin, search->stmt,
										  search->search_path);
	reason = refit_inverse_obstacle(source, twin, key_index, search->stmt,
									search->search_path);
	table_close(twin, NoLock);
	table_close(source, NoLock);
	return name_member(search, t, reason);
}

/* Finds the inverses by running them; what they do not bring back. */
static char *
find_by_running(UndoSearch *search)
{
	List *dropped = NIL;
	char *reason = NULL;
	ListCell *lc;
	ListCell *lc_dropped;

	foreach(lc, search->twins)
	{
		RefitTwin *t = lfirst(lc);
		List *columns = refit_inverse_dropped_columns(t->source, t->twin);

		refit_inverse_undrop(columns, t->twin, t->source);
		dropped = lappend(dropped, columns);
	}
	forboth(lc, search->twins, lc_dropped, dropped)
	{
		RefitTwin *t = lfirst(lc);
		char *inverse = refit_inverse_find(t->source, t->twin, search->stmt,
										   lfirst(lc_dropped));

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
	bool has_rows = false;
	ListCell *lc;

	foreach(lc, search->twins)
	{
		RefitTwin *t = lfirst(lc);

		has_rows = has_rows || t->is_leaf;
		if (search->reason == NULL)
			search->reason = find_obstacle(search, t);
	}
	if (!has_rows)
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
