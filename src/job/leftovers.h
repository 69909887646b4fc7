/*-------------------------------------------------------------------------
 *
 * leftovers.h
 *	  What migrations that are over, or whose rows are gone, have left behind.
 *
 * Every migration cleans up after itself before it is over.  Something is left
 * when that failed for long, when a schema was restored without its history, or
 * when another tool died.  What is ours is removed at the start of the server and
 * on demand; what is another tool's is shown and never touched.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_LEFTOVERS_H
#define REFIT_LEFTOVERS_H

#include "refit.h"

typedef struct RefitLeftover
{
	char *kind;	   /* work schema, capture trigger, constraint, index, … */
	char *object;  /* its name */
	char *table;   /* that it is on, or NULL */
	int64 id;	   /* of the migration, 0: not ours */
	char *made_by; /* the tool */
	char *what_to_do;
	Oid objid; /* InvalidOid: not ours to remove */
	Oid relid; /* the table's, which is to be locked first, or InvalidOid */
} RefitLeftover;

/* What that role may see: its own, and all to those who read all statistics. */
extern List *refit_leftovers_list(Oid role);

/*
 * Removes one, in the caller's transaction; what lies on a table under the polite
 * lock.  False: the lock is not to be had now, or it is none any more.
 */
extern bool refit_leftovers_remove(const RefitLeftover *leftover);

/* May that role remove it? */
extern bool refit_leftovers_may_remove(const RefitLeftover *leftover, Oid role);

#endif /* REFIT_LEFTOVERS_H */
