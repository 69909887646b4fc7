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
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "job/catalog.h"
#include "table/actions.h"
#include "table/build.h"
#include "table/capture.h"
#include "table/plan.h"
#include "table/revert.h"
#include "table/shape.h"
#include "table/space.h"
#include "table/twin.h"
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
		stmt->idxname = "$key";
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

/* Makes twin, blank and logs, in one transaction. */
RefitOutcome
refit_build_prepare(RefitMigration *m, RefitBudget *budget)
{
	AlterTableStmt *stmt = refit_actions_of(m);
	Relation source = table_open(m->relid, AccessShareLock);
	RefitRewrite *r = &m->rewrite;
	Relation twin;
	Oid schema;

	r->fingerprint = refit_shape_fingerprint(m->relid);
	schema = refit_twin_create_schema(m->id, source->rd_rel->relowner);
	r->twin = refit_twin_create(source, schema);
	if (stmt != NULL)
		refit_actions_run_private(refit_actions_for_twin(stmt, m->relid),
								  r->twin, m->search_path);
	r->key_index = refit_plan_choose_key(source, r->twin, stmt, m->search_path);
	r->blank = refit_twin_create_blank(source, schema, m->revertible);
	if (m->revertible)
		refit_revert_prepare(m, source, schema);
	ensure_key_index(r->twin, r->key_index);
	if (strcmp(m->kind, "repack") == 0 && m->definition[0] != '\0')
		refit_twin_create_order_index(r->twin, m->definition, m->search_path);
	for (int i = 0; i < REFIT_LOGS; i++)
		r->logs[i] = refit_capture_create_log(source, schema, r->key_index, i);
	twin = table_open(r->twin, NoLock);
	r->suspects = refit_verify_create_suspects(source, twin, schema,
											   "$suspects", r->key_index);
	table_close(twin, NoLock);
	refit_verify_reset(m);
	refit_actions_run_own(NO_AUTOVACUUM, r->twin);
	refit_twin_hide(r->twin, m->relid);
	refit_twin_hide(r->blank, m->relid);
	m->progress.rows_total = (int64) Max(source->rd_rel->reltuples, 0);
	m->progress.bytes_total =
		(int64) RelationGetNumberOfBlocks(source) * BLCKSZ;
	table_close(source, NoLock);
	refit_catalog_save_rewrite(m);
	REFIT_FAULT("prepare.made");
	return REFIT_NEXT;
}

/* What the sort writes; no lock on the table is kept. */
static List *
space_of_order(const RefitMigration *m)
{
	Relation source = table_open(m->relid, AccessShareLock);
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

	if (strcmp(m->kind, "repack") != 0 || m->definition[0] == '\0')
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
	refit_twin_hide(m->rewrite.twin, m->relid);
	m->progress.pending = refit_capture_pending(m);
	m->next_phase = "analyze";
	REFIT_FAULT("order.sorted");
	return REFIT_RETURN;
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

/*
 * Builds one index of the twin.  That is one long step, so it does not begin
 * before there is disk space for it.
 */
RefitOutcome
refit_build_index(RefitMigration *m, RefitBudget *budget)
{
	Relation source = table_open(m->relid, AccessShareLock);
	Relation twin = table_open(m->rewrite.twin, /* private: */
							   AccessExclusiveLock);
	char persistence = twin->rd_rel->relpersistence;
	List *indexes = indexes_to_build(m);
	ReindexParams params = {0};
	int guc_level = NewGUCNestLevel();
	List *needs;
	Oid index;

	m->next_phase = "copy";
	if (refit_shape_was_emptied(m))
	{
		table_close(twin, NoLock);
		table_close(source, AccessShareLock);
		AtEOXact_GUC(false, guc_level);
		return REFIT_RETURN;
	}
	refit_shape_check(m);
	index = list_nth_oid(indexes, (int) m->progress.cursor);
	use_options(m);
	needs = refit_space_of_index(source, index);
	table_close(twin, NoLock);
	table_close(source, AccessShareLock); /* not for as long as it takes */
	if (!refit_space_allows(m, needs, "build an index", budget))
	{
		AtEOXact_GUC(false, guc_level);
		return REFIT_WAIT;
	}
	refit_reindex_index(index, persistence, &params);
	AtEOXact_GUC(false, guc_level);

	m->progress.cursor++;
	m->progress.cursor_end = list_length(indexes);
	m->progress.rows_done = m->progress.cursor;
	m->progress.rows_total = m->progress.cursor_end;
	m->progress.message =
		psprintf("built index " INT64_FORMAT " of " INT64_FORMAT,
				 m->progress.cursor, m->progress.cursor_end);
	m->progress.pending = refit_capture_pending(m);
	REFIT_FAULT("index.built");
	return m->progress.cursor < m->progress.cursor_end ? REFIT_MORE
													   : REFIT_NEXT;
}

/* Gathers a table's statistics. */
static void
analyze(Oid relid)
{
	char *command = psprintf("ANALYZE %s", refit_qualified_name(relid));

	SPI_connect();
	if (SPI_execute(command, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", command);
	SPI_finish();
}

/* Gathers statistics on the twin, so that no plan regresses at cutover. */
RefitOutcome
refit_build_analyze(RefitMigration *m, RefitBudget *budget)
{
	analyze(m->rewrite.twin);
	m->progress.pending = refit_capture_pending(m);
	REFIT_FAULT("analyze.done");
	return REFIT_NEXT;
}

/* Gathers what the ALTER has thrown away: extended statistics. */
RefitOutcome
refit_build_settle(RefitMigration *m, RefitBudget *budget)
{
	Relation rel = table_open(m->relid, AccessShareLock);
	bool extended = RelationGetStatExtList(rel) != NIL;

	table_close(rel, NoLock);
	if (extended)
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
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	if (!refit_catalog_is_given_up(m))
		return NULL;
	return refit_sql_text(
		"SELECT string_agg(format('DROP CONSTRAINT IF EXISTS %I', conname),"
		" ', ') FROM refit.owed WHERE id = $1 AND added",
		1, types, values);
}

/*
 * Takes what stands on the table away: triggers, and constraints that did not
 * hold.  False: the lock was not to be had.
 */
static bool
clean_table(RefitMigration *m)
{
	char *drop = drop_added_constraints(m);
	RefitRights save;

	if (drop == NULL && !refit_capture_is_there(m))
		return true;
	if (!refit_polite_lock_try(
			m, list_make1(refit_polite_lock_on(m->relid, AccessExclusiveLock))))
		return false;
	refit_capture_remove(m);
	if (drop != NULL)
	{
		refit_rights_begin(&save, refit_relation_owner(m->relid), true);
		refit_actions_run_own(drop, m->relid);
		refit_rights_end(&save);
	}
	return true;
}

/*
 * Drops what the table's owner, who owns most of it, has moved to another
 * schema.
 */
static void
drop_moved_tables(const RefitMigration *m)
{
	const RefitRewrite *r = &m->rewrite;
	Oid tables[] = {r->twin,		 r->blank,		  r->logs[0],
					r->logs[1],		 r->suspects,	  r->back_logs[0],
					r->back_logs[1], r->back_suspects};

	for (int i = 0; i < lengthof(tables); i++)
		refit_twin_drop_table(tables[i], m->relid);
}

/* Takes away whatever the migration has made. */
RefitOutcome
refit_build_cleanup(RefitMigration *m, RefitBudget *budget)
{
	Oid schema = refit_twin_find_schema(m->id);

	if (get_rel_name(m->relid) != NULL && !clean_table(m))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	if (OidIsValid(schema))
		refit_twin_drop_schema(schema);
	drop_moved_tables(m);
	refit_catalog_delete_rewrite(m);
	REFIT_FAULT("cleanup.dropped");
	return REFIT_NEXT;
}
