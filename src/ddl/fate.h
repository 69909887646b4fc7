/*-------------------------------------------------------------------------
 *
 * fate.h
 *	  What became of a command that runs in transactions of its own.
 *
 * Before a command begins, what will show its success is written to
 * refit.command, in the transaction that begins it.  Later, whatever happened to
 * the process, the catalogs are compared with that.  What has no trace in them,
 * VACUUM and ANALYZE, is done when it has returned, and may be done again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DDL_FATE_H
#define REFIT_DDL_FATE_H

#include "refit.h"

#include "ddl/statement.h"

/* The tables of a command w with their TOAST tables. */
#define REFIT_COMMAND_TABLES                                                \
	"(SELECT t.oid FROM pg_catalog.pg_class t WHERE t.oid = ANY (w.relids)" \
	" UNION SELECT t.reltoastrelid FROM pg_catalog.pg_class t"              \
	"  WHERE t.oid = ANY (w.relids) AND t.reltoastrelid <> 0)"

/*
 * FROM and WHERE of the indexes c, i that commands w have made or renamed, and not
 * finished.
 */
#define REFIT_DEBRIS_FROM                                                                     \
	" FROM refit.command w JOIN pg_catalog.pg_index i ON i.indrelid IN " REFIT_COMMAND_TABLES \
	" JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"                                     \
	" WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)"                              \
	" AND CASE WHEN w.name IS NOT NULL"                                                       \
	"  THEN c.relname = w.name AND c.oid <> ALL (w.known)"                                    \
	"  WHEN c.oid = ANY (w.targets) THEN c.relname ~ '_ccold[0-9]*$'"                         \
	"  ELSE c.oid <> ALL (w.known)"                                                           \
	"   AND c.relname ~ '_cc(new|old)[0-9]*$' END"

typedef enum RefitFate
{
	REFIT_FATE_UNKNOWN, /* it was never begun */
	REFIT_FATE_OPEN,	/* nothing is left of it: it can be run */
	REFIT_FATE_DEBRIS,	/* an index that is not valid is left */
	REFIT_FATE_PENDING, /* a partition is half detached */
	REFIT_FATE_DONE
} RefitFate;

/*
 * Writes down what the command is about to do.  An ERROR when it cannot, as its
 * index has a name that is taken.  False: there is nothing to be done.
 */
extern void refit_fate_check_index(Oid relid, const IndexStmt *stmt);
extern bool refit_fate_begin(const RefitMigration *m, const RefitStatement *s);
extern RefitFate refit_fate_read(const RefitMigration *m,
								 const RefitStatement *s);
extern void refit_fate_forget(const RefitMigration *m);

/* The invalid indexes that it has left, as a list of oids. */
extern List *refit_fate_debris(const RefitMigration *m);

/* The index that DROP INDEX CONCURRENTLY has made invalid so far, in a list. */
extern List *refit_fate_half_dropped(const RefitMigration *m);

/* Is a partition half detached? */
extern bool refit_fate_is_pending(const RefitMigration *m);

/* Since when a partition is half detached: who began before, or NULL. */
extern char *refit_fate_older_transactions(const RefitMigration *m);

#endif /* REFIT_DDL_FATE_H */
