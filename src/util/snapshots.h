/*-------------------------------------------------------------------------
 *
 * snapshots.h
 *	  Transactions of others that have a snapshot.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SNAPSHOTS_H
#define REFIT_SNAPSHOTS_H

#include "postgres.h"

#include "nodes/pg_list.h"

/*
 * Those in this database whose snapshot may be older than the xid limit (an
 * invalid one: all), but for those with one of the status flags, as pg_locks
 * writes them in its column virtualxid.
 */
extern List *refit_snapshots_older(TransactionId limit, int without_flags);

#endif /* REFIT_SNAPSHOTS_H */
