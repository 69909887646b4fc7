/*-------------------------------------------------------------------------
 *
 * holders.h
 *	  Who is in the way of a lock, and who queues behind it.
 *
 * Sessions are read from pg_locks and pg_stat_activity, which no lock of ours
 * protects: what is told is how it was a moment ago.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_HOLDERS_H
#define REFIT_HOLDERS_H

#include "refit.h"

#include "util/polite_lock.h"

/* A transaction that is older will not end within our lock budget. */
#define REFIT_SLOW_HOLDER_MS 1000

/* Who holds locks that are in our way. */
typedef struct RefitHolders
{
	char *text; /* the one most in the way: pid, query, age: for people */
	Oid relid;	/* that he holds */
	bool slow;	/* he will not go within the lock budget */
	char *all;	/* the first of them as a JSON array */
} RefitHolders;

/* Those in the way of the locks, or NULL: nobody is. */
extern RefitHolders *refit_holders_of(const RefitMigration *m,
									  const List *locks);

/*
 * Those who wait for one of the relations behind this session, with the time
 * they have waited, as a JSON array; NULL: nobody does.
 */
extern char *refit_holders_behind(const List *locks);

/* The locks as a JSON array of relations and modes. */
extern char *refit_holders_locks(const List *locks);

#endif /* REFIT_HOLDERS_H */
