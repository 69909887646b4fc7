/*-------------------------------------------------------------------------
 *
 * control.h
 *	  Who may control a migration.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CONTROL_H
#define REFIT_CONTROL_H

#include "refit.h"

/* An ERROR for a migration that is not there. */
extern void refit_control_refuse_unknown(int64 id);
/* May the caller control this migration, and see what it says? */
extern bool refit_control_is_allowed(const RefitMigration *m);

#endif /* REFIT_CONTROL_H */
