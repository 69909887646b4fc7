/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  One DDL statement of a user, under the polite lock.
 *
 * Strategy "ddl", phase "ddl": a statement that runs in a transaction.  One step
 * is one try: the locks, then the statement, then the state of the migration, in
 * one transaction, so that it is done exactly once.
 *
 * Strategy "command", phase "command": one that PostgreSQL runs in transactions
 * of its own.  A step looks what became of the last run, takes away what that has
 * left, and has the worker run it (command.h) if it is to be run.
 *
 * Both in phase cleanup: what a command that was given up has left.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DDL_H
#define REFIT_DDL_H

#include "refit.h"

#include "ddl/statement.h"

/*
 * What is wrong with the statement is said here, before anything is written.
 * With the rights of the present user.
 */
extern RefitStatement *refit_ddl_check(char *statement);

/* Chooses the strategy; why, for the event. */
extern char *refit_ddl_plan(RefitMigration *m);

/* The role that submitted the migration; an ERROR when it is gone. */
extern Oid refit_ddl_role(const RefitMigration *m);

/* Has the command of a migration got to its end: is it too late to cancel it? */
extern bool refit_ddl_is_done(const RefitMigration *m);

/* Steps. */
extern RefitOutcome refit_ddl_step(RefitMigration *m, RefitBudget *budget);
extern RefitOutcome refit_ddl_command_step(RefitMigration *m,
										   RefitBudget *budget);
extern RefitOutcome refit_ddl_cleanup(RefitMigration *m, RefitBudget *budget);

/*
 * The same for a command that does not stand in the definition as it is; see
 * index/concurrent.h.
 */
extern RefitOutcome refit_ddl_work_command(RefitMigration *m,
										   RefitBudget *budget,
										   RefitStatement *s);

#endif /* REFIT_DDL_H */
