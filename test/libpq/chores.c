/*-------------------------------------------------------------------------
 *
 * chores.c
 *	  What an administrator and autovacuum do to a table, all the time.
 *
 * VACUUM FREEZE makes rows look old that are new, VACUUM FULL gives the table
 * other storage while it is copied, and checkpoints decide what a page's first
 * change writes to the WAL.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>

#include "workload.h"

typedef struct Chore
{
	const char *sql;
	int weight;
} Chore;

static const Chore chores[] = {
	{"CHECKPOINT", 30},
	{"VACUUM zoo.item", 20},
	{"VACUUM (FREEZE) zoo.item", 15},
	{"VACUUM (FREEZE) zoo.item_child", 5},
	{"ANALYZE zoo.item", 10},
	{"VACUUM (FREEZE, ANALYZE) pg_class", 5},
	{"SELECT pg_switch_wal()", 10},
	{"VACUUM (FULL) zoo.item", 3},
};

#define CHORE_COUNT ((int) (sizeof(chores) / sizeof(chores[0])))

/* Picks a chore by weight. */
static const char *
pick_chore(Rng *rng)
{
	int total = 0;
	int pick;

	for (int i = 0; i < CHORE_COUNT; i++)
		total += chores[i].weight;
	pick = rng_below(rng, total);
	for (int i = 0; i < CHORE_COUNT - 1; i++)
	{
		if (pick < chores[i].weight)
			return chores[i].sql;
		pick -= chores[i].weight;
	}
	return chores[CHORE_COUNT - 1].sql;
}

/* The thread of the chores: one after the other until the load ends. */
void *
chores_main(void *arg)
{
	Load *load = arg;
	PGconn *conn = connect_or_die(load->opt.conninfo, "workload chores");
	Rng rng;

	rng_seed(&rng, load->opt.seed, 996);
	while (!atomic_load(&load->stop))
	{
		exec_or_die(conn, pick_chore(&rng));
		pause_ms(rng_below(&rng, 1200));
	}
	PQfinish(conn);
	return NULL;
}
