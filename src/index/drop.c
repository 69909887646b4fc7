/*-------------------------------------------------------------------------
 *
 * drop.c
 *	  Dropping indexes: phase drop of refit.drop_index, and phase cleanup.
 *
 * refit.drop_index runs DROP INDEX, as the owner and event triggers included, once
 * everybody who uses the table is away.  Cleanup drops what a migration that is
 * given up has made, one table after the other, so that no two locks are held; a
 * partition's index is taken out of its parent's first.
 *
 * Who waits: everybody who uses the table, for the lock budget at most, and then
 * for milliseconds.  If the process dies: it is done again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "index/incremental.h"
#include "index/plan.h"
#include "index/row.h"
#include "job/catalog.h"
#include "table/tree.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* ACCESS EXCLUSIVE on an index and its table; with a tree, all of them. */
static List *
locks_for(Oid relid, Oid index)
{
	List *locks = refit_tree_locks(relid, NULL);
	ListCell *lc;

	foreach(lc, find_all_inheritors(index, NoLock, NULL))
		locks = lappend(
			locks, refit_polite_lock_on(lfirst_oid(lc), AccessExclusiveLock));
	return locks;
}

/* One try of refit.drop_index. */
RefitOutcome
refit_index_drop_step(RefitMigration *m, RefitBudget *budget)
{
	if (get_rel_name(m->object) == NULL)
	{
		refit_catalog_event(m, "drop", "the index is gone already", NULL);
		return REFIT_NEXT;
	}
	if (!refit_polite_lock_try(m, locks_for(m->relid, m->object)))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("drop.locked");
	refit_index_check_drop(m->object);
	refit_sql_run_all(
		list_make1(psprintf("DROP INDEX %s", refit_qualified_name(m->object))));
	REFIT_FAULT("drop.dropped");
	return REFIT_NEXT;
}

/*
 * Cleanup
 */

/* Takes a partition's index out of its parent's. */
static void
detach(Oid index)
{
	Relation rel = index_open(index, NoLock);

	IndexSetParentIndex(rel, InvalidOid);
	index_close(rel, NoLock);
	CommandCounterIncrement();
}

/* Drops an index of ours; the caller has locked it and its table. */
static void
drop_index(const RefitIndexRow *row)
{
	ObjectAddress object;

	if (OidIsValid(row->parent) && get_rel_relispartition(row->index))
		detach(row->index);
	ObjectAddressSet(object, RelationRelationId, row->index);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/* The last row whose index is still to be dropped, or NULL: children first. */
static RefitIndexRow *
find_last(const RefitMigration *m)
{
	List *rows = refit_index_row_list(m);

	for (int i = list_length(rows) - 1; i >= 0; i--)
	{
		RefitIndexRow *row = list_nth(rows, i);

		if (OidIsValid(row->index) && get_rel_name(row->index) != NULL &&
			IndexGetRelation(row->index, true) == row->relid)
			return row;
	}
	return NULL;
}

/* Drops what a migration that is given up has made; else forgets it. */
RefitOutcome
refit_index_cleanup(RefitMigration *m, RefitBudget *budget)
{
	RefitIndexRow *row = refit_catalog_is_given_up(m) ? find_last(m) : NULL;

	if (row == NULL)
	{
		refit_index_row_delete_all(m);
		REFIT_FAULT("cleanup.dropped");
		return REFIT_NEXT;
	}
	if (!refit_polite_lock_try(m, locks_for(row->relid, row->index)))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	drop_index(row);
	refit_index_row_delete(m, row->number);
	REFIT_FAULT("cleanup.index");
	return REFIT_MORE;
}
