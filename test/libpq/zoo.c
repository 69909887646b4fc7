/*-------------------------------------------------------------------------
 *
 * zoo.c
 *	  The tables of the workload: how they are made and what a row is.
 *
 * A row's place is named by an ordinal.  The key is a function of it: the
 * number itself, a uuid in random order, or a text with a collation of its
 * own and the number.  Column "born" is unique for each row ever inserted and
 * never changes, so it names a row through all changes of its key.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workload.h"

/* First halves of composite keys; their order depends on the collation. */
static const char *const regions[] = {"Arger", "\xc3\x84rger", "arger", "a-b",
									  "ab",	   "a b",		   "zoo",	"Zoo",
									  "gross", "gro\xc3\x9f"};

#define REGION_COUNT ((int) (sizeof(regions) / sizeof(regions[0])))

/* What the tables share; made as the superuser, once. */
static const char *const common_sql =
	"CREATE SCHEMA zoo AUTHORIZATION refit_zoo_owner;"
	"SET search_path = pg_catalog;"
	"SET ROLE refit_zoo_owner;"
	"GRANT USAGE ON SCHEMA zoo TO refit_zoo_reader;"
	"CREATE TABLE zoo.parent (id int PRIMARY KEY, name text);"
	"CREATE TABLE zoo.guard (id int PRIMARY KEY);"
	"CREATE TABLE zoo.team (id bigint PRIMARY KEY);"
	"CREATE TABLE zoo.guild (id bigint PRIMARY KEY);"
	"CREATE TABLE zoo.seen (born bigint, u uuid);"
	"CREATE FUNCTION zoo.before_change() RETURNS trigger LANGUAGE plpgsql AS"
	" $$ BEGIN NEW.hits := OLD.hits + 1; RETURN NEW; END $$;"
	"CREATE FUNCTION zoo.after_change() RETURNS trigger LANGUAGE plpgsql AS"
	" $$ DECLARE r record; BEGIN"
	" IF TG_OP = 'DELETE' THEN r := OLD; ELSE r := NEW; END IF;"
	" IF TG_ARGV[0] = 'item' THEN"
	"  INSERT INTO zoo.item_audit VALUES (TG_OP, r.born, r.hits, TG_ARGV[1]);"
	" ELSE"
	"  INSERT INTO zoo.oracle_audit VALUES"
	"   (TG_OP, r.born, r.hits, TG_ARGV[1]);"
	" END IF; RETURN NULL; END $$;"
	"CREATE FUNCTION zoo.after_statement() RETURNS trigger LANGUAGE plpgsql AS"
	" $$ BEGIN IF TG_ARGV[0] = 'item' THEN"
	"  INSERT INTO zoo.item_audit SELECT 'FRESH', sum(born), count(*),"
	"   'statement' FROM fresh HAVING count(*) > 0;"
	" ELSE"
	"  INSERT INTO zoo.oracle_audit SELECT 'FRESH', sum(born), count(*),"
	"   'statement' FROM fresh HAVING count(*) > 0;"
	" END IF; RETURN NULL; END $$;";

/* One table; %s in order: persistence, key columns, type of buddy, collation,
 * key, what a partitioned table cannot have or needs, persistence of the child,
 * its key columns. */
static const char *const table_sql =
	"CREATE %s TABLE @ ("
	" junk1 int, %s, owner int NOT NULL, born bigint NOT NULL,"
	" grp int NOT NULL, junk2 text, note text, doc text, code bigint,"
	" tags int[], hits int NOT NULL DEFAULT 0, at timestamptz NOT NULL,"
	" buddy %s, span int8range, rank bigint, team bigint, guild bigint,"
	" amount int NOT NULL DEFAULT 1, label varchar(80) COLLATE %s DEFAULT 'l',"
	" extra text DEFAULT 'x',"
	" ticket int GENERATED ALWAYS AS IDENTITY (INCREMENT 2 CACHE 3),"
	" gen bigint GENERATED ALWAYS AS (owner * 2 + coalesce(length(note), 0))"
	" STORED,"
	" gen_text text GENERATED ALWAYS AS (upper(note)) STORED,"
	" CONSTRAINT #_pkey PRIMARY KEY (%s),"
	" CONSTRAINT #_hits_check CHECK (hits >= 0),"
	" CONSTRAINT #_amount_check CHECK (amount >= 0 AND amount < 1000000),"
	" CONSTRAINT #_label_check CHECK (label <> ''), %s;"
	"ALTER TABLE @ DROP COLUMN junk1, DROP COLUMN junk2;"
	"CREATE TABLE #_audit (op text, born bigint, hits int, name text);"
	"CREATE %s TABLE #_child (cid bigint PRIMARY KEY, %s, val text);"
	"ALTER TABLE @ ALTER COLUMN note SET STATISTICS 300,"
	" ALTER COLUMN doc SET STORAGE EXTERNAL,"
	" ALTER COLUMN extra SET COMPRESSION pglz,"
	" ALTER COLUMN grp SET (n_distinct = 50);";

static const char *const plain_sql =
	"CONSTRAINT #_born_excl EXCLUDE USING btree (born WITH =),"
	" CONSTRAINT #_span_excl EXCLUDE USING gist (span WITH &&),"
	" CONSTRAINT #_rank_key UNIQUE (rank) DEFERRABLE INITIALLY DEFERRED"
	") WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.3,"
	" toast.autovacuum_vacuum_scale_factor = 0.4)";

/* A unique constraint must contain the partition keys of all levels. */
static const char *const partitioned_sql =
	"CONSTRAINT #_rank_key UNIQUE (rank, region, num) DEFERRABLE"
	" INITIALLY DEFERRED) PARTITION BY LIST (region)";

/*
 * Three lists of regions: one with hashes below it, one that does not have the
 * dropped columns of the table, and the rest.  A new key is often another
 * partition's.
 */
static const char *const partitions_sql =
	"CREATE TABLE @_some PARTITION OF @ FOR VALUES IN ('Arger', 'a-b', 'zoo')"
	" PARTITION BY HASH (num);"
	"CREATE TABLE @_some0 PARTITION OF @_some"
	" FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
	"CREATE TABLE @_some1 PARTITION OF @_some"
	" FOR VALUES WITH (MODULUS 2, REMAINDER 1) WITH (fillfactor = 90);"
	"CREATE TABLE @_other (LIKE @ INCLUDING DEFAULTS INCLUDING GENERATED"
	" INCLUDING CONSTRAINTS);"
	"CREATE INDEX ON @_other (at DESC, hits);"
	"ALTER TABLE @ ATTACH PARTITION @_other"
	" FOR VALUES IN ('arger', 'ab', 'Zoo');"
	"CREATE TABLE @_rest PARTITION OF @ DEFAULT;";

/* Indexes and what hangs on the table; made when the rows are in. */
static const char *const after_load_sql =
	"CREATE INDEX #_owner_idx ON @ (owner, born);"
	"CREATE INDEX #_note_partial ON @ (grp) INCLUDE (hits)"
	" WHERE note IS NOT NULL;"
	"CREATE INDEX #_note_expr ON @ (lower(note), hits DESC);"
	"CREATE INDEX #_tags_gin ON @ USING gin (tags) WITH (fastupdate = off);"
	"CREATE INDEX #_at_brin ON @ USING brin (at) WITH (pages_per_range = 8);"
	"CREATE INDEX #_label_idx ON @ (label, born) WITH (fillfactor = 70);"
	"CREATE INDEX #_label_pattern ON @ (label varchar_pattern_ops)"
	" WHERE amount > 500;"
	"CREATE INDEX #_amount_idx ON @ (amount) INCLUDE (ticket);"
	"ALTER INDEX #_note_expr ALTER COLUMN 1 SET STATISTICS 123;"
	"CREATE STATISTICS #_stat ON owner, grp FROM @;"
	"CREATE STATISTICS #_stat_more (mcv, dependencies) ON grp, amount,"
	" (hits + 1) FROM @;"
	"ALTER STATISTICS #_stat_more SET STATISTICS 50;"
	"COMMENT ON STATISTICS #_stat_more IS 'some statistics';"
	"ALTER TABLE @ ADD COLUMN fast int NOT NULL DEFAULT 7;"
	"ALTER TABLE @ ADD CONSTRAINT #_grp_fkey FOREIGN KEY (grp)"
	" REFERENCES zoo.parent (id);"
	"ALTER TABLE @ ADD CONSTRAINT #_team_fkey FOREIGN KEY (team)"
	" REFERENCES zoo.team ON DELETE SET NULL ON UPDATE CASCADE;"
	"ALTER TABLE @ ADD CONSTRAINT #_guild_fkey FOREIGN KEY (guild)"
	" REFERENCES zoo.guild ON DELETE CASCADE DEFERRABLE;"
	"CREATE INDEX #_team_idx ON @ (team) WHERE team IS NOT NULL;"
	"CREATE INDEX #_guild_idx ON @ (guild) WHERE guild IS NOT NULL;"
	"CREATE TRIGGER a_before BEFORE UPDATE ON @"
	" FOR EACH ROW EXECUTE FUNCTION zoo.before_change();"
	"CREATE TRIGGER b_after AFTER INSERT OR UPDATE OR DELETE ON @"
	" FOR EACH ROW EXECUTE FUNCTION zoo.after_change('#', 'all');"
	"CREATE TRIGGER z_after_note AFTER UPDATE OF note ON @ FOR EACH ROW"
	" WHEN (OLD.note IS DISTINCT FROM NEW.note)"
	" EXECUTE FUNCTION zoo.after_change('#', 'note');"
	"CREATE TRIGGER s_after AFTER UPDATE ON @ REFERENCING NEW TABLE AS fresh"
	" FOR EACH STATEMENT EXECUTE FUNCTION zoo.after_statement('#');"
	"CREATE TRIGGER off_after AFTER INSERT ON @"
	" FOR EACH ROW EXECUTE FUNCTION zoo.after_change('#', 'off');"
	"ALTER TABLE @ DISABLE TRIGGER off_after;"
	"GRANT SELECT, UPDATE (note, code) ON @ TO refit_zoo_reader;"
	"GRANT INSERT, DELETE ON @ TO refit_zoo_reader WITH GRANT OPTION;"
	"COMMENT ON TABLE @ IS 'the table';"
	"COMMENT ON COLUMN @.note IS 'a note';"
	"COMMENT ON COLUMN @.doc IS 'a document';"
	"COMMENT ON CONSTRAINT #_hits_check ON @ IS 'a check';"
	"COMMENT ON CONSTRAINT #_pkey ON @ IS 'the key';"
	"COMMENT ON INDEX #_note_expr IS 'an index';"
	"COMMENT ON INDEX #_label_idx IS 'an index of a label';"
	"COMMENT ON CONSTRAINT #_amount_check ON @ IS 'a check of an amount';"
	"COMMENT ON CONSTRAINT #_grp_fkey ON @ IS 'a foreign key';"
	"COMMENT ON COLUMN @.amount IS 'an amount';"
	"COMMENT ON COLUMN @.label IS 'a label';"
	"COMMENT ON TRIGGER b_after ON @ IS 'a trigger';";

static const char *const plain_after_load_sql =
	"CREATE UNIQUE INDEX #_born_uidx ON @ (born);"
	"ALTER TABLE @ CLUSTER ON #_owner_idx;"
	"COMMENT ON CONSTRAINT #_span_excl ON @ IS 'an exclusion';";

static const char *const partitioned_after_load_sql =
	"CREATE UNIQUE INDEX #_born_uidx ON @ (born, region, num);";

/* Appends the text with '@' and '#' replaced by the table's names. */
void
zoo_expand(StrBuf *out, const char *text, const char *table)
{
	size_t plain;

	for (;;)
	{
		plain = strcspn(text, "@#");
		sb_add_text(out, text, plain);
		text += plain;
		if (*text == '\0')
			break;
		sb_add(out, "%s%s", *text == '@' ? "zoo." : "", table);
		text++;
	}
}

/* The rows an owner has at the start, and the room for more. */
Range
zoo_range(const Load *load, int owner)
{
	int per_client = load->opt.rows * 8 / 10 / load->opt.connections;
	int room = (per_client < 64 ? 64 : per_client) * 2;
	Range range = {.owner = owner, .slots = room, .filled = room / 2};

	range.first = 1000 + (long) owner * room;
	if (owner == OWNER_HOT)
	{
		range.first = 1;
		range.slots = HOT_SLOTS;
		range.filled = HOT_SLOTS / 2;
	}
	else if (owner == OWNER_QUIET)
	{
		range.first = 1000 + (long) (MAX_CONNECTIONS + OLD_CLIENTS) * room;
		range.slots = load->opt.rows / 5 + 10;
		range.filled = range.slots;
	}
	else if (owner > load->opt.connections)
		range.filled = 100;
	return range;
}

/* The uuid of an ordinal: random order, but the same each time. */
static void
uuid_text(char *out, size_t size, long ordinal)
{
	uint64_t high = mix64((uint64_t) ordinal);
	uint64_t low = mix64(high ^ (uint64_t) ordinal);

	snprintf(out, size, "%08x-%04x-%04x-%04x-%012llx", (unsigned) (high >> 32),
			 (unsigned) (high >> 16) & 0xffff, (unsigned) high & 0xffff,
			 (unsigned) (low >> 48),
			 (unsigned long long) (low & UINT64_C(0xffffffffffff)));
}

/* Appends the names of the key's columns. */
void
zoo_key_columns(StrBuf *out, const Kind *kind)
{
	sb_add(out, "%s", kind->key == KEY_COMPOSITE ? "region, num" : "id");
}

/* Appends the key as SQL values. */
void
zoo_key_values(StrBuf *out, const Kind *kind, long ordinal)
{
	char uuid[40];

	if (kind->key == KEY_INT)
		sb_add(out, "%ld", ordinal);
	else if (kind->key != KEY_COMPOSITE)
	{
		uuid_text(uuid, sizeof(uuid), ordinal);
		sb_add(out, "'%s'", uuid);
	}
	else
		sb_add(out, "'%s', %ld", regions[ordinal % REGION_COUNT], ordinal);
}

/* Writes the key as parameters of a prepared statement; returns how many. */
int
zoo_key_params(char out[2][48], const Kind *kind, long ordinal)
{
	if (kind->key == KEY_UUID || kind->key == KEY_TEXT)
		uuid_text(out[0], sizeof(out[0]), ordinal);
	else if (kind->key == KEY_INT)
		snprintf(out[0], sizeof(out[0]), "%ld", ordinal);
	else
	{
		snprintf(out[0], sizeof(out[0]), "%s", regions[ordinal % REGION_COUNT]);
		snprintf(out[1], sizeof(out[1]), "%ld", ordinal);
		return 2;
	}
	return 1;
}

/* Appends the condition that picks the row; alias is "" or ends in a dot. */
void
zoo_key_is(StrBuf *out, const Kind *kind, long ordinal, const char *alias)
{
	if (kind->key == KEY_COMPOSITE)
		sb_add(out, "(%sregion, %snum) = (", alias, alias);
	else
		sb_add(out, "(%sid = ", alias);
	zoo_key_values(out, kind, ordinal);
	sb_add(out, ")");
}

/* Appends the SET clause that gives a row another key. */
void
zoo_key_set(StrBuf *out, const Kind *kind, long ordinal)
{
	if (kind->key == KEY_COMPOSITE)
		sb_add(out, "(region, num) = (");
	else
		sb_add(out, "id = (");
	zoo_key_values(out, kind, ordinal);
	sb_add(out, ")");
}

/* Appends the columns that an INSERT of the workload names. */
void
zoo_columns(StrBuf *out, const Kind *kind)
{
	zoo_key_columns(out, kind);
	sb_add(out, ", owner, born, grp, note, doc, code, tags, at, span, rank,"
				" amount, label");
}

/* Appends the key's columns, cast to types that no kind changes. */
void
zoo_key_casts(StrBuf *out, const Kind *kind)
{
	static const char *const casts[] = {
		[KEY_INT] = "id::bigint AS id",
		[KEY_UUID] = "id",
		[KEY_TEXT] = "id::uuid AS id",
		[KEY_COMPOSITE] = "region COLLATE \"C\" AS region, num::bigint AS num"};

	sb_add(out, "%s", casts[kind->key]);
}

/* Appends the columns that must be equal, cast so that a type change of the
 * migration does not show. */
void
zoo_compared(StrBuf *out, const Kind *kind)
{
	bool is_jsonb = kind->retyped && strcmp(kind->retyped, "{doc}") == 0;

	zoo_key_casts(out, kind);
	sb_add(out,
		   ", owner, born, grp::bigint AS grp, note, doc%s AS doc, code, tags,"
		   " hits, at, %s AS buddy, span, rank, team, guild,"
		   " amount::bigint AS amount, label::text COLLATE \"C\" AS label, gen,"
		   " gen_text, fast",
		   is_jsonb ? "::jsonb" : "",
		   kind->key == KEY_TEXT ? "buddy::uuid" : "buddy");
}

/* Appends a short text. */
void
zoo_random_note(StrBuf *out, Rng *rng)
{
	static const char *const words[] = {"red", "gr\xc3\xbcn", "blue", "a b",
										"x"};

	sb_add(out, "%s %d", words[rng_below(rng, 5)], rng_below(rng, 100000));
}

/* Appends a label of at most 24 characters; collations order them apart. */
void
zoo_random_label(StrBuf *out, Rng *rng)
{
	sb_add(out, "%s %d", regions[rng_below(rng, REGION_COUNT)],
		   rng_below(rng, 10000));
}

/* Appends a JSON text: mostly short, one in eight too long for the page. */
void
zoo_random_doc(StrBuf *out, Rng *rng)
{
	int words = rng_chance(rng, 12) ? 150 + rng_below(rng, 250) : 2;

	sb_add(out, "{\"n\": %d, \"list\": [1, null, true], \"pad\": \"",
		   rng_below(rng, 1000));
	while (words-- > 0)
		sb_add(out, "%016llx", (unsigned long long) rng_next(rng));
	sb_add(out, "\"}");
}

/* Appends an array of small numbers. */
void
zoo_random_tags(StrBuf *out, Rng *rng)
{
	sb_add(out, "{%d,%d,%d}", rng_below(rng, 20), rng_below(rng, 100),
		   rng_below(rng, 1000));
}

/* Appends a point in time. */
static void
random_time(StrBuf *out, Rng *rng)
{
	time_t at = 1700000000 + rng_below(rng, 30000000);
	struct tm parts;
	char text[40];

	gmtime_r(&at, &parts);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S+00", &parts);
	sb_add(out, "%s", text);
}

/* Appends what separates two columns of a row, or its end. */
static void
row_next(StrBuf *out, bool is_copy)
{
	sb_add(out, is_copy ? "\t" : ", ");
}

/* Appends NULL. */
static void
row_null(StrBuf *out, bool is_copy)
{
	sb_add(out, is_copy ? "\\N" : "NULL");
}

/* Appends the key as COPY reads it. */
static void
copy_key(StrBuf *out, const Kind *kind, long ordinal)
{
	char uuid[40];

	uuid_text(uuid, sizeof(uuid), ordinal);
	if (kind->key == KEY_INT)
		sb_add(out, "%ld", ordinal);
	else if (kind->key != KEY_COMPOSITE)
		sb_add(out, "%s", uuid);
	else
		sb_add(out, "%s\t%ld", regions[ordinal % REGION_COUNT], ordinal);
}

/* Appends the columns behind the time: span, rank, amount, label. */
static void
row_tail(StrBuf *out, Rng *rng, long unique, bool is_copy)
{
	const char *quote = is_copy ? "" : "'";

	if (rng_chance(rng, 20))
		row_null(out, is_copy);
	else
		sb_add(out, "%s[%ld,%ld)%s", quote, unique * 10, unique * 10 + 7,
			   quote);
	row_next(out, is_copy);
	sb_add(out, "%ld", unique);
	row_next(out, is_copy);
	sb_add(out, "%d", rng_below(rng, 1000));
	row_next(out, is_copy);
	sb_add(out, "%s", quote);
	zoo_random_label(out, rng);
	sb_add(out, "%s", quote);
}

/*
 * Appends a new row, as "(…)" for VALUES or as a line for COPY.
 *
 * No text in it needs escaping in either form.  The buddy comes later, by an
 * update.
 */
void
zoo_row(StrBuf *out, Client *c, long ordinal, bool is_copy)
{
	const Kind *kind = c->load->opt.kind;
	const char *quote = is_copy ? "" : "'";
	long unique = ++c->serial;

	sb_add(out, is_copy ? "" : "(");
	if (is_copy)
		copy_key(out, kind, ordinal);
	else
		zoo_key_values(out, kind, ordinal);
	row_next(out, is_copy);
	sb_add(out, "%d", c->range.owner);
	row_next(out, is_copy);
	sb_add(out, "%ld", unique);
	row_next(out, is_copy);
	sb_add(out, "%d", 1 + rng_below(&c->rng, PARENT_ROWS));
	row_next(out, is_copy);
	if (rng_chance(&c->rng, 15))
		row_null(out, is_copy);
	else
	{
		sb_add(out, "%s", quote);
		zoo_random_note(out, &c->rng);
		sb_add(out, "%s", quote);
	}
	row_next(out, is_copy);
	if (rng_chance(&c->rng, 5))
		row_null(out, is_copy);
	else
	{
		sb_add(out, "%s", quote);
		zoo_random_doc(out, &c->rng);
		sb_add(out, "%s", quote);
	}
	row_next(out, is_copy);
	sb_add(out, "%ld", unique);
	row_next(out, is_copy);
	sb_add(out, "%s", quote);
	zoo_random_tags(out, &c->rng);
	sb_add(out, "%s", quote);
	row_next(out, is_copy);
	sb_add(out, "%s", quote);
	random_time(out, &c->rng);
	sb_add(out, "%s", quote);
	row_next(out, is_copy);
	row_tail(out, &c->rng, unique, is_copy);
	sb_add(out, is_copy ? "\n" : ")");
}

/* Fills "item" with the rows that the owners have at the start. */
static void
load_rows(Load *load, PGconn *conn)
{
	Client writer = {.load = load, .serial = 1};
	StrBuf line = {0};
	int owner = OWNER_HOT;
	PGresult *res;

	rng_seed(&writer.rng, load->opt.seed, 999);
	sb_add(&line, "COPY zoo.item (");
	zoo_columns(&line, load->opt.kind);
	sb_add(&line, ") FROM STDIN");
	res = PQexec(conn, line.data);
	if (PQresultStatus(res) != PGRES_COPY_IN)
		die("COPY: %s", PQerrorMessage(conn));
	PQclear(res);
	for (;;)
	{
		writer.range = zoo_range(load, owner);
		for (int slot = 0; slot < writer.range.filled; slot++)
		{
			sb_reset(&line);
			zoo_row(&line, &writer, writer.range.first + slot, true);
			PQputCopyData(conn, line.data, (int) line.len);
		}
		if (owner == OWNER_QUIET)
			break;
		owner = owner == load->opt.connections + OLD_CLIENTS ? OWNER_QUIET
															 : owner + 1;
	}
	PQputCopyEnd(conn, NULL);
	res = PQgetResult(conn);
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		die("COPY: %s", PQerrorMessage(conn));
	PQclear(res);
	PQclear(PQgetResult(conn));
	sb_free(&line);
}

/* Runs SQL that names a table as '@' and '#'. */
static void
run_for(PGconn *conn, const char *table, const char *text)
{
	StrBuf sql = {0};

	zoo_expand(&sql, text, table);
	exec_or_die(conn, sql.data);
	sb_free(&sql);
}

/* Appends the definition of the key's columns. */
static void
add_key_columns(StrBuf *out, const Load *load, bool is_serial)
{
	static const char *const columns[] = {
		[KEY_INT] = "id int GENERATED BY DEFAULT AS IDENTITY"
					" (SEQUENCE NAME #_id_seq START 1000000000)",
		[KEY_UUID] = "id uuid DEFAULT gen_random_uuid()",
		[KEY_TEXT] = "id text"};

	if (load->opt.kind->key == KEY_COMPOSITE)
		sb_add(out, "region text COLLATE %s, num int", load->key_collation);
	else if (is_serial)
		sb_add(out, "id int NOT NULL DEFAULT nextval('#_id_seq')");
	else
		sb_add(out, "%s", columns[load->opt.kind->key]);
}

/* Creates one of the tables, still without indexes and triggers. */
static void
create_table(const Load *load, PGconn *conn, const char *table)
{
	static const char *const key_types[] = {[KEY_INT] = "int",
											[KEY_UUID] = "uuid",
											[KEY_TEXT] = "text",
											[KEY_COMPOSITE] = "int"};
	const Kind *kind = load->opt.kind;
	const char *type = key_types[kind->key];
	bool is_serial = kind->key == KEY_INT && load->opt.seed % 2 == 0;
	bool is_child = kind->persistence && strstr(kind->persistence, "CHILD");
	StrBuf text = {0};
	StrBuf key = {0};
	StrBuf child = {0};

	add_key_columns(&key, load, is_serial);
	if (kind->key == KEY_COMPOSITE)
		sb_add(&child, "%s", key.data);
	else
		sb_add(&child, "id %s", type);
	if (is_serial)
		sb_add(&text, "CREATE SEQUENCE #_id_seq AS int START 1000000000;");
	sb_add(&text, table_sql, kind->persistence && !is_child ? "UNLOGGED" : "",
		   key.data, type, load->key_collation,
		   kind->key == KEY_COMPOSITE ? "region, num" : "id",
		   kind->is_partitioned ? partitioned_sql : plain_sql,
		   kind->persistence ? "UNLOGGED" : "", child.data);
	if (kind->is_partitioned)
		sb_add(&text, "%s", partitions_sql);
	if (is_serial)
		sb_add(&text, "ALTER SEQUENCE #_id_seq OWNED BY @.id;");
	run_for(conn, table, text.data);
	sb_free(&text);
	sb_free(&key);
	sb_free(&child);
}

/* Adds what a table gets once its rows are there. */
static void
finish_table(const Load *load, PGconn *conn, const char *table)
{
	static const char *const identities[] = {
		"", "ALTER TABLE @ REPLICA IDENTITY FULL;",
		"ALTER TABLE @ REPLICA IDENTITY USING INDEX #_born_uidx;"};
	const Kind *kind = load->opt.kind;
	StrBuf text = {0};

	sb_add(&text, "%s%s", after_load_sql,
		   kind->is_partitioned ? partitioned_after_load_sql
								: plain_after_load_sql);
	if (!kind->lacks_code_key)
		sb_add(&text, "ALTER TABLE @ ADD CONSTRAINT #_code_key"
					  " UNIQUE (code);");
	if (kind->key != KEY_COMPOSITE)
		sb_add(&text, "CREATE INDEX #_buddy_idx ON @ (buddy);"
					  "ALTER TABLE @ ADD CONSTRAINT #_buddy_fkey"
					  " FOREIGN KEY (buddy) REFERENCES @ (id)"
					  " ON DELETE SET NULL ON UPDATE CASCADE;");
	/* no foreign key could follow a key from text to uuid */
	if (kind->key != KEY_TEXT)
	{
		sb_add(&text, "ALTER TABLE @_child ADD CONSTRAINT #_child_fkey"
					  " FOREIGN KEY (");
		zoo_key_columns(&text, kind);
		sb_add(&text, ") REFERENCES @ ON DELETE CASCADE ON UPDATE CASCADE;");
	}
	sb_add(&text, "CREATE INDEX #_child_idx ON @_child (");
	zoo_key_columns(&text, kind);
	sb_add(&text, ");");
	sb_add(&text, "CREATE POLICY some_rows ON @ TO refit_zoo_reader,"
				  " refit_zoo_owner USING (owner %% 2 = 0);"
				  "ALTER TABLE @ ENABLE ROW LEVEL SECURITY;");
	if (kind->force_rls)
		sb_add(&text, "ALTER TABLE @ FORCE ROW LEVEL SECURITY;");
	sb_add(&text, "%s", identities[load->opt.seed % 3]);
	/* MERGE refuses a table with any rule */
	if (load->has_rule)
		sb_add(&text, "CREATE RULE a_rule AS ON DELETE TO @"
					  " WHERE OLD.born < 0 DO ALSO NOTHING;"
					  "COMMENT ON RULE a_rule ON @ IS 'a rule';");
	run_for(conn, table, text.data);
	sb_free(&text);
}

/* Creates the views, of all columns and of those no kind touches. */
static void
create_views(Load *load, PGconn *conn)
{
	StrBuf text = {0};

	load->has_view = !(load->opt.native && load->opt.kind->retyped);
	sb_add(&text, "CREATE VIEW zoo.item_plain AS"
				  " SELECT owner, born, note FROM zoo.item;"
				  "GRANT SELECT ON zoo.item_plain TO refit_zoo_reader;"
				  "COMMENT ON VIEW zoo.item_plain IS 'a plain view';");
	if (load->has_view)
	{
		sb_add(&text, "CREATE VIEW zoo.item_view WITH (security_barrier) AS"
					  " SELECT ");
		zoo_compared(&text, load->opt.kind);
		sb_add(&text, " FROM zoo.item;"
					  "CREATE VIEW zoo.item_view_above AS"
					  " SELECT owner, count(*) AS n FROM zoo.item_view"
					  " GROUP BY owner;"
					  "GRANT SELECT ON zoo.item_view TO refit_zoo_reader;"
					  "COMMENT ON VIEW zoo.item_view IS 'a dependent view';"
					  "COMMENT ON COLUMN zoo.item_view.note IS 'its column';"
					  "CREATE VIEW zoo.item_raw AS SELECT ");
		zoo_key_columns(&text, load->opt.kind);
		sb_add(&text,
			   ", buddy, doc, grp, amount, label, ticket, born, owner"
			   " FROM zoo.item WHERE amount >= 0 WITH CHECK OPTION;"
			   "ALTER VIEW zoo.item_raw ALTER COLUMN amount SET DEFAULT 9;"
			   "GRANT SELECT (born), UPDATE (label) ON zoo.item_raw"
			   " TO refit_zoo_reader;"
			   "CREATE VIEW zoo.item_raw_above AS SELECT r.*,"
			   " lower(r.label) AS low FROM zoo.item_raw r;"
			   "COMMENT ON COLUMN zoo.item_raw_above.low IS 'low';");
	}
	exec_or_die(conn, text.data);
	sb_free(&text);
}

/* Publishes the table, some of it, and all tables; an unlogged one cannot be
 * published, and one that is cannot become unlogged.  Some of a partitioned
 * table can be published only as a whole.  18 wants generated columns published
 * where the whole row is its replica identity. */
static void
create_publications(const Load *load, PGconn *conn)
{
	if (load->opt.kind->persistence == NULL)
		exec_or_die(conn,
					PQserverVersion(conn) >= 180000
						? "CREATE PUBLICATION zoo_pub FOR TABLE zoo.item"
						  " WITH (publish_generated_columns = stored)"
						: "CREATE PUBLICATION zoo_pub FOR TABLE zoo.item");
	if (load->opt.kind->persistence == NULL)
		exec_or_die(conn, "CREATE PUBLICATION zoo_some FOR TABLE zoo.item"
						  " (born, note) WHERE (owner < 500)"
						  " WITH (publish = 'insert',"
						  " publish_via_partition_root = true)");
	exec_or_die(conn, "CREATE PUBLICATION zoo_all FOR ALL TABLES"
					  " WITH (publish = 'insert, truncate')");
}

/* Removes what an earlier run left, prepared transactions included. */
static void
drop_old(PGconn *conn)
{
	PGresult *res = query_or_die(conn, "SELECT gid FROM pg_prepared_xacts"
									   " WHERE database = current_database()"
									   " AND gid LIKE 'zoo\\_%'");
	char sql[300];

	for (int i = 0; i < PQntuples(res); i++)
	{
		snprintf(sql, sizeof(sql), "ROLLBACK PREPARED '%s'",
				 PQgetvalue(res, i, 0));
		exec_or_die(conn, sql);
	}
	PQclear(res);
	exec_or_die(conn, "DROP PUBLICATION IF EXISTS zoo_pub, zoo_some, zoo_all");
	exec_or_die(conn, "DROP SCHEMA IF EXISTS zoo CASCADE");
	exec_quietly(conn, "CREATE ROLE refit_zoo_owner");
	exec_quietly(conn, "CREATE ROLE refit_zoo_reader");
}

/* Makes the schema with its three tables, from nothing. */
void
zoo_create(Load *load, PGconn *conn)
{
	static const char *const tables[] = {"item", "oracle", "model"};
	StrBuf text = {0};

	drop_old(conn);
	load->has_rule = load->opt.seed % 4 == 3;
	load->key_collation = value_or_die(
		conn, "SELECT coalesce((SELECT '\"de-x-icu\"' FROM pg_collation"
			  " WHERE collname = 'de-x-icu'"
			  " AND getdatabaseencoding() = 'UTF8'), '\"C\"')");
	if (load->opt.tablespace)
	{
		sb_add(&text, "GRANT CREATE ON TABLESPACE %s TO refit_zoo_owner",
			   load->opt.tablespace);
		exec_or_die(conn, text.data);
		sb_reset(&text);
	}
	exec_or_die(conn, common_sql);
	exec_or_die(conn, "SET search_path = zoo");
	sb_add(&text,
		   "INSERT INTO zoo.parent SELECT g, 'parent ' || g"
		   " FROM generate_series(1, %d) g;"
		   "INSERT INTO zoo.guard SELECT generate_series(1, %d);"
		   "INSERT INTO zoo.team SELECT generate_series(1, %d)",
		   PARENT_ROWS, HOT_GUARDS, (MAX_CONNECTIONS + OLD_CLIENTS) * TEAMS);
	exec_or_die(conn, text.data);
	for (int i = 0; i < 3; i++)
		create_table(load, conn, tables[i]);
	load_rows(load, conn);
	sb_reset(&text);
	sb_add(&text, "INSERT INTO zoo.oracle (");
	zoo_columns(&text, load->opt.kind);
	sb_add(&text, ") SELECT ");
	zoo_columns(&text, load->opt.kind);
	sb_add(&text, " FROM zoo.item");
	exec_or_die(conn, text.data);
	for (int i = 0; i < 3; i++)
		finish_table(load, conn, tables[i]);
	create_views(load, conn);
	exec_or_die(conn, "RESET ROLE; RESET search_path");
	create_publications(load, conn);
	exec_or_die(conn, "ANALYZE");
	sb_free(&text);
}
