/*-------------------------------------------------------------------------
 *
 * catalog.h
 *	  Rows of the bookkeeping tables as structs, and back.
 *
 * All statements run as the bootstrap superuser with an empty search_path,
 * name nothing but our own tables and evaluate no expression of a user.
 * Callers may be anybody: whether they have the right to ask is decided in
 * api/ before they come here.  Nothing here writes state, phase, goal or
 * request: see job/state.h.
 *
 * Strings returned live in the caller's memory context.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CATALOG_H
#define REFIT_CATALOG_H

#include "refit.h"

/* NULL when there is no such migration. */
extern RefitMigration *refit_catalog_load(int64 id);
extern void refit_catalog_save_progress(const RefitMigration *m);
extern void refit_catalog_save_rewrite(const RefitMigration *m);
/* Sums up what its rewrites have verified, in its row and for progress. */
extern void refit_catalog_save_verified(RefitMigration *m);
extern void refit_catalog_delete_rewrite(const RefitMigration *m);
/* Is the migration on its way to cancelled or failed? */
extern bool refit_catalog_is_given_up(const RefitMigration *m);

/*
 * The tables whose rows a rewrite works, as a list of RefitLeaf: the table
 * itself, or the leaves of its partition tree; and the partitioned tables above
 * those.  Steps work on m->leaf with m->rewrite.
 */
extern List *refit_catalog_leaves(const RefitMigration *m);
extern List *refit_catalog_parents(const RefitMigration *m);
extern void refit_catalog_use_leaf(RefitMigration *m, const RefitLeaf *leaf);
/* By number, from 1; false: there is none. */
extern bool refit_catalog_select_leaf(RefitMigration *m, int number);
/*
 * Take the row of a leaf to copy until the end of the transaction: one by its
 * number, one that the leader (0) or a helper, by its pid, has begun.  False:
 * somebody has it, or there is none.
 */
extern bool refit_catalog_lock_leaf(RefitMigration *m, int number);
extern bool refit_catalog_lock_begun(RefitMigration *m, int pid);
/* The twin of m->relid. */
extern Oid refit_catalog_root_twin(const RefitMigration *m);
/* Brings the counters of the copy up to date, over all leaves. */
extern void refit_catalog_sum_copied(RefitMigration *m);
/* kind is a word, message a sentence, detail JSON text or NULL. */
extern void refit_catalog_event(const RefitMigration *m, const char *kind,
								const char *message, const char *detail);
/* The tries for locks of this step; the last 1000 of a migration are kept. */
extern void refit_catalog_save_lock_tries(const RefitMigration *m);
/* The option's text, or NULL where the migration does not set it. */
extern char *refit_catalog_option(const RefitMigration *m, const char *key);
/* A duration in ms: the option, else the default. */
extern int refit_catalog_option_ms(const RefitMigration *m, const char *key,
								   int default_ms);

#endif /* REFIT_CATALOG_H */
