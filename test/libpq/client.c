/*-------------------------------------------------------------------------
 *
 * client.c
 *	  Statements and transactions of one connection of the workload.
 *
 * Every change is sent twice, for "item" and for "oracle", in the same
 * transaction.  Both must touch the same number of rows; where they do not,
 * the tables have already diverged and the statement that showed it is
 * printed, long before the comparison at the end.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

#define MAX_PRINTED 30

/* Opens the connection and fills in what it owns. */
void
client_init(Client *c, Load *load, int number)
{
	char name[40];

	memset(c, 0, sizeof(*c));
	snprintf(name, sizeof(name), "workload %d", number);
	c->load = load;
	c->number = number;
	c->conn = connect_or_die(load->opt.conninfo, name);
	c->range = zoo_range(load, number);
	c->serial = (number + 1) * 1000000000L;
	c->there = calloc(c->range.slots, sizeof(bool));
	for (int slot = 0; slot < c->range.filled; slot++)
		c->there[slot] = true;
	rng_seed(&c->rng, load->opt.seed, number);
	exec_or_die(c->conn, "SET client_encoding = 'UTF8'");
	ops_prepare(c);
	if (c->failed)
		die("could not prepare the statements");
}

/* Closes the connection and frees what belongs to it. */
void
client_close(Client *c)
{
	PQfinish(c->conn);
	free(c->there);
	free(c->undo);
	sb_free(&c->text);
	sb_free(&c->sql);
	sb_free(&c->values);
}

/* True for the first few messages; a broken run would print thousands. */
static bool
may_print(Client *c)
{
	return atomic_fetch_add(&c->load->errors_printed, 1) < MAX_PRINTED;
}

/*
 * Counts a failed statement and remembers that the transaction is lost.
 *
 * By design of the workload nothing can fail.  A serialization failure is
 * what SERIALIZABLE may always give; a deadlock is only excused for the
 * native ALTER TABLE, whose lock escalation is its own affair.
 */
static void
note_failure(Client *c, const PGresult *res, const char *sql)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	c->failed = true;
	if (state == NULL)
		state = "-----";
	if (strcmp(state, "40001") == 0 ||
		(c->load->opt.native && strcmp(state, "40P01") == 0))
	{
		c->retryable++;
		return;
	}
	c->errors++;
	if (may_print(c))
		fprintf(stderr,
				"client error: connection %d SQLSTATE %s: %s"
				"  statement: %.600s\n",
				c->number, state, PQerrorMessage(c->conn), sql);
}

/* Reports that both tables did not answer alike. */
void
client_diverged(Client *c, const char *fmt, ...)
{
	StrBuf text = {0};
	va_list args;

	c->divergences++;
	if (!may_print(c))
		return;
	va_start(args, fmt);
	sb_vadd(&text, fmt, args);
	va_end(args);
	fprintf(stderr, "divergence: connection %d: %.900s\n", c->number,
			text.data);
	sb_free(&text);
}

/* Files the time a statement took under the stall it belongs to. */
static void
note_time(Client *c, double began, const char *sql)
{
	double took = clock_ms() - began;
	double started = atomic_load(&c->load->started_at);

	if (c->is_bulk)
		stall_note(&c->bulk, began, took, sql);
	else if (started > 0 && began + took >= started)
		stall_note(&c->during, began, took, sql);
	else
		stall_note(&c->before, began, took, sql);
}

/* Files what a statement took and gave; false when it failed. */
static bool
finish_query(Client *c, const char *sql, double began, PGresult *res,
			 PGresult **result)
{
	ExecStatusType status = PQresultStatus(res);

	if (began > 0)
		note_time(c, began, sql);
	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		note_failure(c, res, sql);
	else if (result)
	{
		*result = res;
		return true;
	}
	PQclear(res);
	return !c->failed;
}

/*
 * Runs a statement and hands its result over, if one is wanted.
 *
 * "waits" says that it waits for another connection by design, so that its
 * time is no stall.  Returns false, doing nothing, once the transaction has
 * failed.
 */
bool
client_query(Client *c, const char *sql, bool waits, PGresult **result)
{
	double began = waits ? 0 : clock_ms();

	if (result)
		*result = NULL;
	if (c->failed)
		return false;
	return finish_query(c, sql, began, PQexec(c->conn, sql), result);
}

/* Runs a prepared statement, over the extended protocol. */
bool
client_prepared(Client *c, const char *name, int count,
				const char *const *values, PGresult **result)
{
	double began = clock_ms();

	*result = NULL;
	if (c->failed)
		return false;
	return finish_query(
		c, name, began,
		PQexecPrepared(c->conn, name, count, values, NULL, NULL, 0), result);
}

/* Runs a statement whose result does not matter. */
bool
client_run(Client *c, const char *sql, bool waits)
{
	return client_query(c, sql, waits, NULL);
}

/* Runs a changing statement on one table; returns the rows touched, or -1. */
static long
change_one(Client *c, const char *table)
{
	PGresult *res;
	long rows;

	sb_reset(&c->sql);
	zoo_expand(&c->sql, c->text.data, table);
	if (!client_query(c, c->sql.data, false, &res))
		return -1;
	rows = PQresultStatus(res) == PGRES_TUPLES_OK ? PQntuples(res)
												  : atol(PQcmdTuples(res));
	PQclear(res);
	return rows;
}

/*
 * Makes the same change in both tables.
 *
 * The statement names the table as '@'.  "expected" is the number of rows it
 * must touch, or -1 where the connection cannot know.
 */
bool
client_change(Client *c, long expected, const char *fmt, ...)
{
	va_list args;
	long in_item;
	long in_oracle;

	if (c->failed)
		return false;
	sb_reset(&c->text);
	va_start(args, fmt);
	sb_vadd(&c->text, fmt, args);
	va_end(args);
	in_item = change_one(c, "item");
	in_oracle = change_one(c, "oracle");
	if (c->failed)
		return false;
	if (in_item != in_oracle || (expected >= 0 && in_item != expected))
		client_diverged(c,
						"%ld rows in item, %ld in oracle, expected %ld:"
						" %.500s",
						in_item, in_oracle, expected, c->text.data);
	c->rows += in_item;
	return true;
}

/* Copies the rows into one table; returns how many, or -1. */
static long
copy_one(Client *c, const char *table, const char *data)
{
	PGresult *res;
	long rows = -1;
	double began = clock_ms();

	sb_reset(&c->sql);
	sb_add(&c->sql, "COPY zoo.%s (", table);
	zoo_columns(&c->sql, c->load->opt.kind);
	sb_add(&c->sql, ") FROM STDIN");
	res = PQexec(c->conn, c->sql.data);
	if (PQresultStatus(res) == PGRES_COPY_IN)
	{
		PQclear(res);
		PQputCopyData(c->conn, data, (int) strlen(data));
		PQputCopyEnd(c->conn, NULL);
		res = PQgetResult(c->conn);
	}
	if (PQresultStatus(res) == PGRES_COMMAND_OK)
		rows = atol(PQcmdTuples(res));
	else
		note_failure(c, res, c->sql.data);
	PQclear(res);
	while ((res = PQgetResult(c->conn)) != NULL)
		PQclear(res);
	note_time(c, began, c->sql.data);
	return rows;
}

/* Copies the rows into both tables. */
bool
client_copy(Client *c, const char *data)
{
	long in_item;
	long in_oracle;

	if (c->failed)
		return false;
	in_item = copy_one(c, "item", data);
	if (c->failed)
		return false;
	in_oracle = copy_one(c, "oracle", data);
	if (c->failed)
		return false;
	if (in_item != in_oracle)
		client_diverged(c, "COPY of %ld and %ld rows", in_item, in_oracle);
	c->rows += in_item;
	return true;
}

/* Notes that a slot holds a row now, or not; a rollback takes it back. */
void
client_mark(Client *c, int slot, bool is_there)
{
	if (c->undo_used == c->undo_size)
	{
		c->undo_size = c->undo_size * 2 + 64;
		c->undo = realloc(c->undo, c->undo_size * sizeof(Undo));
		if (c->undo == NULL)
			die("out of memory");
	}
	c->undo[c->undo_used].slot = slot;
	c->undo[c->undo_used++].was_there = c->there[slot];
	c->there[slot] = is_there;
}

/* A random slot that holds a row, or one that does not; -1 if none is near. */
int
client_pick(Client *c, bool is_there)
{
	int slot = rng_below(&c->rng, c->range.slots);

	for (int i = 0; i < c->range.slots; i++)
	{
		if (c->there[slot] == is_there)
			return slot;
		slot = (slot + 1) % c->range.slots;
	}
	return -1;
}

/* Opens a transaction; mode is what follows BEGIN. */
void
client_begin(Client *c, const char *mode)
{
	char sql[80];

	pthread_rwlock_rdlock(&c->load->pause);
	c->failed = false;
	c->undo_used = 0;
	c->guard = 0;
	snprintf(sql, sizeof(sql), "BEGIN %s", mode);
	client_run(c, sql, false);
}

/* Takes back what the connection noted about its slots since then. */
void
client_unmark(Client *c, int down_to)
{
	while (c->undo_used > down_to)
	{
		c->undo_used--;
		c->there[c->undo[c->undo_used].slot] = c->undo[c->undo_used].was_there;
	}
}

/* Prepares the transaction, lets it stand, and ends it. */
static void
end_two_phase(Client *c)
{
	char gid[60];
	char sql[100];
	bool commits = rng_chance(&c->rng, 80);

	snprintf(gid, sizeof(gid), "zoo_%d_%ld", c->number, ++c->serial);
	snprintf(sql, sizeof(sql), "PREPARE TRANSACTION '%s'", gid);
	if (!client_run(c, sql, false))
	{
		client_unmark(c, 0);
		return;
	}
	pause_ms(rng_below(&c->rng, rng_chance(&c->rng, 10) ? 200 : 10));
	snprintf(sql, sizeof(sql), "%s PREPARED '%s'",
			 commits ? "COMMIT" : "ROLLBACK", gid);
	client_run(c, sql, false);
	if (!commits)
		client_unmark(c, 0);
}

/*
 * Ends the transaction: "commit", "rollback" or "prepare".
 *
 * One that has failed is rolled back whatever was wanted.
 */
void
client_end(Client *c, const char *how)
{
	if (c->failed)
	{
		c->failed = false;
		exec_quietly(c->conn, "ROLLBACK");
		client_unmark(c, 0);
	}
	else if (strcmp(how, "prepare") == 0)
		end_two_phase(c);
	else
	{
		bool commits = strcmp(how, "commit") == 0;

		if (!client_run(c, commits ? "COMMIT" : "ROLLBACK", false) || !commits)
			client_unmark(c, 0);
	}
	c->failed = false;
	c->undo_used = 0;
	c->transactions++;
	pthread_rwlock_unlock(&c->load->pause);
}
