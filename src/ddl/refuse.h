/*-------------------------------------------------------------------------
 *
 * refuse.h
 *	  Which statements refit.ddl() does not run, and what to use instead.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DDL_REFUSE_H
#define REFIT_DDL_REFUSE_H

#include "postgres.h"

#include "nodes/nodes.h"

/* An ERROR that says why and what to do, if it is one of them. */
extern void refit_refuse_statement(Node *node);

#endif /* REFIT_DDL_REFUSE_H */
