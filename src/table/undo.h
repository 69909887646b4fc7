/*-------------------------------------------------------------------------
 *
 * undo.h
 *	  The way back for a whole tree: what undoes the actions in each of its
 *	  tables.
 *
 * The actions were run on the table that the user named, and so is what undoes
 * them; PostgreSQL hands it down.  What a table below has for itself, a default,
 * a constraint, an index, does not come back by that.  So each table has an
 * inverse of its own: what is left to do when those above it have run.
 *
 * Locks: ACCESS SHARE on the tables of the tree; the twins are private.
 * Rights: the table's owner's.  Nothing stays of what is tried.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_UNDO_H
#define REFIT_UNDO_H

#include "refit.h"

#include "nodes/parsenodes.h"

/*
 * The inverses, of twins on which the actions were run, in their order; see
 * inverse.h.  NIL: the actions cannot be undone, and why.  An ERROR means that
 * too, unless it is about this process.
 */
extern List *refit_undo_find(List *twins, const AlterTableStmt *stmt,
							 const char *search_path, char **reason);

#endif /* REFIT_UNDO_H */
