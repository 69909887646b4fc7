/*-------------------------------------------------------------------------
 *
 * submission.h
 *	  Entering a migration into the queue.
 *
 * What is submitted has been checked in api/: the caller's rights, and whatever
 * can be known of the table now.  It is planned when its turn comes.  A name
 * stands for one migration: the same submission under it is made once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SUBMISSION_H
#define REFIT_SUBMISSION_H

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

#endif /* REFIT_SUBMISSION_H */
