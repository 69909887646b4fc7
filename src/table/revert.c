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
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

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
#include "table/tree.h"
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

	for (int i = 0; i < REFIT_LOGS; i++)
	{
		r->back_logs[i] = refit_capture_create_log(twin, schema, r->key_index,
												   REFIT_LOGS + i);
		refit_twin_set_relrewrite(r->back_logs[i], m->leaf);
	}
	r->back_suspects = refit_verify_create_suspects(
		blank, twin, schema, "$back_suspects", r->key_index);
	refit_twin_set_relrewrite(r->back_suspects, m->leaf);
	table_close(twin, NoLock);
	table_close(blank, NoLock);
	refit_inverse_keep_columns(source, r->blank);
}

/*
 * The leaf's new key, over the columns of the old one, which the blank's index
 * still has.
 */
static Oid
find_new_key(const RefitMigration *m)
{
	Relation table = table_open(m->leaf, NoLock);
	Oid result = InvalidOid;
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(
		refit_twin_blank_index(m->rewrite.blank, m->rewrite.key_index),
		&attnums);
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
		elog(ERROR, "table %u of migration " INT64_FORMAT " has no key",
			 m->leaf, m->id);
	return result;
}

/* From here on changes of the leaf go to its old rows. */
void
refit_revert_open_window(RefitMigration *m)
{
	RefitRewrite *r = &m->rewrite;

	r->key_index = find_new_key(m);
	r->reversed = true;
	r->target = r->blank;
	for (int i = 0; i < REFIT_LOGS; i++)
		r->logs[i] = r->back_logs[i];
	r->suspects = r->back_suspects;
	r->verify_filenode = InvalidOid;
	refit_verify_reset(m);
	refit_capture_arm(m);
	r->fingerprint = refit_shape_fingerprint(m->leaf);
	refit_catalog_save_rewrite(m);
	REFIT_FAULT("cutover.window");
}

/* All tables of the tree with their rewrites, parents before those below. */
static List *
all_members(const RefitMigration *m)
{
	List *rewrites =
		list_concat(refit_catalog_parents(m), refit_catalog_leaves(m));
	List *result = NIL;
	ListCell *lc;
	ListCell *lc_rewrite;

	foreach(lc, refit_tree_reach(m->relid, refit_actions_of(m)))
		foreach(lc_rewrite, rewrites)
			if (((RefitLeaf *) lfirst(lc_rewrite))->relid == lfirst_oid(lc))
				result = lappend(result, lfirst(lc_rewrite));
	return result;
}

/*
 * What undoes the actions in all tables, as one statement; with the actions
 * themselves, since it reaches the tables that they reach.  It is not to be run.
 */
AlterTableStmt *
refit_revert_stmt(RefitMigration *m)
{
	RefitLeaf leaf = {.relid = m->leaf, .rewrite = m->rewrite};
	AlterTableStmt *stmt = makeNode(AlterTableStmt);
	ListCell *lc;

	foreach(lc, all_members(m))
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		stmt->cmds = list_concat(stmt->cmds, refit_inverse_stmt(m)->cmds);
	}
	refit_catalog_use_leaf(m, &leaf);
	stmt->cmds = list_concat(stmt->cmds, refit_actions_of(m)->cmds);
	return stmt;
}

/* Makes one leaf empty, with the storage that the twin has had since. */
void
refit_revert_empty_leaf(RefitMigration *m)
{
	List *table_indexes;
	List *twin_indexes;

	refit_swap_check_layout(m->leaf, m->rewrite.twin, true);
	refit_swap_pair_indexes(m->leaf, m->rewrite.twin, &table_indexes,
							&twin_indexes);
	refit_swap_storage(m->leaf, m->rewrite.twin, table_indexes, twin_indexes);
}

/* Runs the inverses. */
static void
run_inverses(RefitMigration *m)
{
	List *members = all_members(m);
	ListCell *lc;

	foreach(lc, members)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		refit_inverse_undrop_columns(m);
	}
	foreach(lc, members)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		refit_inverse_run(m);
	}
}

/* Puts the old definition back. */
void
refit_revert_alter(RefitMigration *m, const AlterTableStmt *stmt)
{
	RefitForeignKeys *foreign_keys =
		refit_dependents_foreign_keys(m->relid, stmt);
	List *views = refit_dependents_detach_views(m->relid, stmt);

	REFIT_FAULT("revert.emptied");
	refit_dependents_suspend_foreign_keys(m, stmt);
	run_inverses(m);
	REFIT_FAULT("revert.altered");
	refit_dependents_owe_new_foreign_keys(m, stmt, foreign_keys);
	refit_dependents_attach_views(views);
}

/* Puts the old rows of one leaf back. */
void
refit_revert_fill_leaf(RefitMigration *m)
{
	Oid blank = m->rewrite.blank;
	List *table_indexes;
	List *blank_indexes;

	refit_swap_check_layout(m->leaf, blank, true);
	refit_swap_pair_alike(m->leaf, blank, &table_indexes, &blank_indexes);
	refit_swap_storage(m->leaf, blank, table_indexes, blank_indexes);
	refit_swap_copy_statistics(blank, m->leaf, true);
	m->rewrite.reversed = false;
	m->rewrite.target = m->rewrite.twin;
	refit_catalog_save_rewrite(m);
	REFIT_FAULT("revert.swapped");
}

/* Of the leaves nothing is known on the way back. */
void
refit_revert_begin(RefitMigration *m)
{
	ListCell *lc;

	foreach(lc, refit_catalog_leaves(m))
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		refit_verify_reset(m);
		refit_catalog_save_rewrite(m);
	}
	(void) refit_catalog_select_leaf(m, 1);
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

/* Has somebody changed a leaf's definition? */
static bool
is_changed(const RefitLeaf *leaf)
{
	return get_rel_name(leaf->relid) != NULL &&
		   strcmp(refit_shape_fingerprint(leaf->relid),
				  leaf->rewrite.fingerprint) != 0;
}

/*
 * Goes to the next leaf that has something to do, for the step after this one.
 * False: it was the last one, and the round is over.  Each catch-up looks whether
 * its leaf is what it was; of those that nobody writes to one is looked at each
 * round.
 */
static bool
go_on(RefitMigration *m)
{
	List *leaves = refit_catalog_leaves(m);
	int64 ticks = GetCurrentTimestamp() / (WINDOW_PAUSE_MS * 1000);
	RefitLeaf *looked_at = list_nth(leaves, ticks % list_length(leaves));
	int number = m->rewrite.number;
	ListCell *lc;

	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	foreach(lc, leaves)
	{
		RefitLeaf *leaf = lfirst(lc);

		if (leaf->rewrite.number <= number)
			continue;
		refit_catalog_use_leaf(m, leaf);
		if (!refit_capture_is_idle(m))
			return true;
	}
	if (is_changed(looked_at))
	{
		refit_catalog_use_leaf(m, looked_at);
		return true;
	}
	refit_catalog_use_leaf(m, linitial(leaves));
	return false;
}

/*
 * Phase window: one batch of one leaf, and a rest after a round.  An error stays
 * at its leaf: as long as that has no way back, none has.
 */
RefitOutcome
refit_revert_window_step(RefitMigration *m, RefitBudget *budget)
{
	RefitOutcome outcome;

	if (is_over(m))
		return REFIT_NEXT;
	refit_tree_check(m);
	refit_tree_check_parents(m);
	outcome = refit_catchup_step(m, budget);
	m->progress.message = "the old rows are kept in step; refit.revert() puts "
						  "them back, refit.finish() drops them";
	REFIT_FAULT("window.batch");
	if (outcome == REFIT_MORE || (m->nleaves > 1 && go_on(m)))
		return REFIT_MORE;
	budget->pause_ms = Max(WINDOW_PAUSE_MS, m->nleaves);
	return REFIT_WAIT;
}
