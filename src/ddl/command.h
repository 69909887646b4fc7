/*-------------------------------------------------------------------------
 *
 * command.h
 *	  Commands that PostgreSQL runs in transactions of its own, such as CREATE
 *	  INDEX CONCURRENTLY: run by a worker between two steps.
 *
 * A step cannot run one, being a transaction.  It asks for it, in the transaction
 * that records that the command begins; when that has committed the worker runs
 * the command with nothing around it, as if whoever submitted it had typed it.
 * What became of it the next step reads from the catalogs, since the process may
 * have died in between.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DDL_COMMAND_H
#define REFIT_DDL_COMMAND_H

#include "refit.h"

/* A command to be run. */
typedef struct RefitCommand
{
	int64 id; /* of the migration */
	Node *node;
	char *text; /* to be shown in pg_stat_activity */
	Oid role;	/* with whose rights */
	char *search_path;
	List *tables;	/* to be locked, SHARE UPDATE EXCLUSIVE, until its end */
	bool may_wait;	/* its locks stop nobody: no lock_timeout */
	char *memory;	/* maintenance_work_mem, or NULL */
	char *workers;	/* max_parallel_maintenance_workers, or NULL */
	List *settings; /* names and values in turn, of the submitter */
} RefitCommand;

/* Can this process run one?  A worker says so of itself. */
extern void refit_command_enable(void);
extern bool refit_command_is_possible(void);

/* Has one run when this transaction has committed.  Copies what it is given. */
extern void refit_command_request(const RefitCommand *command);

/* Is there one to be run?  Whoever aborts a transaction forgets it. */
extern bool refit_command_is_pending(void);
extern void refit_command_forget(void);

/*
 * Runs it, outside of any transaction.  NULL, or the error that ended it, in the
 * given context.
 */
extern ErrorData *refit_command_run(MemoryContext context);

/* Has this process seen that migration's last command return? */
extern bool refit_command_returned(int64 id);
/* Or end, with an error perhaps? */
extern bool refit_command_came_back(int64 id);

#endif /* REFIT_DDL_COMMAND_H */
