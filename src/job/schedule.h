/*-------------------------------------------------------------------------
 *
 * schedule.h
 *	  Operations that recur: rows of refit.schedule.
 *
 * Each run is an ordinary migration, submitted as whoever made the schedule would
 * submit it: by the same function, with his rights, search_path and settings.  So
 * it is refused when he does not own the table any more.  Never does a second one
 * begin before the first is over: what is due meanwhile is left out.  However many
 * runs were missed while the server was down, one makes up for them.
 *
 * Outside its time window a run is paused and keeps its cursor, or is cancelled, or
 * is left alone.
 *
 * The clock is the launcher's, which has the database looked at when something is
 * due; or pg_cron's, where it has our job.  Either only says that it is time to
 * look: what is due stands in the table.  A row is locked, and read again, before
 * anything is done about it, so that two looks at once are one.
 *
 * A look is one transaction, with a subtransaction for each schedule; that a run
 * was begun and when the next one is due commit together.  Whatever dies in it,
 * the next look does it again.
 *
 * Locks: the schedule's row; nobody waits for it but who changes that schedule.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SCHEDULE_H
#define REFIT_SCHEDULE_H

#include "refit.h"

/* A row of refit.schedule. */
typedef struct RefitSchedule
{
	char *name;
	Oid relid;
	char *kind;
	Jsonb *arguments;
	Jsonb *options;
	char *every;
	char *window; /* NULL: at any time */
	char *at_window_end;
	char *search_path;
	char *settings; /* JSON */
	char *role;		/* who made it */
	TimestampTz next_run;
	int64 last_migration; /* 0: none */
	bool waits;			  /* its run was paused by the end of the window */
	bool at_home;		  /* made here, and not copied from another server */
} RefitSchedule;

/* An ERROR for a kind that does not recur, or arguments that it does not have. */
extern void refit_schedule_check(const RefitSchedule *schedule);
/* An ERROR unless a run would be submitted now; nothing is. */
extern void refit_schedule_try(const RefitSchedule *schedule);
/* When it is due for the first time. */
extern TimestampTz refit_schedule_first(const RefitSchedule *schedule);

/* Writes the row, or another one over it. */
extern void refit_schedule_save(const RefitSchedule *schedule);
/* NULL: there is none of that name. */
extern RefitSchedule *refit_schedule_load(const char *name);
/* Deletes it; a run that waits for the window is cancelled. */
extern void refit_schedule_delete(const RefitSchedule *schedule);

/* Begins what is due in this database.  When to look again; DT_NOEND: never. */
extern TimestampTz refit_schedule_look(void);

#endif /* REFIT_SCHEDULE_H */
