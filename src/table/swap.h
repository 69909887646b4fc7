/*-------------------------------------------------------------------------
 *
 * swap.h
 *	  Exchanging the storage of two tables, catalog rows only.
 *
 * Locks: the caller holds ACCESS EXCLUSIVE on both tables, their indexes and
 * TOAST tables.  All of it is transactional.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SWAP_H
#define REFIT_SWAP_H

#include "refit.h"

/*
 * Exchanges the storage of a table and a work table, with their TOAST tables,
 * and of the index pairs given as two lists of the same length.
 */
extern void refit_swap_storage(Oid table, Oid work, List *table_indexes,
							   List *work_indexes);

/* The same for two indexes of one table that store the same. */
extern void refit_swap_indexes(Oid a, Oid b);

/*
 * An ERROR unless rows of one can be read through the other.  A blank knows no
 * generated columns; same_generated false leaves them out.
 */
extern void refit_swap_check_layout(Oid table, Oid work, bool same_generated);

/* Pairs the indexes of a table with those of its twin that are built alike. */
extern void refit_swap_pair_indexes(Oid table, Oid twin, List **table_indexes,
									List **twin_indexes);

/*
 * Pairs the indexes of a table with those of a work table that store the same,
 * whatever their names are and whether they are unique.
 */
extern void refit_swap_pair_alike(Oid table, Oid work, List **table_indexes,
								  List **work_indexes);

/*
 * Carries the planner's statistics of one relation over to another; inherited:
 * also those on the whole of it and its children.
 */
extern void refit_swap_copy_statistics(Oid from, Oid to, bool inherited);

#endif /* REFIT_SWAP_H */
