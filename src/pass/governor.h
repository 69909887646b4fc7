/*-------------------------------------------------------------------------
 *
 * governor.h
 *	  How fast a migration may go, from live signals of the server.
 *
 * Each signal gives a load: 0 up to its soft limit, growing to 1 at its hard
 * limit.  The worst one wins and is named in progress.throttled_by.  A load
 * between 0 and 1 stretches the rest after a chunk, and from some seconds on
 * shortens the chunk instead, so that the share of time spent working is
 * (1 - load); from 1 on the migration stands still and looks
 * again every second.  Standing still is no failure, however long.
 *
 * The chunk budget shrinks by half when somebody waits for a lock that we
 * hold, or when a chunk has taken a signal that follows our pace past its hard
 * limit, and grows back by a tenth a chunk.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_GOVERNOR_H
#define REFIT_GOVERNOR_H

#include "datatype/timestamp.h"

#include "refit.h"

typedef enum RefitSignalState
{
	REFIT_SIGNAL_OK,
	REFIT_SIGNAL_SLOW,
	REFIT_SIGNAL_STOP,
	REFIT_SIGNAL_UNKNOWN
} RefitSignalState;

/* One reading. */
typedef struct RefitSignal
{
	const char *name;
	double value;
	bool has_value;
	double soft_limit;
	double hard_limit;
	const char *unit;
	double load;
	RefitSignalState state;
	char *reason;		 /* a sentence, or NULL */
	bool owner_may_know; /* the reason may stand in an event */
	bool is_off;		 /* no limit is set: the value is for people */
	bool follows_chunk;	 /* a shorter chunk overshoots less */
} RefitSignal;

/*
 * signals.c: reads all signals, as RefitSignal in the caller's context.  With
 * m NULL: for the whole server, with the limits of the settings.
 */
extern List *refit_signals_read(RefitMigration *m);
/*
 * Within a step: has it taken a signal that follows its pace to the hard limit?
 */
extern bool refit_signals_stop_step(RefitMigration *m);
/* How many wait for a lock of ours that ends with the transaction. */
extern int refit_signals_count_waiters(void);
/* What governor.c has seen of that in the present or last step. */
extern int refit_governor_waiters(void);

/*
 * Before a step: 0, or the ms to stand still because a signal is at its hard
 * limit.  Sets m->progress.throttled_by.  Cheap: readings are kept for some
 * hundred ms.
 */
extern int refit_governor_before(RefitMigration *m);
/* The ms that a step may work, as judged before it. */
extern int refit_governor_budget(const RefitMigration *m);
/* After a step that worked so long: ms to rest; sets progress.budget_ms. */
extern int refit_governor_after(RefitMigration *m, int worked_ms);
/* Within a step, often: has the budget run out, or does somebody wait? */
extern bool refit_governor_step_over(const RefitBudget *budget);
/* The same where time does not matter: does somebody wait? */
extern bool refit_governor_is_waited_for(void);

/*
 * Holds one migration, or with id 0 all, at a load of ratio: 0 lets them go, 1
 * makes them stand still.  For so long, or with NULL until it is taken back.
 */
extern void refit_governor_hold(int64 id, double ratio, Interval *expires);

#endif /* REFIT_GOVERNOR_H */
