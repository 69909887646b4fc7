/*-------------------------------------------------------------------------
 *
 * request.h
 *	  What is asked of a migration, and when it may be.
 *
 * Where nobody has the claim, what is asked for is done at once: the state is
 * changed, or the row prepared for the worker that is started at commit.  Where
 * somebody has it, a request is left in the row, and he is woken at commit; he
 * obeys it after his step (migration.c).  A later request takes the place of
 * one that is not obeyed yet.
 *
 * What cannot be asked for in the present state is an ERROR that says why.
 * Whether the caller has the right to ask is decided in api/.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_REQUEST_H
#define REFIT_REQUEST_H

#include "refit.h"

/* Each returns the state after it. */
extern char *refit_migration_pause(int64 id);
extern char *refit_migration_resume(int64 id);
extern char *refit_migration_cancel(int64 id);
extern char *refit_migration_retry(int64 id);
extern char *refit_migration_cutover(int64 id);
extern char *refit_migration_revert(int64 id);
extern char *refit_migration_finish(int64 id);

#endif /* REFIT_REQUEST_H */
