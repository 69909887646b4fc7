/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  Every setting of pg_refit, refit.*, in alphabetical order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_GUC_H
#define REFIT_GUC_H

/* Values of refit.unknown_signal. */
typedef enum RefitUnknownSignal
{
	REFIT_UNKNOWN_CONTINUE,
	REFIT_UNKNOWN_SLOW,
	REFIT_UNKNOWN_STOP
} RefitUnknownSignal;

extern int refit_chunk_time;		  /* ms */
extern int refit_history_retention;	  /* s, <= 0: for ever */
extern int refit_lock_timeout;		  /* ms */
extern int refit_max_active_backends; /* 0: 4 x cores */
extern int refit_max_replica_lag;	  /* ms, 0: off */
extern int refit_max_wal_rate;		  /* kB/s, 0: off */
extern int refit_max_workers;		  /* of the server, 0: none */
extern int refit_min_free_disk;		  /* percent */
extern int refit_revert_window;		  /* s */
extern char *refit_signal_function;
extern int refit_unknown_signal;

extern void refit_guc_define(void);

#endif /* REFIT_GUC_H */
