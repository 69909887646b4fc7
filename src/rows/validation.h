/*-------------------------------------------------------------------------
 *
 * validation.h
 *	  Kind validate_constraint: what VALIDATE CONSTRAINT does, in chunks.
 *
 * All it takes is to owe the constraint to phase validate; see constraint.h for
 * locks, snapshots, rights and what a death leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_VALIDATION_H
#define REFIT_VALIDATION_H

#include "refit.h"

/*
 * An ERROR unless the table has a constraint of that name that rows can be held
 * to.  Is it valid already?
 */
extern bool refit_validation_check(Oid relid, const char *constraint);

/* Phase plan: owes the constraint.  What is to be said of it. */
extern char *refit_validation_plan(RefitMigration *m);

#endif /* REFIT_VALIDATION_H */
