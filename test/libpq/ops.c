/*-------------------------------------------------------------------------
 *
 * ops.c
 *	  What a connection of the workload does at random.
 *
 * Each operation makes one change in both tables.  The connection knows
 * which of its slots hold a row, so it knows how many rows each statement
 * must touch.  What transactions are made of them is said in load.c.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

typedef struct Op
{
	void (*run)(Client *c);
	int weight;
} Op;

/* The ordinal of a slot of the connection's own range. */
static long
ordinal_of(const Client *c, int slot)
{
	return c->range.first + slot;
}

/* "… = key" for a slot, in scratch memory that the next call overwrites. */
static const char *
key_is(Client *c, int slot)
{
	static _Thread_local StrBuf text[4];
	static _Thread_local int turn;
	StrBuf *out = &text[turn = (turn + 1) % 4];

	sb_reset(out);
	zoo_key_is(out, c->load->opt.kind, ordinal_of(c, slot), "");
	return out->data;
}

/* "SET key = …" for a slot, likewise. */
static const char *
key_set(Client *c, int slot)
{
	static _Thread_local StrBuf text[4];
	static _Thread_local int turn;
	StrBuf *out = &text[turn = (turn + 1) % 4];

	sb_reset(out);
	zoo_key_set(out, c->load->opt.kind, ordinal_of(c, slot));
	return out->data;
}

/* Columns of an INSERT, the same for the life of the program. */
static const char *
columns(Client *c)
{
	static _Thread_local StrBuf text;

	if (text.len == 0)
		zoo_columns(&text, c->load->opt.kind);
	return text.data;
}

/* The key's columns, likewise. */
const char *
ops_key_columns(Client *c)
{
	static _Thread_local StrBuf text;

	if (text.len == 0)
		zoo_key_columns(&text, c->load->opt.kind);
	return text.data;
}

/* Columns to compare, likewise. */
const char *
ops_compared(Client *c)
{
	static _Thread_local StrBuf text;

	if (text.len == 0)
		zoo_compared(&text, c->load->opt.kind);
	return text.data;
}

/* A quoted note, or NULL now and then. */
static const char *
note_value(Client *c)
{
	static _Thread_local StrBuf text;

	sb_reset(&text);
	if (rng_chance(&c->rng, 25))
		return "NULL";
	sb_add(&text, "'");
	zoo_random_note(&text, &c->rng);
	sb_add(&text, "'");
	return text.data;
}

/* A quoted document, or NULL now and then. */
static const char *
doc_value(Client *c)
{
	static _Thread_local StrBuf text;

	sb_reset(&text);
	if (rng_chance(&c->rng, 10))
		return "NULL";
	sb_add(&text, "'");
	zoo_random_doc(&text, &c->rng);
	sb_add(&text, "'");
	return text.data;
}

/* One to max new rows with one INSERT. */
static void
insert_rows(Client *c, int max)
{
	int count = 1 + rng_below(&c->rng, max);
	int added = 0;
	int slot;

	sb_reset(&c->values);
	while (added < count && (slot = client_pick(c, false)) >= 0)
	{
		sb_add(&c->values, added++ > 0 ? ", " : "");
		zoo_row(&c->values, c, ordinal_of(c, slot), false);
		client_mark(c, slot, true);
	}
	if (added > 0)
		client_change(c, added, "INSERT INTO @ (%s) VALUES %s", columns(c),
					  c->values.data);
}

/* Inserts one row. */
static void
op_insert(Client *c)
{
	insert_rows(c, 1);
}

/* Inserts several rows with one statement. */
static void
op_insert_many(Client *c)
{
	insert_rows(c, 10);
}

/* Inserts a row whose key the sequence gives. */
static void
op_insert_default(Client *c)
{
	PGresult *res;
	long unique = ++c->serial;
	const char *rest = "owner, born, grp, note, code, at";

	if (c->load->opt.kind->key != KEY_INT)
		return;
	sb_reset(&c->sql);
	sb_add(&c->sql,
		   "INSERT INTO zoo.item (%s) VALUES (%d, %ld, 1, 'by default', %ld,"
		   " '2025-01-01 00:00+00') RETURNING id",
		   rest, c->range.owner, unique, unique);
	if (!client_query(c, c->sql.data, false, &res))
		return;
	sb_reset(&c->sql);
	sb_add(&c->sql,
		   "INSERT INTO zoo.oracle (id, %s) VALUES (%s, %d, %ld, 1,"
		   " 'by default', %ld, '2025-01-01 00:00+00')",
		   rest, PQgetvalue(res, 0, 0), c->range.owner, unique, unique);
	PQclear(res);
	client_run(c, c->sql.data, false);
	c->rows++;
}

/* Changes a row; long values stay as they are. */
static void
op_update(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	sb_reset(&c->values);
	zoo_random_tags(&c->values, &c->rng);
	sb_add(&c->values, "', label = '");
	zoo_random_label(&c->values, &c->rng);
	client_change(c, 1,
				  "UPDATE @ SET note = %s, tags = '%s', grp = %d, amount = %d"
				  " WHERE %s",
				  note_value(c), c->values.data,
				  1 + rng_below(&c->rng, PARENT_ROWS), rng_below(&c->rng, 1000),
				  key_is(c, slot));
}

/* Locks a row for sharing, then changes it in a subtransaction: its xmax is a
 * multixact of the two. */
static void
op_lock_and_update(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	client_change(c, 1, "SELECT born FROM @ WHERE %s FOR %s", key_is(c, slot),
				  rng_chance(&c->rng, 50) ? "SHARE" : "KEY SHARE");
	client_run(c, "SAVEPOINT locked", false);
	client_change(c, 1, "UPDATE @ SET note = %s WHERE %s", note_value(c),
				  key_is(c, slot));
	if (rng_chance(&c->rng, 50))
		client_run(c, "ROLLBACK TO SAVEPOINT locked", false);
	client_run(c, "RELEASE SAVEPOINT locked", false);
}

/* Gives a row another range, or none. */
static void
op_update_span(Client *c)
{
	int slot = client_pick(c, true);
	long from = ++c->serial * 10;

	if (slot < 0)
		return;
	if (rng_chance(&c->rng, 20))
		client_change(c, 1, "UPDATE @ SET span = NULL WHERE %s",
					  key_is(c, slot));
	else
		client_change(c, 1, "UPDATE @ SET span = '[%ld,%ld)' WHERE %s", from,
					  from + 1 + rng_below(&c->rng, 9), key_is(c, slot));
}

/* A team of the connection. */
static long
own_team(Client *c)
{
	return (c->number - 1) * TEAMS + 1 + rng_below(&c->rng, TEAMS);
}

/* Puts a row into a team, or the team of a row away: SET NULL cascades. */
static void
op_team(Client *c)
{
	int slot = client_pick(c, true);
	long team = own_team(c);
	char sql[100];

	if (slot >= 0)
		client_change(c, 1, "UPDATE @ SET team = %ld WHERE %s", team,
					  key_is(c, slot));
	if (rng_chance(&c->rng, 70))
		return;
	snprintf(sql, sizeof(sql),
			 rng_chance(&c->rng, 50)
				 ? "DELETE FROM zoo.team WHERE id = %ld"
				 : "UPDATE zoo.team SET id = -id WHERE id = %ld",
			 team);
	client_run(c, sql, false);
	snprintf(sql, sizeof(sql), "DELETE FROM zoo.team WHERE id = -%ld", team);
	client_run(c, sql, false);
	snprintf(sql, sizeof(sql), "INSERT INTO zoo.team VALUES (%ld)", team);
	client_run(c, sql, false);
}

/* Puts some rows into a guild and deletes that: the rows go with it. */
static void
op_guild(Client *c)
{
	long guild = ++c->serial;
	int count = 1 + rng_below(&c->rng, 3);
	char sql[100];

	snprintf(sql, sizeof(sql), "INSERT INTO zoo.guild VALUES (%ld)", guild);
	client_run(c, sql, false);
	while (count-- > 0)
	{
		int slot = client_pick(c, true);

		if (slot < 0)
			break;
		client_change(c, 1, "UPDATE @ SET guild = %ld WHERE %s", guild,
					  key_is(c, slot));
		client_mark(c, slot, false);
	}
	snprintf(sql, sizeof(sql), "DELETE FROM zoo.guild WHERE id = %ld", guild);
	client_run(c, sql, false);
}

/* Changes the document: short, long or none. */
static void
op_update_doc(Client *c)
{
	int slot = client_pick(c, true);

	if (slot >= 0)
		client_change(c, 1, "UPDATE @ SET doc = %s WHERE %s", doc_value(c),
					  key_is(c, slot));
}

/* Turns a value into NULL and NULL into a value. */
static void
op_update_null(Client *c)
{
	int slot = client_pick(c, true);

	if (slot >= 0)
		client_change(c, 1,
					  "UPDATE @ SET note = CASE WHEN note IS NULL THEN"
					  " 'was null' END WHERE %s",
					  key_is(c, slot));
}

/* Updates that change nothing: the same values, and no row. */
static void
op_update_nothing(Client *c)
{
	int slot = client_pick(c, true);
	int gone = client_pick(c, false);

	if (slot >= 0)
		client_change(c, 1, "UPDATE @ SET note = note WHERE %s",
					  key_is(c, slot));
	if (gone >= 0)
		client_change(c, 0, "UPDATE @ SET note = 'no' WHERE %s",
					  key_is(c, gone));
}

/* Updates with user triggers off, as a logical subscriber does. */
static void
op_update_replica(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	client_run(c, "SET LOCAL session_replication_role = replica", false);
	client_change(c, 1, "UPDATE @ SET note = %s, hits = hits + 5 WHERE %s",
				  note_value(c), key_is(c, slot));
	client_run(c, "SET LOCAL session_replication_role = origin", false);
}

/* Gives a row another key; its children follow. */
static void
op_update_key(Client *c)
{
	int from = client_pick(c, true);
	int to = client_pick(c, false);

	if (from < 0 || to < 0)
		return;
	client_mark(c, from, false);
	client_mark(c, to, true);
	client_change(c, 1, "UPDATE @ SET %s WHERE %s", key_set(c, to),
				  key_is(c, from));
}

/* Lets two rows change keys, by way of a third key. */
static void
op_swap_keys(Client *c)
{
	int a = client_pick(c, true);
	int b = client_pick(c, true);
	int spare = client_pick(c, false);

	if (a < 0 || b < 0 || spare < 0 || a == b)
		return;
	client_change(c, 1, "UPDATE @ SET %s WHERE %s", key_set(c, spare),
				  key_is(c, a));
	client_change(c, 1, "UPDATE @ SET %s WHERE %s", key_set(c, a),
				  key_is(c, b));
	client_change(c, 1, "UPDATE @ SET %s WHERE %s", key_set(c, b),
				  key_is(c, spare));
}

/* Reads the unique value of a row; false when that failed. */
static bool
read_code(Client *c, int slot, char *code, size_t size)
{
	PGresult *res;

	sb_reset(&c->sql);
	sb_add(&c->sql,
		   "SELECT coalesce(code::text, 'NULL') FROM zoo.item"
		   " WHERE %s",
		   key_is(c, slot));
	if (!client_query(c, c->sql.data, false, &res))
		return false;
	if (PQntuples(res) != 1)
		client_diverged(c, "%d rows: %s", PQntuples(res), c->sql.data);
	snprintf(code, size, "%s",
			 PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : "NULL");
	PQclear(res);
	return true;
}

/* Lets two rows change their unique values, by way of NULL. */
static void
op_swap_codes(Client *c)
{
	int a = client_pick(c, true);
	int b = client_pick(c, true);
	char code_a[32];
	char code_b[32];

	if (a < 0 || b < 0 || a == b || !read_code(c, a, code_a, 32) ||
		!read_code(c, b, code_b, 32))
		return;
	client_change(c, 1, "UPDATE @ SET code = NULL WHERE %s", key_is(c, a));
	client_change(c, 1, "UPDATE @ SET code = %s WHERE %s", code_a,
				  key_is(c, b));
	client_change(c, 1, "UPDATE @ SET code = %s WHERE %s", code_b,
				  key_is(c, a));
}

/* Lets two rows change a unique value that is checked at the commit, in one
 * statement. */
static void
op_swap_ranks(Client *c)
{
	int a = client_pick(c, true);
	int b = client_pick(c, true);

	if (a < 0 || b < 0 || a == b)
		return;
	client_change(c, 2,
				  "UPDATE @ AS x SET rank = (SELECT CASE count(y.rank)"
				  " WHEN 2 THEN sum(y.rank)::bigint - x.rank ELSE x.rank END"
				  " FROM @ AS y WHERE %s OR %s) WHERE %s OR %s",
				  key_is(c, a), key_is(c, b), key_is(c, a), key_is(c, b));
}

/* Lets two rows change ranges that exclude each other, by way of NULL. */
static void
op_swap_spans(Client *c)
{
	int a = client_pick(c, true);
	int b = client_pick(c, true);
	long from = ++c->serial * 10;

	if (a < 0 || b < 0 || a == b)
		return;
	client_change(c, 1, "UPDATE @ SET span = NULL WHERE %s", key_is(c, a));
	client_change(c, 1, "UPDATE @ SET span = '[%ld,%ld)' WHERE %s", from,
				  from + 9, key_is(c, b));
	client_change(c, 1, "UPDATE @ SET span = '[%ld,%ld)' WHERE %s", from + 9,
				  from + 10, key_is(c, a));
	client_change(c, 1, "UPDATE @ SET span = NULL WHERE %s", key_is(c, b));
	client_change(c, 1, "UPDATE @ SET span = '[%ld,%ld)' WHERE %s", from,
				  from + 8, key_is(c, a));
	client_change(c, 1, "UPDATE @ SET span = '[%ld,%ld)' WHERE %s", from + 8,
				  from + 10, key_is(c, b));
}

/* Deletes a row, its children with it. */
static void
op_delete(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	client_mark(c, slot, false);
	client_change(c, 1, "DELETE FROM @ WHERE %s", key_is(c, slot));
}

/* Puts a row back under its key, with a unique value if one is given. */
static void
put_back(Client *c, int slot, const char *code)
{
	sb_reset(&c->values);
	zoo_row(&c->values, c, ordinal_of(c, slot), false);
	client_change(c, 1, "INSERT INTO @ (%s) VALUES %s", columns(c),
				  c->values.data);
	if (code)
		client_change(c, 1, "UPDATE @ SET code = %s WHERE %s", code,
					  key_is(c, slot));
}

/* Deletes a row and inserts another one with its key. */
static void
op_delete_insert(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	client_change(c, 1, "DELETE FROM @ WHERE %s", key_is(c, slot));
	put_back(c, slot, NULL);
}

/* Deletes two rows and inserts them with each other's unique values. */
static void
op_swap_by_delete(Client *c)
{
	int a = client_pick(c, true);
	int b = client_pick(c, true);
	char code_a[32];
	char code_b[32];

	if (a < 0 || b < 0 || a == b || !read_code(c, a, code_a, 32) ||
		!read_code(c, b, code_b, 32))
		return;
	client_change(c, 1, "DELETE FROM @ WHERE %s", key_is(c, a));
	client_change(c, 1, "DELETE FROM @ WHERE %s", key_is(c, b));
	put_back(c, a, code_b);
	put_back(c, b, code_a);
}

/* INSERT … ON CONFLICT DO UPDATE, on a row that is there or is not. */
static void
op_upsert(Client *c)
{
	int slot = rng_below(&c->rng, c->range.slots);

	sb_reset(&c->values);
	zoo_row(&c->values, c, ordinal_of(c, slot), false);
	client_mark(c, slot, true);
	client_change(c, 1,
				  "INSERT INTO @ (%s) VALUES %s ON CONFLICT (%s) DO UPDATE"
				  " SET note = EXCLUDED.note, doc = EXCLUDED.doc,"
				  " tags = EXCLUDED.tags, rank = EXCLUDED.rank",
				  columns(c), c->values.data, ops_key_columns(c));
}

/* MERGE that updates, deletes or inserts. */
static void
op_merge(Client *c)
{
	int slot = rng_below(&c->rng, c->range.slots);
	bool deletes = rng_chance(&c->rng, 30);
	StrBuf on = {0};

	if (c->load->server_version < 150000 || c->load->has_rule)
		return;
	sb_reset(&c->values);
	zoo_row(&c->values, c, ordinal_of(c, slot), false);
	zoo_key_is(&on, c->load->opt.kind, ordinal_of(c, slot), "m.");
	client_change(c, 1,
				  "MERGE INTO @ AS m USING (SELECT 1) AS s ON %s"
				  " WHEN MATCHED THEN %s"
				  " WHEN NOT MATCHED THEN INSERT (%s) VALUES %s",
				  on.data, deletes ? "DELETE" : "UPDATE SET note = 'merged'",
				  columns(c), c->values.data);
	client_mark(c, slot, !(deletes && c->there[slot]));
	sb_free(&on);
}

/* COPY of some rows. */
static void
op_copy(Client *c)
{
	int count = 5 + rng_below(&c->rng, 40);
	int slot;

	sb_reset(&c->values);
	while (count-- > 0 && (slot = client_pick(c, false)) >= 0)
	{
		zoo_row(&c->values, c, ordinal_of(c, slot), true);
		client_mark(c, slot, true);
	}
	if (c->values.len > 0)
		client_copy(c, c->values.data);
}

/* Adds a child to a row. */
static void
op_child(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	sb_reset(&c->values);
	zoo_key_values(&c->values, c->load->opt.kind, ordinal_of(c, slot));
	client_change(c, 1,
				  "INSERT INTO @_child (cid, %s, val) VALUES (%ld, %s, 'c')",
				  ops_key_columns(c), ++c->serial, c->values.data);
}

/* Changes or deletes the children of a row. */
static void
op_child_change(Client *c)
{
	int slot = client_pick(c, true);

	if (slot < 0)
		return;
	if (rng_chance(&c->rng, 70))
		client_change(c, -1, "UPDATE @_child SET val = val || '+' WHERE %s",
					  key_is(c, slot));
	else
		client_change(c, -1, "DELETE FROM @_child WHERE %s", key_is(c, slot));
}

/* Lets a row refer to another one of the table, or to none. */
static void
op_buddy(Client *c)
{
	int slot = client_pick(c, true);
	int buddy = client_pick(c, true);

	if (slot < 0 || c->load->opt.kind->key == KEY_COMPOSITE)
		return;
	sb_reset(&c->values);
	zoo_key_values(&c->values, c->load->opt.kind, ordinal_of(c, buddy));
	client_change(c, 1, "UPDATE @ SET buddy = %s WHERE %s",
				  rng_chance(&c->rng, 80) ? c->values.data : "NULL",
				  key_is(c, slot));
}

/* Compares the answers of both tables, value by value. */
static void
compare_answers(Client *c, const char *what, PGresult *item, PGresult *oracle)
{
	if (PQntuples(item) != PQntuples(oracle))
	{
		client_diverged(c, "%d rows in item, %d in oracle: %s", PQntuples(item),
						PQntuples(oracle), what);
		return;
	}
	for (int row = 0; row < PQntuples(item); row++)
		for (int col = 0; col < PQnfields(item); col++)
			if (PQgetisnull(item, row, col) != PQgetisnull(oracle, row, col) ||
				strcmp(PQgetvalue(item, row, col),
					   PQgetvalue(oracle, row, col)) != 0)
				client_diverged(c, "%s of born %s: %.200s, oracle: %.200s",
								PQfname(item, col),
								PQgetvalue(item, row, PQfnumber(item, "born")),
								PQgetvalue(item, row, col),
								PQgetvalue(oracle, row, col));
}

/* False where the key's type changes to one that a parameter of the old type
 * cannot be compared with, whoever alters the table. */
static bool
has_key_parameters(const Client *c)
{
	return c->load->opt.kind->key != KEY_TEXT;
}

/* Reads a row of both tables with statements prepared long ago. */
static void
op_read_prepared(Client *c)
{
	int slot = rng_below(&c->rng, c->range.slots);
	char key[2][48];
	const char *values[2] = {key[0], key[1]};
	int count = zoo_key_params(key, c->load->opt.kind, ordinal_of(c, slot));
	PGresult *item;
	PGresult *oracle;

	if (!has_key_parameters(c))
		return;
	if (!client_prepared(c, "read_item", count, values, &item))
		return;
	if (client_prepared(c, "read_oracle", count, values, &oracle))
	{
		compare_answers(c, "read_item", item, oracle);
		if (PQntuples(item) != c->there[slot])
			client_diverged(c, "%d rows, not %d, with %s", PQntuples(item),
							c->there[slot], key_is(c, slot));
		PQclear(oracle);
	}
	PQclear(item);
}

/* Changes a row with statements prepared long ago. */
static void
op_update_prepared(Client *c)
{
	int slot = client_pick(c, true);
	char key[2][48];
	const char *values[3] = {"prepared", key[0], key[1]};
	static const char *const names[] = {"touch_item", "touch_oracle"};
	PGresult *res;
	int count;

	if (slot < 0 || !has_key_parameters(c))
		return;
	count = zoo_key_params(key, c->load->opt.kind, ordinal_of(c, slot));
	for (int i = 0; i < 2; i++)
	{
		if (!client_prepared(c, names[i], count + 1, values, &res))
			return;
		if (atol(PQcmdTuples(res)) != 1)
			client_diverged(c, "%s touched %s rows with %s", names[i],
							PQcmdTuples(res), key_is(c, slot));
		PQclear(res);
	}
	c->rows++;
}

/* Prepares the statements anew, which plans them for the table as it is. */
static void
op_prepare_again(Client *c)
{
	client_run(c, "DEALLOCATE ALL", false);
	if (!c->failed)
		ops_prepare(c);
}

/* Reads through the views. */
static void
op_read_view(Client *c)
{
	static _Thread_local char owner[12];
	const char *values[1] = {owner};
	PGresult *res;

	snprintf(owner, sizeof(owner), "%d", c->range.owner);
	if (c->load->has_view && client_prepared(c, "view_item", 1, values, &res))
		PQclear(res);
	if (c->load->has_view)
		client_run(c, "SELECT n FROM zoo.item_view_above WHERE owner = 0",
				   false);
	if (c->load->has_view)
		client_run(c,
				   "SELECT count(low) FROM zoo.item_raw_above WHERE owner = 0",
				   false);
	client_run(c, "SELECT count(note) FROM zoo.item_plain WHERE owner = 0",
			   false);
}

/*
 * Changes a hot row, which other connections change as well.
 *
 * The guard is locked first; that statement waits for others by design.  The
 * row may be there or not, so both tables only have to agree.
 */
void
ops_change_hot(Client *c)
{
	const Kind *kind = c->load->opt.kind;
	StrBuf is = {0};
	StrBuf row = {0};
	long ordinal;

	if (c->guard == 0)
	{
		c->guard = 1 + rng_below(&c->rng, HOT_GUARDS);
		sb_reset(&c->sql);
		sb_add(&c->sql, "SELECT FROM zoo.guard WHERE id = %d FOR UPDATE",
			   c->guard);
		client_run(c, c->sql.data, true);
	}
	ordinal = 1 + (c->guard - 1) +
			  HOT_GUARDS * (long) rng_below(&c->rng, HOT_SLOTS / HOT_GUARDS);
	zoo_key_is(&is, kind, ordinal, "");
	switch (rng_below(&c->rng, 5))
	{
		case 0:
			client_change(c, -1, "DELETE FROM @ WHERE %s", is.data);
			break;
		case 1:
			client_change(c, -1, "SELECT born FROM @ WHERE %s FOR UPDATE",
						  is.data);
			/* FALLTHROUGH */
		case 2:
			client_change(c, -1, "UPDATE @ SET note = %s, doc = %s WHERE %s",
						  note_value(c), doc_value(c), is.data);
			break;
		default:
			c->range.owner = OWNER_HOT;
			zoo_row(&row, c, ordinal, false);
			c->range.owner = c->number;
			client_change(c, 1,
						  "INSERT INTO @ (%s) VALUES %s ON CONFLICT (%s)"
						  " DO UPDATE SET note = EXCLUDED.note",
						  columns(c), row.data, ops_key_columns(c));
	}
	sb_free(&is);
	sb_free(&row);
}

static void op_savepoint(Client *c);

static const Op ops[] = {
	{op_insert, 10},
	{op_insert_many, 5},
	{op_insert_default, 4},
	{op_update, 16},
	{op_update_doc, 10},
	{op_update_null, 6},
	{op_update_nothing, 5},
	{op_update_replica, 2},
	{op_update_key, 6},
	{op_swap_keys, 4},
	{op_swap_codes, 4},
	{op_delete, 10},
	{op_delete_insert, 6},
	{op_swap_by_delete, 3},
	{op_swap_ranks, 4},
	{op_swap_spans, 4},
	{op_update_span, 4},
	{op_lock_and_update, 3},
	{op_team, 5},
	{op_guild, 3},
	{op_upsert, 8},
	{op_merge, 6},
	{op_copy, 2},
	{op_child, 8},
	{op_child_change, 4},
	{op_buddy, 4},
	{op_read_prepared, 6},
	{op_read_view, 2},
	{op_update_prepared, 6},
	{op_prepare_again, 2},
	{op_savepoint, 5},
};

#define OP_COUNT ((int) (sizeof(ops) / sizeof(ops[0])))

/* Runs one operation, chosen by weight. */
static void
run_random_op(Client *c)
{
	int total = 0;
	int pick;

	for (int i = 0; i < OP_COUNT; i++)
		total += ops[i].weight;
	pick = rng_below(&c->rng, total);
	for (int i = 0; i < OP_COUNT; i++)
	{
		if (pick < ops[i].weight)
		{
			ops[i].run(c);
			return;
		}
		pick -= ops[i].weight;
	}
}

/* Does something, takes it back to a savepoint or keeps it, goes on. */
static void
op_savepoint(Client *c)
{
	int marks = c->undo_used;

	client_run(c, "SAVEPOINT s", false);
	run_random_op(c);
	if (rng_chance(&c->rng, 60))
	{
		client_run(c, "ROLLBACK TO SAVEPOINT s", false);
		if (!c->failed)
			client_unmark(c, marks);
	}
	client_run(c, "RELEASE SAVEPOINT s", false);
	run_random_op(c);
}

/* That many random operations in the open transaction. */
void
ops_write(Client *c, int count)
{
	while (count-- > 0)
		run_random_op(c);
}

/* Prepares the statements that are to live through the cutover. */
void
ops_prepare(Client *c)
{
	static const char *const tables[] = {"item", "oracle"};
	bool is_composite = c->load->opt.kind->key == KEY_COMPOSITE;
	StrBuf sql = {0};

	for (int i = 0; i < 2; i++)
	{
		sb_reset(&sql);
		sb_add(&sql, "PREPARE read_%s AS SELECT %s FROM zoo.%s WHERE %s",
			   tables[i], ops_compared(c), tables[i],
			   is_composite ? "(region, num) = ($1, $2)" : "id = $1");
		client_run(c, sql.data, false);
		sb_reset(&sql);
		sb_add(&sql,
			   "PREPARE touch_%s AS UPDATE zoo.%s SET note = $1"
			   " WHERE %s",
			   tables[i], tables[i],
			   is_composite ? "(region, num) = ($2, $3)" : "id = $2");
		client_run(c, sql.data, false);
	}
	if (c->load->has_view)
		client_run(c,
				   "PREPARE view_item AS SELECT count(*)"
				   " FROM zoo.item_view WHERE owner = $1",
				   false);
	sb_free(&sql);
}
