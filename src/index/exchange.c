/*-------------------------------------------------------------------------
 *
 * exchange.c
 *	  Giving the storage of a new index to the one that is rebuilt.
 *
 * See exchange.h.  An index that was dropped meanwhile needs no exchange; the new
 * one is dropped then.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "index/exchange.h"
#include "job/catalog.h"
#include "table/swap.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Drops the new index; the caller holds ACCESS EXCLUSIVE on it and its table. */
static void
drop_copy(Oid index)
{
	ObjectAddress object;

	ObjectAddressSet(object, RelationRelationId, index);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/* The table and both indexes, for everybody to stay away from. */
static List *
locks_for(const RefitIndexRow *row)
{
	List *locks =
		list_make2(refit_polite_lock_on(row->relid, AccessExclusiveLock),
				   refit_polite_lock_on(row->index, AccessExclusiveLock));

	if (get_rel_name(row->target) != NULL)
		locks = lappend(locks,
						refit_polite_lock_on(row->target, AccessExclusiveLock));
	return locks;
}

/* One try. */
RefitOutcome
refit_exchange_try(RefitMigration *m, RefitBudget *budget,
				   const RefitIndexRow *row)
{
	if (get_rel_name(row->index) == NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the index that the migration was building on %s is "
					"gone",
					refit_qualified_name(row->relid)),
			 errhint("To build it again, use refit.retry(" INT64_FORMAT ").",
					 m->id)));
	if (!refit_polite_lock_try(m, locks_for(row)))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("publish.locked");
	if (get_rel_name(row->target) != NULL)
		refit_swap_indexes(row->target, row->index);
	REFIT_FAULT("publish.exchanged");
	drop_copy(row->index);
	CacheInvalidateRelcacheByRelid(row->relid);
	refit_index_row_delete(m, row->number);
	REFIT_FAULT("publish.done");
	return REFIT_MORE;
}
