/*-------------------------------------------------------------------------
 *
 * command.c
 *	  Commands that PostgreSQL runs in transactions of its own, run by a worker
 *	  between two steps.
 *
 * See command.h.
 *
 * Locks: the tables are locked SHARE UPDATE EXCLUSIVE for the session, which
 * stops no client, with refit.lock_timeout; then the command waits for nothing
 * but the ends of transactions, and lock_timeout is off, or CREATE INDEX
 * CONCURRENTLY would not survive the first old one.  A command whose last lock
 * does stop clients has the timeout all the time.
 *
 * The command may wait for a client's snapshot while that client waits for the
 * command's lock on the table.  We look for such a deadlock much sooner than the
 * client does, so that it is we who go away and come again, unless the client
 * was the last of the two to wait: PostgreSQL looks once a wait.
 *
 * Rights: the current user is the submitter, without a security context, since
 * PostgreSQL begins transactions within the command, and each must begin without
 * one.  The session's user is still the worker's, a superuser, to whom SET ROLE
 * could go back.  PostgreSQL evaluates nothing of a user in these commands but
 * as a security-restricted operation; for event triggers we see to that
 * ourselves, by restricting every function that is not PostgreSQL's own.
 *
 * If the process dies: session locks and settings go with it; what the command
 * has committed stays, and is found by the next step.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "compat.h"
#include "ddl/command.h"
#include "guc.h"
#include "util/attempt.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* Until a command that waits looks for a deadlock; the default is 1 s. */
#define DEADLOCK_TIMEOUT "10ms"

static bool enabled = false;
static RefitCommand *pending = NULL;
static MemoryContext pending_context = NULL;
static int64 returned_id = 0;
static int64 ended_id = 0;

/* This process can run commands. */
void
refit_command_enable(void)
{
	enabled = true;
}

/* Can this process run one? */
bool
refit_command_is_possible(void)
{
	return enabled;
}

/* Has this process seen that migration's last command return? */
bool
refit_command_returned(int64 id)
{
	return returned_id == id;
}

/* Or end, with an error perhaps? */
bool
refit_command_came_back(int64 id)
{
	return ended_id == id;
}

/* Forgets the command. */
void
refit_command_forget(void)
{
	if (pending_context != NULL)
		MemoryContextDelete(pending_context);
	pending_context = NULL;
	pending = NULL;
}

/* Copies a list of texts. */
static List *
copy_texts(const List *texts)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, texts)
		result = lappend(result, pstrdup(lfirst(lc)));
	return result;
}

/* A text or NULL. */
static char *
copy_text(const char *text)
{
	return text != NULL ? pstrdup(text) : NULL;
}

/* Has a command run when this transaction has committed. */
void
refit_command_request(const RefitCommand *command)
{
	MemoryContext old;

	refit_command_forget();
	pending_context = AllocSetContextCreate(
		TopMemoryContext, "pg_refit command", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(pending_context);
	pending = palloc(sizeof(RefitCommand));
	*pending = *command;
	pending->node = copyObject(command->node);
	pending->text = pstrdup(command->text);
	pending->search_path = pstrdup(command->search_path);
	pending->tables = list_copy(command->tables);
	pending->memory = copy_text(command->memory);
	pending->workers = copy_text(command->workers);
	pending->settings = copy_texts(command->settings);
	MemoryContextSwitchTo(old);
	returned_id = 0;
	ended_id = 0;
}

/* Is there one to be run? */
bool
refit_command_is_pending(void)
{
	return pending != NULL;
}

/*
 * Functions that run meanwhile
 */

/* Who was the user when a function was called; the innermost first. */
typedef struct Caller
{
	struct Caller *outer;
	Oid userid;
	int sec_context;
} Caller;

static Caller *callers = NULL;

/* Every function but PostgreSQL's own. */
static bool
needs_restriction(Oid function)
{
	return function >= FirstNormalObjectId;
}

/* Makes a function a security-restricted operation. */
static void
restrict_function(FmgrHookEventType event, FmgrInfo *flinfo, Datum *arg)
{
	Caller *caller = callers;

	if (event == FHET_START)
	{
		caller = MemoryContextAlloc(pending_context, sizeof(Caller));
		caller->outer = callers;
		callers = caller;
		GetUserIdAndSecContext(&caller->userid, &caller->sec_context);
		SetUserIdAndSecContext(
			caller->userid, caller->sec_context | SECURITY_LOCAL_USERID_CHANGE |
								SECURITY_RESTRICTED_OPERATION);
		return;
	}
	callers = caller->outer;
	if (event == FHET_END) /* the end of the transaction does it otherwise */
		SetUserIdAndSecContext(caller->userid, caller->sec_context);
	pfree(caller);
}

/*
 * Running
 */

/* Sets something until reset_session. */
static void
set_session(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SET, true, 0, false);
}

/* Sets what the command goes by; what cannot be set is left as it is. */
static void
set_up_session(const RefitCommand *c)
{
	ListCell *lc;

	for (lc = list_head(c->settings); lc != NULL;
		 lc = lnext(c->settings, lnext(c->settings, lc)))
		set_session(lfirst(lc), lfirst(lnext(c->settings, lc)));
	set_session("search_path", c->search_path);
	set_session("lock_timeout",
				c->may_wait ? "0" : psprintf("%d", refit_polite_lock_budget()));
	set_session("deadlock_timeout", DEADLOCK_TIMEOUT);
	set_session("maintenance_work_mem", c->memory);
	set_session("max_parallel_maintenance_workers", c->workers);
}

/* Puts back what set_up_session has set. */
static void
reset_session(const RefitCommand *c)
{
	ListCell *lc;

	for (lc = list_head(c->settings); lc != NULL;
		 lc = lnext(c->settings, lnext(c->settings, lc)))
		set_session(lfirst(lc), NULL);
	set_session("search_path", NULL);
	set_session("lock_timeout", NULL);
	set_session("deadlock_timeout", NULL);
	set_session("maintenance_work_mem", NULL);
	set_session("max_parallel_maintenance_workers", NULL);
}

/* Locks the tables for the session, in a transaction of its own. */
static void
lock_tables(const RefitCommand *c)
{
	ListCell *lc;
	LockRelId relid = {.dbId = MyDatabaseId};

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	foreach(lc, c->tables)
	{
		relid.relId = lfirst_oid(lc);
		LockRelationIdForSession(&relid, ShareUpdateExclusiveLock);
	}
	CommitTransactionCommand();
}

/* Gives them back; an error has done so already. */
static void
unlock_tables(const RefitCommand *c)
{
	ListCell *lc;
	LockRelId relid = {.dbId = MyDatabaseId};

	foreach(lc, c->tables)
	{
		relid.relId = lfirst_oid(lc);
		UnlockRelationIdForSession(&relid, ShareUpdateExclusiveLock);
	}
}

/* A statement as portals want it. */
static PlannedStmt *
wrap(Node *node)
{
	PlannedStmt *wrapper = makeNode(PlannedStmt);

	wrapper->commandType = CMD_UTILITY;
	wrapper->canSetTag = true;
	wrapper->utilityStmt = node;
	wrapper->stmt_location = -1;
	return wrapper;
}

/*
 * The command, as the main loop of a backend would run it: in a portal, which
 * outlives the transactions that it commits, and which the functions of event
 * triggers need.
 */
static void
execute(const RefitCommand *c)
{
	Portal portal;

	SetUserIdAndSecContext(c->role, 0);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	REFIT_FAULT("command.started");
	MemoryContextSwitchTo(pending_context);
	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, c->text, CreateCommandTag(c->node),
					  list_make1(wrap(c->node)), NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	refit_portal_run(portal, None_Receiver);
	PortalDrop(portal, false);
	REFIT_FAULT("command.ended");
	CommitTransactionCommand();
}

/* Locks, settings, the command; an ERROR leaves the rest to clean_up. */
static void
run_pending(void)
{
	lock_tables(pending);
	set_up_session(pending);
	needs_fmgr_hook = needs_restriction;
	fmgr_hook = restrict_function;
	execute(pending);
	unlock_tables(pending);
	REFIT_FAULT("command.returned");
}

/* Runs the command, outside of any transaction. */
ErrorData *
refit_command_run(MemoryContext context)
{
	ErrorData *volatile error = NULL;
	needs_fmgr_hook_type earlier_needs = needs_fmgr_hook;
	fmgr_hook_type earlier_hook = fmgr_hook;
	Oid userid;
	int sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	pgstat_report_activity(STATE_RUNNING, pending->text);
	debug_query_string = pending->text;
	callers = NULL;
	PG_TRY();
	{
		run_pending();
	}
	PG_CATCH();
	{
		error = refit_abort_transaction(context);
	}
	PG_END_TRY();
	needs_fmgr_hook = earlier_needs;
	fmgr_hook = earlier_hook;
	SetUserIdAndSecContext(userid, sec_context);
	reset_session(pending);
	MemoryContextSwitchTo(context);
	debug_query_string = NULL;
	pgstat_report_stat(false);
	ended_id = pending->id;
	if (error == NULL)
		returned_id = pending->id;
	refit_command_forget();
	return error;
}
