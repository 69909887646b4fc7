/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The static worker of a preloaded library.
 *
 * The launcher is connected to no database, so that it is in nobody's way,
 * and does no work itself.  It starts a scan worker (worker.c) for every
 * database that accepts connections: all of them once when it starts, which
 * is after a start of the server, after a crash and after a promotion; later
 * the ones it is asked to look at.  It asks itself nothing: what is to be
 * done stands in the tables of each database.
 *
 * Shared memory holds the requests to look again.  They come from processes
 * that end before their work is done, from those that found no free slot, and
 * from scans that found something that will be due at a certain time.
 * A request is a hint and may be lost with the server, since everything is
 * looked at after its start.  The array is small; when it is full, all
 * databases are looked at.
 *
 * A database is looked at again a second after it was asked for, by when the
 * process that asked is gone and its claim with it.  When that process had
 * got nothing done, each further request within a minute doubles the pause, so
 * that a worker that can do nothing but die does not become a loop.
 *
 * A spinlock is enough for the array, and unlike an LWLock it may be taken
 * late in the exit of a process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "guc.h"
#include "job/launcher.h"
#include "job/worker.h"
#include "refit.h"

#define RESTART_SECONDS 5 /* of the launcher itself */
#define MAX_REQUESTS 32
#define SHORT_PAUSE_MS 1000
#define LONG_PAUSE_MS 60000
#define LACK_PAUSE_MS 5000 /* between two attempts while slots lack */
#define FORGET_MS 60000	   /* after which a request counts as the first */
#define DAY_MS \
	86400000 /* after which all databases are looked at, for their
							* history */

/* One database that somebody asked to look at, now or some time ago. */
typedef struct LookRequest
{
	Oid database;		   /* InvalidOid: the entry is free */
	bool wanted;		   /* false: served, kept for the length of the pause */
	TimestampTz scheduled; /* something is due in it then; 0: nothing is */
	TimestampTz due;
	TimestampTz asked;
	int pause_ms;
} LookRequest;

/* What the launcher shares with all who want something of it. */
typedef struct LauncherShared
{
	slock_t mutex;
	PGPROC *proc;		 /* of the launcher; NULL until it runs */
	uint32 scan_number;	 /* of the last scan begun */
	uint32 scan_done;	 /* of the last scan that is done */
	TimestampTz all_due; /* when to look at all databases, 0: not asked */
	LookRequest requests[MAX_REQUESTS];
} LauncherShared;

/* Why a database is to be looked at. */
typedef enum LookReason
{
	LOOK_CUT_SHORT, /* a process ended before its work did */
	LOOK_IN_VAIN,	/* so it did, and got nothing done */
	LOOK_NO_SLOT	/* there was no slot for some work */
} LookReason;

static LauncherShared *shared = NULL;
static shmem_request_hook_type earlier_request_hook = NULL;
static shmem_startup_hook_type earlier_startup_hook = NULL;

/* Reserves our piece of shared memory. */
static void
request_shared_memory(void)
{
	if (earlier_request_hook != NULL)
		earlier_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(LauncherShared)));
}

/* Creates our piece of shared memory, empty. */
static void
create_shared_memory(void)
{
	bool found;

	if (earlier_startup_hook != NULL)
		earlier_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared =
		ShmemInitStruct("pg_refit launcher", sizeof(LauncherShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(LauncherShared));
		SpinLockInit(&shared->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Installs the hooks and the static worker. */
void
refit_launcher_register(void)
{
	BackgroundWorker worker;

	/* pg_upgrade must find the tables at rest. */
	if (IsBinaryUpgrade)
		return;

	earlier_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	earlier_startup_hook = shmem_startup_hook;
	shmem_startup_hook = create_shared_memory;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, REFIT_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "refit_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "pg_refit launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "pg_refit launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/*
 * Is there a launcher to rely on?  One that has run once is started again by
 * the postmaster whenever it ends.
 */
bool
refit_launcher_is_there(void)
{
	return shared != NULL && shared->proc != NULL;
}

/*
 * The entry of a database, or one to use for it, or NULL.  The caller holds
 * the spinlock.
 */
static LookRequest *
find_request(Oid database)
{
	LookRequest *spare = NULL;

	for (int i = 0; i < MAX_REQUESTS; i++)
	{
		LookRequest *request = &shared->requests[i];

		if (request->database == database)
			return request;
		if (!request->wanted && request->scheduled == 0 &&
			(spare == NULL || request->asked < spare->asked))
			spare = request;
	}
	if (spare != NULL)
	{
		memset(spare, 0, sizeof(LookRequest));
		spare->database = database;
	}
	return spare;
}

/* The pause before a look.  The caller holds the spinlock. */
static int
next_pause(const LookRequest *request, LookReason reason, TimestampTz now)
{
	if (reason == LOOK_CUT_SHORT || request->pause_ms == 0 ||
		TimestampDifferenceExceeds(request->asked, now, FORGET_MS))
		return SHORT_PAUSE_MS;
	if (request->wanted)
		return request->pause_ms;
	return Min(request->pause_ms * 2, LONG_PAUSE_MS);
}

/* The earlier of two times, of which the first may be unset. */
static TimestampTz
earlier_time(TimestampTz set, TimestampTz new)
{
	return set == 0 ? new : Min(set, new);
}

/* Enters a request and wakes the launcher. */
static void
ask(Oid database, LookReason reason)
{
	TimestampTz now = GetCurrentTimestamp();
	LookRequest *request;
	int pause_ms = LACK_PAUSE_MS;

	if (!refit_launcher_is_there())
		return;

	SpinLockAcquire(&shared->mutex);
	request = find_request(database);
	if (request != NULL && reason != LOOK_NO_SLOT)
	{
		pause_ms = request->pause_ms = next_pause(request, reason, now);
		request->asked = now;
	}
	now = TimestampTzPlusMilliseconds(now, pause_ms);
	if (request == NULL)
		shared->all_due = earlier_time(shared->all_due, now);
	else
	{
		request->due = earlier_time(request->wanted ? request->due : 0, now);
		request->wanted = true;
	}
	SpinLockRelease(&shared->mutex);

	SetLatch(&shared->proc->procLatch);
}

/* Has the database looked at by then; DT_NOEND: nothing is due in it. */
void
refit_launcher_look_at(Oid database, TimestampTz when)
{
	LookRequest *request;

	if (!refit_launcher_is_there())
		return;
	SpinLockAcquire(&shared->mutex);
	request = find_request(database);
	if (request != NULL)
		request->scheduled = when == DT_NOEND ? 0 : when;
	else if (when != DT_NOEND)
		shared->all_due = earlier_time(shared->all_due, when);
	SpinLockRelease(&shared->mutex);
	SetLatch(&shared->proc->procLatch);
}

/* Asks the launcher to look at a database again, for work cut short. */
void
refit_launcher_look_again(Oid database, bool in_vain)
{
	ask(database, in_vain ? LOOK_IN_VAIN : LOOK_CUT_SHORT);
}

/* Asks the launcher to look at a database when there may be a free slot. */
void
refit_launcher_look_later(Oid database)
{
	ask(database, LOOK_NO_SLOT);
}

/* The time to sleep until something is due, at most so long. */
static long
ms_until(TimestampTz now, TimestampTz due, long at_most)
{
	return Min(at_most, (due - now) / 1000 + 1);
}

/* When a database is to be looked at; 0: not.  The caller holds the spinlock. */
static TimestampTz
due_time(const LookRequest *request)
{
	if (!request->wanted)
		return request->scheduled;
	return request->scheduled == 0 ? request->due
								   : Min(request->due, request->scheduled);
}

/*
 * Takes the requests that are due into databases, which has room for all of
 * them, and returns their number.  Sets the time to sleep until the next one.
 */
static int
take_requests(Oid *databases, bool *all, long *sleep_ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int ntaken = 0;

	*sleep_ms = LONG_PAUSE_MS;
	SpinLockAcquire(&shared->mutex);
	*all = shared->all_due != 0 && shared->all_due <= now;
	if (*all)
		shared->all_due = 0;
	else if (shared->all_due != 0)
		*sleep_ms = ms_until(now, shared->all_due, *sleep_ms);
	for (int i = 0; i < MAX_REQUESTS; i++)
	{
		LookRequest *request = &shared->requests[i];
		TimestampTz due = due_time(request);

		if (due == 0)
			continue;
		if (due <= now)
		{
			request->wanted = false;
			request->scheduled = 0;
			databases[ntaken++] = request->database;
		}
		else
			*sleep_ms = ms_until(now, due, *sleep_ms);
	}
	SpinLockRelease(&shared->mutex);
	return ntaken;
}

/*
 * The databases that a worker can connect to, in the given context.  Runs in
 * a transaction of its own; of the catalogs only the shared ones are there.
 */
static List *
list_databases(MemoryContext context)
{
	List *databases = NIL;
	Relation rel;
	TableScanDesc scan;
	HeapTuple tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate ||
			database_is_invalid_form(form))
			continue;
		old = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/* Says that the launcher's scan of that number is done. */
void
refit_launcher_scan_done(uint32 number)
{
	if (number == 0 || !refit_launcher_is_there())
		return;
	SpinLockAcquire(&shared->mutex);
	shared->scan_done = number;
	SpinLockRelease(&shared->mutex);
	SetLatch(&shared->proc->procLatch);
}

/* Begins the next scan.  Only the launcher does, so it reads what it wrote. */
static uint32
number_scan(void)
{
	SpinLockAcquire(&shared->mutex);
	if (++shared->scan_number == 0)
		shared->scan_number = 1;
	SpinLockRelease(&shared->mutex);
	return shared->scan_number;
}

/*
 * Waits until a scan is done, or its process has ended.  The process may go on
 * after its scan, when it finds work and no other process to give it to.
 */
static void
wait_for_scan(uint32 number, BackgroundWorkerHandle *handle)
{
	uint32 wait_event = refit_new_wait_event("RefitScan");

	for (;;)
	{
		pid_t pid;
		bool done;

		SpinLockAcquire(&shared->mutex);
		done = shared->scan_done == number;
		SpinLockRelease(&shared->mutex);
		if (done || GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 0,
						 wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Has one database looked at and waits until that is done.  False when there
 * is no slot for it, which is said once, and once that it is over.
 */
static bool
visit_database(Oid database)
{
	static bool lacking = false;
	BackgroundWorkerHandle *handle;
	uint32 number = number_scan();

	if (!refit_worker_scan(database, number, &handle))
	{
		if (!lacking)
			ereport(LOG, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						  errmsg("pg_refit launcher found no free background "
								 "worker slot"),
						  errdetail("It tries again every %d seconds.",
									LACK_PAUSE_MS / 1000),
						  errhint("You might need to increase "
								  "max_worker_processes.")));
		lacking = true;
		return false;
	}
	if (lacking)
		ereport(LOG, (errmsg("pg_refit launcher found a free background "
							 "worker slot again")));
	lacking = false;

	wait_for_scan(number, handle);
	return true;
}

/* Serves what is asked for; returns the ms until there is more to do. */
static long
serve_requests(MemoryContext context)
{
	Oid wanted[MAX_REQUESTS];
	int nwanted;
	bool all;
	long sleep_ms;
	ListCell *lc;

	nwanted = take_requests(wanted, &all, &sleep_ms);
	if (!all && nwanted == 0)
		return sleep_ms;

	MemoryContextSwitchTo(context);
	foreach(lc, list_databases(context))
	{
		Oid database = lfirst_oid(lc);
		bool asked = all;

		for (int i = 0; i < nwanted && !asked; i++)
			asked = wanted[i] == database;
		if (asked && !visit_database(database))
			refit_launcher_look_later(database);
	}
	MemoryContextReset(context);
	return 0;
}

/* Has all databases looked at. */
static void
look_at_all(void)
{
	SpinLockAcquire(&shared->mutex);
	shared->all_due = GetCurrentTimestamp();
	SpinLockRelease(&shared->mutex);
}

/* Has all databases looked at once a day, the first time a day from now. */
static void
look_daily(void)
{
	static TimestampTz last = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (last == 0 || last > now)
		last = now;
	if (!TimestampDifferenceExceeds(last, now, DAY_MS))
		return;
	last = now;
	look_at_all();
}

/* Reads the configuration again; more workers may mean more to start. */
static void
reload_configuration(void)
{
	int earlier = refit_max_workers;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (refit_max_workers > earlier)
		look_at_all();
}

/* Entry point. */
void
refit_launcher_main(Datum arg)
{
	uint32 wait_event = refit_new_wait_event("RefitLauncher");
	MemoryContext context;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	context = AllocSetContextCreate(TopMemoryContext, "pg_refit launcher",
									ALLOCSET_DEFAULT_SIZES);
	look_at_all();
	shared->proc = MyProc;

	for (;;)
	{
		long sleep_ms = serve_requests(context);

		if (sleep_ms > 0)
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 sleep_ms, wait_event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
			reload_configuration();
		look_daily();
	}
}
