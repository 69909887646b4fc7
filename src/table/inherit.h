/*-------------------------------------------------------------------------
 *
 * inherit.h
 *	  Plain tables that inherit from each other.
 *
 * Actions that PostgreSQL hands down reach every table below the one that they
 * are for, and each of them, the topmost one too, has rows, indexes, triggers
 * and perhaps columns of its own, and maybe other parents as well.  What the
 * actions do to each of them only PostgreSQL knows; so their twins inherit from
 * each other in the same way, and the actions are run on the topmost twin.
 *
 * Locks: ACCESS SHARE on the tables that are checked or linked.  A death leaves
 * nothing: twins are made in one transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_INHERIT_H
#define REFIT_INHERIT_H

#include "refit.h"

#include "nodes/parsenodes.h"
#include "utils/rel.h"

/* Does a plain table inherit, or is it inherited from? */
extern bool refit_inherit_has_relatives(Oid relid);
/* Does any of the actions reach tables that inherit?  NULL: no actions. */
extern bool refit_inherit_recurses(const AlterTableStmt *stmt);

/*
 * Makes the twins, of RefitTwin, inherit from each other as their tables do, and
 * remembers what they look like.
 */
extern void refit_inherit_link(List *twins);
/*
 * After the actions: twins that they have left as they were, but for the first,
 * are no leaves; their tables need no rewrite.  Not with a revert window: what
 * undoes the actions may well reach them, and must not meet rows.
 */
extern void refit_inherit_leave_untouched(List *twins);

#endif /* REFIT_INHERIT_H */
