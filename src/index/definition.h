/*-------------------------------------------------------------------------
 *
 * definition.h
 *	  What an index is to be: CREATE INDEX as the user wrote it, or as another
 *	  index is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DEFINITION_H
#define REFIT_DEFINITION_H

#include "refit.h"

#include "nodes/parsenodes.h"
#include "utils/rel.h"

/* Parses a definition; an ERROR says what cannot be done. */
extern IndexStmt *refit_definition_parse(const char *definition);
/*
 * The same with its names looked up in a table, by a search_path.  The caller
 * locks the table.
 */
extern IndexStmt *refit_definition_for(const char *definition, Oid relid,
									   const char *search_path);
/* Tries it on an empty copy of the table, as its owner; an ERROR if it fails. */
extern void refit_definition_try(const char *definition, Oid relid,
								 const char *search_path);

/* A partition's part of a partitioned index; of another table, as it is there. */
extern IndexStmt *refit_definition_of_partition(Relation parent_index,
												Relation parent,
												Relation partition);
/* An index that stores what that one does, held to nothing, under a name. */
extern IndexStmt *refit_definition_of_copy(Oid index, const char *name);

#endif /* REFIT_DEFINITION_H */
