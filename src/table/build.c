/*-------------------------------------------------------------------------
 *
 * build.c
 *	  Phases prepare, index, analyze and cleanup of a rewrite.  See build.h.
 *
 * If the process dies in prepare, nothing was made; in index, the indexes whose
 * builds have committed stay and the cursor says how many; in cleanup, all is
 * still there or all is gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "job/catalog.h"
#include "table/actions.h"
#include "table/build.h"
#include "table/capture.h"
#include "table/inherit.h"
#include "table/inverse.h"
#include "table/plan.h"
#include "table/revert.h"
#include "table/shape.h"
#include "table/space.h"
#include "table/tree.h"
#include "table/twin.h"
#include "table/undo.h"
#include "table/verify.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Not for the TOAST table: its options would go with it to the table. */
#define NO_AUTOVACUUM "SET (autovacuum_enabled = off)"

/*
 * Gives the twin an index that finds rows by the key, where the actions have
 * left none.
 */
static void
ensure_key_index(Oid twin, Oid key_index)
{
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(key_index, &attnums);
	Relation rel = table_open(twin, AccessExclusiveLock); /* private: */
	IndexStmt *stmt;

	if (!OidIsValid(refit_shape_find_index(rel, nkeys, attnums)))
	{
		stmt = makeNode(IndexStmt);
		stmt->idxname = psprintf("$key_%u", twin);
		stmt->relation =
			makeRangeVar(get_namespace_name(RelationGetNamespace(rel)),
						 pstrdup(RelationGetRelationName(rel)), -1);
		stmt->accessMethod = "btree";
		stmt->unique = true;
		for (int i = 0; i < nkeys; i++)
		{
			IndexElem *elem = makeNode(IndexElem);

			elem->name = pstrdup(NameStr(
				TupleDescAttr(RelationGetDescr(rel), attnums[i] - 1)->attname));
			stmt->indexParams = lappend(stmt->indexParams, elem);
		}
		refit_define_index(twin, stmt, true);
		CommandCounterIncrement();
	}
	table_close(rel, NoLock);
}

/* Is the twin sorted by phase order, which builds its indexes too? */
static bool
has_order(const RefitMigration *m)
{
	return strcmp(m->kind, "repack") == 0 && m->definition[0] != '\0';
}

/* Makes what one leaf needs beside its twin. */
static void
prepare_leaf(RefitMigration *m, const AlterTableStmt *stmt, Oid schema)
{
	RefitRewrite *r = &m->rewrite;
	Relation source = table_open(m->leaf, AccessShareLock);
	Relation twin;

	r->key_index = refit_plan_choose_key(source, r->twin, stmt, m->search_path);
	r->blank = refit_twin_create_blank(source, schema, m->revertible);
	if (m->revertible)
		refit_revert_prepare(m, source, schema);
	ensure_key_index(r->twin, r->key_index);
	if (has_order(m))
		refit_twin_create_order_index(r->twin, m->definition, m->search_path);
	for (int i = 0; i < REFIT_LOGS; i++)
		r->logs[i] = refit_capture_create_log(source, schema, r->key_index, i);
	twin = table_open(r->twin, NoLock);
	r->suspects = refit_verify_create_suspects(source, twin, schema,
											   "$suspects", r->key_index);
	table_close(twin, NoLock);
	refit_verify_reset(m);
	refit_actions_run_own(NO_AUTOVACUUM, r->twin);
	refit_twin_hide(r->blank, m->leaf);
	r->source_blocks = RelationGetNumberOfBlocks(source);
	m->progress.rows_total += (int64) Max(source->rd_rel->reltuples, 0);
	m->progress.bytes_total += r->source_blocks * BLCKSZ;
	table_close(source, NoLock);
}

/* Makes what a partitioned table needs beside its twin, to come back. */
static void
prepare_parent(RefitMigration *m, Oid schema)
{
	Relation source = table_open(m->leaf, AccessShareLock);

	m->rewrite.blank = refit_twin_create_blank(source, schema, true);
	refit_inverse_keep_columns(source, m->rewrite.blank);
	refit_twin_hide(m->rewrite.blank, m->leaf);
	table_close(source, NoLock);
}

/* Makes what a table of the tree needs beside its twin. */
static void
prepare_member(RefitMigration *m, const AlterTableStmt *stmt, Oid schema,
			   const RefitTwin *t, char *inverse)
{
	m->leaf = t->source;
	m->rewrite = (RefitRewrite){.exists = true,
								.twin = t->twin,
								.target = t->twin,
								.fingerprint = t->fingerprint,
								.inverse = inverse};
	if (t->is_leaf)
	{
		m->rewrite.number = ++m->nleaves;
		prepare_leaf(m, stmt, schema);
	}
	else if (m->revertible)
		prepare_parent(m, schema);
	refit_twin_hide(t->twin, t->source);
	refit_catalog_save_rewrite(m);
}

/* What undoes the actions, which were run on the twins. */
static List *
find_inverses(const RefitMigration *m, const AlterTableStmt *stmt, List *twins)
{
	char *reason;
	List *inverses = refit_undo_find(twins, stmt, m->search_path, &reason);

	if (reason != NULL)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("the actions cannot be reverted"),
						errdetail("Reason: %s.", reason)));
	return inverses;
}

/* Makes twins, blanks and logs, in one transaction. */
RefitOutcome
refit_build_prepare(RefitMigration *m, RefitBudget *budget)
{
	AlterTableStmt *stmt = refit_actions_of(m);
	Oid schema =
		refit_twin_create_schema(m->id, refit_relation_owner(m->relid));
	List *twins = refit_tree_create_twins(m->relid, schema, stmt);
	List *inverses = NIL;
	ListCell *lc;

	if (stmt != NULL)
		refit_actions_run_private(refit_actions_for_twin(stmt, m->relid),
								  ((RefitTwin *) linitial(twins))->twin,
								  m->search_path);
	if (!m->revertible)
		refit_inherit_leave_untouched(twins);
	else
		inverses = find_inverses(m, stmt, twins);
	m->nleaves = 0;
	foreach(lc, twins)
		prepare_member(m, stmt, schema, lfirst(lc),
					   m->revertible
						   ? list_nth(inverses, foreach_current_index(lc))
						   : NULL);
	(void) refit_catalog_select_leaf(m, 1);
	REFIT_FAULT("prepare.made");
	return REFIT_NEXT;
}

/* What the sort writes; no lock on the table is kept. */
static List *
space_of_order(const RefitMigration *m)
{
	Relation source = table_open(m->leaf, AccessShareLock);
	List *needs = refit_space_of_order(source, m->rewrite.twin);

	table_close(source, AccessShareLock);
	return needs;
}

/*
 * Sorts the twin where an order is asked for.  The copy goes in physical order,
 * so that it can go in chunks; the twin is private and can be sorted in one go,
 * by CLUSTER's own code, which builds its indexes too.
 */
RefitOutcome
refit_build_order(RefitMigration *m, RefitBudget *budget)
{
	Oid index = refit_twin_order_index(m->rewrite.twin);
	ReindexParams params = {0};
	ObjectAddress object;
	Relation rel;

	if (!has_order(m))
		return REFIT_NEXT;
	if (!OidIsValid(index)) /* the copy was started again after this phase */
	{
		refit_twin_create_order_index(m->rewrite.twin, m->definition,
									  m->search_path);
		index = refit_twin_order_index(m->rewrite.twin);
	}
	if (!refit_space_allows(m, space_of_order(m), "sort the copy", budget))
		return REFIT_WAIT;
	rel = table_open(m->rewrite.twin, AccessExclusiveLock); /* private: */
	refit_reindex_index(index, rel->rd_rel->relpersistence, &params);
	table_close(rel, NoLock);
	CommandCounterIncrement();
	refit_cluster(m->rewrite.twin, index);
	CommandCounterIncrement();
	ObjectAddressSet(object, RelationRelationId, index);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	refit_twin_hide(m->rewrite.twin, m->leaf);
	m->progress.pending = refit_capture_pending(m);
	REFIT_FAULT("order.sorted");
	return REFIT_NEXT;
}

/* The twin's indexes, the one that finds rows by key first. */
static List *
indexes_to_build(const RefitMigration *m)
{
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(m->rewrite.key_index, &attnums);
	Relation twin = table_open(m->rewrite.twin, NoLock);
	Oid key = refit_shape_find_index(twin, nkeys, attnums);
	List *indexes = list_copy(RelationGetIndexList(twin));

	table_close(twin, NoLock);
	list_sort(indexes, list_oid_cmp);
	return lcons_oid(key, list_delete_oid(indexes, key));
}

/* Sets what the options say about builds, for the caller's level. */
static void
use_options(const RefitMigration *m)
{
	char *memory = refit_catalog_option(m, "maintenance_work_mem");
	char *workers = refit_catalog_option(m, "parallel_workers");

	if (memory != NULL)
		refit_set_local("maintenance_work_mem", memory);
	if (workers != NULL)
		refit_set_local("max_parallel_maintenance_workers", workers);
}

/* Counts an index that was built, over all leaves. */
static void
count_index(RefitMigration *m, int nindexes)
{
	RefitProgress *p = &m->progress;

	p->cursor++;
	p->cursor_end = nindexes;
	p->rows_done = (m->rewrite.number - 1) * p->cursor_end + p->cursor;
	p->rows_total = m->nleaves * p->cursor_end;
	p->message = psprintf("built index " INT64_FORMAT " of " INT64_FORMAT,
						  p->cursor, p->cursor_end);
	if (m->nleaves > 1)
		p->message =
			psprintf("%s of %s %d of %d", p->message, refit_tree_word(m->relid),
					 m->rewrite.number, m->nleaves);
	p->pending = refit_capture_pending(m);
}

/*
 * Builds one index of the twin.  That is one long step, so it does not begin
 * before there is disk space for it.
 */
RefitOutcome
refit_build_index(RefitMigration *m, RefitBudget *budget)
{
	Relation source;
	Relation twin;
	char persistence;
	List *indexes;
	ReindexParams params = {0};
	int guc_level;
	List *needs;
	Oid index;
	bool has_room;

	if (has_order(m))
		return REFIT_NEXT;
	m->next_phase = "copy";
	if (refit_shape_was_emptied(m))
		return REFIT_RETURN;
	source = table_open(m->leaf, AccessShareLock);
	refit_shape_check(m);
	twin = table_open(m->rewrite.twin, AccessExclusiveLock); /* private: */
	persistence = twin->rd_rel->relpersistence;
	indexes = indexes_to_build(m);
	index = list_nth_oid(indexes, (int) m->progress.cursor);
	guc_level = NewGUCNestLevel();
	use_options(m);
	needs = refit_space_of_index(source, index);
	table_close(twin, NoLock);
	table_close(source, AccessShareLock); /* not for as long as it takes */
	has_room = refit_space_allows(m, needs, "build an index", budget);
	if (has_room)
		refit_reindex_index(index, persistence, &params);
	AtEOXact_GUC(false, guc_level);
	if (!has_room)
		return REFIT_WAIT;
	count_index(m, list_length(indexes));
	REFIT_FAULT("index.built");
	return m->progress.cursor < m->progress.cursor_end ? REFIT_MORE
													   : REFIT_NEXT;
}

/*
 * Gathers a table's statistics.  Under the lock that ANALYZE takes, its name is
 * not changed before that has found it.
 */
static void
analyze(Oid relid)
{
	char *command;

	LockRelationOid(relid, ShareUpdateExclusiveLock);
	(void) refit_relation_owner(relid); /* it may have been dropped */
	command = psprintf("ANALYZE %s", refit_qualified_name(relid));
	SPI_connect();
	if (SPI_execute(command, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", command);
	SPI_finish();
}

/*
 * Gathers statistics on the twin, so that no plan regresses at cutover; of a
 * partition tree, on all its tables in one go, which is how ANALYZE takes it.
 */
RefitOutcome
refit_build_analyze(RefitMigration *m, RefitBudget *budget)
{
	ListCell *lc;

	if (get_rel_relkind(m->relid) == RELKIND_PARTITIONED_TABLE)
		analyze(refit_catalog_root_twin(m));
	else
		foreach(lc, refit_catalog_leaves(m))
			analyze(((RefitLeaf *) lfirst(lc))->rewrite.twin);
	m->progress.pending = refit_capture_pending(m);
	REFIT_FAULT("analyze.done");
	return REFIT_NEXT;
}

/* Gathers what the ALTER has thrown away: extended statistics. */
RefitOutcome
refit_build_settle(RefitMigration *m, RefitBudget *budget)
{
	Oid types[1] = {OIDARRAYOID};
	Datum values[1] = {refit_tree_reach_array(m->relid, refit_actions_of(m))};
	List *tables = refit_sql_list("SELECT DISTINCT stxrelid::int8"
								  " FROM pg_catalog.pg_statistic_ext"
								  " WHERE stxrelid = ANY ($1) ORDER BY 1",
								  1, types, values);
	ListCell *lc;

	if (get_rel_relkind(m->relid) != RELKIND_PARTITIONED_TABLE)
		foreach(lc, tables)
			analyze(strtoul(lfirst(lc), NULL, 10));
	else if (tables != NIL)
		analyze(m->relid);
	REFIT_FAULT("settle.analyzed");
	return REFIT_NEXT;
}

/*
 * The ALTER TABLE that drops constraints which a failed migration has added, or
 * NULL.
 */
static char *
drop_added_constraints(const RefitMigration *m)
{
	Oid types[2] = {INT8OID, OIDOID};
	Datum values[2] = {Int64GetDatum(m->id), ObjectIdGetDatum(m->relid)};

	if (!refit_catalog_is_given_up(m) || get_rel_name(m->relid) == NULL)
		return NULL;
	return refit_sql_text(
		"SELECT string_agg(format('DROP CONSTRAINT IF EXISTS %I',"
		"  coalesce(c.conname, w.conname)), ', ') FROM refit.owed w"
		" LEFT JOIN pg_catalog.pg_constraint c ON c.oid = w.conoid"
		"  AND c.conrelid = w.relid"
		" WHERE w.id = $1 AND w.relid = $2 AND w.added",
		2, types, values);
}

/* Goes to the first leaf that has the migration's triggers; false: none has. */
static bool
find_captured_leaf(RefitMigration *m)
{
	ListCell *lc;

	foreach(lc, refit_catalog_leaves(m))
	{
		refit_catalog_use_leaf(m, lfirst(lc));
		if (get_rel_name(m->leaf) != NULL && refit_capture_is_there(m))
			return true;
	}
	return false;
}

/* Drops constraints that did not hold. */
static void
drop_constraints(const RefitMigration *m, const char *drop)
{
	RefitRights save;

	refit_rights_begin(&save, refit_relation_owner(m->relid), true);
	refit_actions_run_own(drop, m->relid);
	refit_rights_end(&save);
}

/*
 * Drops what the table's owner, who owns most of it, has moved to another
 * schema.
 */
static void
drop_moved_tables(RefitMigration *m)
{
	ListCell *lc;

	foreach(lc, list_concat(refit_catalog_leaves(m), refit_catalog_parents(m)))
	{
		const RefitLeaf *leaf = lfirst(lc);
		const RefitRewrite *r = &leaf->rewrite;
		Oid tables[] = {r->twin,		 r->blank,		  r->logs[0],
						r->logs[1],		 r->suspects,	  r->back_logs[0],
						r->back_logs[1], r->back_suspects};

		for (int i = 0; i < lengthof(tables); i++)
			refit_twin_drop_table(tables[i], leaf->relid);
	}
}

/*
 * Takes away whatever the migration has made: triggers, leaf by leaf, so that
 * no two locks are held; constraints that did not hold; and the work tables.
 */
RefitOutcome
refit_build_cleanup(RefitMigration *m, RefitBudget *budget)
{
	Oid schema = refit_twin_find_schema(m->id);
	bool captured = find_captured_leaf(m);
	char *drop = drop_added_constraints(m);
	List *locks = NIL;

	if (captured)
		locks = list_make1(refit_polite_lock_on(m->leaf, AccessExclusiveLock));
	else if (drop != NULL)
		locks = refit_tree_locks(m->relid, refit_actions_of(m));
	if (locks != NIL && !refit_polite_lock_try(m, locks))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	if (captured)
	{
		refit_capture_remove(m);
		return REFIT_MORE;
	}
	if (drop != NULL)
		drop_constraints(m, drop);
	if (OidIsValid(schema))
		refit_twin_drop_schema(schema);
	drop_moved_tables(m);
	refit_catalog_delete_rewrite(m);
	REFIT_FAULT("cleanup.dropped");
	return REFIT_NEXT;
}
