/*-------------------------------------------------------------------------
 *
 * tree.h
 *	  The tables of a partition tree, and the tree of their twins.
 *
 * A migration of a partitioned table is one of the whole tree.  Each leaf, a
 * partition with rows, is worked like a table of its own: capture, copy,
 * indexes, catch-up, one leaf after the other.  What the actions do to a leaf
 * only PostgreSQL knows, which runs them on the table above and hands them
 * down; so the twins are a partition tree too, with the same bounds, and the
 * actions are run on its root.
 *
 * For a plain table all of this is a tree of one member.
 *
 * Locks: ACCESS SHARE on each table for refit_tree_create_twins, none else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_TREE_H
#define REFIT_TREE_H

#include "refit.h"

/* A table of the tree and its private copy. */
typedef struct RefitTwin
{
	Oid source;
	Oid twin;
	bool is_leaf;
	char *fingerprint; /* taken before the twin was made */
} RefitTwin;

/* The topmost table of the tree that a table is in; itself for a plain one. */
extern Oid refit_tree_root(Oid relid);
/* The table and all that is below it, parents before their partitions. */
extern List *refit_tree_members(Oid relid);
/* Those as an oid[], for a query. */
extern Datum refit_tree_members_array(Oid relid);
/* ACCESS EXCLUSIVE on all of them: a list of RefitLock. */
extern List *refit_tree_locks(Oid relid);

/* Makes the twins in the work schema: a list of RefitTwin, the root first. */
extern List *refit_tree_create_twins(Oid relid, Oid schema);

/*
 * An ERROR when partitions have come or gone since the migration was prepared;
 * there is no twin for one that has come.
 */
extern void refit_tree_check(const RefitMigration *m);
/* An ERROR when a partitioned table is not what the plan was made for. */
extern void refit_tree_check_parents(RefitMigration *m);

#endif /* REFIT_TREE_H */
