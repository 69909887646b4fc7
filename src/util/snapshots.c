/*-------------------------------------------------------------------------
 *
 * snapshots.c
 *	  Transactions of others that have a snapshot.
 *
 * See snapshots.h.  Locks: ProcArrayLock, shared, for the look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lock.h"
#include "storage/procarray.h"

#include "compat.h"
#include "util/snapshots.h"

/* Transactions with a snapshot that may be older than that xid. */
List *
refit_snapshots_older(TransactionId limit, int without_flags)
{
	int n;
	VirtualTransactionId *vxids =
		GetCurrentVirtualXIDs(limit, true, false, without_flags, &n);
	List *result = NIL;

	for (int i = 0; i < n; i++)
		result = lappend(result,
						 psprintf("%d/%u", (int) refit_vxid_backend(vxids[i]),
								  vxids[i].localTransactionId));
	pfree(vxids);
	return result;
}
