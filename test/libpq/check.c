/*-------------------------------------------------------------------------
 *
 * check.c
 *	  What must hold when the load has ended: the oracle and the catalog.
 *
 * Rows: "item" and "oracle" are equal as multisets, in both directions, and
 * so are their children and what their triggers have written.
 *
 * Catalog: "item" looks like "model", an empty table of the same making on
 * which the native ALTER TABLE is run here (shape.c); and the objects that applications
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

/* "item" and its partitions. */
#define ITEM_TREE                                                             \
	" WHERE c.relnamespace = 'zoo'::regnamespace AND c.relkind IN ('r', 'p')" \
	" AND (c.relname = 'item' OR c.relispartition"                            \
	"  AND starts_with(c.relname::text, 'item'))"

/*
 * Objects by OID.  A line that begins with '~' may change: what a retyped
 * column is part of is made anew by the native ALTER TABLE, too.  One that
 * begins with '+' may be new.
 */
static const char *const identity_sql =
	"WITH changed AS (SELECT c.oid AS rel, coalesce(array_agg(attnum)"
	" FILTER (WHERE attname = ANY ('%s')), '{}') AS nums"
	" FROM pg_class c JOIN pg_attribute ON attrelid = c.oid" ITEM_TREE
	" GROUP BY c.oid) "
	"SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM ("
	"SELECT concat_ws(' ', 'table', relname, c.oid, 'owner', relowner, 'acl',"
	" relacl, 'comment', obj_description(c.oid, 'pg_class'), 'type', reltype,"
	" reloftype) AS line FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind IN ('r', 'p') "
	"UNION ALL "
	"SELECT concat_ws(' ', '+sequence', relname, c.oid, 'owner', relowner,"
	" 'acl', relacl) FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind = 'S'"
	" AND relname NOT LIKE 'model%%' "
	"UNION ALL "
	"SELECT concat_ws(' ', 'view', relname, c.oid) FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind = 'v' "
	"UNION ALL "
	"SELECT concat_ws(' ', 'view as granted', relname, 'owner', relowner,"
	" 'acl', relacl, 'options', reloptions, 'comment',"
	" obj_description(c.oid, 'pg_class'), 'columns', (SELECT"
	"  string_agg(concat_ws(' ', attname, attacl, pg_get_expr(adbin, adrelid),"
	"  col_description(attrelid, attnum)), ',' ORDER BY attnum)"
	"  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid"
	"  AND adnum = attnum WHERE attrelid = c.oid))"
	" FROM pg_class c"
	" WHERE relnamespace = 'zoo'::regnamespace AND relkind = 'v' "
	"UNION ALL "
	"SELECT concat_ws(' ', 'trigger', tgname, rel::regclass, t.oid)"
	" FROM pg_trigger t JOIN changed ON tgrelid = rel"
	" WHERE NOT tgisinternal "
	"UNION ALL "
	"SELECT concat_ws(' ', 'policy', polname, oid) FROM pg_policy"
	" WHERE polrelid = 'zoo.item'::regclass "
	"UNION ALL "
	"SELECT concat_ws(' ', 'publication', prpubid, oid)"
	" FROM pg_publication_rel WHERE prrelid = 'zoo.item'::regclass "
	"UNION ALL "
	"SELECT concat_ws(' ', CASE WHEN stxkeys::int2[] && nums THEN '~' ELSE ''"
	" END || 'statistics', stxname, oid)"
	" FROM pg_statistic_ext JOIN changed ON stxrelid = rel "
	"UNION ALL "
	"SELECT concat_ws(' ', CASE WHEN conkey && f.nums OR confkey && t.nums"
	" THEN '~' ELSE '+' END || 'constraint', conname, contype,"
	" conrelid::regclass, oid) FROM pg_constraint"
	" LEFT JOIN changed f ON conrelid = f.rel"
	" LEFT JOIN changed t ON confrelid = t.rel"
	" WHERE connamespace = 'zoo'::regnamespace AND contype <> 't'"
	" AND conrelid <> 'zoo.model'::regclass "
	"UNION ALL "
	"SELECT concat_ws(' ', CASE WHEN indkey::int2[] && nums OR nums <> '{}'"
	" AND (indexprs IS NOT NULL OR indpred IS NOT NULL) THEN '~' ELSE '+' END"
	" || 'index', indexrelid::regclass, indexrelid)"
	" FROM pg_index JOIN changed ON indrelid = rel"
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
	const char *retyped = load->opt.kind->retyped;
	StrBuf sql = {0};
	char *lines;

	sb_add(&sql, identity_sql, retyped ? retyped : "{}");
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
 * Lines that begin with one of the "excused" characters may differ, which is
 * worth a note when notes are wanted.
 */
static bool
check_lines(const char *text, const char *other, const char *what,
			const char *excused, bool notes)
{
	bool is_good = true;

	while (*text != '\0')
	{
		size_t len = strcspn(text, "\n");

		if (!has_line(other, text, len))
		{
			bool is_note = strchr(excused, *text) != NULL;

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

/* Does to "model" what the migration has done to "item", by native means. */
static void
alter_model(const Load *load, PGconn *conn)
{
	StrBuf sql = {0};

	if (load->actions == NULL)
		sb_add(&sql, "VACUUM (FULL) zoo.model");
	else
	{
		sb_add(&sql, "ALTER TABLE zoo.model ");
		zoo_expand(&sql, load->actions, "model");
	}
	exec_or_die(conn, sql.data);
	sb_free(&sql);

	/*
	 * On purpose other than PostgreSQL: a sequence that a serial column owns
	 * is widened with it, or the column would go on running out of numbers.
	 */
	if (!load->opt.native && load->opt.kind->retyped &&
		strcmp(load->opt.kind->retyped, "{id}") == 0)
		exec_or_die(conn, "ALTER SEQUENCE zoo.model_id_seq AS bigint");
}

/* "item", or a partition of it, must look like that of "model". */
static bool
check_same_shape(PGconn *conn, const char *partition)
{
	char *item = shape_of(conn, "item", partition);
	char *model = shape_of(conn, "model", partition);
	bool is_good;

	is_good =
		check_lines(item, model, "native ALTER TABLE does not give", "", false);
	is_good &= check_lines(model, item, "native ALTER TABLE gives", "", false);
	free(item);
	free(model);
	return is_good;
}

/* "item" must look like "model", which the native means have changed. */
static bool
check_shape(const Load *load, PGconn *conn, bool is_changed)
{
	static const char *const partitions[] = {"_some", "_some0", "_some1",
											 "_other", "_rest"};
	bool is_good;

	if (is_changed)
		alter_model(load, conn);
	is_good = check_same_shape(conn, "");
	for (int i = 0; load->opt.kind->is_partitioned && i < 5; i++)
		is_good &= check_same_shape(conn, partitions[i]);
	return is_good;
}

/* Objects that have to be the same ones as before. */
static bool
check_same_objects(Load *load, PGconn *conn, const char *before)
{
	char *after = check_identity(conn, load);
	bool is_good = check_lines(before, after, "gone", "~", load->opt.verbose);

	is_good &= check_lines(after, before, "new", "~+", load->opt.verbose);
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
	zoo_key_casts(&columns, load->opt.kind);
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

/* Horizons are there, not in the future, and not behind the database's. */
static bool
check_horizons(PGconn *conn)
{
	return check_none(
		conn, "relfrozenxid or relminmxid not valid",
		"SELECT oid::regclass, relfrozenxid, relminmxid FROM pg_class"
		" WHERE relkind IN ('r', 'm', 't') AND (relfrozenxid = '0'"
		" OR relminmxid = '0' OR age(relfrozenxid) < 0 OR"
		" age(relfrozenxid) > age((SELECT datfrozenxid FROM pg_database"
		" WHERE datname = current_database())) OR mxid_age(relminmxid) < 0"
		" OR mxid_age(relminmxid) > mxid_age((SELECT datminmxid"
		" FROM pg_database WHERE datname = current_database())))");
}

/* The child, and what of "item" has storage. */
#define ITEM_HEAPS                                                 \
	" WHERE c.oid IN (SELECT 'zoo.item_child'::regclass UNION ALL" \
	" SELECT c.oid FROM pg_class c" ITEM_TREE " AND c.relkind = 'r')"

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
	is_good &=
		check_none(conn, "verify_heapam",
				   "SELECT c.relname, v.* FROM pg_class c,"
				   " verify_heapam(c.oid, check_toast => true) v" ITEM_HEAPS);
	is_good &= check_none(conn, "pg_check_frozen",
						  "SELECT c.relname, v.* FROM pg_class c,"
						  " pg_check_frozen(c.oid) v" ITEM_HEAPS);
	is_good &= check_none(conn, "pg_check_visible",
						  "SELECT c.relname, v.* FROM pg_class c,"
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
		"tags @> '{3}'",
		"tags @> '{7}'",
		"at BETWEEN '2024-01-01' AND '2024-03-01'",
		"lower(note) = 'was null'",
		"grp = 3 AND note IS NOT NULL",
		"label < 'g'",
		"span && '[10000000000,2000000000000)'",
		"team IS NOT NULL",
		"amount BETWEEN 100 AND 120"};
	StrBuf sql = {0};
	bool is_good = true;

	for (size_t i = 0; i < sizeof(conditions) / sizeof(conditions[0]); i++)
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
check_all(Load *load, PGconn *conn, const char *identity, bool is_changed,
		  long *rows)
{
	bool is_good = check_rows(load, conn, rows);

	is_good &= check_same_objects(load, conn, identity);
	is_good &= check_shape(load, conn, is_changed);
	is_good &= check_leftovers(conn);
	is_good &= check_horizons(conn);
	is_good &= check_storage(conn);
	is_good &= check_other_indexes(conn);
	if (load->opt.kind->adds_uuid && is_changed)
		is_good &= check_uuid(conn);
	return is_good;
}
