/*-------------------------------------------------------------------------
 *
 * violation.h
 *	  Looking for a row that violates a constraint, among those of some blocks.
 *
 * Locks: ACCESS SHARE on the tables, the caller's.
 * Rights: the owner's; row security does not hide rows.  A foreign key between
 * tables of two owners is checked row by row, with the rights that its triggers
 * have.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_VIOLATION_H
#define REFIT_VIOLATION_H

#include "refit.h"

#include "utils/snapshot.h"

/* A constraint, and how rows are held to it. */
typedef struct RefitConstraint
{
	Oid relid;
	Oid oid; /* InvalidOid: it is gone */
	char *name;
	char type;		 /* as in pg_constraint */
	char *key;		 /* SQL that names a row x */
	char *reference; /* and the columns of a foreign key */
	char *violates;	 /* SQL: does the row x violate it? */
	char *order;	 /* SQL: for probes of neighbours in turn, or NULL */
	bool by_probes;	 /* look for partners in the index */
	bool by_trigger; /* RI alone can tell */
	Oid target;		 /* of a foreign key: the table it refers to */
	Oid target_index;
} RefitConstraint;

/* The rows to look at. */
typedef struct RefitRange
{
	BlockNumber from;
	BlockNumber end;
	Snapshot snapshot;
	bool recent; /* those only whose xmin is of this age at most */
	int32 age;
} RefitRange;

/* A row that violates a constraint. */
typedef struct RefitViolation
{
	char *key;
	char *reference;
} RefitViolation;

/* NULL: there is none.  With by_trigger: an ERROR that RI raises. */
extern RefitViolation *refit_violation_find(const RefitConstraint *constraint,
											const RefitRange *range);

#endif /* REFIT_VIOLATION_H */
