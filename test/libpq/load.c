/*-------------------------------------------------------------------------
 *
 * load.c
 *	  The transactions of a connection of the workload.
 *
 * Most are a few operations of ops.c, committed, rolled back or prepared;
 * some are a kind of their own: one large change, a reader in an old
 * snapshot, a cursor held open.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

/* How a transaction of writes ends. */
static const char *
random_end(Client *c)
{
	int dice = rng_below(&c->rng, 100);

	if (dice < 5 && c->load->has_two_phase)
		return "prepare";
	return dice < 12 ? "rollback" : "commit";
}

/* A few changes in one transaction. */
static void
write_transaction(Client *c)
{
	bool is_snapshot = rng_chance(&c->rng, 6);

	/*
	 * A snapshot taken before the cutover by a transaction that had not yet
	 * touched the table does not see the table as it should, after any
	 * rewriting ALTER TABLE; so the lock comes first.
	 */
	client_begin(c, is_snapshot ? "ISOLATION LEVEL REPEATABLE READ" : "");
	if (is_snapshot)
		client_run(c, "LOCK TABLE zoo.item IN ROW EXCLUSIVE MODE", false);
	if (rng_chance(&c->rng, 20))
		client_run(c, "SET LOCAL synchronous_commit = off", false);
	if (!is_snapshot && rng_chance(&c->rng, 15))
		ops_change_hot(c);
	ops_write(c, 1 + rng_below(&c->rng, 4));
	if (c->guard > 0)
		ops_change_hot(c);
	client_end(c, random_end(c));
}

/* One statement that changes all rows of the connection. */
static void
large_transaction(Client *c)
{
	c->is_bulk = true;
	client_begin(c, "");
	client_change(c, -1,
				  "UPDATE @ SET note = 'large %ld', tags = '{1,%d}'"
				  " WHERE owner = %d AND born %% 3 < 2",
				  ++c->serial, rng_below(&c->rng, 1000), c->range.owner);
	client_end(c, rng_chance(&c->rng, 80) ? "commit" : "rollback");
	c->is_bulk = false;
}

/*
 * Compares the rows of an owner (of all, when negative) in one statement:
 * whatever the migration is doing, both tables answer alike at any moment.
 */
static bool
compare_rows(Client *c, int owner)
{
	static const char *const tables[] = {"item", "oracle"};
	char only[60] = "";
	PGresult *res;
	bool is_equal = false;

	if (owner >= 0)
		snprintf(only, sizeof(only), "WHERE owner = %d", owner);
	sb_reset(&c->sql);
	sb_add(&c->sql, "SELECT ");
	for (int i = 0; i < 2; i++)
		sb_add(&c->sql,
			   "%s(SELECT concat(count(*), ' rows, hash ',"
			   " sum(hashtextextended(x::text, 0)))"
			   " FROM (SELECT %s FROM zoo.%s %s) x)",
			   i > 0 ? ", " : "", ops_compared(c), tables[i], only);
	if (!client_query(c, c->sql.data, false, &res))
		return false;
	is_equal = strcmp(PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1)) == 0;
	if (!is_equal)
		client_diverged(c, "rows of owner %d: item %s, oracle %s", owner,
						PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1));
	PQclear(res);
	return is_equal;
}

/* Compares both tables, in a snapshot that stands for a while or without. */
static void
compare_transaction(Client *c)
{
	static const char *const modes[] = {
		"", "ISOLATION LEVEL REPEATABLE READ",
		"ISOLATION LEVEL SERIALIZABLE, READ ONLY"};
	int mode = rng_below(&c->rng, 3);
	int owner = rng_chance(&c->rng, 10) ? -1 : c->range.owner;

	c->is_bulk = true;
	client_begin(c, modes[mode]);
	if (mode > 0)
		client_run(c, "LOCK TABLE zoo.item, zoo.oracle IN ACCESS SHARE MODE",
				   false);
	compare_rows(c, owner);
	if (mode > 0)
	{
		pause_ms(rng_below(&c->rng, 100));
		compare_rows(c, owner);
	}
	client_end(c, "commit");
	c->is_bulk = false;
}

/* Fetches what is left of a cursor; returns the number of rows, or -1. */
static long
fetch_all(Client *c, const char *cursor)
{
	char sql[80];
	PGresult *res;
	long rows;

	snprintf(sql, sizeof(sql), "FETCH ALL FROM %s", cursor);
	if (!client_query(c, sql, false, &res))
		return -1;
	rows = PQntuples(res);
	PQclear(res);
	return rows;
}

/* Reads with a cursor that stays open for a while. */
static void
cursor_transaction(Client *c)
{
	PGresult *res;
	long expected = 0;
	long rows;

	client_begin(c, "");
	sb_reset(&c->sql);
	sb_add(&c->sql, "SELECT count(*) FROM zoo.oracle WHERE owner = %d",
		   c->range.owner);
	if (client_query(c, c->sql.data, false, &res))
	{
		expected = atol(PQgetvalue(res, 0, 0));
		PQclear(res);
	}
	sb_reset(&c->sql);
	sb_add(&c->sql, "DECLARE cur CURSOR FOR SELECT ");
	zoo_key_casts(&c->sql, c->load->opt.kind);
	sb_add(&c->sql, " FROM zoo.item WHERE owner = %d ORDER BY born",
		   c->range.owner);
	client_run(c, c->sql.data, false);
	client_run(c, "MOVE 10 FROM cur", false);
	pause_ms(rng_below(&c->rng, 60));
	rows = fetch_all(c, "cur");
	if (!c->failed && rows + (expected < 10 ? expected : 10) != expected)
		client_diverged(c, "cursor gave %ld of %ld rows", rows, expected);
	client_end(c, "commit");
}

/* Opens a cursor that outlives its transaction, or reads and closes it. */
static void
hold_transaction(Client *c)
{
	client_begin(c, "");
	if (!c->has_hold)
	{
		sb_reset(&c->sql);
		sb_add(&c->sql, "DECLARE held CURSOR WITH HOLD FOR SELECT ");
		zoo_key_casts(&c->sql, c->load->opt.kind);
		sb_add(&c->sql, ", note FROM zoo.item WHERE owner = %d",
			   c->range.owner);
		client_run(c, c->sql.data, false);
	}
	else
	{
		fetch_all(c, "held");
		client_run(c, "CLOSE held", false);
	}
	if (!c->failed)
		c->has_hold = !c->has_hold;
	client_end(c, "commit");
}

/* The slot's keys as a list, for at most that many slots in a row. */
static const char *
list_of_keys(Client *c, int first, int count)
{
	static _Thread_local StrBuf keys;

	sb_reset(&keys);
	for (int i = 0; i < count; i++)
	{
		sb_add(&keys, i > 0 ? ", (" : "(");
		zoo_key_values(&keys, c->load->opt.kind, c->range.first + first + i);
		sb_add(&keys, ")");
	}
	return keys.data;
}

/* One statement that deletes many rows, and a COPY of as many new ones. */
static void
large_replacement(Client *c)
{
	int count = c->range.slots < 600 ? c->range.slots : 600;
	int first = rng_below(&c->rng, c->range.slots - count + 1);
	int there = 0;

	c->is_bulk = true;
	client_begin(c, "");
	for (int i = 0; i < count; i++)
		there += c->there[first + i];
	client_change(c, there, "DELETE FROM @ WHERE (%s) IN (%s)",
				  ops_key_columns(c), list_of_keys(c, first, count));
	sb_reset(&c->values);
	for (int i = 0; i < count; i++)
	{
		bool comes_back = rng_chance(&c->rng, 60);

		client_mark(c, first + i, comes_back);
		if (comes_back)
			zoo_row(&c->values, c, c->range.first + first + i, true);
	}
	if (c->values.len > 0)
		client_copy(c, c->values.data);
	client_end(c, rng_chance(&c->rng, 70) ? "commit" : "rollback");
	c->is_bulk = false;
}

/* One transaction of any sort. */
static void
random_transaction(Client *c)
{
	int dice = rng_below(&c->rng, 1000);

	if (dice < 4)
		large_transaction(c);
	else if (dice < 7)
		large_replacement(c);
	else if (dice < 18)
		compare_transaction(c);
	else if (dice < 32)
		cursor_transaction(c);
	else if (dice < 45)
		hold_transaction(c);
	else
		write_transaction(c);
}

/*
 * How long to think, in ms, before the next transaction.
 *
 * Where the machine is so busy that changes come faster than the migration
 * applies them, it would never end; so a connection slows down with the time
 * that the migration has taken, from half a minute on.
 */
static double
think_time(Client *c)
{
	double started = atomic_load(&c->load->started_at);
	double most = c->load->opt.think_ms * 2;
	double seconds = started > 0 ? (clock_ms() - started) / 1000.0 : 0;

	if (most <= 0)
		return 0;
	if (seconds > 30 && atomic_load(&c->load->finished_at) == 0)
		most *= seconds / 10;
	return rng_below(&c->rng, (int) (most * 1000)) / 1000.0;
}

/* The thread of a connection: runs until it is told to stop. */
void *
load_main(void *arg)
{
	Client *c = arg;

	while (!atomic_load(&c->load->stop) && PQstatus(c->conn) == CONNECTION_OK)
	{
		random_transaction(c);
		pause_ms(think_time(c));
	}
	return NULL;
}
