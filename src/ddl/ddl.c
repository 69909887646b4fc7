/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  One DDL statement of a user, under the polite lock.
 *
 * See ddl.h.
 *
 * Locks: those that are known beforehand are taken politely, in one fixed order,
 * and the statement asks for the rest with a lock_timeout; if it does not get
 * one, it is undone and everything is given back.  What clients wait for at most
 * is refit.lock_timeout before the grant, and the time of the statement after
 * it: where its locks stop clients that is bounded too, by the option
 * statement_timeout, or one second.
 *
 * Rights: the submitter's, as a security-restricted operation; with the
 * search_path that was in force when it was submitted.
 *
 * If the process dies: a statement in a transaction has not happened, or the
 * state says that it has.  A command has committed some of its transactions, or
 * all: what it made, or took away, is compared with refit.command (fate.h) by
 * the next step, and an index that it left invalid is dropped before it is run
 * again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timeout.h"

#include "compat.h"
#include "ddl/command.h"
#include "ddl/ddl.h"
#include "ddl/fate.h"
#include "job/catalog.h"
#include "util/attempt.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* ms that a statement may hold locks that stop clients. */
#define MOST_HOLD_MS 1000

/* Runs that began and never came back, neither with success nor an error. */
#define MOST_LOST_RUNS 4

/* Rest in ms while transactions end that we wait for. */
#define REST_OLDER 200

/* What is wrong with the statement? */
RefitStatement *
refit_ddl_check(char *statement)
{
	RefitStatement *s = refit_statement_parse(statement);

	refit_statement_resolve(s);
	if (IsA(s->node, IndexStmt) && s->top_level)
		refit_fate_check_index(s->relid, (IndexStmt *) s->node);
	return s;
}

/* Chooses the strategy. */
char *
refit_ddl_plan(RefitMigration *m)
{
	RefitStatement *s = refit_statement_parse(m->definition);

	m->strategy = pstrdup(s->top_level ? "command" : "ddl");
	return psprintf(s->top_level
						? "%s runs in transactions of its own"
						: "%s and the state of the migration commit together",
					s->tag);
}

/* The role that submitted the migration. */
Oid
refit_ddl_role(const RefitMigration *m)
{
	Oid role = get_role_oid(m->submitted_by, true);

	if (!OidIsValid(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which submitted migration " INT64_FORMAT
						", does not exist any more",
						m->submitted_by, m->id),
				 errhint("Submit the statement again.")));
	return role;
}

/*
 * Tries
 */

/* ms since the migration was started. */
static double
ms_since_start(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	char *ms = refit_sql_text("SELECT extract(epoch FROM clock_timestamp()"
							  " - started_at) * 1000 FROM refit.migration"
							  " WHERE id = $1",
							  1, types, values);

	return ms != NULL ? strtod(ms, NULL) : 0;
}

/* An ERROR that ends the migration: it has had all the tries it may have. */
static void
give_up(const RefitMigration *m, const char *reason)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	char *holders =
		refit_sql_text("SELECT waiting_for FROM refit.migration_progress"
					   " WHERE id = $1",
					   1, types, values);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("could not run the statement: %s", reason),
			 holders != NULL ? errdetail("In the way: %s.", holders) : 0,
			 errhint("Look at refit.lock_attempts, and start it again with "
					 "refit.retry(" INT64_FORMAT ").",
					 m->id)));
}

/* Counts a try; an ERROR when there have been enough. */
static void
begin_try(RefitMigration *m)
{
	char *most = refit_catalog_option(m, "max_attempts");
	int deadline = refit_catalog_option_ms(m, "deadline", 0);

	if (most != NULL && m->progress.cursor >= atoi(most))
		give_up(m, psprintf("%s attempts failed", most));
	if (deadline > 0 && ms_since_start(m) > deadline)
		give_up(m, psprintf("the deadline of %d ms is over", deadline));
	m->progress.cursor++;
}

/* The locks were not to be had. */
static RefitOutcome
come_back(RefitMigration *m, RefitBudget *budget)
{
	m->progress.message =
		psprintf("attempt " INT64_FORMAT " failed", m->progress.cursor);
	budget->pause_ms = refit_polite_lock_backoff(m);
	return REFIT_WAIT;
}

/*
 * A statement in a transaction
 */

/* An ERROR when the names do not stand for the same relation any more. */
static void
check_relation(const RefitMigration *m, const RefitStatement *s)
{
	if (OidIsValid(m->relid) && s->relid != m->relid)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("%s is not what the statement names any more", m->relation),
			 errdetail("It was renamed, moved or made again."),
			 errhint("Submit the statement for the relation as it is "
					 "now.")));
}

/* Looks the relations up under the submitter's search_path. */
static void
resolve_statement(const RefitMigration *m, RefitStatement *s)
{
	int guc_level = NewGUCNestLevel();

	refit_set_local("search_path", m->search_path);
	refit_statement_resolve(s);
	AtEOXact_GUC(false, guc_level);
	check_relation(m, s);
}

/* The statement, for refit_attempt. */
static void
run_statement(void *arg)
{
	RefitMigration *m = arg;
	int guc_level = NewGUCNestLevel();
	int rc;

	refit_set_local("search_path", m->search_path);
	SPI_connect();
	rc = SPI_execute(m->definition, false, 0);
	if (rc < 0)
		elog(ERROR, "could not execute the statement: %s",
			 SPI_result_code_string(rc));
	SPI_finish();
	AtEOXact_GUC(true, guc_level);
}

/* Throws the error of a statement that ran out of time as what it is. */
static void
throw_error(const RefitMigration *m, ErrorData *edata, int limit_ms)
{
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED && limit_ms > 0 &&
		m->request == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the statement took longer than %d ms", limit_ms),
				 errdetail("It was undone, since it holds locks that stop "
						   "clients."),
				 errhint("Where it scans or rewrites a table, use "
						 "refit.alter_table() or refit.create_index(); or "
						 "allow it more time with the option "
						 "\"statement_timeout\".")));
	ReThrowError(edata);
}

/* Runs the statement in a subtransaction, for so long at most; its error. */
static ErrorData *
run_bounded(RefitMigration *m, int limit_ms)
{
	bool ours = limit_ms > 0 && !get_timeout_active(STATEMENT_TIMEOUT);
	ErrorData *edata;

	if (ours)
		enable_timeout_after(STATEMENT_TIMEOUT, limit_ms);
	edata = refit_attempt(run_statement, m, true);
	if (ours)
		disable_timeout(STATEMENT_TIMEOUT, false);
	return edata;
}

/* Is the error one that a later try may not meet? */
static bool
is_for_want_of_lock(const ErrorData *edata)
{
	return edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   edata->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/* How long the statement may take with its locks; 0: as long as it likes. */
static int
time_limit(const RefitMigration *m, const RefitStatement *s)
{
	return refit_catalog_option_ms(
		m, "statement_timeout",
		refit_statement_stops_clients(s) ? MOST_HOLD_MS : 0);
}

/* Phase ddl: one try. */
RefitOutcome
refit_ddl_step(RefitMigration *m, RefitBudget *budget)
{
	RefitStatement *s = refit_statement_parse(m->definition);
	ErrorData *edata;
	int limit_ms;

	resolve_statement(m, s);
	limit_ms = time_limit(m, s);
	begin_try(m);
	if (s->locks != NIL && !refit_polite_lock_try(m, s->locks))
		return come_back(m, budget);
	REFIT_FAULT("ddl.locked");
	resolve_statement(m, s); /* are they still what was locked? */
	edata = run_bounded(m, limit_ms);
	if (edata != NULL && is_for_want_of_lock(edata))
	{
		refit_polite_lock_note_failure(m, s->locks);
		return come_back(m, budget);
	}
	if (edata != NULL)
		throw_error(m, edata, limit_ms);
	REFIT_FAULT("ddl.done");
	return REFIT_NEXT;
}

/*
 * A command in transactions of its own
 */

/* The settings that its values are read by, names and values in turn. */
static List *
load_settings(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	return refit_sql_list(
		"SELECT v FROM refit.migration m,"
		" jsonb_each_text(m.settings) s,"
		" unnest(ARRAY[s.key, s.value]) WITH ORDINALITY u(v, n)"
		" WHERE m.id = $1 ORDER BY s.key, n",
		1, types, values);
}

/* Has the worker run it after this transaction. */
static void
request_run(RefitMigration *m, const RefitStatement *s)
{
	RefitCommand command = {.id = m->id,
							.node = s->node,
							.text = m->definition,
							.role = refit_ddl_role(m),
							.search_path = m->search_path};
	ListCell *lc;

	foreach(lc, s->locks)
	{
		RefitLock *lock = lfirst(lc);

		if (get_rel_relkind(lock->relid) == RELKIND_RELATION ||
			get_rel_relkind(lock->relid) == RELKIND_MATVIEW)
			command.tables = lappend_oid(command.tables, lock->relid);
	}
	command.may_wait = refit_statement_detaches(s->node) == NULL;
	command.memory = refit_catalog_option(m, "maintenance_work_mem");
	command.workers = refit_catalog_option(m, "parallel_workers");
	command.settings = load_settings(m);
	refit_command_request(&command);
}

/*
 * Drops an invalid index that the command has left, under the polite lock.  Who
 * might still be building it has a lock on the table, so its state is looked at
 * again.
 */
static bool
drop_debris(RefitMigration *m, Oid index)
{
	Oid table = IndexGetRelation(index, true);
	ObjectAddress object;

	if (!OidIsValid(table))
		return true;
	if (!refit_polite_lock_try(
			m, list_make2(refit_polite_lock_on(table, AccessExclusiveLock),
						  refit_polite_lock_on(index, AccessExclusiveLock))))
		return false;
	REFIT_FAULT("debris.locked");
	if (get_rel_name(index) == NULL || get_index_isvalid(index))
		return true;
	refit_catalog_event(
		m, "index",
		psprintf("dropped the invalid index %s", refit_qualified_name(index)),
		NULL);
	ObjectAddressSet(object, RelationRelationId, index);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	REFIT_FAULT("debris.dropped");
	return true;
}

/* Takes away one index that was left.  False: the lock is not to be had. */
static RefitOutcome
clear_debris(RefitMigration *m, RefitBudget *budget)
{
	List *debris = refit_fate_debris(m);

	if (debris != NIL && !drop_debris(m, linitial_oid(debris)))
		budget->pause_ms = refit_polite_lock_backoff(m);
	return REFIT_WAIT;
}

/*
 * Ends a DETACH that is half done, once every transaction is over that may have
 * planned with the partition in its place: DETACH … FINALIZE would wait for them
 * with the partition locked.
 */
static RefitOutcome
finalize_detach(RefitMigration *m, RefitBudget *budget)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	char *older = refit_fate_older_transactions(m);
	char *sql;
	RefitStatement *s;
	ErrorData *edata;
	RefitMigration run = *m;

	budget->pause_ms = REST_OLDER;
	m->progress.waiting_for = older;
	if (older != NULL)
		return REFIT_WAIT;
	sql =
		refit_sql_text("SELECT format('ALTER TABLE %s DETACH PARTITION %s"
					   " FINALIZE', relids[1]::regclass, targets[1]::regclass)"
					   " FROM refit.command WHERE id = $1",
					   1, types, values);
	run.definition = sql;
	run.search_path = "pg_catalog, pg_temp";
	s = refit_statement_parse(sql);
	refit_statement_resolve(s);
	if (!refit_polite_lock_try(m, s->locks))
		return come_back(m, budget);
	edata = run_bounded(&run, time_limit(m, s));
	if (edata != NULL && is_for_want_of_lock(edata))
		return come_back(m, budget);
	if (edata != NULL)
		throw_error(m, edata, time_limit(m, s));
	budget->pause_ms = 0;
	return REFIT_WAIT;
}

/*
 * Counts a run.  cursor counts those that began, cursor_end those that were seen
 * to end: a command that takes the server down does not do so for ever.
 */
static void
count_run(RefitMigration *m)
{
	if (m->progress.cursor - m->progress.cursor_end > MOST_LOST_RUNS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the process that ran the statement died %d times",
						MOST_LOST_RUNS + 1),
				 errhint("Look for the reason in the server's log.")));
}

/* Has the command run, if the locks that it needs first are to be had. */
static RefitOutcome
begin_run(RefitMigration *m, RefitBudget *budget, const RefitStatement *s)
{
	count_run(m);
	begin_try(m);
	if (s->locks != NIL && !refit_polite_lock_try(m, s->locks))
	{
		m->progress.cursor_end++;
		return come_back(m, budget);
	}
	m->progress.message = NULL;
	request_run(m, s);
	REFIT_FAULT("command.begun");
	return REFIT_WAIT;
}

/* Writes down what the command is about to do.  False: nothing. */
static bool
begin_command(RefitMigration *m, const RefitStatement *s)
{
	int guc_level = NewGUCNestLevel();
	bool result;

	refit_set_local("search_path", m->search_path);
	result = refit_fate_begin(m, s);
	AtEOXact_GUC(false, guc_level);
	if (!result)
		refit_catalog_event(m, "plan", "there is nothing to be done", NULL);
	return result;
}

/* One look at a command, and what follows from it. */
RefitOutcome
refit_ddl_work_command(RefitMigration *m, RefitBudget *budget,
					   RefitStatement *s)
{
	RefitFate fate = refit_fate_read(m, s);

	budget->pause_ms = 0;
	if (refit_command_came_back(m->id))
		m->progress.cursor_end = m->progress.cursor;
	switch (fate)
	{
		case REFIT_FATE_DONE:
			refit_fate_forget(m);
			return REFIT_NEXT;
		case REFIT_FATE_DEBRIS:
			return clear_debris(m, budget);
		case REFIT_FATE_PENDING:
			return finalize_detach(m, budget);
		case REFIT_FATE_UNKNOWN:
		case REFIT_FATE_OPEN:
			break;
	}
	resolve_statement(m, s);
	if (fate == REFIT_FATE_UNKNOWN && !begin_command(m, s))
		return REFIT_NEXT;
	return begin_run(m, budget, s);
}

/* Has its command got to its end? */
bool
refit_ddl_is_done(const RefitMigration *m)
{
	RefitStatement s = {0};

	s.node = linitial_node(RawStmt, refit_sql_parse(m->definition))->stmt;
	return refit_fate_read(m, &s) == REFIT_FATE_DONE;
}

/* Phase command of a statement as it stands in the definition. */
RefitOutcome
refit_ddl_command_step(RefitMigration *m, RefitBudget *budget)
{
	return refit_ddl_work_command(m, budget,
								  refit_statement_parse(m->definition));
}

/*
 * What a command that was given up has left: an invalid index, also one that was
 * being dropped, and a partition that is half detached.  There is no way back to
 * what these were.
 */
RefitOutcome
refit_ddl_cleanup(RefitMigration *m, RefitBudget *budget)
{
	List *debris = NIL;

	if (refit_catalog_is_given_up(m))
	{
		if (refit_fate_is_pending(m))
			return finalize_detach(m, budget);
		debris = list_concat(refit_fate_debris(m), refit_fate_half_dropped(m));
	}
	if (debris == NIL)
	{
		refit_fate_forget(m);
		REFIT_FAULT("cleanup.dropped");
		return REFIT_NEXT;
	}
	if (!drop_debris(m, linitial_oid(debris)))
		budget->pause_ms = refit_polite_lock_backoff(m);
	return REFIT_WAIT;
}
