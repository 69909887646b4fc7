/*-------------------------------------------------------------------------
 *
 * history.h
 *	  How long it is known what has happened: refit.history_retention.
 *
 * Events go when they are older than that.  So do migrations that ended so long
 * ago, but not one that is completed and has a name: it is what refit.require()
 * asks for, and what a submission under that name finds, so a deploy that is run
 * again years later neither fails nor does it all once more.  One that has not
 * ended keeps all its events, and one whose work tables could not be removed its
 * row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_HISTORY_H
#define REFIT_HISTORY_H

#include "refit.h"

/*
 * Removes some of what is too old, in the caller's transaction, which does nothing
 * else.  True: there may be more.  False, too, when another process is at it.
 */
extern bool refit_history_purge_some(void);

#endif /* REFIT_HISTORY_H */
