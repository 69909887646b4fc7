/*-------------------------------------------------------------------------
 *
 * incremental.h
 *	  Building an index chunk by chunk, beside the application.
 *
 * Begin
 *	  In one short transaction, under a SHARE lock taken politely: the catalog
 *	  rows, marked ready and not valid, an empty index, and the baseline.  SHARE
 *	  keeps writers out, and a writer keeps its lock to its end, so when it is
 *	  granted no transaction has an open write on the table.  From the commit on
 *	  every writer maintains the index, and no update of a column of it is a HOT
 *	  one.  The baseline (see baseline.h) therefore parts row versions in those
 *	  that their writer has not indexed and those that it has, also when it began,
 *	  or took its xid, before.
 *
 * Insert
 *	  The table is walked by blocks, a chunk a transaction, with its own snapshot.
 *	  An index has one entry for a HOT chain: the TID of its root, with the key
 *	  that all versions have which anybody can see.  So for each version that the
 *	  snapshot sees it is asked who wrote the chain's root:
 *	  - the version is from before the baseline: so is its root.  Insert;
 *	  - it is from after it, and is the root: its writer has indexed it;
 *	  - it is from after it, and its root is there: by the age of the root;
 *	  - the root was pruned away, or its age cannot be told (frozen since, or a
 *		subtransaction that the baseline has no room for): look first.
 *	  A page that was last written before the begin has old versions only.  Blocks
 *	  behind the end of the table at the begin have new ones only.
 *	  Nothing is missed: a version that any later snapshot sees, and that its
 *	  writer has not indexed, is one that was there at the begin and that the
 *	  chunk's snapshot sees too, or a successor in its chain.
 *	  Nothing comes twice: a chain is in one block, and each block is done once.
 *	  No TID changes hands within a chunk: its snapshot keeps the versions that it
 *	  has collected from being removed.
 *
 * Chains that are broken
 *	  Versions from before the begin may be in one chain and differ in a column of
 *	  the index.  The chain is indexed by the version that the chunk sees.  Older
 *	  ones are for older snapshots, which are waited for before the index is valid.
 *
 * An aborted chunk
 *	  Its entries stay; they point to what they should.  It is done again, and what
 *	  is there is looked for first: always in a btree, where it costs nothing.  For
 *	  other access methods each chunk says how far the next one may go (reach), so
 *	  that after a death it is known which blocks may have entries (looking_to).
 *	  That holds for a crash too: the WAL that survives it is a prefix, so the
 *	  entries of a chunk are there only if the chunk before was committed.
 *
 * Settle
 *	  What a chunk could not decide: see entries.h.  For an index that can only be
 *	  looked through as a whole, VACUUM is kept out meanwhile, so that no TID
 *	  changes hands.
 *
 * Publish
 *	  Waits, holding nothing, until each transaction is over that has a snapshot
 *	  older than the last chunk; then marks the index valid, or gives its storage
 *	  to the index that is rebuilt (exchange.h).
 *
 * Other commands: VACUUM FULL, CLUSTER, TRUNCATE and REINDEX build all indexes of
 * a table anew, ours too, and mark it valid; the walk ends.  A unique one they
 * leave invalid: the walk begins again, looking.  DROP and ALTER TABLE that take
 * the index away make the migration fail.
 *
 * Who waits: writers for the lock budget at most, at the begin; readers only for
 * the exchange of a rebuild, and to drop the index.  A chunk holds ACCESS SHARE.
 * Snapshots: for a chunk.
 * Rights: expressions and predicates run as the table's owner, restricted.
 *
 * If the process dies: a transaction is undone.  Cancelling drops the index.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_INCREMENTAL_H
#define REFIT_INCREMENTAL_H

#include "refit.h"

/* Phase begin: one table's index, or the next partition's. */
extern RefitOutcome refit_index_begin(RefitMigration *m, RefitBudget *budget);
/* Phase insert: one chunk. */
extern RefitOutcome refit_index_insert(RefitMigration *m, RefitBudget *budget);
/* Phase publish: one try. */
extern RefitOutcome refit_index_publish(RefitMigration *m, RefitBudget *budget);
/* Phase cleanup: of a migration that is given up, drops what it has made. */
extern RefitOutcome refit_index_cleanup(RefitMigration *m, RefitBudget *budget);
/* Phase drop, of refit.drop_index: one try. */
extern RefitOutcome refit_index_drop_step(RefitMigration *m,
										  RefitBudget *budget);

#endif /* REFIT_INCREMENTAL_H */
