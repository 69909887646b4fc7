/*-------------------------------------------------------------------------
 *
 * publish.c
 *	  Phase publish: waiting for old snapshots, and marking indexes valid.
 *
 * The index has an entry for every row that a snapshot taken after the last chunk
 * can see.  Older snapshots may see versions that it does not have.  So who had one
 * when the last chunk was over is written down and waited for, holding nothing, as
 * CREATE INDEX CONCURRENTLY does.  The list outlives this process; a transaction
 * that only looks like one of the list, after a restart, makes us wait longer.
 *
 * A session in refit.wait() has the snapshot of the statement that calls it, and is
 * not waited for: see there.
 *
 * Option check: amcheck wants a valid index.  So it looks in the transaction that
 * marks it valid, which ends as if nothing had happened when it finds something.
 *
 * Who waits: nobody.  SHARE UPDATE EXCLUSIVE keeps other commands from writing the
 * same catalog rows.
 * Snapshots: short; with option check, for as long as that takes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "index/exchange.h"
#include "index/incremental.h"
#include "index/row.h"
#include "job/catalog.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/snapshots.h"
#include "util/sqlutil.h"

/* ms between two looks whether old snapshots are gone. */
#define REST_SNAPSHOTS 200

/*
 * Old snapshots
 */

/* Is a word in a text of words? */
static bool
has_word(const char *text, const char *word)
{
	return strstr(text, psprintf(" %s ", word)) != NULL;
}

/*
 * Who is waited for: a limit and those transactions that are in the list before,
 * unless that is NULL, each between blanks.
 */
static char *
list_waits(TransactionId limit, const char *before, int *n)
{
	StringInfoData result;
	ListCell *lc;

	initStringInfo(&result);
	appendStringInfo(&result, "%u ", limit);
	*n = 0;
	foreach(lc,
			refit_snapshots_older(limit, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM |
											 PROC_IN_SAFE_IC))
	{
		if (before != NULL && !has_word(before, lfirst(lc)))
			continue;
		appendStringInfo(&result, "%s ", (char *) lfirst(lc));
		(*n)++;
	}
	return result.data;
}

/* Names the one of them that is oldest. */
static char *
name_oldest(const char *waits)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(waits)};
	char *result = refit_sql_text(
		"SELECT format('pid %s, %s, snapshot of a transaction of %s: %s',"
		"  a.pid, a.state,"
		"  date_trunc('second', clock_timestamp() - a.xact_start),"
		"  left(a.query, 200))"
		" FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a"
		"  USING (pid) WHERE l.locktype = 'virtualxid' AND l.granted"
		"  AND l.virtualxid = l.virtualtransaction"
		"  AND strpos($1, ' ' || l.virtualxid || ' ') > 0"
		" ORDER BY a.xact_start LIMIT 1",
		1, types, values);

	return result != NULL ? result : pstrdup("an old snapshot");
}

/* Is every snapshot gone that may see what the indexes do not have? */
static bool
snapshots_are_gone(RefitMigration *m)
{
	char *before = refit_index_row_waits(m);
	TransactionId limit = before != NULL
							  ? (TransactionId) strtoul(before, NULL, 10)
							  : GetLatestSnapshot()->xmin;
	int n;
	char *waits = list_waits(limit, before, &n);

	if (before == NULL || strcmp(before, waits) != 0)
		refit_index_row_save_waits(m, waits);
	if (n == 0)
		return true;
	m->progress.waiting_for = name_oldest(waits);
	m->progress.message = psprintf("waiting for %d old snapshots", n);
	return false;
}

/*
 * Marking
 */

/* Marks an index valid, unless another command has done so. */
static void
mark_valid(Oid relid, Oid index)
{
	if (!get_index_isvalid(index))
		index_set_state_flags(index, INDEX_CREATE_SET_VALID);
	CommandCounterIncrement();
	CacheInvalidateRelcacheByRelid(relid);
}

/* Tells the planner how large it is. */
static void
set_statistics(const RefitIndexRow *row)
{
	Relation heap = table_open(row->relid, AccessShareLock);
	Relation index = index_open(row->index, RowExclusiveLock);
	double entries = (double) row->entries;

	if (RelationGetIndexPredicate(index) == NIL && heap->rd_rel->reltuples > 0)
		entries = heap->rd_rel->reltuples;
	refit_set_index_stats(index, RelationGetNumberOfBlocks(index), entries);
	index_close(index, NoLock);
	table_close(heap, NoLock);
}

/* Has each partition a valid index under this one? */
static bool
partitions_are_valid(const RefitIndexRow *row)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(row->relid),
					   ObjectIdGetDatum(row->index)};

	return refit_sql_text(
			   "SELECT 1 FROM pg_catalog.pg_inherits t"
			   " JOIN pg_catalog.pg_class c ON c.oid = t.inhrelid"
			   " WHERE t.inhparent = $1 AND c.relkind <> 'f' AND NOT EXISTS ("
			   "  SELECT FROM pg_catalog.pg_index i"
			   "  JOIN pg_catalog.pg_inherits p ON p.inhrelid = i.indexrelid"
			   "  WHERE i.indrelid = t.inhrelid AND p.inhparent = $2"
			   "  AND i.indisvalid) LIMIT 1",
			   2, types, values) == NULL;
}

/* An ERROR because a partition was given an index that is not valid. */
static void
refuse_partitions(const RefitMigration *m, const RefitIndexRow *row)
{
	ereport(
		ERROR,
		(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
		 errmsg("a partition of %s has no valid index of this kind",
				refit_qualified_name(row->relid)),
		 errdetail("Partitions were changed while the migration was "
				   "running."),
		 errhint("Start it again with refit.retry(" INT64_FORMAT ").", m->id)));
}

/* Marks one. */
static void
publish_one(const RefitMigration *m, const RefitIndexRow *row)
{
	if (get_rel_name(row->index) == NULL)
		return;
	if (row->is_leaf)
		set_statistics(row);
	else if (!partitions_are_valid(row))
		refuse_partitions(m, row);
	mark_valid(row->relid, row->index);
}

/* Runs amcheck on an index that this transaction has marked valid. */
static void
run_check(const RefitIndexRow *row)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(row->index)};
	char *function = refit_sql_text(
		"SELECT quote_ident(n.nspname) || '.bt_index_check'"
		" FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n"
		"  ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'",
		0, NULL, NULL);
	RefitRights save;

	if (function == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("option \"check\" needs extension amcheck")));
	refit_rights_begin(&save, BOOTSTRAP_SUPERUSERID, true);
	SPI_connect();
	if (SPI_execute_with_args(psprintf("SELECT %s($1, true)", function), 1,
							  types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not run %s", function);
	SPI_finish();
	refit_rights_end(&save);
}

/* Does the user want indexes checked? */
static bool
wants_check(const RefitMigration *m)
{
	char *option = refit_catalog_option(m, "check");
	bool result;

	return option != NULL && parse_bool(option, &result) && result;
}

/* Locks of what is written. */
static List *
locks_on(const List *rows)
{
	List *locks = NIL;
	ListCell *lc;

	foreach(lc, rows)
		locks = lappend(
			locks, refit_polite_lock_on(((RefitIndexRow *) lfirst(lc))->relid,
										ShareUpdateExclusiveLock));
	return locks;
}

/* Marks all, partitions before the tables above them. */
static RefitOutcome
publish_all(RefitMigration *m, RefitBudget *budget)
{
	List *rows = refit_index_row_list(m);

	if (!refit_polite_lock_try(m, locks_on(rows)))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("publish.locked");
	for (int i = list_length(rows) - 1; i >= 0; i--)
		publish_one(m, list_nth(rows, i));
	for (int i = 0; i < list_length(rows) && wants_check(m); i++)
	{
		RefitIndexRow *row = list_nth(rows, i);

		if (row->is_leaf && get_rel_name(row->index) != NULL)
			run_check(row);
	}
	REFIT_FAULT("publish.done");
	return REFIT_NEXT;
}

/*
 * Checks a copy before its storage is used.  It is valid from then on, which does
 * no harm, and tells that it was checked.
 */
static RefitOutcome
check_copy(RefitMigration *m, RefitBudget *budget, const RefitIndexRow *row)
{
	if (!refit_polite_lock_try(m, locks_on(list_make1((void *) row))))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	mark_valid(row->relid, row->index);
	run_check(row);
	REFIT_FAULT("publish.checked");
	return REFIT_MORE;
}

/* Puts the next index into the place of the one that it was built for. */
static RefitOutcome
exchange_next(RefitMigration *m, RefitBudget *budget)
{
	RefitIndexRow *row = refit_index_row_next(m, "built");

	if (row == NULL)
		return REFIT_NEXT;
	if (wants_check(m) && get_rel_name(row->index) != NULL &&
		!get_index_isvalid(row->index))
		return check_copy(m, budget, row);
	return refit_exchange_try(m, budget, row);
}

/* One try. */
RefitOutcome
refit_index_publish(RefitMigration *m, RefitBudget *budget)
{
	m->progress.waiting_for = NULL;
	m->progress.message = NULL;
	if (!snapshots_are_gone(m))
	{
		budget->pause_ms = REST_SNAPSHOTS;
		return REFIT_WAIT;
	}
	if (strcmp(m->kind, "rebuild_index") == 0)
		return exchange_next(m, budget);
	return publish_all(m, budget);
}
