/*-------------------------------------------------------------------------
 *
 * part.c
 *	  The parts of a pass over a table.  See part.h.
 *
 * For several processes a table is divided at keys that its statistics have, so
 * evenly as those are.  Without statistics it is one part; so it is by positions.
 *
 * Positions are those of one storage: what gives the table another one, VACUUM
 * FULL or TRUNCATE, sends such a part back to its beginning.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "job/catalog.h"
#include "rows/part.h"
#include "rows/route.h"
#include "table/finder.h"
#include "table/shape.h"
#include "util/sqlutil.h"

/* Positions of a block: more than a page can have rows. */
#define BLOCK_POSITIONS 2048

/* Rows of the first batch of a part. */
#define FIRST_BATCH 100

/* How often a table is gone over by positions. */
#define MOST_ROUNDS 3

/* Parts of a table for each of several processes. */
#define PARTS_EACH 4

/*
 * Positions
 */

/* The tid of a position. */
void
refit_part_tid(int64 position, ItemPointer tid)
{
	ItemPointerSet(tid, position / BLOCK_POSITIONS, position % BLOCK_POSITIONS);
}

/* The first position of a block. */
int64
refit_part_position(BlockNumber block)
{
	return (int64) block * BLOCK_POSITIONS;
}

/*
 * Keys
 */

/* Settings that write a value so that it can be read again.  Undo by the level. */
static int
pin_settings(void)
{
	int guc_level = NewGUCNestLevel();

	refit_set_local("DateStyle", "ISO, MDY");
	refit_set_local("IntervalStyle", "postgres");
	refit_set_local("extra_float_digits", "3");
	refit_set_local("bytea_output", "hex");
	return guc_level;
}

/* A key as a text[]. */
static Datum
key_to_array(const RefitPart *part, const Datum *key)
{
	Datum texts[INDEX_MAX_KEYS];
	int guc_level = pin_settings();

	for (int i = 0; i < part->nkeys; i++)
	{
		Oid output;
		bool varlena;

		getTypeOutputInfo(part->types[i], &output, &varlena);
		texts[i] = CStringGetTextDatum(OidOutputFunctionCall(output, key[i]));
	}
	AtEOXact_GUC(false, guc_level);
	return PointerGetDatum(
		construct_array(texts, part->nkeys, TEXTOID, -1, false, TYPALIGN_INT));
}

/* And back. */
static Datum *
key_from_array(const RefitPart *part, Datum array)
{
	Datum *key = palloc(sizeof(Datum) * part->nkeys);
	int guc_level = pin_settings();
	Datum *texts;
	int n;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &texts, NULL, &n);
	if (n != part->nkeys)
		elog(ERROR, "a key of %d columns is stored for one of %d", n,
			 part->nkeys);
	for (int i = 0; i < n; i++)
	{
		Oid input;
		Oid param;

		getTypeInputInfo(part->types[i], &input, &param);
		key[i] = OidInputFunctionCall(input, TextDatumGetCString(texts[i]),
									  param, -1);
	}
	AtEOXact_GUC(false, guc_level);
	return key;
}

/* A key as (names)=(values). */
char *
refit_part_key_text(const RefitPart *part, const Datum *key)
{
	StringInfoData names;
	StringInfoData values;

	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < part->nkeys; i++)
	{
		Oid output;
		bool varlena;

		getTypeOutputInfo(part->types[i], &output, &varlena);
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "",
						 get_attname(part->relid, part->attnums[i], false));
		appendStringInfo(&values, "%s%s", i > 0 ? ", " : "",
						 OidOutputFunctionCall(output, key[i]));
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}

/* The row at a position, by the table's key if it has one. */
char *
refit_part_row_text(const RefitPart *part, ItemPointer tid)
{
	List *keys = refit_shape_key_indexes(part->rel);
	RefitPart by_key = {.relid = part->relid, .rel = part->rel};
	RefitClauses clauses = {.search_path = "pg_catalog, pg_temp"};
	Oid types[1] = {TIDOID};
	Datum values[1] = {PointerGetDatum(tid)};
	StringInfoData sql;
	Datum *key = NULL;

	if (keys != NIL)
	{
		by_key.index = index_open(linitial_oid(keys), AccessShareLock);
		refit_part_know_key(&by_key);
		initStringInfo(&sql);
		for (int i = 0; i < by_key.nkeys; i++)
			appendStringInfo(&sql, "%s %s", i > 0 ? "," : "SELECT",
							 quote_identifier(get_attname(
								 part->relid, by_key.attnums[i], false)));
		appendStringInfo(&sql, " FROM ONLY %s WHERE ctid = $1",
						 refit_qualified_name(part->relid));
		key =
			refit_part_fetch_key(&by_key, &clauses, sql.data, 1, types, values);
		index_close(by_key.index, NoLock);
	}
	if (key != NULL)
		return refit_part_key_text(&by_key, key);
	return psprintf("(ctid)=((%u,%u))", ItemPointerGetBlockNumberNoCheck(tid),
					ItemPointerGetOffsetNumberNoCheck(tid));
}

/* Fills in what follows from the index. */
void
refit_part_know_key(RefitPart *part)
{
	part->nkeys = 0;
	if (part->index == NULL)
		return;
	part->nkeys = IndexRelationGetNumberOfKeyAttributes(part->index);
	part->is_unique = part->index->rd_index->indisunique;
	for (int i = 0; i < part->nkeys; i++)
	{
		part->attnums[i] = part->index->rd_index->indkey.values[i];
		part->types[i] =
			TupleDescAttr(RelationGetDescr(part->rel), part->attnums[i] - 1)
				->atttypid;
	}
}

/*
 * Dividing a table
 */

/* The tables whose rows a pass goes over, one after the other. */
static List *
list_tables(const RefitMigration *m, const RefitClauses *clauses)
{
	List *result = NIL;
	ListCell *lc;

	if (clauses->statement != NULL) /* it names the table itself */
		return list_make1_oid(m->relid);
	foreach(lc, find_all_inheritors(m->relid, NoLock, NULL))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			result = lappend_oid(result, lfirst_oid(lc));
	return result;
}

/* Where the storage of a table without an index to go by ends now. */
static void
know_end(RefitPart *part)
{
	part->position_end =
		refit_part_position(RelationGetNumberOfBlocks(part->rel));
}

/* Writes a new part. */
static void
insert_part(const RefitMigration *m, const RefitPart *part, int round)
{
	Oid types[11] = {INT8OID,	   OIDOID,	OIDOID,	 BOOLOID,
					 TEXTARRAYOID, INT8OID, INT8OID, TEXTARRAYOID,
					 TEXTOID,	   OIDOID,	INT4OID};
	Datum values[11];
	bool nulls[11] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(part->relid);
	values[2] = ObjectIdGetDatum(
		part->index != NULL ? RelationGetRelid(part->index) : InvalidOid);
	values[3] = BoolGetDatum(part->by_where);
	nulls[4] = part->low == NULL;
	values[4] = nulls[4] ? (Datum) 0 : key_to_array(part, part->low);
	values[5] = Int64GetDatum(part->position_end);
	values[6] = Int64GetDatum(part->total);
	nulls[7] = part->high == NULL;
	values[7] = nulls[7] ? (Datum) 0 : key_to_array(part, part->high);
	nulls[8] = part->index == NULL;
	values[8] = nulls[8] ? (Datum) 0
						 : CStringGetTextDatum(
							   refit_route_signature(part->rel, part->index));
	values[9] = ObjectIdGetDatum(part->rel->rd_rel->relfilenode);
	values[10] = Int32GetDatum(round);
	SPI_connect();
	refit_sql(
		"INSERT INTO refit.pass (id, number, relid, key_index, by_where,"
		" low, position_end, total, high, key, filenode, round)"
		" SELECT $1, 1 + coalesce(max(number), 0), $2, $3, $4, $5, $6, $7,"
		"  $8, $9, $10, $11 FROM refit.pass WHERE id = $1",
		11, types, values, nulls);
	SPI_finish();
}

/*
 * Runs a query for a key, by an index and nothing else: a plan that reads and
 * sorts the table would do so for each batch.  NULL: there is none.
 */
Datum *
refit_part_fetch_key(const RefitPart *part, const RefitClauses *clauses,
					 const char *sql, int nargs, Oid *types, Datum *values)
{
	static const char *const off[] = {"enable_seqscan", "enable_bitmapscan",
									  "enable_sort"};
	MemoryContext caller = CurrentMemoryContext;
	int guc_level = NewGUCNestLevel();
	Datum *key = NULL;

	for (int i = 0; i < lengthof(off); i++)
		refit_set_local(off[i], "off");
	refit_set_local("search_path", clauses->search_path);
	SPI_connect();
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 1) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		key = palloc(sizeof(Datum) * part->nkeys);
		for (int i = 0; i < part->nkeys; i++)
		{
			Form_pg_attribute att = TupleDescAttr(SPI_tuptable->tupdesc, i);
			bool isnull;
			Datum value = SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, i + 1, &isnull);

			if (isnull)
				elog(ERROR, "a row's key is null");
			key[i] = att->attlen == -1
						 ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value))
						 : datumCopy(value, att->attbyval, att->attlen);
		}
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	return key;
}

/* A value of the first column behind a share of the rows, by statistics. */
static char *
value_at(const RefitPart *part, double share)
{
	Oid types[3] = {OIDOID, INT2OID, FLOAT8OID};
	Datum values[3];

	values[0] = ObjectIdGetDatum(part->relid);
	values[1] = Int16GetDatum(part->attnums[0]);
	values[2] = Float8GetDatum(share);
	return refit_sql_text(
		"SELECT (histogram_bounds::text::text[])[1 + ($3"
		"  * (array_length(histogram_bounds::text::text[], 1) - 1))::integer]"
		" FROM pg_catalog.pg_stats s JOIN pg_catalog.pg_class c"
		"  ON c.relname = s.tablename JOIN pg_catalog.pg_namespace n"
		"  ON n.oid = c.relnamespace AND n.nspname = s.schemaname"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
		"  AND a.attname = s.attname"
		" WHERE c.oid = $1 AND a.attnum = $2 AND NOT s.inherited",
		3, types, values);
}

/* The first key from that value on; NULL: not known, or none. */
static Datum *
key_at(const RefitClauses *clauses, const RefitPart *part, double share)
{
	RefitEnds ends = {.low = true, .prefix = true};
	Oid types[2] = {part->types[0], INT8OID};
	Datum values[2] = {0, Int64GetDatum(0)};
	int guc_level = pin_settings();
	char *value = value_at(part, share);
	Datum *result = NULL;
	Oid input;
	Oid param;

	if (value != NULL)
	{
		getTypeInputInfo(part->types[0], &input, &param);
		values[0] = OidInputFunctionCall(input, value, param, -1);
		result = refit_part_fetch_key(
			part, clauses,
			refit_statement_bound(part->rel, clauses, part->index, part->nkeys,
								  ends, false),
			2, types, values);
	}
	AtEOXact_GUC(false, guc_level);
	return result;
}

/* Is one key after another? */
static bool
is_after(const RefitPart *part, const Datum *a, const Datum *b)
{
	SortSupport order = refit_finder_order(part->rel, part->index, part->nkeys);

	return refit_finder_compare(order, part->nkeys, a, b) > 0;
}

/* Makes all parts of a table but the last, which is left in part. */
static void
divide_evenly(const RefitMigration *m, const RefitClauses *clauses,
			  RefitPart *part, int most)
{
	int64 rows = part->total;

	part->total = rows / most;
	for (int i = 1; i < most; i++)
	{
		Datum *key = key_at(clauses, part, (double) i / most);

		if (key == NULL ||
			(part->low != NULL && !is_after(part, key, part->low)))
			continue;
		part->high = key;
		insert_part(m, part, 1);
		part->low = key;
		part->high = NULL;
	}
	if (part->low == NULL)
		part->total = rows;
}

/* Makes the parts of one table.  Returns the name of the index, or NULL. */
static char *
divide_table(const RefitMigration *m, const RefitClauses *clauses, Oid relid,
			 int each)
{
	RefitPart part = {.relid = relid,
					  .rel = table_open(relid, AccessShareLock)};
	RefitRoute route = refit_route_choose(part.rel, clauses);
	char *name = NULL;

	part.by_where = route.by_where;
	part.total = (int64) route.rows;
	if (OidIsValid(route.index))
	{
		part.index = index_open(route.index, AccessShareLock);
		refit_part_know_key(&part);
		name = pstrdup(RelationGetRelationName(part.index));
		if (each > 1 && !part.by_where)
			divide_evenly(m, clauses, &part, each * PARTS_EACH);
	}
	else
		know_end(&part);
	insert_part(m, &part, 1);
	refit_part_close(&part);
	return name;
}

/* What is to be said of the division. */
static char *
describe(const char *index, int tables, int parts)
{
	const char *how = index != NULL ? psprintf("by index %s", index)
									: "by the position of rows";

	if (tables > 1)
		return psprintf("%s, %d tables in %d parts", how, tables, parts);
	return parts > 1 ? psprintf("%s, in %d parts", how, parts) : pstrdup(how);
}

/*
 * An ERROR where something was done already and the cursor is not here, but on
 * the server that the history was copied from.
 */
static void
check_cursor(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	if (refit_sql_text("SELECT 1 FROM refit.migration WHERE id = $1"
					   " AND rows > 0",
					   1, types, values) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("it is not known here how far migration " INT64_FORMAT
						" has come",
						m->id),
				 errdetail("It was worked on another server, and would do some "
						   "rows twice."),
				 errhint("Submit what is left to be done anew.")));
}

/* Divides the table into parts, unless that was done before. */
char *
refit_part_divide(const RefitMigration *m, const RefitClauses *clauses,
				  int each)
{
	RefitPartSums sums = refit_part_sums(m);
	List *tables = list_tables(m, clauses);
	char *name = NULL;
	ListCell *lc;

	if (sums.count > 0)
		return psprintf("goes on after " INT64_FORMAT " rows", sums.scanned);
	check_cursor(m);
	foreach(lc, tables)
		name = divide_table(m, clauses, lfirst_oid(lc), each);
	return describe(name, list_length(tables), refit_part_sums(m).count);
}

/* Adds parts for partitions that have come since. */
bool
refit_part_add_new(const RefitMigration *m, const RefitClauses *clauses)
{
	bool result = false;
	ListCell *lc;

	foreach(lc, list_tables(m, clauses))
	{
		Oid types[2] = {INT8OID, OIDOID};
		Datum values[2] = {Int64GetDatum(m->id),
						   ObjectIdGetDatum(lfirst_oid(lc))};

		if (refit_sql_text("SELECT 1 FROM refit.pass WHERE id = $1"
						   " AND relid = $2 LIMIT 1",
						   2, types, values) != NULL)
			continue;
		(void) divide_table(m, clauses, lfirst_oid(lc), 1);
		result = true;
	}
	return result;
}

/* Adds parts for tables to be gone over again. */
bool
refit_part_add_rounds(const RefitMigration *m)
{
	Oid types[2] = {INT8OID, INT4OID};
	Datum values[2] = {Int64GetDatum(m->id), Int32GetDatum(MOST_ROUNDS)};
	List *found = refit_sql_list(
		"SELECT DISTINCT p.relid::int8 || ' ' || p.round FROM refit.pass p"
		" JOIN pg_catalog.pg_class c ON c.oid = p.relid"
		" WHERE p.id = $1 AND p.key_index = 0 AND p.touched > 0"
		" AND p.round < $2 AND NOT EXISTS (SELECT FROM refit.pass l"
		"  WHERE l.id = $1 AND l.relid = p.relid AND l.round > p.round)",
		2, types, values);
	ListCell *lc;

	foreach(lc, found)
	{
		char *round;
		RefitPart part = {.relid = strtoul(lfirst(lc), &round, 10)};

		part.rel = table_open(part.relid, AccessShareLock);
		know_end(&part);
		insert_part(m, &part, 1 + atoi(round));
		table_close(part.rel, NoLock);
	}
	return found != NIL;
}

/*
 * Rows of refit.pass
 */

/* A number of the row just read; 0 where it is NULL. */
static int64
read_number(int column)
{
	char *text =
		SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return text == NULL ? 0 : strtoll(text, NULL, 10);
}

/* A truth value of it. */
static bool
read_bool(int column)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
						column)[0] == 't';
}

/* A key of it, or NULL, in the caller's context. */
static Datum *
read_key(const RefitPart *part, int column, MemoryContext caller)
{
	bool isnull;
	Datum array = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
								column, &isnull);
	MemoryContext old = MemoryContextSwitchTo(caller);
	Datum *result = isnull ? NULL : key_from_array(part, array);

	MemoryContextSwitchTo(old);
	return result;
}

/* Is the part's table still one of those that the migration is of? */
static bool
is_in_tree(const RefitMigration *m, Oid relid)
{
	if (relid == m->relid)
		return true;
	if (get_rel_relispartition(relid))
		return list_member_oid(get_partition_ancestors(relid), m->relid);
	return get_rel_relkind(m->relid) == RELKIND_RELATION &&
		   list_member_oid(find_all_inheritors(m->relid, NoLock, NULL), relid);
}

/* Opens the part's index, or one that has taken its place. */
static void
open_index(RefitPart *part, Oid oid, const char *signature)
{
	part->index = try_relation_open(oid, AccessShareLock);
	if (part->index != NULL &&
		strcmp(refit_route_signature(part->rel, part->index), signature) == 0)
		return;
	if (part->index != NULL)
		relation_close(part->index, NoLock);
	oid = refit_route_find(part->rel, signature, part->by_where);
	if (!OidIsValid(oid))
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table %s has no index any more that the migration can "
					"go by",
					refit_qualified_name(part->relid)),
			 errdetail("The one that it went by was dropped, or the type or "
					   "collation of its columns was changed."),
			 errhint("Create an index on the same columns and use "
					 "refit.retry(), or cancel the migration and submit the "
					 "rest anew.")));
	part->index = index_open(oid, AccessShareLock);
}

/* Opens the part's table and index and reads the cursor from the row. */
static void
open_part(const RefitMigration *m, RefitPart *part, MemoryContext caller)
{
	Oid index = (Oid) read_number(3);
	MemoryContext old = MemoryContextSwitchTo(caller);

	part->rel = is_in_tree(m, part->relid)
					? try_table_open(part->relid, RowExclusiveLock)
					: NULL;
	if (part->rel != NULL && OidIsValid(index))
		open_index(
			part, index,
			SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 18));
	MemoryContextSwitchTo(old);
	refit_part_know_key(part);
	if (part->nkeys > 0)
	{
		part->low = read_key(part, 16, caller);
		part->high = read_key(part, 17, caller);
	}
	else if (part->rel != NULL &&
			 part->rel->rd_rel->relfilenode != (Oid) read_number(19))
	{
		part->position = 0;
		know_end(part);
	}
	if (part->batch == 0)
		part->batch = part->nkeys > 0 ? FIRST_BATCH : BLOCK_POSITIONS;
}

/* Reads the counters of the row. */
static RefitPart *
read_part(MemoryContext context)
{
	RefitPart *part = MemoryContextAllocZero(context, sizeof(RefitPart));

	part->number = (int) read_number(1);
	part->relid = (Oid) read_number(2);
	part->position = read_number(4);
	part->position_end = read_number(5);
	part->batch = read_number(6);
	part->limit = read_number(7);
	part->suspects = read_number(8);
	part->errors = (int) read_number(9);
	part->total = read_number(10);
	part->scanned = read_number(11);
	part->touched = read_number(12);
	part->skipped = read_number(13);
	part->by_where = read_bool(14);
	part->poison = read_bool(15);
	return part;
}

/*
 * The next part.  The leader begins with one that fails, then comes his own, and he
 * leaves those of helpers to them as long as there are others.
 */
RefitPart *
refit_part_next(const RefitMigration *m, bool helps)
{
	Oid types[3] = {INT8OID, BOOLOID, INT4OID};
	Datum values[3] = {Int64GetDatum(m->id), BoolGetDatum(helps),
					   Int32GetDatum(MyProcPid)};
	MemoryContext caller = CurrentMemoryContext;
	RefitPart *part = NULL;

	SPI_connect();
	if (refit_sql("SELECT number, relid::int8, key_index::int8, next_position,"
				  " position_end, batch, batch_limit, suspects, errors, total,"
				  " scanned, touched, skipped, by_where, poison, low, high,"
				  " key, filenode::int8"
				  " FROM refit.pass p WHERE id = $1 AND NOT done"
				  " AND (NOT $2 OR (helper = $3 AND NOT poison))"
				  " ORDER BY poison DESC, (helper = 0) IS TRUE DESC,"
				  "  helper IS NOT NULL, number"
				  " LIMIT 1 FOR UPDATE SKIP LOCKED",
				  3, types, values, NULL) > 0)
	{
		part = read_part(caller);
		open_part(m, part, caller);
	}
	SPI_finish();
	return part;
}

/* Closes what refit_part_next has opened. */
void
refit_part_close(RefitPart *part)
{
	if (part->index != NULL)
		index_close(part->index, NoLock);
	if (part->rel != NULL)
		table_close(part->rel, NoLock);
}

/* Writes the cursor and the counters. */
void
refit_part_save(const RefitMigration *m, const RefitPart *part)
{
	Oid types[15] = {INT8OID, INT4OID, TEXTARRAYOID, INT8OID, INT8OID,
					 INT8OID, INT8OID, INT4OID,		 INT8OID, INT8OID,
					 INT8OID, BOOLOID, BOOLOID,		 INT8OID, OIDOID};
	Datum values[15];
	bool nulls[15] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = Int32GetDatum(part->number);
	nulls[2] = part->low == NULL;
	values[2] = nulls[2] ? (Datum) 0 : key_to_array(part, part->low);
	values[3] = Int64GetDatum(part->position);
	values[4] = Int64GetDatum(part->batch);
	values[5] = Int64GetDatum(part->limit);
	values[6] = Int64GetDatum(part->suspects);
	values[7] = Int32GetDatum(part->errors);
	values[8] = Int64GetDatum(part->scanned);
	values[9] = Int64GetDatum(part->touched);
	values[10] = Int64GetDatum(part->skipped);
	values[11] = BoolGetDatum(part->poison);
	values[12] = BoolGetDatum(part->done);
	values[13] = Int64GetDatum(part->position_end);
	values[14] = ObjectIdGetDatum(
		part->rel != NULL ? part->rel->rd_rel->relfilenode : InvalidOid);
	SPI_connect();
	refit_sql("UPDATE refit.pass SET low = $3, next_position = $4, batch = $5,"
			  " batch_limit = $6, suspects = $7, errors = $8, scanned = $9,"
			  " touched = $10, skipped = $11, poison = $12, done = $13,"
			  " position_end = $14, filenode = $15"
			  " WHERE id = $1 AND number = $2",
			  15, types, values, nulls);
	SPI_finish();
}

/* What all parts have done together. */
RefitPartSums
refit_part_sums(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	RefitPartSums sums;

	SPI_connect();
	refit_sql(
		"SELECT count(*), count(*) FILTER (WHERE NOT done), coalesce(sum(CASE WHEN done THEN scanned"
		" ELSE greatest(total, scanned) END), 0)::int8,"
		" coalesce(sum(scanned), 0)::int8,"
		" coalesce(sum(touched), 0)::int8,"
		" coalesce(sum(skipped), 0)::int8 FROM refit.pass WHERE id = $1",
		1, types, values, NULL);
	sums.count = (int) read_number(1);
	sums.left = (int) read_number(2);
	sums.total = read_number(3);
	sums.scanned = read_number(4);
	sums.touched = read_number(5);
	sums.skipped = read_number(6);
	SPI_finish();
	return sums;
}

/* What a migration's row says of the clauses. */
RefitClauses *
refit_part_clauses(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	RefitClauses *clauses = palloc0(sizeof(RefitClauses));

	clauses->kind = m->kind;
	clauses->search_path = m->search_path;
	clauses->alias =
		refit_sql_text("SELECT name[array_upper(name, 1)] FROM (SELECT"
					   " pg_catalog.parse_ident(relation) FROM refit.migration"
					   " WHERE id = $1) AS r(name)",
					   1, types, values);
	if (strcmp(m->kind, "batched") == 0)
		clauses->statement = m->definition;
	clauses->set =
		refit_sql_text("SELECT set_clause FROM refit.migration WHERE id = $1",
					   1, types, values);
	clauses->where =
		refit_sql_text("SELECT where_clause FROM refit.migration WHERE id = $1",
					   1, types, values);
	return clauses;
}
