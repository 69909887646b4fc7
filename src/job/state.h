/*-------------------------------------------------------------------------
 *
 * state.h
 *	  The only writer of a migration's state and phase.
 *
 * Who may change them: the holder of the claim (claim.h) or, when nobody holds
 * it, a control function that takes it for its transaction.  A row that has
 * another state than the one that was loaded is an ERROR.
 *
 * Each function writes in the caller's transaction, and brings m up to date.  So
 * a change is durable together with the work that it stands for, or not made.
 * The row is locked until then.
 *
 * State diagram, and what a crash leaves at each edge: docs/design.md.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_STATE_H
#define REFIT_STATE_H

#include "refit.h"

/* To another state, with its event, and a NOTIFY at commit. */
extern void refit_set_state(RefitMigration *m, const char *state);
/* Into a phase of m->strategy; NULL: out of the last one. */
extern void refit_set_phase(RefitMigration *m, const char *phase);
/* What the worker shall do: see request.h.  NULL: nothing. */
extern void refit_set_request(RefitMigration *m, const char *request);
/* To phase cleanup, on the way to a final state. */
extern void refit_set_goal(RefitMigration *m, const char *goal);
/* Forgets all that the tries before have left in the row; now it is ours. */
extern void refit_reset_row(const RefitMigration *m);
/* Tells listeners how it stands. */
extern void refit_notify(const RefitMigration *m);

/*
 * Any other statement on the bookkeeping of this migration, a string literal as
 * for refit_sql.  $1 is the id, $2 to $4 are texts; it must name all of them.
 */
extern uint64 refit_update_row(const RefitMigration *m, const char *sql,
							   const char *a, const char *b, const char *c);

/* Has a control function asked for this? */
extern bool refit_is_requested(const RefitMigration *m, const char *request);
/* Is it in a state in which a process works it? */
extern bool refit_is_at_work(const RefitMigration *m);
/* Is it in a state that nothing follows by itself? */
extern bool refit_migration_is_over(const RefitMigration *m);

#endif /* REFIT_STATE_H */
