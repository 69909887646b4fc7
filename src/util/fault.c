/*-------------------------------------------------------------------------
 *
 * fault.c
 *	  Named points where tests make things go wrong.  See fault.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "util/fault.h"

#ifdef REFIT_FAULTS

#include <signal.h>
#include <unistd.h>

#include "miscadmin.h"
#include "utils/guc.h"

char *refit_fault_setting = "";

/* Defines refit.fault; from _PG_init. */
void
refit_fault_define(void)
{
	DefineCustomStringVariable(
		"refit.fault", "Makes a named point of pg_refit fail.",
		"point=error|kill|stop|sleep", &refit_fault_setting, "", PGC_SUSET,
		GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
}

/* Does what the setting asks for at this point. */
void
refit_fault_reached(const char *point)
{
	size_t length = strlen(point);
	const char *what;

	if (strncmp(refit_fault_setting, point, length) != 0 ||
		refit_fault_setting[length] != '=')
		return;
	what = refit_fault_setting + length + 1;
	if (strcmp(what, "error") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR), errmsg("fault at %s", point)));
	else if (strcmp(what, "kill") == 0)
		kill(MyProcPid, SIGKILL);
	else if (strcmp(what, "stop") == 0)
		kill(PostmasterPid, SIGQUIT);
	else if (strcmp(what, "sleep") == 0)
		pg_usleep(10 * 1000000L);
}

#endif
