/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  Background workers that work migrations, one each.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_WORKER_H
#define REFIT_WORKER_H

#include "postgres.h"

#include "postmaster/bgworker.h"

/* Entry points of the background workers. */
extern PGDLLEXPORT void refit_worker_main(Datum arg);
extern PGDLLEXPORT void refit_scan_main(Datum arg);

/* At commit of this transaction: start what can be started, here. */
extern void refit_worker_start_at_commit(void);
/* At commit of this transaction: wake whoever works that migration. */
extern void refit_worker_wake_at_commit(int64 id);
/* At commit of this transaction: cancel the command that its worker runs. */
extern void refit_worker_cancel_at_commit(int64 id);
/* Starts workers for whatever can be started in this database, now. */
extern void refit_worker_start_ready(void);

/*
 * Starts a worker that looks at a database for work.  False when there is no
 * free slot.  The launcher gives its scans a number, and with a handle is told
 * when the worker has ended; everybody else passes 0 and NULL.
 */
extern bool refit_worker_scan(Oid database, uint32 number,
							  BackgroundWorkerHandle **handle);

#endif /* REFIT_WORKER_H */
