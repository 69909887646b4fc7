/*-------------------------------------------------------------------------
 *
 * pg_refit.c
 *	  The library's entry: settings, and the launcher when preloaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "guc.h"
#include "job/launcher.h"
#include "util/fault.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/* Called once by every process that loads the library. */
void
_PG_init(void)
{
	refit_guc_define();
#ifdef REFIT_FAULTS
	refit_fault_define();
#endif
	if (process_shared_preload_libraries_in_progress)
		refit_launcher_register();
}
