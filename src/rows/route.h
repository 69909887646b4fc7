/*-------------------------------------------------------------------------
 *
 * route.h
 *	  By which index a pass goes over a table.
 *
 * Locks: the caller's, on the table.  Rights: the planner is asked as the
 * caller, the table's owner; statistics are read as the bootstrap superuser.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_ROUTE_H
#define REFIT_ROUTE_H

#include "refit.h"

#include "rows/statement.h"

/* How a pass goes. */
typedef struct RefitRoute
{
	Oid index;	   /* InvalidOid: by positions */
	bool by_where; /* it has, or finds, what the where clause asks for */
	double rows;   /* that it goes over, about */
} RefitRoute;

/* The best route; an ERROR where there is none that does each row once. */
extern RefitRoute refit_route_choose(Relation rel, const RefitClauses *clauses);

/* What keys of an index are: columns, types and collations, as text. */
extern char *refit_route_signature(Relation rel, Relation index);
/*
 * An index that has this signature and is fit to go by, or InvalidOid.  by_where:
 * it need not have every row.
 */
extern Oid refit_route_find(Relation rel, const char *signature, bool by_where);

#endif /* REFIT_ROUTE_H */
