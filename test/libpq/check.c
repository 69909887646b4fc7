/*-------------------------------------------------------------------------
 *
 * check.c
 *	  What must hold when the load has ended: the oracle and the catalog.
 *
 * Rows: "item" and "oracle" are equal as multisets, in both directions, and
 * so are their children and what their triggers have written.
 *
 * Catalog: "item" looks like "model", an empty table of the same making on
 * which the native ALTER TABLE is run here; and the objects that applications
 * and administrators refer to are the same as before, by OID.
 *
 * Storage: amcheck finds nothing, indexes find what the heap holds, no two
 * relations share a file, and nothing of the migration is left.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

/*
 * What a table looks like, without OIDs and without its name; %s is empty or
 * the rest of a partition's name.
 *
 * The minor releases of November 2026 keep a version number of each column in
 * attoptions; that there is one counts, which one does not.
 */
static const char *const shape_sql =
	"WITH rel AS (SELECT * FROM pg_class WHERE oid = 'zoo.#%s'::regclass)"
	"SELECT replace(line, '#', 'TABLE') FROM ("
	"SELECT concat_ws(' ', 'table', relkind, relpersistence, 'am', relam,"
	" 'space', reltablespace, 'options', reloptions, 'owner', relowner,"
	" 'acl', relacl, 'rls', relrowsecurity, relforcerowsecurity,"
	" 'replica', relreplident, 'rewrite', relrewrite, 'checks', relchecks,"
	" 'comment', obj_description(oid, 'pg_class')) AS line FROM rel "
	"UNION ALL "
	"SELECT concat_ws(' ', 'column', attnum, attname, 'type',"
	" format_type(atttypid, atttypmod), 'len', attlen, attalign, attbyval,"
	" 'notnull', attnotnull, 'identity', attidentity, 'generated',"
	" attgenerated, 'dropped', attisdropped, 'storage', attstorage,"
	" 'compression', attcompression, 'target', attstattarget, 'options',"
	" regexp_replace(attoptions::text, 'pg_attver=\\d+', 'version'), 'acl',"
	" attacl, 'collation', attcollation, 'default',"
	" pg_get_expr(adbin, adrelid), 'comment',"
	" col_description(attrelid, attnum))"
	" FROM rel JOIN pg_attribute a ON attrelid = rel.oid AND attnum > 0"
	" LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum "
	"UNION ALL "
	"SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), 'unique',"
	" indisunique, 'primary', indisprimary, 'valid', indisvalid, indisready,"
	" indislive, 'clustered', indisclustered, 'replica', indisreplident,"
	" 'space', i.reltablespace, 'owner', i.relowner, 'comment',"
	" obj_description(i.oid, 'pg_class'))"
	" FROM rel JOIN pg_index x ON indrelid = rel.oid"
	" JOIN pg_class i ON i.oid = indexrelid "
	"UNION ALL "
	"SELECT concat_ws(' ', 'constraint', conname, pg_get_constraintdef(k.oid),"
	" 'valid', convalidated, 'on', conrelid::regclass, 'index',"
	" conindid::regclass, 'comment', obj_description(k.oid, 'pg_constraint'))"
	" FROM rel JOIN pg_constraint k ON rel.oid IN (conrelid, confrelid) "
	"UNION ALL "
	"SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid), 'enabled',"
	" tgenabled, 'comment', obj_description(t.oid, 'pg_trigger'))"
	" FROM rel JOIN pg_trigger t ON tgrelid = rel.oid AND NOT tgisinternal "
	"UNION ALL "
	"SELECT concat_ws(' ', 'internal trigger', tgfoid::regproc, tgenabled,"
	" tgtype, count(*))"
	" FROM rel JOIN pg_trigger t ON tgrelid = rel.oid AND tgisinternal"
	" GROUP BY tgfoid, tgenabled, tgtype "
	"UNION ALL "
	"SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(s.oid))"
	" FROM rel JOIN pg_statistic_ext s ON stxrelid = rel.oid "
	"UNION ALL "
	"SELECT concat_ws(' ', 'policy', polname, polcmd, polroles,"
	" pg_get_expr(polqual, polrelid))"
	" FROM rel JOIN pg_policy ON polrelid = rel.oid "
	"UNION ALL "
	"SELECT concat_ws(' ', 'sequence', seqrelid::regclass, seqtypid::regtype,"
	" seqmin, seqmax, seqincrement, seqcache, seqcycle, deptype, refobjsubid)"
	" FROM rel JOIN pg_depend d ON refobjid = rel.oid"
	" AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')"
	" AND classid = 'pg_class'::regclass"
	" JOIN pg_sequence ON seqrelid = objid "
	"UNION ALL "
	"SELECT concat_ws(' ', 'toast name fits', t.relname = 'pg_toast_' ||"
	" rel.oid, 'rewrite', t.relrewrite, 'space', t.reltablespace, 'owner',"
	" t.relowner, 'dependencies', (SELECT count(*) FROM pg_depend"
	"  WHERE classid = 'pg_class'::regclass AND objid = t.oid"
	"  AND refobjid = rel.oid AND deptype = 'i'))"
	" FROM rel JOIN pg_class t ON t.oid = rel.reltoastrelid"
	") lines ORDER BY 1";

/*
 * Objects by OID.  A line that begins with '~' may change: a foreign key that
 * refers to a retyped column is made anew by the native ALTER TABLE, too.
 */
static const char *const identity_sql =
	"SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM ("
	"SELECT concat_ws(' ', 'table', relname, c.oid, 'owner', relowner, 'acl',"
	" relacl, 'comment', obj_description(c.oid, 'pg_class'), 'type', reltype,"
	" reloftype) AS line FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind IN ('r', 'p', 'S') "
	"UNION ALL "
	"SELECT concat_ws(' ', 'view', relname, c.oid) FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind = 'v' "
	"UNION ALL "
	"SELECT concat_ws(' ', 'view as granted', relname, 'owner', relowner,"
	" 'acl', relacl, 'options', reloptions, 'comment',"
	" obj_description(c.oid, 'pg_class'), 'columns', (SELECT"
	"  string_agg(concat_ws(' ', attname, col_description(attrelid, attnum)),"
	"  ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid))"
	" FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind = 'v' "
	"UNION ALL "
	"SELECT concat_ws(' ', 'trigger', tgname, t.oid) FROM pg_trigger t"
	" WHERE tgrelid = 'zoo.item'::regclass AND NOT tgisinternal "
	"UNION ALL "
	"SELECT concat_ws(' ', 'policy', polname, oid) FROM pg_policy"
	" WHERE polrelid = 'zoo.item'::regclass "
	"UNION ALL "
	"SELECT concat_ws(' ', 'publication', prpubid, oid)"
	" FROM pg_publication_rel WHERE prrelid = 'zoo.item'::regclass "
	"UNION ALL "
	"SELECT concat_ws(' ', 'statistics', stxname, oid) FROM pg_statistic_ext"
	" WHERE stxrelid = 'zoo.item'::regclass "
	"UNION ALL "
	"SELECT concat_ws(' ', CASE WHEN confrelid = 'zoo.item'::regclass"
	" THEN '%s' ELSE '' END || 'foreign key', conname, oid) FROM pg_constraint"
	" WHERE contype = 'f' AND connamespace = 'zoo'::regnamespace "
	"UNION ALL "
	"SELECT concat_ws(' ', 'check', conname, oid) FROM pg_constraint"
	" WHERE contype = 'c' AND conrelid = 'zoo.item'::regclass"
	") lines";

/* Says what does not hold; always false. */
static bool
broken(const char *what, const char *detail)
{
	fprintf(stderr, "check failed: %s%s%s\n", what, detail ? ": " : "",
			detail ? detail : "");
	return false;
}

/* The objects by OID, one per line, as a string to be freed. */
char *
check_identity(PGconn *conn, const Load *load)
{
	const char *mark = load->opt.kind->retyped ? "~" : "";
	StrBuf sql = {0};
	char *lines;

	sb_add(&sql, identity_sql, mark);
	lines = value_or_die(conn, sql.data);
	sb_free(&sql);
	return lines;
}

/* True when the text has this line. */
static bool
has_line(const char *text, const char *line, size_t len)
{
	while (*text != '\0')
	{
		size_t here = strcspn(text, "\n");

		if (here == len && strncmp(text, line, len) == 0)
			return true;
		text += here + (text[here] == '\n');
	}
	return false;
}

/*
 * Reports each line of one text that the other does not have.
 *
 * Lines that begin with '~' may differ, which is worth a note when notes are
 * wanted.
 */
static bool
check_lines(const char *text, const char *other, const char *what, bool notes)
{
	bool is_good = true;

	while (*text != '\0')
	{
		size_t len = strcspn(text, "\n");

		if (!has_line(other, text, len))
		{
			bool is_note = *text == '~';

			if (!is_note || notes)
				fprintf(stderr, "%s: %s: %.*s\n",
						is_note ? "note" : "check failed", what, (int) len,
						text);
			if (!is_note)
				is_good = false;
		}
		text += len + (text[len] == '\n');
	}
	return is_good;
}

/* What a table looks like, one property per line. */
static char *
table_shape(PGconn *conn, const char *table, const char *partition)
{
	StrBuf text = {0};
	StrBuf sql = {0};
	StrBuf lines = {0};
	PGresult *res;

	sb_add(&text, shape_sql, partition);
	zoo_expand(&sql, text.data, table);
	res = query_or_die(conn, sql.data);
	for (int i = 0; i < PQntuples(res); i++)
		sb_add(&lines, "%s%s", i > 0 ? "\n" : "", PQgetvalue(res, i, 0));
	PQclear(res);
	sb_free(&text);
	sb_free(&sql);
	return lines.data;
}

/* "item", or a partition of it, must look like that of "model". */
static bool
check_same_shape(PGconn *conn, const char *partition)
{
	char *item = table_shape(conn, "item", partition);
	char *model = table_shape(conn, "model", partition);
	bool is_good =
		check_lines(item, model, "native ALTER TABLE does not give", false);

	is_good &= check_lines(model, item, "native ALTER TABLE gives", false);
	free(item);
	free(model);
	return is_good;
}

/* Runs the native ALTER TABLE on "model"; "item" must look the same. */
static bool
check_shape(Load *load, PGconn *conn)
{
	StrBuf sql = {0};
	StrBuf actions = {0};
	static const char *const partitions[] = {"_some", "_some0", "_some1",
											 "_other", "_rest"};
	bool is_good;

	if (load->actions)
	{
		zoo_expand(&actions, load->actions, "model");
		sb_add(&sql, "ALTER TABLE zoo.model %s", actions.data);
		exec_or_die(conn, sql.data);
	}
	/* we widen a sequence with its column; the native one leaves it int */
	if (!load->opt.native && load->opt.kind->key == KEY_INT &&
		load->opt.kind->retyped)
		exec_or_die(conn, "ALTER SEQUENCE zoo.model_id_seq AS bigint");
	is_good = check_same_shape(conn, "");
	for (int i = 0; load->opt.kind->is_partitioned && i < 5; i++)
		is_good &= check_same_shape(conn, partitions[i]);
	sb_free(&sql);
	sb_free(&actions);
	return is_good;
}

/* Objects that have to be the same ones as before. */
static bool
check_same_objects(Load *load, PGconn *conn, const char *before)
{
	char *after = check_identity(conn, load);
	bool is_good = check_lines(before, after, "gone", load->opt.verbose);

	is_good &= check_lines(after, before, "new", load->opt.verbose);
	free(after);
	return is_good;
}

/* A query that must find nothing; its rows are printed. */
static bool
check_none(PGconn *conn, const char *what, const char *sql)
{
	PGresult *res = query_or_die(conn, sql);
	StrBuf row = {0};
	bool is_good = PQntuples(res) == 0;

	for (int i = 0; i < PQntuples(res) && i < 10; i++)
	{
		sb_reset(&row);
		for (int col = 0; col < PQnfields(res); col++)
			sb_add(&row, "%s%s=%.200s", col > 0 ? " " : "", PQfname(res, col),
				   PQgetisnull(res, i, col) ? "NULL" : PQgetvalue(res, i, col));
		broken(what, row.data);
	}
	if (PQntuples(res) > 10)
		fprintf(stderr, "... and %d more\n", PQntuples(res) - 10);
	PQclear(res);
	sb_free(&row);
	return is_good;
}

/* Rows that one table has and the other has not. */
static bool
check_except(PGconn *conn, const char *columns, const char *has,
			 const char *lacks)
{
	StrBuf sql = {0};
	StrBuf what = {0};
	bool is_good;

	sb_add(&what, "row of zoo.%s that zoo.%s has not", has, lacks);
	sb_add(&sql, "SELECT %s FROM zoo.%s EXCEPT ALL SELECT %s FROM zoo.%s",
		   columns, has, columns, lacks);
	is_good = check_none(conn, what.data, sql.data);
	sb_free(&sql);
	sb_free(&what);
	return is_good;
}

/* Compares all tables that have a twin, in both directions. */
static bool
check_rows(Load *load, PGconn *conn, long *rows)
{
	StrBuf columns = {0};
	bool is_good = true;

	*rows = number_or_die(conn, "SELECT count(*) FROM zoo.item");
	if (*rows == 0)
		is_good = broken("no rows to compare", NULL);
	zoo_compared(&columns, load->opt.kind);
	is_good &= check_except(conn, columns.data, "item", "oracle");
	is_good &= check_except(conn, columns.data, "oracle", "item");
	sb_reset(&columns);
	sb_add(&columns, "cid, val, ");
	zoo_key_columns(&columns, load->opt.kind);
	is_good &= check_except(conn, columns.data, "item_child", "oracle_child");
	is_good &= check_except(conn, columns.data, "oracle_child", "item_child");
	is_good &= check_except(conn, "op, born, hits, name", "item_audit",
							"oracle_audit");
	is_good &= check_except(conn, "op, born, hits, name", "oracle_audit",
							"item_audit");
	if (!load->opt.truncate &&
		(number_or_die(conn, "SELECT count(*) FROM zoo.item_child") == 0 ||
		 number_or_die(conn, "SELECT count(*) FROM zoo.item_audit") == 0))
		is_good = broken("no children or no audit rows to compare", NULL);
	sb_free(&columns);
	return is_good;
}

/* Nothing of the migration may be left, and no file shared. */
static bool
check_leftovers(PGconn *conn)
{
	bool is_good = true;

	is_good &= check_none(conn, "work schema left",
						  "SELECT nspname FROM pg_namespace"
						  " WHERE nspname LIKE 'refit\\_%'");
	is_good &= check_none(conn, "capture trigger left",
						  "SELECT tgrelid::regclass, tgname FROM pg_trigger t"
						  " JOIN pg_proc p ON p.oid = tgfoid"
						  " WHERE pronamespace::regnamespace::text = 'refit'");
	is_good &= check_none(conn, "relrewrite left",
						  "SELECT oid::regclass, relrewrite FROM pg_class"
						  " WHERE relrewrite NOT IN (0, oid)");
	is_good &= check_none(
		conn, "file shared by two relations",
		"SELECT reltablespace, relfilenode, array_agg(oid::regclass)"
		" FROM pg_class WHERE relfilenode <> 0 AND relpersistence <> 't'"
		" GROUP BY 1, 2 HAVING count(*) > 1");
	is_good &= check_none(
		conn, "constraint not valid",
		"SELECT conrelid::regclass, conname FROM pg_constraint"
		" WHERE NOT convalidated AND connamespace = 'zoo'::regnamespace");
	is_good &=
		check_none(conn, "index not valid",
				   "SELECT indexrelid::regclass FROM pg_index"
				   " WHERE NOT (indisvalid AND indisready AND indislive)");
	is_good &= check_none(conn, "prepared transaction left",
						  "SELECT gid FROM pg_prepared_xacts"
						  " WHERE database = current_database()");
	is_good &= check_none(conn, "no statistics",
						  "SELECT 'zoo.item' AS name WHERE NOT EXISTS"
						  " (SELECT FROM pg_stats WHERE schemaname = 'zoo'"
						  " AND tablename = 'item' AND attname = 'born')");
	return is_good;
}

/* "item" or its partitions, and their children. */
#define ITEM_HEAPS                                                    \
	" WHERE c.relnamespace = 'zoo'::regnamespace AND c.relkind = 'r'" \
	" AND (c.relname IN ('item', 'item_child')"                       \
	"  OR c.relispartition AND c.relname LIKE 'item%')"

/* What amcheck and pg_visibility say, where they can be had. */
static bool
check_storage(PGconn *conn)
{
	bool is_good = true;

	exec_quietly(conn, "CREATE EXTENSION IF NOT EXISTS amcheck");
	exec_quietly(conn, "CREATE EXTENSION IF NOT EXISTS pg_visibility");
	if (number_or_die(conn, "SELECT count(*) FROM pg_extension WHERE"
							" extname IN ('amcheck', 'pg_visibility')") < 2)
	{
		fprintf(stderr, "note: amcheck or pg_visibility cannot be had\n");
		return true;
	}
	is_good &= check_none(conn, "verify_heapam",
						  "SELECT v.* FROM pg_class c, verify_heapam(c.oid,"
						  " check_toast => true) v" ITEM_HEAPS);
	is_good &= check_none(conn, "pg_check_frozen",
						  "SELECT v.* FROM pg_class c,"
						  " pg_check_frozen(c.oid) v" ITEM_HEAPS);
	is_good &= check_none(conn, "pg_check_visible",
						  "SELECT v.* FROM pg_class c,"
						  " pg_check_visible(c.oid) v" ITEM_HEAPS);
	/* fails with an error when an index is damaged or lacks an entry */
	exec_or_die(conn,
				"SELECT bt_index_parent_check(indexrelid, true, true)"
				" FROM pg_index x JOIN pg_class i ON i.oid = indexrelid"
				" JOIN pg_am a ON a.oid = relam AND amname = 'btree'"
				" WHERE indrelid IN (SELECT unnest(ARRAY[oid, reltoastrelid])"
				" FROM pg_class WHERE relnamespace = 'zoo'::regnamespace"
				" AND relkind = 'r')");
	return is_good;
}

/* Indexes that amcheck does not know must find what a plain scan finds. */
static bool
check_other_indexes(PGconn *conn)
{
	static const char *const conditions[] = {
		"tags @> '{3}'", "tags @> '{7}'",
		"at BETWEEN '2024-01-01' AND '2024-03-01'", "lower(note) = 'was null'",
		"grp = 3 AND note IS NOT NULL"};
	StrBuf sql = {0};
	bool is_good = true;

	for (int i = 0; i < 5; i++)
	{
		long by_index;
		long by_scan;

		sb_reset(&sql);
		sb_add(&sql, "SELECT count(*) FROM zoo.item WHERE %s", conditions[i]);
		exec_or_die(conn, "SET enable_seqscan = off");
		by_index = number_or_die(conn, sql.data);
		exec_or_die(conn, "RESET enable_seqscan; SET enable_indexscan = off;"
						  "SET enable_bitmapscan = off;"
						  "SET enable_indexonlyscan = off");
		by_scan = number_or_die(conn, sql.data);
		exec_or_die(conn, "RESET enable_indexscan; RESET enable_bitmapscan;"
						  "RESET enable_indexonlyscan");
		if (by_index != by_scan)
			is_good = broken("index and heap disagree", sql.data);
	}
	sb_free(&sql);
	return is_good;
}

/*
 * Remembers each row's new uuid as soon as the column is there.
 *
 * Called again and again while the migration runs; it acts once.
 */
void
check_watch_uuid(PGconn *conn)
{
	static bool is_done;

	if (is_done || number_or_die(conn, "SELECT count(*) FROM pg_attribute"
									   " WHERE attrelid = 'zoo.item'::regclass"
									   " AND attname = 'u'") == 0)
		return;
	exec_or_die(conn, "INSERT INTO zoo.seen SELECT born, u FROM zoo.item");
	is_done = true;
}

/* The column that came with the migration: never NULL, unique, constant. */
static bool
check_uuid(PGconn *conn)
{
	bool is_good = true;

	is_good &= check_none(conn, "u is NULL",
						  "SELECT born FROM zoo.item WHERE u IS NULL");
	is_good &= check_none(conn, "u is not unique",
						  "SELECT u, count(*) FROM zoo.item GROUP BY u"
						  " HAVING count(*) > 1");
	is_good &= check_none(conn, "u of a row has changed",
						  "SELECT born, s.u AS was, i.u AS is_now"
						  " FROM zoo.seen s JOIN zoo.item i USING (born)"
						  " WHERE s.u IS DISTINCT FROM i.u");
	if (number_or_die(conn, "SELECT count(*) FROM zoo.seen") == 0)
		is_good = broken("u has never been seen", NULL);
	return is_good;
}

/* Everything that must hold at the end; prints what does not. */
bool
check_all(Load *load, PGconn *conn, const char *identity, long *rows)
{
	bool is_good = check_rows(load, conn, rows);

	is_good &= check_same_objects(load, conn, identity);
	is_good &= check_shape(load, conn);
	is_good &= check_leftovers(conn);
	is_good &= check_storage(conn);
	is_good &= check_other_indexes(conn);
	if (load->opt.kind->adds_uuid)
		is_good &= check_uuid(conn);
	return is_good;
}
