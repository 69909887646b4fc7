/*-------------------------------------------------------------------------
 *
 * options.h
 *	  The options of a migration, as they come from SQL.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_OPTIONS_H
#define REFIT_OPTIONS_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"

/* The jsonb argument n, checked; an ERROR for an unknown key or bad value. */
extern Jsonb *refit_options_check(FunctionCallInfo fcinfo, int n);
/* Checks one option's value. */
extern void refit_options_check_value(const char *key, const char *value);

#endif /* REFIT_OPTIONS_H */
