/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  How an index will be built, rebuilt or dropped.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_INDEX_PLAN_H
#define REFIT_INDEX_PLAN_H

#include "refit.h"

/* Is this create_index, rebuild_index or drop_index? */
extern bool refit_index_is_kind(const char *kind);

/* The access method of an index, or InvalidOid where there is none any more. */
extern Oid refit_index_access_method(Oid index);

/*
 * An ERROR unless an index like this can be made by the method, on a table that is
 * the caller's; or unless that index can be rebuilt by it, or dropped.
 */
extern void refit_index_check_create(Oid relid, const char *definition,
									 const char *method,
									 const char *search_path);
extern void refit_index_check_rebuild(Oid index, const char *method);
extern void refit_index_check_drop(Oid index);

/* An ERROR unless option check can be done on indexes of this access method. */
extern void refit_index_check_amcheck(Oid access_method);

/* Phase plan: sets the strategy and writes down what is to be built; why. */
extern char *refit_index_plan(RefitMigration *m);

#endif /* REFIT_INDEX_PLAN_H */
