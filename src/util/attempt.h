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

/*
 * Within PG_CATCH of a background worker: ends the transaction that failed.  Its
 * error, in the given context, which outlives it.
 */
extern ErrorData *refit_abort_transaction(MemoryContext context);

#endif /* REFIT_ATTEMPT_H */
