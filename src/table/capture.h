/*-------------------------------------------------------------------------
 *
 * capture.h
 *	  Recording which rows change while a rewrite is under way.
 *
 * Two triggers on the table, both ENABLE ALWAYS and named to fire last, write
 * the key of every row inserted, updated or deleted, and a mark for TRUNCATE,
 * to a log.  "This key is dirty" says only: look at the row's present state;
 * so entries may come in any order and more than once.
 *
 * The baseline
 *	  Capture is installed in a transaction of its own.  When its SHARE ROW
 *	  EXCLUSIVE lock is granted no transaction has an open write on the table,
 *	  since a writer keeps its lock to its end.  A snapshot taken at that moment
 *	  therefore parts all row versions in two:
 *	  - their xid is finished in it: written before capture was there;
 *	  - in progress in it or later: written by a transaction that got its lock
 *		after the triggers were committed, so the key is in the log.  That holds
 *		for transactions that began, and even took their xid, before.
 *	  Where subtransactions of a running transaction are missing from the
 *	  snapshot the xids between its bounds cannot be told; they are ambiguous
 *	  and treated as dirty, which is always safe.
 *
 * The logs
 *	  Two of them, so that one can be emptied.  A writer takes the first one
 *	  unless it has grown past a size; both are read.  An entry is deleted by
 *	  the transaction that applies it.  A log whose entries are all gone, and
 *	  that no open transaction has written to (its lock says so), is truncated,
 *	  whatever old snapshots there are, since nobody reads it but us.
 *
 * Who waits: writers, for the lock budget at most, when capture is installed;
 * for one ftruncate when a log is emptied.
 *
 * If the process dies: before commit there is no capture; after it the
 * triggers go on logging until the migration goes on or is cancelled.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CAPTURE_H
#define REFIT_CAPTURE_H

#include "refit.h"

#include "executor/tuptable.h"
#include "utils/rel.h"

/*
 * Makes an empty log in the work schema for keys of source, which are the
 * columns of that index, be it its own or that of a table with the same ones.
 */
extern Oid refit_capture_create_log(Relation source, Oid schema, Oid key_index,
									int number);

/* Phase capture: one try.  Fills m->rewrite. */
extern RefitOutcome refit_capture_install(RefitMigration *m,
										  RefitBudget *budget);
/* Makes the triggers; the caller holds a lock that keeps writers out. */
extern void refit_capture_arm(RefitMigration *m);
/* Are the triggers as they were installed?  An ERROR if not. */
extern void refit_capture_check(const RefitMigration *m);
/* Drops the triggers; the caller holds ACCESS EXCLUSIVE.  None: no error. */
extern void refit_capture_remove(const RefitMigration *m);
/* Is any of the triggers there? */
extern bool refit_capture_is_there(const RefitMigration *m);

/* Marks the key of a row of the table dirty; log is open for writing. */
extern void refit_capture_mark_dirty(Relation log, TupleTableSlot *row,
									 int nkeys, const AttrNumber *attnums);

/* The same for a key by itself. */
extern void refit_capture_mark_key(Relation log, const Datum *key);

/* Entries in the logs of all leaves; roughly, when there are very many. */
extern int64 refit_capture_pending(const RefitMigration *m);
/* Are the leaf's logs empty to the last block? */
extern bool refit_capture_is_idle(const RefitMigration *m);
/* Empties logs that can be emptied.  In a transaction that applied nothing. */
extern void refit_capture_recycle(const RefitMigration *m);

#endif /* REFIT_CAPTURE_H */
