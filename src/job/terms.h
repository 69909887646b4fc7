/*-------------------------------------------------------------------------
 *
 * terms.h
 *	  When a migration may do what: its options deadline and cutover_window.
 *
 * A time that says no zone is one of the session that submitted the migration.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_TERMS_H
#define REFIT_TERMS_H

#include "refit.h"

/* Are the texts what the options may be? */
extern bool refit_terms_is_deadline(const char *text);
extern bool refit_terms_is_window(const char *text);

/*
 * An ERROR when the deadline has passed.  A duration of refit.ddl is its own.
 */
extern void refit_terms_check_deadline(const RefitMigration *m);

/* May the new definition be put in place at this time of the day? */
extern bool refit_terms_window_is_open(const RefitMigration *m);

#endif /* REFIT_TERMS_H */
