/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  Arguments of SQL functions that submit work.
 *
 * n counts arguments from 0.  What is wrong with one is an ERROR.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_ARGUMENTS_H
#define REFIT_ARGUMENTS_H

#include "postgres.h"

#include "fmgr.h"

/* A text, or NULL. */
extern char *refit_text_arg(FunctionCallInfo fcinfo, int n);
/* The name of a migration, or NULL. */
extern char *refit_name_arg(FunctionCallInfo fcinfo, int n);
/* One of a few words; the list ends with NULL. */
extern char *refit_word_arg(FunctionCallInfo fcinfo, int n, const char *name,
							const char *const *words);
/* The relation, which is the first argument. */
extern Oid refit_relation_arg(FunctionCallInfo fcinfo);

#endif /* REFIT_ARGUMENTS_H */
