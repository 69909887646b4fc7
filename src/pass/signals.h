/*-------------------------------------------------------------------------
 *
 * signals.h
 *	  Readers of the governor's signals, one function each.
 *
 * A reader fills in value, limits and unit, or the load itself where limits do
 * not say it; reason has room for REFIT_REASON_SIZE bytes.  m is the migration
 * that is to be paced, or NULL when somebody looks at refit.signals: then for
 * the whole server, with the limits of the settings.
 *
 * A reader runs fixed SQL as the bootstrap superuser, in the transaction of the
 * step, and takes no lock that anybody would wait for.  What it remembers from
 * one reading to the next is in static memory of the process and may be lost.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SIGNALS_H
#define REFIT_SIGNALS_H

#include "pass/governor.h"

#define REFIT_REASON_SIZE 256

typedef void (*RefitSignalReader)(RefitMigration *m, RefitSignal *signal,
								  char *reason);

/* signal_disk.c */
extern void refit_signal_free_disk(RefitMigration *m, RefitSignal *signal,
								   char *reason);

/* signal_sessions.c */
extern void refit_signal_active_backends(RefitMigration *m, RefitSignal *signal,
										 char *reason);
extern void refit_signal_lock_waiters(RefitMigration *m, RefitSignal *signal,
									  char *reason);
extern void refit_signal_oldest_xmin(RefitMigration *m, RefitSignal *signal,
									 char *reason);

/* signal_standby.c */
extern void refit_signal_replica_lag(RefitMigration *m, RefitSignal *signal,
									 char *reason);

/* signal_table.c */
extern void refit_signal_dead_rows(RefitMigration *m, RefitSignal *signal,
								   char *reason);
extern void refit_signal_vacuum(RefitMigration *m, RefitSignal *signal,
								char *reason);

/* signal_user.c */
extern void refit_signal_manual(RefitMigration *m, RefitSignal *signal,
								char *reason);
extern void refit_signal_function_load(RefitMigration *m, RefitSignal *signal,
									   char *reason);

/* signal_wal.c */
extern void refit_signal_archive_backlog(RefitMigration *m, RefitSignal *signal,
										 char *reason);
extern void refit_signal_checkpoint_pressure(RefitMigration *m,
											 RefitSignal *signal, char *reason);
extern void refit_signal_slot_retention(RefitMigration *m, RefitSignal *signal,
										char *reason);
extern void refit_signal_wal_rate(RefitMigration *m, RefitSignal *signal,
								  char *reason);

/* A column of a row of the last query as a number; otherwise if NULL. */
extern double refit_signals_number(uint64 row, int column, double otherwise);

#endif /* REFIT_SIGNALS_H */
