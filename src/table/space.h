/*-------------------------------------------------------------------------
 *
 * space.h
 *	  The disk space that a rewrite needs, told before anything is written.
 *
 * The estimate is meant to be an upper one:
 *
 *	the twin		the present size of the table and its TOAST table, and for
 *					each row what retyped and added columns make it longer; a
 *					bloated table counts in full
 *	its indexes		the present size of the index of the same name, in
 *					proportion where its columns are retyped; a new one by
 *					rows and widths of its columns
 *	an order		once more table and TOAST table, and the order's index
 *	a sort			temporary files as large as the largest index, or as what
 *					is put in an order, unless it fits in
 *					maintenance_work_mem; in temp_tablespaces, or else in the
 *					database's tablespace
 *	the log			64 bytes for one row in ten
 *	WAL				as much as all that is written, but no more than pg_wal
 *					has yet to grow to max_wal_size: what a replication slot
 *					or a failing archiver keeps beyond it is not foreseen
 *
 * Not counted: what the application writes meanwhile, and what other
 * migrations have yet to write.  The governor's signal free_disk is there for
 * that, and for what the estimate gets wrong.
 *
 * refit.min_free_disk percent of each file system are kept back; 0 switches
 * all of it off.
 *
 * Locks: ACCESS SHARE on the table and its indexes, ended by the caller.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SPACE_H
#define REFIT_SPACE_H

#include "refit.h"

#include "utils/rel.h"

/* What is written to one place; see disk.h. */
typedef struct RefitSpace
{
	Oid place;
	int64 bytes;
} RefitSpace;

/*
 * What a rewrite writes, as a list of RefitSpace.  The twin has the indexes
 * that it will have; it may be one that is thrown away afterwards.
 */
extern List *refit_space_of_rewrite(Relation source, Oid twin, Oid key_index,
									bool ordered);
/* What the build of one index of the twin writes. */
extern List *refit_space_of_index(Relation source, Oid index);
/* What putting the twin in an order writes. */
extern List *refit_space_of_order(Relation source, Oid twin);

/* The needs of two tables together. */
extern List *refit_space_add(List *needs, List *more);
extern int64 refit_space_total(List *needs);
/* Needed, free and kept back of each file system, for a reader. */
extern char *refit_space_describe(List *needs);

/* disk_full, with the figures, unless there is room. */
extern void refit_space_check(Oid relid, List *needs);
/* Writes down what a migration needs, for signal free_disk. */
extern void refit_space_save(const RefitMigration *m, List *needs);

/*
 * Before a step that writes much in one go: is there room?  False: progress
 * says so, and budget->pause_ms is set for REFIT_WAIT.
 */
extern bool refit_space_allows(RefitMigration *m, List *needs, const char *what,
							   RefitBudget *budget);
/* A step has met a full disk: says so in progress, once in the events. */
extern void refit_space_note_full(RefitMigration *m, const char *error);
/* A step was done: an event takes back what the two have said. */
extern void refit_space_note_room(RefitMigration *m);

#endif /* REFIT_SPACE_H */
