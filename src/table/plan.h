/*-------------------------------------------------------------------------
 *
 * plan.h
 *	  How a migration will be done, found by trying it.
 *
 * The actions are run on an empty copy of the table in a subtransaction that is
 * rolled back; PostgreSQL reports every mistake in them, and what they did to
 * the copy says what they would do to the table.
 *
 * Locks: ACCESS SHARE on the table.  Rights: the table's owner's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_PLAN_H
#define REFIT_PLAN_H

#include "refit.h"

#include "nodes/parsenodes.h"
#include "utils/rel.h"

/* What is to be planned. */
typedef struct RefitPlanRequest
{
	Oid relid;
	const AlterTableStmt *stmt; /* NULL: a repack, */
	const char *order_by;		/* in this order unless it is NULL or empty */
	const char *search_path;
	bool revertible; /* keep the old copy for a revert window */
	bool show;		 /* tell whether it could be reverted */
} RefitPlanRequest;

typedef struct RefitPlan
{
	const char *strategy; /* instant | validate | rewrite */
	const char *reason;
	Oid key_index; /* for a rewrite */
	int nleaves;   /* tables with rows */
	int nindexes;
	int64 bytes;
	List *needs; /* disk space of a rewrite: of RefitSpace, see space.h */
	char *irreversible; /* why it cannot be reverted; NULL: it can */
} RefitPlan;

/*
 * An ERROR unless this is a table, or a partition tree, that can be worked, by
 * the caller.  alters: its definition is to be changed.
 */
extern void refit_plan_check_table(Oid relid, bool alters);
/* The same for a pass over its rows, to which the definition is no obstacle. */
extern void refit_plan_check_rows(Oid relid);

extern RefitPlan *refit_plan_make(const RefitPlanRequest *request);

/* The table's key that can be followed through the actions, or an ERROR. */
extern Oid refit_plan_choose_key(Relation source, Oid twin,
								 const AlterTableStmt *stmt,
								 const char *search_path);

#endif /* REFIT_PLAN_H */
