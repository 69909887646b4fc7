/*-------------------------------------------------------------------------
 *
 * cutover.h
 *	  Phase cutover: swap – alter – swap.
 *
 * Locks: ACCESS EXCLUSIVE on the table, its indexes and TOAST table, on views
 * and on the other side of foreign keys over retyped columns, taken politely,
 * for some milliseconds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CUTOVER_H
#define REFIT_CUTOVER_H

#include "refit.h"

/* One try.  REFIT_RETURN to phase catchup when the locks were not to be had. */
extern RefitOutcome refit_cutover_step(RefitMigration *m, RefitBudget *budget);

/*
 * How long the last cutover of this process held its locks, to the end of its
 * commit; negative when there was none.
 */
extern double refit_cutover_take_lock_ms(void);

#endif /* REFIT_CUTOVER_H */
