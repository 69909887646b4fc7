/*-------------------------------------------------------------------------
 *
 * migration.h
 *	  The state machine: the only writer of a migration's state and phase.
 *
 * Whoever works a migration holds its claim, a session-level lock that goes
 * away with the process.  State is changed by the holder of the claim or, when
 * nobody holds it, by a control function that takes it for its transaction; a
 * control function that finds the claim taken leaves a request instead and
 * wakes the worker at commit.
 *
 * State diagram, locks and what a crash leaves at each edge: docs/design.md.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_MIGRATION_H
#define REFIT_MIGRATION_H

#include "refit.h"

/* What is needed to enter a migration into the queue. */
typedef struct RefitSubmission
{
	const char *name; /* NULL: none */
	const char *kind;
	Oid relid;
	const char *definition;
	Oid object;				  /* the index that it is about, or InvalidOid */
	const char *method;		  /* of an index; NULL: of none */
	const char *set_clause;	  /* of a pass over rows */
	const char *where_clause; /* NULL: every row */
	const char *cutover;
	const char *verify;
	Interval *revertible;
	Jsonb *options;
} RefitSubmission;

/*
 * The id of the same submission made before under the same name, or 0; an ERROR
 * when the name stands for something else.
 */
extern int64 refit_migration_find(const RefitSubmission *submission);

/* Enters a migration and starts a worker at commit.  Returns its id. */
extern int64 refit_migration_submit(const RefitSubmission *submission);

/*
 * Does one unit of work of a migration whose claim the caller holds, in the
 * caller's transaction.  Returns the rest to take before the next one in ms,
 * or -1 when this process is done with it.  An ERROR leaves the row untouched;
 * report it with refit_migration_failed in a new transaction, which returns
 * the same as a step.
 */
extern int refit_migration_step(int64 id);
extern int refit_migration_failed(int64 id, const ErrorData *edata);

/*
 * Does a chunk of a pass over rows for whoever has its claim.  Returns the rest to
 * take, or -1: there is no part to work, or nobody leads.  An ERROR is for the
 * leader to meet too; here it is undone and no more.
 */
extern int refit_migration_help(int64 id);

/* Is it in a state that nothing follows by itself? */
extern bool refit_migration_is_over(const RefitMigration *m);

/* Claims.  refit_migration_claim does not wait. */
extern bool refit_migration_claim(int64 id, bool for_session);
extern void refit_migration_release(int64 id);

/* Control; each returns the state after it.  Rights are the caller's duty. */
extern char *refit_migration_pause(int64 id);
extern char *refit_migration_resume(int64 id);
extern char *refit_migration_cancel(int64 id);
extern char *refit_migration_retry(int64 id);
extern char *refit_migration_cutover(int64 id);
extern char *refit_migration_revert(int64 id);
extern char *refit_migration_finish(int64 id);

/* Ids of migrations of this database that a worker could be started for. */
extern List *refit_migration_startable(void);

#endif /* REFIT_MIGRATION_H */
