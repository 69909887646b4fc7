/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  Background workers that work migrations, and the scan workers that
 *	  start them.
 *
 * A worker is a session that claims one migration and repeats: a step in a
 * transaction of its own, a rest.  All that a step needs it reads from the
 * tables, so whatever ends a worker at whatever time undoes at most the step
 * it was in; the claim and the worker's slot are session locks and go with
 * the process.
 *
 *	an ERROR in a step		   the step is undone; the error is logged and
 *							   recorded in a transaction after it, by
 *							   refit_migration_failed, which decides how to
 *							   go on
 *	an ERROR while recording   exit 1: the launcher looks at the database
 *							   again, later each time that no step was done
 *	SIGTERM					   exit 1 at the next interrupt check, as above
 *	SIGKILL, a crash		   the server restarts; the launcher looks at all
 *							   databases
 *	DROP EXTENSION			   seen before the next step: exit 0
 *
 * At commit of a transaction that submits a migration no table can be read
 * any more, so a scan worker is started there, which reads the queue and
 * starts a worker for each migration that may run.
 *
 * refit.max_workers is a limit for the whole server.  It is kept by numbered
 * locks that belong to no database: a worker that gets none of them has come
 * too late and leaves.  Where there is a launcher, it comes back to work that
 * waits for one; otherwise one scan worker per database stays and does so.
 *
 * A pass over rows, and the copy of a tree, may want several processes (option
 * workers).  Its worker, the leader, then starts helpers, and starts them again
 * when they have gone.  A helper has a slot and a number, but no claim, and writes
 * neither state nor progress: it works chunks of parts (part.h), or leaves
 * (copy.c), that nobody has (share.h), by the same governor, and leaves when there
 * is none, no leader, a request, or another phase.
 *
 *	an ERROR in its chunk	   the chunk is undone, the error logged; it exits, and
 *							   the leader comes to the same part first
 *	SIGTERM, SIGKILL		   as above; its part is not given to helpers until the
 *							   leader has done a chunk of it
 *	the leader ends			   seen before the next chunk: exit 0
 *	pause, cancel			   so too; the leader waits for the chunk at hand
 *	no slot				   exit 0; the leader tries again in some seconds
 *
 * max_worker_processes is another limit.  A process of ours that cannot start
 * a worker for a migration has a slot itself, and so works the migration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "ddl/command.h"
#include "guc.h"
#include "job/claim.h"
#include "job/history.h"
#include "job/launcher.h"
#include "job/leftovers.h"
#include "job/migration.h"
#include "job/schedule.h"
#include "job/worker.h"
#include "refit.h"
#include "util/attempt.h"
#include "util/fault.h"
#include "util/sqlutil.h"

#define WORKER_TYPE "pg_refit worker"
#define SCAN_TYPE "pg_refit scan"

/* Last field of the tags of our locks: a kind that no SQL function uses. */
#define LOCK_WORKER_SLOT 0x5231
#define LOCK_SCAN 0x5232
#define LOCK_HELPER 0x5233

#define LOOK_MS 1000		 /* longest sleep without a look at the row */
#define CLAIM_ATTEMPTS 10	 /* before a claim counts as somebody else's */
#define CLAIM_PAUSE_MS 100	 /* between them */
#define SLOT_PAUSE_MS 5000	 /* between two looks for a slot */
#define HELPER_PAUSE_MS 5000 /* between two starts of one helper */
#define MOST_HELPERS 31		 /* of one migration */
#define LOG_PAUSE_MS 60000	 /* between two entries of one error in the log */

/* What a dynamic worker is told, in bgw_extra. */
typedef struct WorkerTask
{
	Oid database;
	int64 id;			/* of a worker */
	uint32 helper;		/* number of a helper, from 1; 0: it leads */
	uint32 scan_number; /* of the launcher's scan; 0: of somebody else's */
} WorkerTask;

/* What became of the attempt to start what can be started. */
typedef enum StartResult
{
	ALL_STARTED,
	LIMIT_REACHED, /* refit.max_workers */
	NO_FREE_SLOT   /* max_worker_processes */
} StartResult;

/* What a worker knows of its migration between two transactions. */
typedef struct Work
{
	int64 id;			   /* 0: none */
	MemoryContext context; /* of one transaction's work */
	bool gone;			   /* the extension has been dropped */
	bool is_ready;		   /* waits for a person */
	bool has_slot;
	bool done;			 /* the function run last says so */
	StartResult started; /* what became of start_others */
	int64 next;			 /* with NO_FREE_SLOT: the first left */
	int rest;			 /* what the last step returned */
	LOCKTAG slot;		 /* one of the server's, once taken */
	char *wishes;		 /* as the last step found them, or NULL */
	ErrorData *error;	 /* of the last step, or NULL */
	uint32 number;		 /* of a helper */
	int nhelpers;		 /* that the migration wants now */
	struct
	{
		BackgroundWorkerHandle *handle; /* NULL: never started */
		TimestampTz started_at;
	} helpers[MOST_HELPERS];
} Work;

typedef void (*WorkFunction)(Work *work);

/* Requests of this backend's present transaction. */
static bool scan_requested = false;
static List *pids_to_wake = NIL;   /* in TopTransactionContext */
static List *pids_to_cancel = NIL; /* likewise */

/* Set when a step is committed. */
static bool did_something = false;

/* Set before the exit of a worker that leaves nothing undone. */
static bool ended_normally = false;

/*
 * Registering
 */

/* Registers a dynamic worker; false when there is no free slot. */
static bool
register_worker(const char *type, const char *name, const char *function,
				const WorkerTask *task, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, REFIT_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker.bgw_name, name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, type, BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(task->database);
	memcpy(worker.bgw_extra, task, sizeof(WorkerTask));
	worker.bgw_notify_pid = handle != NULL ? MyProcPid : 0;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* Starts a worker that looks at a database for work. */
bool
refit_worker_scan(Oid database, uint32 number, BackgroundWorkerHandle **handle)
{
	WorkerTask task;

	memset(&task, 0, sizeof(task));
	task.database = database;
	task.scan_number = number;
	return register_worker(SCAN_TYPE, SCAN_TYPE, "refit_scan_main", &task,
						   handle);
}

/* Starts a worker for one migration of this database. */
static bool
start_worker(int64 id)
{
	WorkerTask task;
	char name[BGW_MAXLEN];

	memset(&task, 0, sizeof(task));
	task.database = MyDatabaseId;
	task.id = id;
	snprintf(name, sizeof(name), "%s for migration " INT64_FORMAT, WORKER_TYPE,
			 id);
	return register_worker(WORKER_TYPE, name, "refit_worker_main", &task, NULL);
}

/* Starts a helper of ours. */
static bool
start_helper(int64 id, uint32 number, BackgroundWorkerHandle **handle)
{
	WorkerTask task;
	char name[BGW_MAXLEN];

	memset(&task, 0, sizeof(task));
	task.database = MyDatabaseId;
	task.id = id;
	task.helper = number;
	snprintf(name, sizeof(name), "%s for migration " INT64_FORMAT ", helper %u",
			 WORKER_TYPE, id, number);
	return register_worker(WORKER_TYPE, name, "refit_worker_main", &task,
						   handle);
}

/* Says that work waits for a slot; safe while a transaction commits. */
static void
warn_of_lack(void)
{
	ereport(MyBgworkerEntry != NULL ? LOG : WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not start a background worker for pg_refit"),
			 errdetail("No background worker slot is free. Migrations stay "
					   "queued."),
			 errhint("You might need to increase max_worker_processes. To "
					 "work a migration in this session, use CALL "
					 "refit.run(id).")));
}

/*
 * Sees to it that this database is looked at when there may be slots again.
 * Without a launcher a scan worker stays for that.
 */
static void
scan_later(void)
{
	if (refit_launcher_is_there())
		refit_launcher_look_later(MyDatabaseId);
	else if (!refit_worker_scan(MyDatabaseId, 0, NULL))
		warn_of_lack();
}

/* Workers of the whole server that have a slot, without this process. */
static int
count_workers(void)
{
	Oid types[1] = {INT4OID};
	Datum values[1] = {Int32GetDatum(LOCK_WORKER_SLOT)};
	char *count = refit_sql_text("SELECT pg_catalog.count(*)"
								 " FROM pg_catalog.pg_locks"
								 " WHERE locktype = 'advisory'"
								 " AND database = 0 AND objsubid = $1"
								 " AND pid <> pg_catalog.pg_backend_pid()",
								 1, types, values);

	return count == NULL ? 0 : atoi(count);
}

/*
 * Starts a worker for each migration that may run, as far as that is possible.
 * Sets left to the first that could not be started.
 */
static StartResult
start_ready(int64 *left)
{
	List *ids = refit_migration_startable();
	int room;
	ListCell *lc;

	if (ids == NIL || refit_max_workers == 0)
		return ALL_STARTED;

	room = refit_max_workers - count_workers();
	foreach(lc, ids)
	{
		*left = *(int64 *) lfirst(lc);
		if (room-- <= 0)
			return LIMIT_REACHED;
		if (!start_worker(*left))
			return NO_FREE_SLOT;
	}
	return ALL_STARTED;
}

/* Starts workers for whatever can be started in this database, now. */
void
refit_worker_start_ready(void)
{
	int64 left;

	if (start_ready(&left) != ALL_STARTED)
		scan_later();
}

/*
 * At commit
 */

/* Does at commit what was asked for; nothing here may raise an error. */
static void
deliver_requests(void)
{
	ListCell *lc;

	foreach(lc, pids_to_wake)
	{
		PGPROC *proc = BackendPidGetProc(lfirst_int(lc));

		if (proc != NULL)
			SetLatch(&proc->procLatch);
	}
	foreach(lc, pids_to_cancel)
		if (BackendPidGetProc(lfirst_int(lc)) != NULL)
			(void) kill(lfirst_int(lc), SIGINT);

	if (!scan_requested || refit_worker_scan(MyDatabaseId, 0, NULL))
		return;
	if (refit_launcher_is_there())
		refit_launcher_look_later(MyDatabaseId);
	else
		warn_of_lack();
}

/*
 * A transaction that rolls back may have held a claim in the way of a worker,
 * which has left, so a scan is made then too.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			deliver_requests();
			break;
		case XACT_EVENT_ABORT:
			if (scan_requested)
				(void) refit_worker_scan(MyDatabaseId, 0, NULL);
			break;
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	scan_requested = false;
	pids_to_wake = NIL;
	pids_to_cancel = NIL;
}

/* Registers the callback once in the life of a backend. */
static void
watch_transactions(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(end_of_transaction, NULL);
	registered = true;
}

/* At commit of this transaction: start what can be started, here. */
void
refit_worker_start_at_commit(void)
{
	static bool told = false;

	watch_transactions();
	scan_requested = true;
	if (!refit_launcher_is_there() && !told && MyBgworkerEntry == NULL)
		ereport(NOTICE,
				(errmsg("pg_refit is not preloaded"),
				 errdetail("After a restart of the server, unfinished "
						   "migrations go on when a function of pg_refit "
						   "is next called."),
				 errhint("To have them go on by themselves, add pg_refit to "
						 "shared_preload_libraries.")));
	told = true;
}

/* Adds whoever works a migration to a list that is for the commit. */
static void
add_worker_pid(int64 id, List **pids)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(id)};
	char *pid = refit_sql_text("SELECT worker_pid"
							   " FROM refit.migration_progress WHERE id = $1",
							   1, types, values);
	MemoryContext old;

	if (pid == NULL)
		return;
	watch_transactions();
	old = MemoryContextSwitchTo(TopTransactionContext);
	*pids = lappend_int(*pids, atoi(pid));
	MemoryContextSwitchTo(old);
}

/* At commit of this transaction: wake whoever works that migration. */
void
refit_worker_wake_at_commit(int64 id)
{
	add_worker_pid(id, &pids_to_wake);
}

/* At commit of this transaction: cancel the command that a worker runs. */
void
refit_worker_cancel_at_commit(int64 id)
{
	add_worker_pid(id, &pids_to_cancel);
}

/*
 * The session of a worker
 */

/* The launcher comes back to whatever a process leaves undone. */
static void
look_again_at_exit(int code, Datum database)
{
	if (!ended_normally)
		refit_launcher_look_again(DatumGetObjectId(database), !did_something);
}

/* Takes a setting over whatever the database or the role has. */
static void
set_session(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_SUSET, PGC_S_OVERRIDE);
}

/* Settings that follow our own; again after each reload. */
static void
set_from_configuration(void)
{
	char timeout[32];

	snprintf(timeout, sizeof(timeout), "%dms", refit_lock_timeout);
	set_session("lock_timeout", timeout);
}

/* Settings that make a session fit for unattended work. */
static void
set_up_session(const char *name)
{
	set_session("search_path", "pg_catalog, pg_temp");
	set_session("default_transaction_isolation", "read committed");
	set_session("default_transaction_read_only", "off");
	set_session("statement_timeout", "0");
	set_session("idle_in_transaction_session_timeout", "0");
	/* new in 17 */
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		set_session("transaction_timeout", "0");
	/* Losing the last steps in a crash is harmless: they are done again. */
	set_session("synchronous_commit", "off");
	set_session("application_name", name);
	set_from_configuration();
}

/*
 * Makes this process a session of a database, as the bootstrap superuser.
 *
 * The exit callback is registered before the session's own, so that it runs
 * after it: when the launcher hears of us, our claim is gone.
 */
static void
connect_worker(WorkerTask *task, const char *name)
{
	memcpy(task, MyBgworkerEntry->bgw_extra, sizeof(WorkerTask));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	before_shmem_exit(look_again_at_exit, ObjectIdGetDatum(task->database));
	BackgroundWorkerInitializeConnectionByOid(task->database, InvalidOid, 0);
	set_up_session(name);
}

/*
 * Acts on signals; between two transactions.  A query cancel finds no query
 * here and is dropped.
 */
static void
handle_signals(void)
{
	/* who never rests never hears of it from a latch */
	if (!PostmasterIsAlive())
		proc_exit(1);
	HOLD_CANCEL_INTERRUPTS();
	CHECK_FOR_INTERRUPTS();
	QueryCancelPending = false;
	RESUME_CANCEL_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		set_from_configuration();
	}
}

/* Sleeps until woken, at most so long. */
static void
sleep_ms(long ms)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = refit_new_wait_event("RefitRest");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ms, wait_event);
	ResetLatch(MyLatch);
	handle_signals();
}

/*
 * Transactions of a worker
 */

/* Adds the migration to the context of an error. */
static void
add_error_context(void *arg)
{
	errcontext("pg_refit migration " INT64_FORMAT, *(int64 *) arg);
}

/*
 * The body of run_transaction.  The function sets the snapshot that it needs,
 * so that a step can be without one while it waits.
 */
static void
do_transaction(Work *work, WorkFunction function)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(work->context);
	work->gone = !OidIsValid(get_extension_oid(REFIT_EXTENSION, true));
	if (!work->gone)
		function(work);
	CommitTransactionCommand();
	MemoryContextSwitchTo(work->context);
	pgstat_report_stat(false);
}

/*
 * Runs a function in a transaction of its own, unless the extension is gone.
 * Returns NULL, or the error that undid it, in work->context.
 */
static ErrorData *
run_transaction(Work *work, WorkFunction function)
{
	ErrorData *volatile error = NULL;
	ErrorContextCallback callback = {.previous = error_context_stack,
									 .callback = add_error_context,
									 .arg = &work->id};

	PG_TRY();
	{
		if (work->id != 0)
			error_context_stack = &callback;
		do_transaction(work, function);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		error = refit_abort_transaction(work->context);
	}
	PG_END_TRY();
	return error;
}

/*
 * Writes an error to the server's log, where it is news and no alarm.  One that
 * comes again and again, such as a lock that is not to be had, is written once
 * a minute.
 */
static void
log_error(ErrorData *error)
{
	static char logged[256] = "";
	static TimestampTz logged_at = 0;
	int level = error->elevel;
	TimestampTz now = GetCurrentTimestamp();

	if (strncmp(logged, error->message, sizeof(logged) - 1) == 0 &&
		!TimestampDifferenceExceeds(logged_at, now, LOG_PAUSE_MS))
		return;
	strlcpy(logged, error->message, sizeof(logged));
	logged_at = now;

	error->elevel = LOG;
	ThrowErrorData(error);
	error->elevel = level;
}

/* As run_transaction, where an error ends the process. */
static void
run_or_exit(Work *work, WorkFunction function)
{
	ErrorData *error = run_transaction(work, function);

	if (error != NULL)
	{
		log_error(error);
		proc_exit(1);
	}
}

/*
 * Scanning
 */

/* Starts what can be started, and takes on what has no process to run in. */
static void
start_others(Work *work)
{
	work->next = 0;
	PushActiveSnapshot(GetTransactionSnapshot());
	work->started = start_ready(&work->next);
	PopActiveSnapshot();
	if (work->started != NO_FREE_SLOT)
		work->next = 0;
	if (work->started != ALL_STARTED)
		refit_launcher_look_later(MyDatabaseId);
}

/* The tag of a lock of our own kind. */
static LOCKTAG
lock_tag(Oid database, int kind, uint32 number)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, database, number, 0, kind);
	return tag;
}

/* Takes a lock for the session if it is free. */
static bool
try_session_lock(LOCKTAG tag)
{
	return LockAcquire(&tag, ExclusiveLock, true, true) !=
		   LOCKACQUIRE_NOT_AVAIL;
}

/* Removes what is left of migrations that are over, one at a time. */
static void
clean_leftover(Work *work)
{
	ListCell *lc;

	work->done = true;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, refit_leftovers_list(GetUserId()))
	{
		RefitLeftover *leftover = lfirst(lc);

		if (leftover->id == 0 || !refit_leftovers_remove(leftover))
			continue;
		work->done = false; /* there may be more: in the next transaction */
		break;
	}
	PopActiveSnapshot();
}

/*
 * Cleans up, once in the life of the process that looks at a database.  What is in
 * use is left for the next one; an error is news for the log.
 */
static void
clean_leftovers(Work *work)
{
	do
	{
		ErrorData *error = run_transaction(work, clean_leftover);

		if (error == NULL)
			continue;
		log_error(error);
		return;
	} while (!work->done && !work->gone);
}

/* Becomes the one scan worker that stays in this database. */
static void
claim_scan(Work *work)
{
	work->done = try_session_lock(lock_tag(MyDatabaseId, LOCK_SCAN, 0));
}

/* Begins what recurs and is due, and has the launcher wake us for the rest. */
static void
run_schedules(Work *work)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	refit_launcher_look_at(MyDatabaseId, refit_schedule_look());
	PopActiveSnapshot();
	scan_requested = false; /* start_others comes next */
}

/*
 * Starts what can be started, staying for what has to wait where nobody else
 * comes back to it.
 */
static void
scan_database(Work *work)
{
	bool stays = false;

	run_or_exit(work, run_schedules);
	for (;;)
	{
		run_or_exit(work, start_others);
		if (work->gone || work->started != LIMIT_REACHED ||
			refit_launcher_is_there())
			return;
		if (!stays)
		{
			run_or_exit(work, claim_scan);
			if (work->gone || !work->done)
				return;
			stays = true;
		}
		sleep_ms(SLOT_PAUSE_MS);
		MemoryContextReset(work->context);
	}
}

/* Makes the struct of this process. */
static Work *
make_work(void)
{
	Work *work = MemoryContextAllocZero(TopMemoryContext, sizeof(Work));

	work->context = AllocSetContextCreate(TopMemoryContext, "pg_refit step",
										  ALLOCSET_DEFAULT_SIZES);
	return work;
}

/*
 * Working
 */

/* Takes one of the server's slots for workers. */
static void
take_slot(Work *work)
{
	work->done = false;
	for (int i = 0; i < refit_max_workers && !work->done; i++)
	{
		work->slot = lock_tag(InvalidOid, LOCK_WORKER_SLOT, i);
		work->done = try_session_lock(work->slot);
	}
	work->has_slot = work->done;
}

/* Claims the migration for this session. */
static void
claim_migration(Work *work)
{
	work->done = refit_migration_claim(work->id, true);
}

/*
 * Takes a slot and the claim.  A control function may hold the claim for a
 * moment, so some attempts are made; it has a scan made when it ends.
 */
static bool
begin_work(Work *work)
{
	run_or_exit(work, take_slot);
	if (work->gone)
		return false;
	if (!work->done)
	{
		scan_later();
		return false;
	}
	for (int i = 0; i < CLAIM_ATTEMPTS; i++)
	{
		if (i > 0)
			sleep_ms(CLAIM_PAUSE_MS);
		run_or_exit(work, claim_migration);
		if (work->done || work->gone)
			return !work->gone;
	}
	return false;
}

/*
 * Reads what others may have changed for the migration since the last step:
 * requests, options and holds, as one text, and what to show as activity.
 */
static void
read_wishes(Work *work, char **wishes, char **activity)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(work->id)};

	*wishes = NULL;
	*activity = NULL;
	work->nhelpers = 0;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (refit_sql("SELECT pg_catalog.concat_ws('|', request, options,"
				  " (SELECT pg_catalog.max(ratio) FROM refit.hold"
				  " WHERE migration_id IN (0, m.id)"
				  " AND expires_at > pg_catalog.clock_timestamp())),"
				  " pg_catalog.format('refit migration %s: %s', id,"
				  " coalesce(phase, state)), state IN ('ready', 'revertible'),"
				  " CASE WHEN state = 'running' AND request IS NULL"
				  "  AND phase IN ('batches', 'copy')"
				  "  THEN options->>'workers' END,"
				  " CASE phase WHEN 'copy' THEN"
				  "  (SELECT pg_catalog.count(*) FROM refit.rewrite r"
				  "   WHERE r.id = m.id AND copied_blocks < source_blocks)"
				  " ELSE (SELECT pg_catalog.count(*) FROM refit.pass p"
				  "  WHERE p.id = m.id AND NOT done AND NOT poison) END"
				  " FROM refit.migration m WHERE id = $1",
				  1, types, values, NULL) > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		char *workers = SPI_getvalue(row, desc, 4);
		int parts = atoi(SPI_getvalue(row, desc, 5));

		*wishes =
			MemoryContextStrdup(work->context, SPI_getvalue(row, desc, 1));
		*activity =
			MemoryContextStrdup(work->context, SPI_getvalue(row, desc, 2));
		work->is_ready = SPI_getvalue(row, desc, 3)[0] == 't';
		if (workers != NULL)
			work->nhelpers = Min(Min(atoi(workers), parts) - 1, MOST_HELPERS);
	}
	SPI_finish();
	PopActiveSnapshot();
}

/* Does one step. */
static void
do_step(Work *work)
{
	char *activity;

	read_wishes(work, &work->wishes, &activity);
	pgstat_report_activity(STATE_RUNNING, activity);
	work->rest = refit_migration_step(work->id);
}

/* Records the error of a step. */
static void
record_error(Work *work)
{
	work->rest = refit_migration_failed(work->id, work->error);
}

/*
 * Does one step, and the command that it asks for, or records why it could not be
 * done.  That DROP EXTENSION
 * took the tables away is no error.
 */
static void
step_or_record(Work *work)
{
	ErrorData *second;

	work->rest = -1;
	work->error = run_transaction(work, do_step);
	if (work->error != NULL)
		refit_command_forget();
	else if (refit_command_is_pending())
		work->error = refit_command_run(work->context);
	if (work->error == NULL)
	{
		did_something = true;
		return;
	}
	second = run_transaction(work, record_error);
	if (!work->gone)
		log_error(work->error);
	if (second != NULL)
	{
		log_error(second);
		proc_exit(1);
	}
}

/* Does somebody want something else than when the last step began? */
static void
compare_wishes(Work *work)
{
	char *wishes;
	char *activity;

	read_wishes(work, &wishes, &activity);
	if (work->wishes == NULL)
		work->wishes = wishes;
	work->done = wishes == NULL || strcmp(wishes, work->wishes) != 0;
}

/*
 * Rests between two steps, so long unless somebody wants something.
 *
 * The latch is set by many, and reset by many who wait within a step, so it
 * is only a hint.  Whether the rest is over is for the row to say, which is
 * read when the latch is set and every second.
 */
static void
take_rest(Work *work)
{
	TimestampTz end =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), work->rest);

	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		if (left <= 0)
			break;
		sleep_ms(Min(left, LOOK_MS));
		if (left <= LOOK_MS && GetCurrentTimestamp() >= end)
			break;
		/* An error will come again in the step, which has it recorded. */
		if (run_transaction(work, compare_wishes) != NULL || work->gone ||
			work->done)
			break;
	}
}

/* Gives the slot back and starts what it was in the way of. */
static void
leave_slot(Work *work)
{
	if (work->has_slot)
		LockRelease(&work->slot, ExclusiveLock, true);
	work->has_slot = false;
	start_others(work);
}

/* Gives back what begin_work took and starts what it was in the way of. */
static void
hand_over(Work *work)
{
	REFIT_FAULT("worker.leaving");
	refit_migration_release(work->id);
	leave_slot(work);
	if (work->started == LIMIT_REACHED)
		scan_later();
}

/*
 * Sees to it that as many help as the migration wants.  Who has gone is started
 * again after a while, whatever the reason.
 */
static void
keep_helpers(Work *work)
{
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	for (int i = 0; i < work->nhelpers; i++)
	{
		pid_t pid;

		if ((work->helpers[i].handle != NULL &&
			 GetBackgroundWorkerPid(work->helpers[i].handle, &pid) !=
				 BGWH_STOPPED) ||
			!TimestampDifferenceExceeds(work->helpers[i].started_at, now,
										HELPER_PAUSE_MS))
			continue;
		if (work->helpers[i].handle != NULL)
			pfree(work->helpers[i].handle);
		work->helpers[i].handle = NULL;
		work->helpers[i].started_at = now;
		(void) start_helper(work->id, i + 1, &work->helpers[i].handle);
	}
	MemoryContextSwitchTo(old);
}

/* Works one migration for as long as there is something to do. */
static void
work_migration(Work *work)
{
	if (!begin_work(work))
		return;
	REFIT_FAULT("worker.claimed");
	memset(work->helpers, 0, sizeof(work->helpers));
	do
	{
		handle_signals();
		step_or_record(work);
		keep_helpers(work);

		/* who waits for a person, for days perhaps, is in nobody's way */
		if (work->is_ready && work->has_slot)
			run_or_exit(work, leave_slot);
		if (work->rest > 0)
			take_rest(work);
		MemoryContextReset(work->context);
	} while (work->rest >= 0);
	if (!work->gone)
		run_or_exit(work, hand_over);
}

/*
 * Helping
 */

/* Takes a slot, and the number that this helper was given. */
static void
begin_help(Work *work)
{
	LOCKTAG tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) work->id, work->number,
						 LOCK_HELPER);
	take_slot(work);
	work->done = work->done && try_session_lock(tag);
}

/* Does one chunk. */
static void
do_help(Work *work)
{
	char *activity;

	read_wishes(work, &work->wishes, &activity);
	if (activity != NULL)
		pgstat_report_activity(
			STATE_RUNNING, psprintf("%s, helper %u", activity, work->number));
	work->rest = refit_migration_help(work->id);
}

/* Works parts of a migration for as long as there are any, and ends the process. */
static void
help_to_the_end(Work *work)
{
	ErrorData *error = NULL;

	ended_normally = true; /* whoever leads comes back to what is left */
	run_or_exit(work, begin_help);
	work->rest = work->done && !work->gone ? 0 : -1;
	while (work->rest >= 0)
	{
		handle_signals();
		work->rest = -1;
		error = run_transaction(work, do_help);
		if (error != NULL && !work->gone)
			log_error(error);
		if (work->rest > 0)
			take_rest(work);
		MemoryContextReset(work->context);
	}
	if (!work->gone && work->has_slot)
		run_or_exit(work, leave_slot);
	proc_exit(0);
}

/* Removes some of the history that is too old. */
static void
purge_history(Work *work)
{
	PushActiveSnapshot(GetTransactionSnapshot());
	work->done = !refit_history_purge_some();
	PopActiveSnapshot();
}

/* Works what no other process could be started for, and ends the process. */
static void
work_to_the_end(Work *work)
{
	while (!work->gone && work->next != 0)
	{
		work->id = work->next;
		work->next = 0;
		work_migration(work);
	}
	work->id = 0;
	for (work->done = false; !work->gone && !work->done;)
	{
		handle_signals();
		run_or_exit(work, purge_history);
		MemoryContextReset(work->context);
	}
	ended_normally = true;
	proc_exit(0);
}

/* Entry point of a worker. */
void
refit_worker_main(Datum arg)
{
	WorkerTask task;
	Work *work;

	connect_worker(&task, WORKER_TYPE);
	refit_command_enable();
	work = make_work();
	if (task.helper > 0)
	{
		work->id = task.id;
		work->number = task.helper;
		help_to_the_end(work);
	}
	work->next = task.id;
	work_to_the_end(work);
}

/* Entry point of a scan worker. */
void
refit_scan_main(Datum arg)
{
	WorkerTask task;
	Work *work;

	connect_worker(&task, SCAN_TYPE);
	refit_command_enable();
	work = make_work();
	scan_database(work);
	refit_launcher_scan_done(task.scan_number);
	if (task.scan_number != 0)
		clean_leftovers(work);
	work_to_the_end(work);
}
