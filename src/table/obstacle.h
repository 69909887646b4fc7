/*-------------------------------------------------------------------------
 *
 * obstacle.h
 *	  What actions take away for good, so that they cannot be undone.
 *
 * What is not found here is found when the inverse is tried (undo.h): this is
 * about rows and their keys, and about what no ALTER TABLE makes again.
 *
 * Locks: the caller's, on the table and its twin.  Rights: the table's owner's.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_OBSTACLE_H
#define REFIT_OBSTACLE_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "utils/rel.h"

/*
 * Why the actions, which were run on the twin, cannot be undone: what would be
 * lost for good; or NULL.  key_index: of the table; 0: it has no rows.
 */
extern char *refit_obstacle_find(Relation source, Relation twin, Oid key_index,
								 const AlterTableStmt *stmt,
								 const char *search_path);

#endif /* REFIT_OBSTACLE_H */
