/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  The static worker of a preloaded library: it finds unfinished
 *	  migrations in every database after a start or a promotion and whenever
 *	  a worker has ended.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_LAUNCHER_H
#define REFIT_LAUNCHER_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern PGDLLEXPORT void refit_launcher_main(Datum arg);

/* From _PG_init while shared_preload_libraries are loaded: hooks, worker. */
extern void refit_launcher_register(void);
/*
 * Asks the launcher to look at a database again; nothing without one.  in_vain
 * says that the process that ends has got nothing done.
 */
extern void refit_launcher_look_again(Oid database, bool in_vain);
/* The same for work that lacks a slot: in some seconds, however often asked. */
extern void refit_launcher_look_later(Oid database);
/*
 * Has the database looked at by then, for what is due then; DT_NOEND: nothing is.
 * It stands until it is set again, by the look.
 */
extern void refit_launcher_look_at(Oid database, TimestampTz when);
/* Says that the launcher's scan of that number is done. */
extern void refit_launcher_scan_done(uint32 number);
/* Is there a launcher to rely on? */
extern bool refit_launcher_is_there(void);

#endif /* REFIT_LAUNCHER_H */
