/*-------------------------------------------------------------------------
 *
 * part.c
 *	  The parts of a pass over a table.  See part.h.
 *
 * By which index a pass goes, first of these that there is:
 *	 - a partial index that has what the where clause asks for, or one whose first
 *	   column the clause bounds, if it finds few rows of the table by that;
 *	 - the primary key, or another unique index on NOT NULL columns;
 *	 - none: by positions.  An updated row may get a later one and be met again,
 *	   so that cannot do where a second time would be once too often.
 *
 * An index must be a plain ascending btree on NOT NULL columns, in the order that
 * SQL compares them by, since bounds are found and conditions written in SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "job/catalog.h"
#include "rows/part.h"
#include "table/finder.h"
#include "table/shape.h"
#include "table/tree.h"
#include "util/sqlutil.h"

/* Positions of a block: more than a page can have rows. */
#define BLOCK_POSITIONS 2048

/* Rows of the first batch of a part. */
#define FIRST_BATCH 100

/* An index is used for the where clause if it finds at most so much of a table. */
#define MOST_BY_WHERE 0.2

/* Rows with the same key that one batch may have, about. */
#define MOST_EQUAL_KEYS 10000.0

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

/* Fills in what the part's index says. */
void
refit_part_know_key(RefitPart *part)
{
	Relation index;

	part->nkeys = 0;
	if (!OidIsValid(part->key_index))
		return;
	index = try_relation_open(part->key_index, AccessShareLock);
	if (index == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the index that the migration goes by was dropped"),
				 errdetail("It had OID %u, on table %s.", part->key_index,
						   refit_qualified_name(part->relid)),
				 errhint("Cancel the migration, and submit the rest anew.")));
	part->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	for (int i = 0; i < part->nkeys; i++)
	{
		part->attnums[i] = index->rd_index->indkey.values[i];
		part->types[i] = get_atttype(part->relid, part->attnums[i]);
	}
	relation_close(index, NoLock);
}

/*
 * Choosing an index
 */

/* Can ranges of this index's keys be written in SQL? */
static bool
can_walk(Relation rel, Relation index)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisvalid ||
		!form->indisready || !form->indislive || form->indcheckxmin ||
		RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		AttrNumber attnum = form->indkey.values[i];
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		Oid opclass = GetDefaultOpClass(att->atttypid, BTREE_AM_OID);

		if (attnum <= 0 || !att->attnotnull || index->rd_indoption[i] != 0 ||
			index->rd_indcollation[i] != att->attcollation ||
			!OidIsValid(opclass) ||
			get_opclass_family(opclass) != index->rd_opfamily[i] ||
			get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i],
								index->rd_opcintype[i],
								BTLessStrategyNumber) == InvalidOid)
			return false;
	}
	return true;
}

/* Does a clause compare the index's first column with something it can look for? */
static bool
bounds_first_column(Relation index, Node *clause)
{
	OpExpr *op = (OpExpr *) clause;
	AttrNumber attnum = index->rd_index->indkey.values[0];
	Node *sides[2];

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2 ||
		!op_in_opfamily(op->opno, index->rd_opfamily[0]))
		return false;
	sides[0] = linitial(op->args);
	sides[1] = lsecond(op->args);
	for (int i = 0; i < 2; i++)
	{
		Node *side = sides[i];
		Node *other = sides[1 - i];

		while (IsA(side, RelabelType))
			side = (Node *) ((RelabelType *) side)->arg;
		if (IsA(side, Var) && ((Var *) side)->varattno == attnum &&
			!contain_var_clause(other) && !contain_subplans(other))
			return true;
	}
	return false;
}

/* Has the index what the clauses ask for, or does it find that? */
static bool
serves_where(Relation index, List *clauses)
{
	List *predicate = RelationGetIndexPredicate(index);
	ListCell *lc;

	if (predicate != NIL)
		return predicate_implied_by(predicate, clauses, false);
	foreach(lc, clauses)
		if (bounds_first_column(index, lfirst(lc)))
			return true;
	return false;
}

/* May an index have too many rows with one key for a batch?  So if unknown. */
static bool
has_too_equal_keys(Relation rel, Relation index)
{
	Oid types[3] = {OIDOID, INT2OID, FLOAT8OID};
	Datum values[3];
	char *most;

	if (index->rd_index->indisunique)
		return false;
	values[0] = ObjectIdGetDatum(RelationGetRelid(rel));
	values[1] = Int16GetDatum(index->rd_index->indkey.values[0]);
	values[2] = Float8GetDatum(Max(rel->rd_rel->reltuples, 0));
	most = refit_sql_text(
		"SELECT greatest(CASE WHEN n_distinct < 0 THEN -1 / n_distinct"
		"  ELSE $3 / nullif(n_distinct, 0) END, most_common_freqs[1] * $3)"
		" FROM pg_catalog.pg_stats s JOIN pg_catalog.pg_class c"
		"  ON c.relname = s.tablename JOIN pg_catalog.pg_namespace n"
		"  ON n.oid = c.relnamespace AND n.nspname = s.schemaname"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
		"  AND a.attname = s.attname"
		" WHERE c.oid = $1 AND a.attnum = $2 AND NOT s.inherited"
		"  AND n_distinct <> 0",
		3, types, values);
	return most == NULL || strtod(most, NULL) > MOST_EQUAL_KEYS;
}

/* How many rows the where clause is true for, about. */
static double
estimate_rows(Relation rel, const RefitClauses *clauses)
{
	Query *query = refit_statement_analyze_where(rel, clauses);
	PlannedStmt *plan;

	if (query == NULL)
		return Max(rel->rd_rel->reltuples, 0);
	plan = pg_plan_query(query, "SELECT", 0, NULL);
	return plan->planTree->plan_rows;
}

/* An index that serves the where clause, or InvalidOid. */
static Oid
find_by_where(Relation rel, const RefitClauses *clauses, double rows)
{
	Query *query = refit_statement_analyze_where(rel, clauses);
	List *quals;
	ListCell *lc;

	if (query == NULL || rows > MOST_BY_WHERE * Max(rel->rd_rel->reltuples, 0))
		return InvalidOid;
	quals = make_ands_implicit(
		(Expr *) eval_const_expressions(NULL, query->jointree->quals));
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = can_walk(rel, index) && serves_where(index, quals) &&
					 !has_too_equal_keys(rel, index);

		index_close(index, NoLock);
		if (found)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* The table's key, or InvalidOid. */
static Oid
find_key(Relation rel)
{
	ListCell *lc;

	foreach(lc, refit_shape_key_indexes(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = can_walk(rel, index);

		index_close(index, NoLock);
		if (found)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* Does the statement write a column that this index goes by? */
static bool
writes_key(Relation rel, const RefitClauses *clauses, Oid index_oid)
{
	Bitmapset *written = refit_statement_columns(rel, clauses);
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(index_oid, &attnums);

	for (int i = 0; i < nkeys; i++)
		if (bms_is_member(attnums[i], written))
			return true;
	return false;
}

/* The index that a pass would go by. */
Oid
refit_part_choose_index(Relation rel, const RefitClauses *clauses,
						bool *by_where, double *rows)
{
	bool writes = clauses->set != NULL;
	Oid result;

	*rows = estimate_rows(rel, clauses);
	result = find_by_where(rel, clauses, *rows);
	*by_where =
		OidIsValid(result) && !(writes && writes_key(rel, clauses, result));
	if (*by_where)
		return result;
	*rows = Max(rel->rd_rel->reltuples, 0);
	result = find_key(rel);
	if (OidIsValid(result) && writes && writes_key(rel, clauses, result))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a backfill cannot write the key that it goes by"),
				 errdetail("Its rows would be met again under the new key of "
						   "index \"%s\".",
						   get_rel_name(result)),
				 errhint("Use refit.alter_table() with ALTER COLUMN ... TYPE "
						 "... USING.")));
	if (!OidIsValid(result) && clauses->statement != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key to make batches by",
						RelationGetRelationName(rel)),
				 errhint("Give it a primary key, or a unique index on NOT NULL "
						 "columns.")));
	if (!OidIsValid(result) && writes &&
		refit_statement_reads_its_own(rel, clauses))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key, and its rows could be "
						"written twice",
						RelationGetRelationName(rel)),
				 errdetail("The new values depend on what is written, or on a "
						   "volatile function."),
				 errhint("Give it a primary key, or a unique index on NOT NULL "
						 "columns.")));
	return result;
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
	foreach(lc, refit_tree_members(m->relid))
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			result = lappend_oid(result, lfirst_oid(lc));
	return result;
}

/* Writes a new part. */
static void
insert_part(const RefitMigration *m, const RefitPart *part)
{
	Oid types[8] = {INT8OID,	  OIDOID,  OIDOID,	BOOLOID,
					TEXTARRAYOID, INT8OID, INT8OID, TEXTARRAYOID};
	Datum values[8];
	bool nulls[8] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(part->relid);
	values[2] = ObjectIdGetDatum(part->key_index);
	values[3] = BoolGetDatum(part->by_where);
	nulls[4] = part->low == NULL;
	values[4] = nulls[4] ? (Datum) 0 : key_to_array(part, part->low);
	values[5] = Int64GetDatum(part->position_end);
	values[6] = Int64GetDatum(part->total);
	nulls[7] = part->high == NULL;
	values[7] = nulls[7] ? (Datum) 0 : key_to_array(part, part->high);
	SPI_connect();
	refit_sql(
		"INSERT INTO refit.pass (id, number, relid, key_index, by_where,"
		" low, position_end, total, high)"
		" SELECT $1, 1 + coalesce(max(number), 0), $2, $3, $4, $5, $6, $7,"
		"  $8 FROM refit.pass WHERE id = $1",
		8, types, values, nulls);
	SPI_finish();
}

/*
 * Runs a query for a key, by an index and nothing else: a plan that reads and
 * sorts the table would do so for each batch.  NULL: there is none.
 */
Datum *
refit_part_fetch_key(const RefitPart *part, const char *sql, int nargs,
					 Oid *types, Datum *values)
{
	static const char *const off[] = {"enable_seqscan", "enable_bitmapscan",
									  "enable_sort"};
	MemoryContext caller = CurrentMemoryContext;
	int guc_level = NewGUCNestLevel();
	Datum *key = NULL;

	for (int i = 0; i < lengthof(off); i++)
		refit_set_local(off[i], "off");
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
			key[i] = datumCopy(value, att->attbyval, att->attlen);
		}
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
	return key;
}

/*
 * A key from about the place where a share of the rows is done, by statistics of
 * the first column; NULL: not known.
 */
static Datum *
key_at(Relation rel, const RefitClauses *clauses, const RefitPart *part,
	   double share)
{
	Oid types[3] = {OIDOID, INT2OID, FLOAT8OID};
	Datum values[3];
	int guc_level = pin_settings();
	char *bound;
	Datum *result = NULL;

	values[0] = ObjectIdGetDatum(part->relid);
	values[1] = Int16GetDatum(part->attnums[0]);
	values[2] = Float8GetDatum(share);
	bound = refit_sql_text(
		"SELECT (histogram_bounds::text::text[])[1 + ($3"
		"  * (array_length(histogram_bounds::text::text[], 1) - 1))::integer]"
		" FROM pg_catalog.pg_stats s JOIN pg_catalog.pg_class c"
		"  ON c.relname = s.tablename JOIN pg_catalog.pg_namespace n"
		"  ON n.oid = c.relnamespace AND n.nspname = s.schemaname"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid"
		"  AND a.attname = s.attname"
		" WHERE c.oid = $1 AND a.attnum = $2 AND NOT s.inherited",
		3, types, values);
	if (bound != NULL)
	{
		RefitEnds ends = {.low = true, .prefix = true};
		Relation index = index_open(part->key_index, AccessShareLock);
		Oid arg_types[2] = {part->types[0], INT8OID};
		Datum args[2] = {0, Int64GetDatum(0)};
		Oid input;
		Oid param;

		getTypeInputInfo(part->types[0], &input, &param);
		args[0] = OidInputFunctionCall(input, bound, param, -1);
		result = refit_part_fetch_key(part,
									  refit_statement_bound(rel, clauses, index,
															part->nkeys, ends,
															false),
									  2, arg_types, args);
		index_close(index, NoLock);
	}
	AtEOXact_GUC(false, guc_level);
	return result;
}

/* Is one key after another? */
static bool
is_after(const RefitPart *part, const Datum *a, const Datum *b)
{
	Relation index = index_open(part->key_index, AccessShareLock);
	Relation rel = table_open(part->relid, AccessShareLock);
	SortSupport order = refit_finder_order(rel, index, part->nkeys);
	bool result = refit_finder_compare(order, part->nkeys, a, b) > 0;

	table_close(rel, NoLock);
	index_close(index, NoLock);
	return result;
}

/* Makes the parts of one table.  Returns the name of the index, or NULL. */
static char *
divide_table(const RefitMigration *m, const RefitClauses *clauses, Oid relid,
			 int each)
{
	Relation rel = table_open(relid, AccessShareLock);
	RefitPart part = {.relid = relid};
	double rows;
	Datum *last = NULL;

	part.key_index =
		refit_part_choose_index(rel, clauses, &part.by_where, &rows);
	refit_part_know_key(&part);
	if (!OidIsValid(part.key_index))
		part.position_end = refit_part_position(RelationGetNumberOfBlocks(rel));
	else if (each > 1 && !part.by_where)
	{
		int most = each * PARTS_EACH;

		for (int i = 1; i < most; i++)
		{
			Datum *key = key_at(rel, clauses, &part, (double) i / most);

			if (key == NULL || (last != NULL && !is_after(&part, key, last)))
				continue;
			part.low = last;
			part.high = last = key;
			part.total = (int64) (rows / most);
			insert_part(m, &part);
		}
		part.low = last;
		part.high = NULL;
		if (last != NULL)
			rows /= most;
	}
	part.total = (int64) rows;
	insert_part(m, &part);
	table_close(rel, NoLock);
	return OidIsValid(part.key_index) ? get_rel_name(part.key_index) : NULL;
}

/* Divides the table into parts, unless that was done before. */
char *
refit_part_divide(const RefitMigration *m, const RefitClauses *clauses,
				  int each)
{
	RefitPartSums sums = refit_part_sums(m);
	char *name = NULL;
	ListCell *lc;

	if (sums.count > 0)
		return psprintf("goes on after " INT64_FORMAT " rows", sums.scanned);
	foreach(lc, list_tables(m, clauses))
		name = divide_table(m, clauses, lfirst_oid(lc), each);
	return name != NULL ? psprintf("by index %s", name)
						: pstrdup("by the position of rows");
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

/*
 * Rows of refit.pass
 */

/* A number of the row just read. */
static int64
read_number(int column)
{
	return strtoll(
		SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column),
		NULL, 10);
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

/* The next part that is not done and that nobody has. */
RefitPart *
refit_part_next(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	MemoryContext caller = CurrentMemoryContext;
	RefitPart *part = NULL;

	SPI_connect();
	if (refit_sql("SELECT number, relid::int8, key_index::int8, next_position,"
				  " position_end, batch, batch_limit, suspects, errors, total,"
				  " scanned, touched, skipped, by_where, poison, low, high"
				  " FROM refit.pass WHERE id = $1 AND NOT done"
				  " ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED",
				  1, types, values, NULL) > 0)
	{
		part = MemoryContextAllocZero(caller, sizeof(RefitPart));
		part->number = (int) read_number(1);
		part->relid = (Oid) read_number(2);
		part->key_index = (Oid) read_number(3);
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
		if (get_rel_name(part->relid) != NULL)
		{
			refit_part_know_key(part);
			if (part->nkeys > 0)
			{
				part->low = read_key(part, 16, caller);
				part->high = read_key(part, 17, caller);
			}
		}
		if (part->batch == 0)
			part->batch = part->nkeys > 0 ? FIRST_BATCH : BLOCK_POSITIONS;
	}
	SPI_finish();
	return part;
}

/* Writes the cursor and the counters. */
void
refit_part_save(const RefitMigration *m, const RefitPart *part)
{
	Oid types[13] = {INT8OID, INT4OID, TEXTARRAYOID, INT8OID, INT8OID,
					 INT8OID, INT8OID, INT4OID,		 INT8OID, INT8OID,
					 INT8OID, BOOLOID, BOOLOID};
	Datum values[13];
	bool nulls[13] = {false};

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
	SPI_connect();
	refit_sql("UPDATE refit.pass SET low = $3, next_position = $4, batch = $5,"
			  " batch_limit = $6, suspects = $7, errors = $8, scanned = $9,"
			  " touched = $10, skipped = $11, poison = $12, done = $13"
			  " WHERE id = $1 AND number = $2",
			  13, types, values, nulls);
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
	refit_sql("SELECT count(*), coalesce(sum(CASE WHEN done THEN scanned"
			  " ELSE greatest(total, scanned) END), 0)::int8,"
			  " coalesce(sum(scanned), 0)::int8,"
			  " coalesce(sum(touched), 0)::int8,"
			  " coalesce(sum(skipped), 0)::int8 FROM refit.pass WHERE id = $1",
			  1, types, values, NULL);
	sums.count = (int) read_number(1);
	sums.total = read_number(2);
	sums.scanned = read_number(3);
	sums.touched = read_number(4);
	sums.skipped = read_number(5);
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
	clauses->alias = get_rel_name(m->relid);
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
