/*-------------------------------------------------------------------------
 *
 * actions.h
 *	  The actions of a migration: what follows ALTER TABLE <name> in SQL.
 *
 * They are run twice.  On the private, empty twin, where they tell what they
 * do and whether they work at all; there they go straight to AlterTable(), so
 * that no event trigger of a user fires.  And once on the table itself, as the
 * command that the user wrote, event triggers included.
 *
 * Locks: the caller's, on the relation that is altered.
 * Rights: the caller has switched to the table's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_ACTIONS_H
#define REFIT_ACTIONS_H

#include "refit.h"

#include "nodes/parsenodes.h"

/*
 * Parses and checks a list of actions; an ERROR says what cannot be done.
 * The statement is in a form that can be copied and run.
 */
extern AlterTableStmt *refit_actions_parse(const char *actions);

/* The actions of a migration; NULL: it has none, being a repack. */
extern AlterTableStmt *refit_actions_of(const RefitMigration *m);

/* The parts of the actions that a twin, which has no foreign keys, can take. */
extern AlterTableStmt *refit_actions_for_twin(const AlterTableStmt *stmt,
											  Oid relid);

/* Runs actions on a work table that nobody else uses. */
extern void refit_actions_run_private(const AlterTableStmt *stmt, Oid relid,
									  const char *search_path);

/* Parses and runs actions of our own on a work table. */
extern void refit_actions_run_own(const char *actions, Oid relid);

/* Runs actions on the table itself, as the user's command. */
extern void refit_actions_run_public(const AlterTableStmt *stmt, Oid relid,
									 const char *actions,
									 const char *search_path);

/* The USING expression for a column, if its type is altered; NULL: none. */
extern bool refit_actions_alters_type(const AlterTableStmt *stmt,
									  const char *column, Node **using_expr);

/* Names of the constraints that the actions drop, as name[]. */
extern Datum refit_actions_dropped_constraints(const AlterTableStmt *stmt);

/*
 * Takes the constraints out of the actions that existing rows are to be checked
 * against, makes them NOT VALID and returns them as actions of their own.
 */
extern AlterTableStmt *refit_actions_split_constraints(AlterTableStmt *stmt);

#endif /* REFIT_ACTIONS_H */
