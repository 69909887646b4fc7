/*-------------------------------------------------------------------------
 *
 * cutover.c
 *	  Phase cutover: swap – alter – swap.
 *
 * In one transaction, under ACCESS EXCLUSIVE:
 *	 1. apply what is left in the log, little, since all of it was applied just
 *		before;
 *	 2. swap the storage of the table with the blank, an empty table of the old
 *		definition: now the table is empty;
 *	 3. drop the capture triggers, unhook views, suspend foreign keys;
 *	 4. run the user's ALTER TABLE on it: every catalog change is PostgreSQL's
 *		own and takes no time;
 *	 5. swap the storage with the twin, which has the rows in the new
 *		definition; carry statistics over; put the views back.
 * The table is the same pg_class row all the time, so what refers to it never
 * notices.
 *
 * Of a tree of partitions or children all leaves are emptied, the ALTER TABLE runs
 * on the root, as the user would run it, and all leaves get their twins' storage.
 * With a revert window capture is installed again, now for the old rows, which
 * the blank has since step 2.  Phase revert is the same way back: empty the
 * table with the twin, undo the actions (revert.c), put the blank's storage in
 * place.
 *
 * If the process dies: before commit nothing has happened, the triggers are
 * still there and the migration goes on with catching up; after it the phase
 * says that the change is done.  Which it was is read from the row, which is
 * part of the transaction.
 *
 * Who waits: everybody who uses the table, from the grant of the locks to the
 * end of the commit, and for refit.lock_timeout at most before that.
 *
 * Whose rights: the owner's, event triggers included, for a view its own
 * owner's.  Catalog rows are written with low-level functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "job/catalog.h"
#include "table/actions.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/cutover.h"
#include "table/dependents.h"
#include "table/inverse.h"
#include "table/revert.h"
#include "table/shape.h"
#include "table/swap.h"
#include "table/tree.h"
#include "table/twin.h"
#include "table/verify.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* With more keys than these to apply, the lock is not taken, or given back. */
#define MOST_PENDING 2000

/*
 * What is to be applied under the lock should not take longer than this, in ms.
 * A table that is written to without pause may never have so little; so after
 * some tries it may take as long as it takes.
 */
#define APPLY_UNDER_LOCK_MS 15
#define PATIENT_TRIES 8

/* So few keys are always applied, however long the last ones took. */
#define FEW_PENDING 50

/* Batches before the lock: each has what came while the one before was applied. */
#define MOST_BATCHES 5

/* What the locks are held for, in parts. */
#define MOST_LAPS 16

typedef struct Lap
{
	const char *name;
	double ms;
} Lap;

static instr_time lock_granted;
static double lock_ms = -1;
static bool lock_is_held = false;
static Lap laps[MOST_LAPS];
static int nlaps = 0;
static double last_lap_ms = 0; /* where the last one ended */

/* ms since the locks were granted. */
static double
ms_held(void)
{
	instr_time now;

	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, lock_granted);
	return INSTR_TIME_GET_MILLISEC(now);
}

/* A part of the work under the locks ends here.  Those of many leaves add up. */
static void
end_lap(const char *name)
{
	double now = ms_held();
	int i = 0;

	while (i < nlaps && strcmp(laps[i].name, name) != 0)
		i++;
	if (i == MOST_LAPS)
		return;
	if (i == nlaps)
		laps[nlaps++] = (Lap){name, 0};
	laps[i].ms += now - last_lap_ms;
	last_lap_ms = now;
}

/* Takes the time at the end of the cutover's commit, or forgets it. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (!lock_is_held ||
		(event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_COMMIT &&
		 event != XACT_EVENT_ABORT))
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
	{
		end_lap("bookkeeping");
		return;
	}
	lock_is_held = false;
	if (event == XACT_EVENT_COMMIT)
		lock_ms = ms_held();
}

/* Notes that the locks are held from now on. */
static void
start_clock(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(at_transaction_end, NULL);
	registered = true;
	nlaps = 0;
	last_lap_ms = 0;
	INSTR_TIME_SET_CURRENT(lock_granted);
	lock_is_held = true;
}

/* Tells the server log, at debug1, what the locks were held for. */
static void
report_laps(void)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < nlaps; i++)
		appendStringInfo(&text, "%s %.2f, ", laps[i].name, laps[i].ms);
	elog(DEBUG1, "cutover held its locks for %.2f ms: %scommit %.2f", lock_ms,
		 text.data, lock_ms - last_lap_ms);
	pfree(text.data);
}

/* How long the last cutover of this process held its locks. */
double
refit_cutover_take_lock_ms(void)
{
	double result = lock_ms;

	if (lock_ms >= 0)
		report_laps();
	lock_ms = -1;
	return result;
}

/* The indexes of the table and of the blank, in pairs. */
static void
pair_blank_indexes(const RefitMigration *m, List **table_indexes,
				   List **blank_indexes)
{
	Relation rel = table_open(m->leaf, NoLock);
	ListCell *lc;

	*table_indexes = list_copy(RelationGetIndexList(rel));
	*blank_indexes = NIL;
	table_close(rel, NoLock);
	foreach(lc, *table_indexes)
	{
		Oid index = refit_twin_blank_index(m->rewrite.blank, lfirst_oid(lc));

		if (!OidIsValid(index))
			elog(ERROR, "index %u has no partner in the blank", lfirst_oid(lc));
		*blank_indexes = lappend_oid(*blank_indexes, index);
	}
}

/* Step 2: makes the table empty. */
static void
swap_with_blank(RefitMigration *m)
{
	List *table_indexes;
	List *blank_indexes;

	refit_swap_check_layout(m->leaf, m->rewrite.blank, false);
	pair_blank_indexes(m, &table_indexes, &blank_indexes);
	refit_swap_storage(m->leaf, m->rewrite.blank, table_indexes, blank_indexes);
}

/* Steps 3 and 4: the user's ALTER TABLE, between what it must not touch. */
static void
alter_empty_table(RefitMigration *m, const AlterTableStmt *stmt)
{
	RefitForeignKeys *foreign_keys =
		refit_dependents_foreign_keys(m->relid, stmt);
	List *views = refit_dependents_detach_views(m->relid, stmt);

	refit_dependents_suspend_foreign_keys(m, stmt);
	end_lap("detach");
	refit_actions_run_public(stmt, m->relid, m->definition, m->search_path);
	end_lap("alter");
	REFIT_FAULT("cutover.altered");
	refit_dependents_adjust_sequences(m->relid, refit_catalog_root_twin(m),
									  stmt);
	refit_dependents_owe_new_foreign_keys(m, stmt, foreign_keys);
	refit_dependents_attach_views(views);
	end_lap("attach");
}

/*
 * Has all that inherits from the leaf a twin with its rows?  Only then do the
 * statistics that the twin has on its children speak of those of the table.
 */
static bool
is_whole(const RefitMigration *m)
{
	return has_subclass(m->rewrite.twin) && refit_catalog_parents(m) == NIL;
}

/* Step 5: puts the twin's storage in place, with what is known about it. */
static void
swap_with_twin(RefitMigration *m)
{
	List *table_indexes;
	List *twin_indexes;
	ListCell *lc_table;
	ListCell *lc_twin;

	refit_swap_check_layout(m->leaf, m->rewrite.twin, true);
	refit_swap_pair_indexes(m->leaf, m->rewrite.twin, &table_indexes,
							&twin_indexes);
	refit_swap_storage(m->leaf, m->rewrite.twin, table_indexes, twin_indexes);
	refit_swap_copy_statistics(m->rewrite.twin, m->leaf, is_whole(m));
	forboth(lc_table, table_indexes, lc_twin, twin_indexes)
		refit_swap_copy_statistics(lfirst_oid(lc_twin), lfirst_oid(lc_table),
								   true);
}

/*
 * Locks a work table and its indexes, which keeps nobody waiting, and adds its
 * TOAST table to the list: a vacuum that works there is asked to leave.
 */
static List *
lock_work_table(Oid relid, List *locks)
{
	Relation rel = table_open(relid, AccessExclusiveLock); /* private: */
	Oid toast = rel->rd_rel->reltoastrelid;
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
		LockRelationOid(lfirst_oid(lc), AccessExclusiveLock); /* private: */
	table_close(rel, NoLock);
	if (OidIsValid(toast))
		locks =
			lappend(locks, refit_polite_lock_on(toast, AccessExclusiveLock));
	return locks;
}

/*
 * Are the work tables free?  A vacuum to prevent wraparound may be in one of them;
 * to wait for that is to wait in vain, and nobody would be told for whom.
 */
static bool
are_work_tables_free(RefitMigration *m, List *leaves)
{
	List *locks = NIL;
	ListCell *lc;

	foreach(lc, leaves)
	{
		RefitRewrite *r = &((RefitLeaf *) lfirst(lc))->rewrite;

		locks =
			lappend(locks, refit_polite_lock_on(r->twin, AccessExclusiveLock));
		locks =
			lappend(locks, refit_polite_lock_on(r->blank, AccessExclusiveLock));
	}
	return refit_polite_lock_is_free(m, locks);
}

/* Locks what the cutover touches; false: not now. */
static bool
lock_everything(RefitMigration *m, const AlterTableStmt *stmt, List *leaves)
{
	List *locks = refit_dependents_locks(m->relid, stmt);
	ListCell *lc;

	if (!are_work_tables_free(m, leaves))
		return false;
	locks = list_concat(locks, refit_tree_locks(m->relid, stmt));
	foreach(lc, leaves)
	{
		RefitRewrite *r = &((RefitLeaf *) lfirst(lc))->rewrite;

		locks = lock_work_table(r->twin, locks);
		locks = lock_work_table(r->blank, locks);
	}
	foreach(lc, refit_catalog_parents(m))
	{
		Oid blank = ((RefitLeaf *) lfirst(lc))->rewrite.blank;

		if (OidIsValid(blank)) /* has no rows, but the dropped columns */
			locks = lock_work_table(blank, locks);
	}
	return refit_polite_lock_try(m, locks);
}

/*
 * Plans the statements that will run under the lock, and fills the caches that
 * they need, by running them for no table at all.
 */
static void
warm_up(const RefitMigration *m)
{
	RefitMigration nothing = *m;

	nothing.relid = InvalidOid;
	nothing.leaf = InvalidOid;
	(void) refit_shape_fingerprint(m->leaf);
	refit_tree_check(m);
	(void) refit_dependents_detach_views(InvalidOid, NULL);
	refit_dependents_suspend_foreign_keys(&nothing, NULL);
	refit_dependents_owe_new_foreign_keys(
		&nothing, NULL, refit_dependents_foreign_keys(InvalidOid, NULL));
	refit_dependents_adjust_sequences(InvalidOid, InvalidOid, NULL);
	if (m->rewrite.reversed)
		refit_inverse_warm_up(&nothing);
}

/* Has somebody asked to pause or cancel since the step began? */
static bool
is_asked_to_stop(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	return refit_sql_text("SELECT request FROM refit.migration WHERE id = $1"
						  " AND request IN ('pause', 'cancel')",
						  1, types, values) != NULL;
}

/*
 * Forgets the values of columns that short old rows end before, as VACUUM FULL
 * does: the rows of a repacked table have all their columns.  An ALTER TABLE
 * decides that by itself.
 */
static void
forget_missing_values(Oid relid)
{
	Relation rel = table_open(relid, NoLock);

	RelationClearMissing(rel);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * Applies the log of one leaf until little can have come since.  Returns how
 * many keys the last batch had, and says how long one of them took.
 */
static int64
apply_until_small(RefitMigration *m, double *ms_per_key)
{
	int64 keys = 0;

	for (int i = 0; i < MOST_BATCHES && !refit_capture_is_idle(m); i++)
	{
		RefitBatch batch = {0};
		instr_time begin;
		instr_time end;

		INSTR_TIME_SET_CURRENT(begin);
		refit_catchup_apply(m, &batch);
		INSTR_TIME_SET_CURRENT(end);
		INSTR_TIME_SUBTRACT(end, begin);
		keys = batch.keys;
		if (keys <= FEW_PENDING)
			break;
		*ms_per_key = INSTR_TIME_GET_MILLISEC(end) / keys;
	}
	return keys;
}

/*
 * Applies the logs of all leaves.  False: that cannot be, an unlogged table was
 * emptied by a crash, or it was more than the lock should wait for; or a leaf
 * has not passed its verification.
 */
static bool
apply_before_lock(RefitMigration *m, List *leaves, double *ms_per_key)
{
	int64 keys = 0;
	ListCell *lc;

	foreach(lc, leaves)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		if (!refit_verify_is_passed(m) ||
			(!m->rewrite.reversed && refit_shape_was_emptied(m)))
			return false;
		keys += apply_until_small(m, ms_per_key);
	}
	return keys <= MOST_PENDING;
}

/* Is little enough pending to apply it under the lock? */
static bool
is_little_pending(const RefitMigration *m, double ms_per_key)
{
	int64 pending = refit_capture_pending(m);

	if (pending <= FEW_PENDING)
		return true;
	if (pending > MOST_PENDING)
		return false;
	return m->cutover_attempts > PATIENT_TRIES ||
		   pending * ms_per_key <= APPLY_UNDER_LOCK_MS;
}

/* Step 1, and the end of capture, for one leaf. */
static void
apply_last(RefitMigration *m)
{
	RefitBatch batch = {0};

	refit_shape_check(m);
	refit_capture_check(m);
	end_lap("check");
	if (!refit_capture_is_idle(m))
		refit_catchup_apply(m, &batch);
	end_lap("apply");
	REFIT_FAULT("cutover.applied");
	refit_capture_remove(m);
}

/*
 * Carries statistics on the whole of partitioned tables over.  The old ones are
 * kept for the way back.
 */
static void
copy_parents_statistics(const RefitMigration *m, bool back)
{
	ListCell *lc;

	foreach(lc, refit_catalog_parents(m))
	{
		RefitLeaf *parent = lfirst(lc);
		RefitRewrite *r = &parent->rewrite;

		if (get_rel_relkind(parent->relid) == RELKIND_PARTITIONED_TABLE)
			refit_swap_copy_statistics(back ? r->blank : r->twin, parent->relid,
									   true);
	}
}

/* Keeps them, before the definition is changed. */
static void
keep_parents_statistics(const RefitMigration *m)
{
	ListCell *lc;

	foreach(lc, refit_catalog_parents(m))
	{
		RefitLeaf *parent = lfirst(lc);

		if (OidIsValid(parent->rewrite.blank))
			refit_swap_copy_statistics(parent->relid, parent->rewrite.blank,
									   true);
	}
}

/* Takes down what partitioned tables are from now on. */
static void
save_parents(RefitMigration *m)
{
	ListCell *lc;

	foreach(lc, refit_catalog_parents(m))
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		m->rewrite.fingerprint = refit_shape_fingerprint(m->leaf);
		refit_catalog_save_rewrite(m);
	}
}

/* Steps 1 to 3 for one leaf. */
static void
empty_leaf(RefitMigration *m, const AlterTableStmt *stmt)
{
	apply_last(m);
	if (stmt == NULL)
		return;
	refit_swap_copy_statistics(m->leaf, m->rewrite.blank, true);
	swap_with_blank(m);
	end_lap("empty");
}

/* Step 5 for one leaf. */
static void
fill_leaf(RefitMigration *m, const AlterTableStmt *stmt)
{
	swap_with_twin(m);
	if (stmt == NULL)
		forget_missing_values(m->leaf);
	end_lap("fill");
	if (m->revertible)
		refit_revert_open_window(m);
}

/* The change itself, under the locks. */
static void
change_tables(RefitMigration *m, const AlterTableStmt *stmt, List *leaves)
{
	ListCell *lc;

	foreach(lc, leaves)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		empty_leaf(m, stmt);
	}
	if (stmt != NULL)
	{
		REFIT_FAULT("cutover.emptied");
		keep_parents_statistics(m);
		alter_empty_table(m, stmt);
		copy_parents_statistics(m, false);
	}
	if (m->revertible)
		save_parents(m);
	foreach(lc, leaves)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		fill_leaf(m, stmt);
	}
}

/* The way back, under the locks. */
static void
put_back(RefitMigration *m, const AlterTableStmt *stmt, List *leaves)
{
	ListCell *lc;

	foreach(lc, leaves)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		apply_last(m);
		refit_revert_empty_leaf(m);
		end_lap("empty");
	}
	refit_revert_alter(m, stmt);
	copy_parents_statistics(m, true);
	end_lap("alter");
	foreach(lc, leaves)
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		refit_revert_fill_leaf(m);
		end_lap("fill");
	}
}

/* Makes the old rows' tables as wide as the leaves will be; false: not now. */
static bool
widen_blanks(RefitMigration *m, List *leaves)
{
	ListCell *lc;

	if (!are_work_tables_free(m, leaves))
		return false;
	foreach(lc, leaves)
	{
		RefitLeaf *leaf = lfirst(lc);

		refit_inverse_widen(leaf->rewrite.blank, leaf->relid);
	}
	return true;
}

/* One try. */
RefitOutcome
refit_cutover_step(RefitMigration *m, RefitBudget *budget)
{
	bool back = m->rewrite.reversed;
	AlterTableStmt *stmt = back ? refit_revert_stmt(m) : refit_actions_of(m);
	List *leaves = refit_catalog_leaves(m);
	double ms_per_key = 0;

	m->next_phase = back ? "catchback" : "catchup";
	if (!apply_before_lock(m, leaves, &ms_per_key))
		return REFIT_RETURN;
	m->cutover_attempts++;
	warm_up(m);
	if ((back && !widen_blanks(m, leaves)) || !lock_everything(m, stmt, leaves))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	if (is_asked_to_stop(m))
		return REFIT_WAIT;
	start_clock();
	REFIT_FAULT("cutover.locked");
	if (!is_little_pending(m, ms_per_key))
		return REFIT_RETURN;
	end_lap("count");
	refit_tree_check(m);
	refit_tree_check_parents(m);
	if (back)
		put_back(m, stmt, leaves);
	else
		change_tables(m, stmt, leaves);
	m->progress.pending = 0;
	REFIT_FAULT("cutover.swapped");
	return REFIT_NEXT;
}
