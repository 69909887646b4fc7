/*-------------------------------------------------------------------------
 *
 * blockers.h
 *	  Sessions that stay in the way of a polite lock, ended if that is asked for.
 *
 * Without an option nobody is: the migration comes back for its lock for ever.
 *
 * cancel_blockers_after: once the tries for a lock have failed for so long, each
 * further one that fails has the statements cancelled of those it failed for:
 * the old transactions because of which it did not queue, or those who outlasted
 * its time in the queue.  Who is idle in a transaction has no statement; it is
 * said that he is in the way.
 *
 * cancel_idle_in_transaction_after: who is in the way and has been idle in his
 * transaction for so long is terminated, whenever a try has failed.
 *
 * Only sessions of clients, and only those whom the role that the migration
 * works for may signal by PostgreSQL's own rules.  So autovacuum, whatever for,
 * workers of ours, and a session that works a migration by refit.run, are never
 * touched.  A prepared transaction has no session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_BLOCKERS_H
#define REFIT_BLOCKERS_H

#include "refit.h"

/*
 * After a step: looks at its last try for locks, with the rights of the role.
 * Each session that is ended, or left although the option asks for it, is told
 * of in one event, and in the server's log.
 */
extern void refit_blockers_end(const RefitMigration *m, Oid role);

#endif /* REFIT_BLOCKERS_H */
