/*-------------------------------------------------------------------------
 *
 * baseline.h
 *	  The snapshot that parts row versions in those from before and after.
 *
 * It is taken while a lock is held that keeps writers of a table out, and is
 * stored whole.  A writer keeps its lock to its end, so at that moment no
 * transaction has an open write on the table; what capture.h and incremental.h
 * make of that stands there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_BASELINE_H
#define REFIT_BASELINE_H

#include "refit.h"

/* What a baseline says of a transaction. */
typedef enum RefitAge
{
	REFIT_BEFORE_CAPTURE,
	REFIT_AFTER_CAPTURE,
	REFIT_AMBIGUOUS
} RefitAge;

/* Takes it, now. */
extern void refit_baseline_take(RefitBaseline *baseline);
/* When was this xid's work done?  The test of XidInMVCCSnapshot. */
extern RefitAge refit_baseline_age(const RefitBaseline *baseline,
								   TransactionId xid);
/*
 * The same for the inserter of a row version, which may be frozen: then its xid
 * can be of any age, and is of no use between the baseline's xmin and next_xid.
 */
extern RefitAge refit_baseline_version_age(const RefitBaseline *baseline,
										   TransactionId xmin, bool is_frozen,
										   TransactionId next_xid);

/* As text, xmin xmax overflowed n xid …, and back. */
extern char *refit_baseline_print(const RefitBaseline *baseline);
extern void refit_baseline_parse(RefitBaseline *baseline, char *text);

#endif /* REFIT_BASELINE_H */
