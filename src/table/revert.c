/*-------------------------------------------------------------------------
 *
 * revert.c
 *	  The revert window: the old rows kept in step after the cutover, and put
 *	  back on request.  See revert.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "job/catalog.h"
#include "pass/governor.h"
#include "table/actions.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/dependents.h"
#include "table/inverse.h"
#include "table/revert.h"
#include "table/shape.h"
#include "table/swap.h"
#include "table/twin.h"
#include "table/verify.h"
#include "util/fault.h"
#include "util/sqlutil.h"

/* ms between two batches when there is little to do. */
#define WINDOW_PAUSE_MS 500

/* Old rows are held against foreign keys in so many blocks at a time. */
#define RANGE_BLOCKS 512

/* Makes what the window will need. */
void
refit_revert_prepare(RefitMigration *m, Relation source, Oid schema)
{
	RefitRewrite *r = &m->rewrite;
	Relation twin = table_open(r->twin, NoLock);
	Relation blank = table_open(r->blank, NoLock);
	char *reason;

	r->inverse =
		refit_inverse_find(source, twin, r->key_index, refit_actions_of(m),
						   m->search_path, &reason);
	if (r->inverse == NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("the actions cannot be reverted"),
						errdetail("Reason: %s.", reason)));
	for (int i = 0; i < REFIT_LOGS; i++)
	{
		r->back_logs[i] = refit_capture_create_log(twin, schema, r->key_index,
												   REFIT_LOGS + i);
		refit_twin_set_relrewrite(r->back_logs[i], m->relid);
	}
	r->back_suspects = refit_verify_create_suspects(
		blank, twin, schema, "$back_suspects", r->key_index);
	refit_twin_set_relrewrite(r->back_suspects, m->relid);
	table_close(twin, NoLock);
	table_close(blank, NoLock);
	refit_inverse_keep_columns(source, r->blank);
}

/* The table's new key, over the columns of the old one. */
static Oid
find_new_key(const RefitMigration *m, int nkeys, const AttrNumber *attnums)
{
	Relation table = table_open(m->relid, NoLock);
	Oid result = InvalidOid;
	ListCell *lc;

	foreach(lc, refit_shape_key_indexes(table))
	{
		AttrNumber *others;

		if (!OidIsValid(result) &&
			refit_shape_key_attnums(lfirst_oid(lc), &others) == nkeys &&
			memcmp(attnums, others, sizeof(AttrNumber) * nkeys) == 0)
			result = lfirst_oid(lc);
	}
	table_close(table, NoLock);
	if (!OidIsValid(result))
		elog(ERROR, "the table of migration " INT64_FORMAT " has no key",
			 m->id);
	return result;
}

/* From here on changes go to the old rows. */
void
refit_revert_open_window(RefitMigration *m, int nkeys,
						 const AttrNumber *attnums)
{
	RefitRewrite *r = &m->rewrite;

	r->key_index = find_new_key(m, nkeys, attnums);
	r->reversed = true;
	r->target = r->blank;
	for (int i = 0; i < REFIT_LOGS; i++)
		r->logs[i] = r->back_logs[i];
	r->suspects = r->back_suspects;
	r->verify_filenode = InvalidOid;
	refit_verify_reset(m);
	refit_capture_arm(m);
	r->fingerprint = refit_shape_fingerprint(m->relid);
	refit_catalog_save_rewrite(m);
	REFIT_FAULT("cutover.window");
}

/* Puts the old definition and the old rows back. */
void
refit_revert_put_back(RefitMigration *m, const AlterTableStmt *stmt)
{
	RefitForeignKeys *foreign_keys =
		refit_dependents_foreign_keys(m->relid, stmt);
	List *views = refit_dependents_detach_views(m->relid, stmt);
	Oid blank = m->rewrite.blank;
	Oid twin = m->rewrite.twin;
	List *table_indexes;
	List *work_indexes;

	refit_swap_check_layout(m->relid, twin, true);
	refit_swap_pair_indexes(m->relid, twin, &table_indexes, &work_indexes);
	refit_swap_storage(m->relid, twin, table_indexes, work_indexes);
	REFIT_FAULT("revert.emptied");
	refit_dependents_suspend_foreign_keys(m, stmt);
	refit_inverse_run(m);
	REFIT_FAULT("revert.altered");
	refit_dependents_owe_new_foreign_keys(m, stmt, foreign_keys);
	refit_dependents_attach_views(views);

	refit_swap_check_layout(m->relid, blank, true);
	refit_swap_pair_alike(m->relid, blank, &table_indexes, &work_indexes);
	refit_swap_storage(m->relid, blank, table_indexes, work_indexes);
	refit_swap_copy_statistics(blank, m->relid, true);
	m->rewrite.reversed = false;
	m->rewrite.target = twin;
	refit_catalog_save_rewrite(m);
	REFIT_FAULT("revert.swapped");
}

/*
 * Phase references: do the old rows have partners?  The foreign keys are added
 * unchecked and checked after the revert, as after a cutover; but then there is
 * no way back to the window.
 */
RefitOutcome
refit_revert_check_references(RefitMigration *m, RefitBudget *budget)
{
	RefitProgress *p = &m->progress;
	Relation blank = table_open(m->rewrite.blank, AccessShareLock);

	p->cursor_end = RelationGetNumberOfBlocks(blank);
	table_close(blank, NoLock);
	while (p->cursor < p->cursor_end)
	{
		BlockNumber end = Min(p->cursor + RANGE_BLOCKS, p->cursor_end);

		refit_inverse_check_references(m, p->cursor, end);
		p->cursor = end;
		CHECK_FOR_INTERRUPTS();
		if (p->cursor < p->cursor_end && refit_governor_step_over(budget))
			return REFIT_MORE;
	}
	return REFIT_NEXT;
}

/* Is the window over, by time or by request? */
static bool
is_over(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	return (m->request != NULL && strcmp(m->request, "finish") == 0) ||
		   refit_sql_text("SELECT 1 FROM refit.migration WHERE id = $1"
						  " AND revertible_until <= clock_timestamp()",
						  1, types, values) != NULL;
}

/* Phase window: one batch. */
RefitOutcome
refit_revert_window_step(RefitMigration *m, RefitBudget *budget)
{
	RefitOutcome outcome;

	if (is_over(m))
		return REFIT_NEXT;
	outcome = refit_catchup_step(m, budget);
	m->progress.message = "the old rows are kept in step; refit.revert() puts "
						  "them back, refit.finish() drops them";
	REFIT_FAULT("window.batch");
	if (outcome == REFIT_MORE)
		return REFIT_MORE;
	budget->pause_ms = WINDOW_PAUSE_MS;
	return REFIT_WAIT;
}
