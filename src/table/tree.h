/*-------------------------------------------------------------------------
 *
 * tree.h
 *	  The tables of a tree, and the tree of their twins.
 *
 * A migration of a partitioned table is one of the whole tree.  Each leaf, a
 * partition with rows, is worked like a table of its own: capture, copy,
 * indexes, catch-up, one leaf after the other.  What the actions do to a leaf
 * only PostgreSQL knows, which runs them on the table above and hands them
 * down; so the twins are a partition tree too, with the same bounds, and the
 * actions are run on its root.
 *
 * Of plain tables those that inherit are part of a migration if its actions are
 * handed down to them: see inherit.h.  Each member has rows, those above too.
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

#include "nodes/parsenodes.h"

/* A table of the tree and its private copy. */
typedef struct RefitTwin
{
	Oid source;
	Oid twin;
	bool is_leaf;
	char *fingerprint; /* taken before the twin was made */
	char *look;		   /* of one that inherits or is inherited from */
} RefitTwin;

/* The topmost table of the tree that a table is in; itself for a plain one. */
extern Oid refit_tree_root(Oid relid);
/*
 * The table and its partitions, at all levels, parents first; of a plain table
 * also those that inherit from it, if the actions, NULL for none, reach them.
 */
extern List *refit_tree_reach(Oid relid, const AlterTableStmt *stmt);
/* The same without actions. */
extern List *refit_tree_members(Oid relid);
/* The first as an oid[], for a query. */
extern Datum refit_tree_reach_array(Oid relid, const AlterTableStmt *stmt);
/* ACCESS EXCLUSIVE on all of them: a list of RefitLock. */
extern List *refit_tree_locks(Oid relid, const AlterTableStmt *stmt);
/* What members of the tree are called: "partition", "table". */
extern const char *refit_tree_word(Oid relid);
/* What all tables that could overlap have in common, to queue by. */
extern Oid refit_tree_queue(Oid relid);

/*
 * Makes the twins of all that the actions reach in the work schema: a list of
 * RefitTwin, the root first.
 */
extern List *refit_tree_create_twins(Oid relid, Oid schema,
									 const AlterTableStmt *stmt);

/*
 * An ERROR when partitions, or tables that inherit, have come or gone since the
 * migration was prepared; there is no twin for one that has come.
 */
extern void refit_tree_check(const RefitMigration *m);
/* The same when a table without a leaf is not what the plan was made for. */
extern void refit_tree_check_parents(RefitMigration *m);

#endif /* REFIT_TREE_H */
