/*-------------------------------------------------------------------------
 *
 * alter.h
 *	  Phases alter and settle: the user's ALTER TABLE where no row is written
 *	  anew, under a polite lock.
 *
 * Locks: ACCESS EXCLUSIVE on the table and what refit_dependents_locks names,
 * for milliseconds, since nothing is scanned: constraints are added NOT VALID,
 * and SET NOT NULL waits until a CHECK has proven it.
 * If the process dies: it is one transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_ALTER_H
#define REFIT_ALTER_H

#include "refit.h"

extern RefitOutcome refit_alter_step(RefitMigration *m, RefitBudget *budget);
/* After the rows are checked: SET NOT NULL, VALIDATE CONSTRAINT. */
extern RefitOutcome refit_alter_settle(RefitMigration *m, RefitBudget *budget);

#endif /* REFIT_ALTER_H */
