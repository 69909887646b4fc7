/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  One DDL statement of a user: what it is, on which relations, under which
 *	  locks.
 *
 * The relations whose names stand in the statement, and those that PostgreSQL is
 * known to lock with them, are looked up beforehand, so that they can be locked
 * politely.  What is not known here PostgreSQL asks for itself, with a
 * lock_timeout.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DDL_STATEMENT_H
#define REFIT_DDL_STATEMENT_H

#include "refit.h"

#include "nodes/parsenodes.h"

/* A statement, its names looked up under the present search_path and rights. */
typedef struct RefitStatement
{
	Node *node;
	const char *tag; /* ALTER TABLE, … */
	bool top_level;	 /* it runs in transactions of its own */
	Oid relid;		 /* the relation that it is about, or InvalidOid */
	List *locks;	 /* to take before it, of RefitLock */
} RefitStatement;

/*
 * Parses a text that must be one statement of a kind that refit.ddl() runs; an
 * ERROR otherwise.
 */
extern RefitStatement *refit_statement_parse(char *sql);

/*
 * Looks up the relations.  With the rights and search_path of whoever wrote it.
 * An ERROR when the main one does not exist, is temporary, or is not his.
 */
extern void refit_statement_resolve(RefitStatement *s);

/* Would a lock of the statement stop writers, or readers? */
extern bool refit_statement_stops_clients(const RefitStatement *s);

/* Is this among the options of a command in parentheses, and not switched off? */
extern bool refit_statement_has_option(const List *options, const char *name);

/* The partition that ALTER TABLE detaches concurrently, or NULL. */
extern PartitionCmd *refit_statement_detaches(const Node *node);

#endif /* REFIT_DDL_STATEMENT_H */
