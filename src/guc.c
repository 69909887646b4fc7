/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  Every setting of pg_refit, refit.*, in alphabetical order.
 *
 * Who may set what follows from whom it protects.  What only says how the
 * caller's own migrations go is anybody's (PGC_USERSET); what protects the
 * server from its users is the superusers' (PGC_SUSET); what is shared by all
 * databases is the configuration file's (PGC_SIGHUP).  A worker is a session
 * of its own: it sees the configuration file and ALTER DATABASE ... SET, not
 * what the session that submitted the migration had set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "guc.h"

#define MIN_CHUNK_TIME 10		   /* ms */
#define MAX_CHUNK_TIME 60000	   /* ms */
#define MIN_LOCK_TIMEOUT 1		   /* ms; 0 would be: wait forever */
#define MAX_LOCK_TIMEOUT 60000	   /* ms */
#define MAX_ACTIVE_BACKENDS 262143 /* as max_connections */
#define MAX_REPLICA_LAG 86400000   /* ms, a day */
#define MAX_WORKERS 1024
#define HISTORY_RETENTION (90 * 86400) /* s */
#define MAX_FREE_DISK 90			   /* percent */

int refit_chunk_time = 500;
int refit_history_retention = HISTORY_RETENTION;
int refit_lock_timeout = 100;
int refit_max_active_backends = 0;
int refit_max_replica_lag = 5000;
int refit_max_wal_rate = 0;
int refit_max_workers = 2;
int refit_min_free_disk = 10;
int refit_revert_window = 0;
char *refit_signal_function = NULL;
int refit_unknown_signal = REFIT_UNKNOWN_CONTINUE;

static const struct config_enum_entry unknown_signal_values[] = {
	{"continue", REFIT_UNKNOWN_CONTINUE, false},
	{"slow", REFIT_UNKNOWN_SLOW, false},
	{"stop", REFIT_UNKNOWN_STOP, false},
	{NULL, 0, false}};

/* Settings that say how a migration goes. */
static void
define_manner(void)
{
	DefineCustomIntVariable(
		"refit.chunk_time", "Time that one chunk of a migration may take.",
		"It bounds the age of a migration's snapshot and the work that a "
		"crash undoes.",
		&refit_chunk_time, 500, MIN_CHUNK_TIME, MAX_CHUNK_TIME, PGC_USERSET,
		GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"refit.lock_timeout",
		"Longest wait for a lock that others would queue behind.",
		"The attempt is given up then, and repeated later.",
		&refit_lock_timeout, 100, MIN_LOCK_TIMEOUT, MAX_LOCK_TIMEOUT,
		PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"refit.revert_window",
		"Time that a migration can be reverted after its cutover.",
		"Zero keeps no old copy.", &refit_revert_window, 0, 0, INT_MAX,
		PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
}

/* Settings that protect the server: limits of the governor's signals. */
static void
define_limits(void)
{
	DefineCustomIntVariable(
		"refit.max_active_backends",
		"Running client backends from which on migrations slow down.",
		"Zero stands for four times the number of processors.",
		&refit_max_active_backends, 0, 0, MAX_ACTIVE_BACKENDS, PGC_SUSET, 0,
		NULL, NULL, NULL);
	DefineCustomIntVariable(
		"refit.max_replica_lag",
		"Replay lag of a standby at which migrations stand still.",
		"They slow down from half of it on.  Zero ignores standbys.",
		&refit_max_replica_lag, 5000, 0, MAX_REPLICA_LAG, PGC_SUSET,
		GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"refit.max_wal_rate",
		"WAL per second of the server at which migrations stand still.",
		"They slow down from four fifths of it on.  Zero is no limit.",
		&refit_max_wal_rate, 0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_KB, NULL, NULL,
		NULL);
	DefineCustomIntVariable(
		"refit.min_free_disk",
		"Percentage of free disk space at which migrations stand still.", NULL,
		&refit_min_free_disk, 10, 0, MAX_FREE_DISK, PGC_SUSET, 0, NULL, NULL,
		NULL);
	DefineCustomStringVariable(
		"refit.signal_function",
		"Name of a function that gives one more signal to the governor.",
		"It takes no parameter and returns one row: load float8, reason "
		"text.",
		&refit_signal_function, "", PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable(
		"refit.unknown_signal",
		"What migrations do while a signal of the governor has no value.", NULL,
		&refit_unknown_signal, REFIT_UNKNOWN_CONTINUE, unknown_signal_values,
		PGC_SUSET, 0, NULL, NULL, NULL);
}

/* Defines all settings and takes their prefix. */
void
refit_guc_define(void)
{
	define_manner();
	define_limits();
	DefineCustomIntVariable(
		"refit.history_retention",
		"Time that events and migrations that are over are kept for.",
		"Zero or less keeps them for ever.  A completed migration with a name "
		"is kept in any case.",
		&refit_history_retention, HISTORY_RETENTION, -1, INT_MAX, PGC_SUSET,
		GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable(
		"refit.max_workers",
		"Background workers that work migrations at the same time.",
		"All databases of the server together.  With zero, migrations are "
		"worked by CALL refit.run(id) only.",
		&refit_max_workers, 2, 0, MAX_WORKERS, PGC_SIGHUP, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("refit");
}
