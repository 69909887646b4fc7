/*-------------------------------------------------------------------------
 *
 * dependents.h
 *	  What hangs on the columns that the actions change: views, foreign keys,
 *	  sequences.
 *
 * Views on a retyped column keep their oid, and with it grants, comments,
 * triggers and what depends on them: their rule is unhooked from the column,
 * and after the ALTER the stored query is made anew from its text.
 *
 * Foreign keys on a retyped column, in either direction, become NOT VALID
 * before the ALTER, because on the empty table PostgreSQL would call them
 * valid, or violated, without a look at the rows; they are owed a validation.
 *
 * All of this is about a table and its partitions alike.
 *
 * Locks: refit_dependents_locks says which; the caller holds them.
 * Rights: the text of a view is parsed as its owner, whose functions that can
 * run; the result is stored as superuser, which runs none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DEPENDENTS_H
#define REFIT_DEPENDENTS_H

#include "refit.h"

#include "nodes/parsenodes.h"

/* A view to be redefined. */
typedef struct RefitView
{
	Oid relid;
	char *query;
} RefitView;

/* Foreign keys at one time, as texts of an oid[] and, the root's, a name[]. */
typedef struct RefitForeignKeys
{
	char *oids;
	char *names;
} RefitForeignKeys;

/*
 * An ERROR when something depends on the columns that cannot be carried.  twins:
 * of RefitTwin, on which the actions have run.
 */
extern void refit_dependents_check(Oid relid, const AlterTableStmt *stmt,
								   const List *twins);
/* Relations to lock beside the table, for the cutover: list of RefitLock. */
extern List *refit_dependents_locks(Oid relid, const AlterTableStmt *stmt);

/* Before the ALTER: unhooks views; returns them, the nearest first. */
extern List *refit_dependents_detach_views(Oid relid,
										   const AlterTableStmt *stmt);
/* After it: makes them anew. */
extern void refit_dependents_attach_views(List *views);

/* Before the ALTER: foreign keys on retyped columns become NOT VALID. */
extern void refit_dependents_suspend_foreign_keys(const RefitMigration *m,
												  const AlterTableStmt *stmt);
/* What foreign keys the tables have that the actions reach. */
extern RefitForeignKeys *
refit_dependents_foreign_keys(Oid relid, const AlterTableStmt *stmt);
/* After the ALTER: foreign keys that are not among them become NOT VALID. */
extern void refit_dependents_owe_new_foreign_keys(
	const RefitMigration *m, const AlterTableStmt *stmt,
	const RefitForeignKeys *known);

/*
 * Owned integer sequences get the type of their column where it has grown; and
 * sequences that the ALTER has made go on where the twin's have come to.
 */
extern void refit_dependents_adjust_sequences(Oid relid, Oid twin,
											  const AlterTableStmt *stmt);

#endif /* REFIT_DEPENDENTS_H */
