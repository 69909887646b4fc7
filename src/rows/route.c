/*-------------------------------------------------------------------------
 *
 * route.c
 *	  By which index a pass goes over a table.  See route.h.
 *
 * First of these that there is:
 *	 - a partial index that has what the where clause asks for, or one whose first
 *	   column the clause bounds, if it finds few rows of the table by that;
 *	 - the primary key, or another unique index on NOT NULL columns;
 *	 - another index that has few rows with the same key;
 *	 - none: by positions.  An updated row may get a later one and be met again,
 *	   so that cannot do where a second time would be once too often.
 *
 * An index must be a plain ascending btree on NOT NULL columns, in the order that
 * SQL compares them by, since bounds are found and conditions written in SQL.  A
 * backfill must not write its columns: the row would be met again under its new
 * key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "compat.h"
#include "rows/route.h"
#include "table/shape.h"
#include "util/sqlutil.h"

/* An index is used for the where clause if it finds at most so much of a table. */
#define MOST_BY_WHERE 0.2

/* Rows with the same key that one batch may have, about. */
#define MOST_EQUAL_KEYS 10000.0

/*
 * Fitness of an index
 */

/* Is the order of this column of the index the one that SQL compares it by? */
static bool
is_plain_column(Relation rel, Relation index, int i)
{
	AttrNumber attnum = index->rd_index->indkey.values[i];
	Form_pg_attribute att;
	Oid opclass;

	if (attnum <= 0)
		return false;
	att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	opclass = GetDefaultOpClass(att->atttypid, BTREE_AM_OID);
	return att->attnotnull && index->rd_indoption[i] == 0 &&
		   index->rd_indcollation[i] == att->attcollation &&
		   OidIsValid(opclass) &&
		   get_opclass_family(opclass) == index->rd_opfamily[i] &&
		   OidIsValid(get_opfamily_member(
			   index->rd_opfamily[i], index->rd_opcintype[i],
			   index->rd_opcintype[i], BTLessStrategyNumber));
}

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
		if (!is_plain_column(rel, index, i))
			return false;
	return true;
}

/* The columns of an index's key. */
static Bitmapset *
key_columns(Relation index)
{
	Bitmapset *result = NULL;

	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
		result = bms_add_member(result, index->rd_index->indkey.values[i]);
	return result;
}

/* Is no key in the index twice, by itself or by having a key of the table? */
static bool
has_unique_keys(Relation rel, Relation index)
{
	Bitmapset *columns = key_columns(index);
	ListCell *lc;

	if (index->rd_index->indisunique)
		return true;
	foreach(lc, refit_shape_key_indexes(rel))
	{
		Relation key = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = bms_is_subset(key_columns(key), columns);

		index_close(key, NoLock);
		if (found)
			return true;
	}
	return false;
}

/* May an index have too many rows with one key for a batch?  So if unknown. */
static bool
has_too_equal_keys(Relation rel, Relation index)
{
	Oid types[3] = {OIDOID, INT2OID, FLOAT8OID};
	Datum values[3];
	char *most;

	if (has_unique_keys(rel, index))
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

/*
 * The where clause
 */

/* Is this the column, perhaps relabelled as another type? */
static bool
is_column(Node *node, AttrNumber attnum)
{
	while (IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	return IsA(node, Var) && ((Var *) node)->varattno == attnum;
}

/* Can the index look for this value? */
static bool
is_known_value(Node *node)
{
	return !contain_var_clause(node) && !contain_subplans(node);
}

/* Does a clause compare the index's first column with something it can look for? */
static bool
bounds_first_column(Relation index, Node *clause)
{
	AttrNumber attnum = index->rd_index->indkey.values[0];
	Oid family = index->rd_opfamily[0];

	if (IsA(clause, OpExpr) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr *op = (OpExpr *) clause;
		Node *left = linitial(op->args);
		Node *right = lsecond(op->args);

		return op_in_opfamily(op->opno, family) &&
			   ((is_column(left, attnum) && is_known_value(right)) ||
				(is_column(right, attnum) && is_known_value(left)));
	}
	if (IsA(clause, ScalarArrayOpExpr))
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		return op->useOr && op_in_opfamily(op->opno, family) &&
			   is_column(linitial(op->args), attnum) &&
			   is_known_value(lsecond(op->args));
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

/*
 * How many rows
 */

/* Rows of one table, about, analyzed or not. */
static double
count_rows(Relation rel)
{
	BlockNumber pages;
	double rows = 0;
	double visible;

	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		estimate_rel_size(rel, NULL, &pages, &rows, &visible);
	return rows;
}

/* Rows of a table and, if they count as its own, of those below it. */
static double
count_all_rows(Relation rel, const RefitClauses *clauses)
{
	double rows = count_rows(rel);
	ListCell *lc;

	if (clauses->statement == NULL)
		return rows;
	foreach(lc, find_inheritance_children(RelationGetRelid(rel), NoLock))
	{
		Relation child = try_table_open(lfirst_oid(lc), AccessShareLock);

		if (child == NULL)
			continue;
		rows += count_all_rows(child, clauses);
		table_close(child, NoLock);
	}
	return rows;
}

/* Rows that the where clause is true for, about. */
static double
count_where(Relation rel, const RefitClauses *clauses)
{
	Query *query = refit_statement_analyze_where(rel, clauses);

	return refit_plan_query(query, "SELECT")->planTree->plan_rows;
}

/*
 * The choice
 */

/* An index that serves the where clause, or InvalidOid. */
static Oid
find_by_where(Relation rel, const RefitClauses *clauses,
			  const Bitmapset *written)
{
	Query *query = refit_statement_analyze_where(rel, clauses);
	List *quals = make_ands_implicit(
		(Expr *) eval_const_expressions(NULL, query->jointree->quals));
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = can_walk(rel, index) && serves_where(index, quals) &&
					 !bms_overlap(key_columns(index), written) &&
					 !has_too_equal_keys(rel, index);

		index_close(index, NoLock);
		if (found)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/*
 * The first index of a list that finds every row, or InvalidOid.  Sets conflict
 * to one that would, but for a column that is written.
 */
static Oid
find_whole(Relation rel, const List *indexes, const Bitmapset *written,
		   Oid *conflict)
{
	ListCell *lc;

	foreach(lc, indexes)
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = can_walk(rel, index) &&
					 RelationGetIndexPredicate(index) == NIL &&
					 !has_too_equal_keys(rel, index);
		bool is_written = bms_overlap(key_columns(index), written);

		index_close(index, NoLock);
		if (found && !is_written)
			return lfirst_oid(lc);
		if (found && !OidIsValid(*conflict))
			*conflict = lfirst_oid(lc);
	}
	return InvalidOid;
}

/* An ERROR where going by positions could do a row twice. */
static void
check_positions(Relation rel, const RefitClauses *clauses, Oid conflict)
{
	const char *hint = "Give it a primary key, or a unique index on NOT NULL "
					   "columns.";

	if (OidIsValid(conflict))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a backfill cannot write the key that it goes by"),
				 errdetail("Its rows would be met again under the new key of "
						   "index \"%s\".",
						   get_rel_name(conflict)),
				 errhint("Use refit.alter_table() with ALTER COLUMN ... TYPE "
						 "... USING.")));
	if (clauses->statement != NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" has no key to make batches by",
							   RelationGetRelationName(rel)),
						errhint("%s", hint)));
	if (clauses->set != NULL && refit_statement_reads_its_own(rel, clauses))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no key, and its rows could be "
						"written twice",
						RelationGetRelationName(rel)),
				 errdetail("The new values depend on what is written, or on a "
						   "volatile function."),
				 errhint("%s", hint)));
}

/* The best route. */
RefitRoute
refit_route_choose(Relation rel, const RefitClauses *clauses)
{
	RefitRoute route = {.rows = count_all_rows(rel, clauses)};
	Bitmapset *written =
		clauses->set != NULL ? refit_statement_columns(rel, clauses) : NULL;
	Oid conflict = InvalidOid;

	if (clauses->where != NULL)
	{
		double rows = count_where(rel, clauses);

		if (rows <= MOST_BY_WHERE * route.rows)
			route.index = find_by_where(rel, clauses, written);
		if (OidIsValid(route.index))
		{
			route.by_where = true;
			route.rows = rows;
			return route;
		}
	}
	route.index =
		find_whole(rel, refit_shape_key_indexes(rel), written, &conflict);
	if (!OidIsValid(route.index))
		route.index =
			find_whole(rel, RelationGetIndexList(rel), written, &conflict);
	if (!OidIsValid(route.index))
		check_positions(rel, clauses, conflict);
	return route;
}

/*
 * Indexes that take another's place
 */

/* What keys of an index are. */
char *
refit_route_signature(Relation rel, Relation index)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		AttrNumber attnum = index->rd_index->indkey.values[i];
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(rel), attnum - 1);

		appendStringInfo(&text, "%s%d:%u:%u", i > 0 ? " " : "", attnum,
						 att->atttypid, index->rd_indcollation[i]);
	}
	return text.data;
}

/* An index that has this signature. */
Oid
refit_route_find(Relation rel, const char *signature, bool by_where)
{
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = can_walk(rel, index) &&
					 (by_where || RelationGetIndexPredicate(index) == NIL) &&
					 strcmp(refit_route_signature(rel, index), signature) == 0;

		index_close(index, NoLock);
		if (found)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}
