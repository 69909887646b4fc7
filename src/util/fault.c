/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Named points where tests make things go wrong.  See fault.h.
 *
 * Files are named relative to the data directory, in which every process of a
 * server works.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "util/fault.h"

#ifdef REFIT_FAULTS

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/guc.h"

#include "compat.h"

#define ARMED_FILE "refit_fault"
#define REACHED_FILE "refit_fault.reached"
#define TRACE_FILE "refit_fault.trace"

#define POLL_MS 5

char *refit_fault_setting = "";

/* Defines refit.fault; from _PG_init. */
void
refit_fault_define(void)
{
	DefineCustomStringVariable(
		"refit.fault", "Makes a named point of pg_refit fail.",
		"point=error|kill|stop|sleep|wait", &refit_fault_setting, "", PGC_SUSET,
		GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

/* The action in "point=action" if that is this point, else NULL. */
static const char *
action_at(const char *point, const char *fault)
{
	size_t length = strlen(point);

	return strncmp(fault, point, length) == 0 && fault[length] == '='
			   ? fault + length + 1
			   : NULL;
}

/* Reads the file's line; false when there is none. */
static bool
read_armed(char *line, int size)
{
	FILE *file = AllocateFile(ARMED_FILE, "r");
	bool found;

	if (file == NULL)
		return false;
	found = fgets(line, size, file) != NULL;
	FreeFile(file);
	line[strcspn(line, "\n")] = '\0';
	return found;
}

/* Adds the point to the trace, if one is kept. */
static void
trace(const char *point)
{
	FILE *file;

	if (access(TRACE_FILE, F_OK) != 0 ||
		(file = AllocateFile(TRACE_FILE, "a")) == NULL)
		return;
	fprintf(file, "%s\n", point);
	FreeFile(file);
}

/* Stays here until the test removes the file that says so. */
static void
hold(const char *point)
{
	ereport(LOG, (errmsg("fault at %s: waiting", point)));
	while (access(REACHED_FILE, F_OK) == 0)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 POLL_MS, refit_new_wait_event("RefitFault"));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	SetLatch(MyLatch); /* it may have been set for somebody else's sake */
}

/* Does what was asked for. */
static void
act(const char *point, const char *action)
{
	if (strcmp(action, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR), errmsg("fault at %s", point)));
	else if (strcmp(action, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	else if (strcmp(action, "stop") == 0)
		kill(PostmasterPid, SIGQUIT);
	else if (strcmp(action, "sleep") == 0)
		pg_usleep(10 * 1000000L);
	else if (strcmp(action, "wait") == 0)
		hold(point);

	/* the end is under way: do no more */
	while (strcmp(action, "kill") == 0 || strcmp(action, "stop") == 0)
		pg_usleep(1000000L);
}

/* Leaves the file that a test looks for, where there was no armed one. */
static void
leave_mark(void)
{
	FILE *file = AllocateFile(REACHED_FILE, "w");

	if (file != NULL)
		FreeFile(file);
}

/* Does what the file or the setting asks for at this point. */
void
refit_fault_reached(const char *point)
{
	char line[NAMEDATALEN * 2];
	const char *action;

	trace(point);
	if (read_armed(line, sizeof(line)) &&
		(action = action_at(point, line)) != NULL)
	{
		if (rename(ARMED_FILE, REACHED_FILE) == 0)
			act(point, action);
	}
	else if ((action = action_at(point, refit_fault_setting)) != NULL)
	{
		leave_mark();
		act(point, action);
	}
}

#endif
