/*-------------------------------------------------------------------------
 *
 * attempt.h
 *	  Doing something in a subtransaction, and going on if it fails.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_ATTEMPT_H
#define REFIT_ATTEMPT_H

#include "postgres.h"

/*
 * Runs a function.  NULL: it has succeeded, and what it did stays if keep is
 * true.  Otherwise the error, in the caller's context; what it did is undone.
 */
extern ErrorData *refit_attempt(void (*function)(void *), void *arg, bool keep);

#endif /* REFIT_ATTEMPT_H */
