/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  The statements of a pass over a table.  See statement.h.
 *
 * The table goes by the name of the one that was named at submission, also where
 * it is a partition of that, so that columns can be qualified with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/table.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "rows/statement.h"
#include "table/tree.h"
#include "util/sqlutil.h"

/* Is it the kind of a pass over rows? */
bool
refit_statement_is_kind(const char *kind)
{
	return strcmp(kind, "backfill") == 0 || strcmp(kind, "purge") == 0 ||
		   strcmp(kind, "batched") == 0;
}

/*
 * The user's clauses, parsed by themselves
 */

/* The one statement that a text is, or NULL. */
static Node *
parse_one(char *sql)
{
	List *statements = refit_sql_parse(sql);

	return list_length(statements) == 1
			   ? linitial_node(RawStmt, statements)->stmt
			   : NULL;
}

/* An ERROR unless the text is assignments and nothing else. */
static void
check_set(const char *set)
{
	Node *node = parse_one(psprintf("UPDATE pg_refit SET\n%s\n", set));
	UpdateStmt *stmt = (UpdateStmt *) node;

	if (node == NULL || !IsA(node, UpdateStmt) || stmt->whereClause != NULL ||
		stmt->fromClause != NIL || refit_update_returns(stmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("set_clause must be what follows SET in an UPDATE, "
						"nothing else"),
				 errhint("Write, for example, 'total = price * quantity'; "
						 "conditions go into where_clause.")));
}

/* An ERROR unless the text is one expression. */
static void
check_where(const char *where)
{
	Node *node = parse_one(psprintf("SELECT\n%s\n", where));
	SelectStmt *stmt = (SelectStmt *) node;

	if (node == NULL || !IsA(node, SelectStmt) || stmt->op != SETOP_NONE ||
		list_length(stmt->targetList) != 1 || stmt->distinctClause != NIL ||
		stmt->intoClause != NULL || stmt->fromClause != NIL ||
		stmt->whereClause != NULL || stmt->groupClause != NIL ||
		stmt->havingClause != NULL || stmt->windowClause != NIL ||
		stmt->sortClause != NIL || stmt->limitCount != NULL ||
		stmt->limitOffset != NULL || stmt->lockingClause != NIL ||
		linitial_node(ResTarget, stmt->targetList)->name != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("where_clause must be what follows WHERE, nothing "
						"else"),
				 errhint("Write, for example, 'total IS NULL'.")));
}

/* table AS name: by the name that the user knows the table by. */
static char *
table_with_alias(Relation rel, const RefitClauses *clauses)
{
	return psprintf("%s AS %s", refit_qualified_name(RelationGetRelid(rel)),
					quote_identifier(clauses->alias));
}

/* The statement without a range. */
static char *
whole_statement(Relation rel, const RefitClauses *clauses)
{
	StringInfoData sql;

	if (clauses->statement != NULL)
		return pstrdup(clauses->statement);
	initStringInfo(&sql);
	if (clauses->set != NULL)
		appendStringInfo(&sql, "UPDATE ONLY %s SET\n%s\n",
						 table_with_alias(rel, clauses), clauses->set);
	else
		appendStringInfo(&sql, "DELETE FROM ONLY %s\n",
						 table_with_alias(rel, clauses));
	if (clauses->where != NULL)
		appendStringInfo(&sql, "WHERE (\n%s\n)", clauses->where);
	return sql.data;
}

/* A statement analyzed, with names looked up by the user's search_path. */
static Query *
analyze(char *sql, const RefitClauses *clauses, int nparams, const Oid *types)
{
	int guc_level = NewGUCNestLevel();
	Query *query;

	refit_set_local("search_path", clauses->search_path);
	query = refit_sql_analyze(sql, nparams, types);
	AtEOXact_GUC(false, guc_level);
	return query;
}

/* The where clause, analyzed. */
Query *
refit_statement_analyze_where(Relation rel, const RefitClauses *clauses)
{
	if (clauses->where == NULL)
		return NULL;
	return analyze(psprintf("SELECT FROM ONLY %s WHERE (\n%s\n)",
							table_with_alias(rel, clauses), clauses->where),
				   clauses, 0, NULL);
}

/*
 * Checks
 */

/* The columns that a backfill writes. */
Bitmapset *
refit_statement_columns(Relation rel, const RefitClauses *clauses)
{
	Query *query = analyze(whole_statement(rel, clauses), clauses, 0, NULL);
	Bitmapset *result = NULL;
	ListCell *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);

		if (!entry->resjunk)
			result = bms_add_member(result, entry->resno);
	}
	return result;
}

/* What an expression reads: columns of the row, and tables in subselects. */
typedef struct Reads
{
	Oid table;
	Bitmapset *columns; /* 0: the whole row */
	int level;			/* of subselects around the present place */
	bool reads_table;	/* in a subselect */
} Reads;

/* Collects what an expression reads. */
static bool
collect_reads(Node *node, Reads *reads)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varlevelsup == reads->level &&
		((Var *) node)->varattno >= 0)
		reads->columns =
			bms_add_member(reads->columns, ((Var *) node)->varattno);
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *entry = (RangeTblEntry *) node;

		reads->reads_table |=
			entry->rtekind == RTE_RELATION &&
			refit_tree_root(entry->relid) == refit_tree_root(reads->table);
		return false;
	}
	if (IsA(node, Query))
	{
		bool result;

		reads->level++;
		result = query_tree_walker((Query *) node, collect_reads, reads,
								   QTW_EXAMINE_RTES_BEFORE);
		reads->level--;
		return result;
	}
	return expression_tree_walker(node, collect_reads, reads);
}

/* Do the new values depend on what the backfill itself writes? */
bool
refit_statement_reads_its_own(Relation rel, const RefitClauses *clauses)
{
	Query *query = analyze(whole_statement(rel, clauses), clauses, 0, NULL);
	Reads reads = {.table = RelationGetRelid(rel)};

	(void) collect_reads((Node *) query->targetList, &reads);
	return bms_overlap(reads.columns, refit_statement_columns(rel, clauses)) ||
		   bms_is_member(0, reads.columns) || reads.reads_table ||
		   contain_volatile_functions((Node *) query->targetList);
}

/* Collects the numbers of the parameters that a query uses. */
static bool
collect_params(Node *node, Bitmapset **numbers)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param) && ((Param *) node)->paramkind == PARAM_EXTERN)
		*numbers = bms_add_member(*numbers, ((Param *) node)->paramid);
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, collect_params, numbers, 0);
	return expression_tree_walker(node, collect_params, numbers);
}

/* An ERROR unless a statement of the user's can be run batch by batch. */
static void
check_statement(const RefitClauses *clauses, int nkeys, const Oid *key_types)
{
	Oid types[2 * INDEX_MAX_KEYS];
	Bitmapset *used = NULL;
	Node *node = parse_one(pstrdup(clauses->statement));
	Query *query;
	bool low = false;
	bool high = false;

	if (node == NULL || !(IsA(node, InsertStmt) || IsA(node, UpdateStmt) ||
						  IsA(node, DeleteStmt) || IsA(node, SelectStmt) ||
						  IsA(node, MergeStmt)))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("statement must be one INSERT, UPDATE, DELETE, MERGE "
						"or SELECT"),
				 errhint("Other statements can be called from a function.")));
	for (int i = 0; i < nkeys; i++)
		types[i] = types[nkeys + i] = key_types[i];
	query = analyze(pstrdup(clauses->statement), clauses, 2 * nkeys, types);
	(void) collect_params((Node *) query, &used);
	for (int i = 1; i <= nkeys; i++)
	{
		low |= bms_is_member(i, used);
		high |= bms_is_member(nkeys + i, used);
	}
	if (!low || !high)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("the statement does not use the bounds of the batch"),
			 errdetail("Each batch has the first key as $1%s and the last "
					   "one as $%d%s.",
					   nkeys > 1 ? psprintf(" to $%d", nkeys) : "", nkeys + 1,
					   nkeys > 1 ? psprintf(" to $%d", 2 * nkeys) : ""),
			 errhint("Write, for example, WHERE id BETWEEN $1 AND $2.")));
}

/* An ERROR for clauses that make no statement on this table. */
void
refit_statement_check(Relation rel, const RefitClauses *clauses, int nkeys,
					  const Oid *key_types)
{
	int guc_level = NewGUCNestLevel();
	Query *where;

	if (clauses->statement != NULL)
	{
		check_statement(clauses, nkeys, key_types);
		AtEOXact_GUC(false, guc_level);
		return;
	}
	if (clauses->set != NULL)
		check_set(clauses->set);
	if (clauses->where != NULL)
		check_where(clauses->where);
	where = refit_statement_analyze_where(rel, clauses);
	if (where != NULL && contain_volatile_functions(where->jointree->quals))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("where_clause must not call a volatile function"),
				 errdetail("It is evaluated again in each batch."),
				 errhint("Store what it selects in a column or a table first, "
						 "and ask for that.")));

	/* what only the rewriter finds: generated columns, for example */
	refit_set_local("search_path", clauses->search_path);
	SPI_connect();
	if (SPI_prepare(whole_statement(rel, clauses), 0, NULL) == NULL)
		elog(ERROR, "could not prepare the statement: %s",
			 SPI_result_code_string(SPI_result));
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

/*
 * Ranges
 */

/*
 * OPERATOR(schema.name) of the index's own comparison; that of its first column
 * for a row of several.
 */
static char *
comparison(Relation index, StrategyNumber strategy)
{
	Oid type = index->rd_opcintype[0];
	Oid op = get_opfamily_member(index->rd_opfamily[0], type, type, strategy);
	HeapTuple tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(op));
	Form_pg_operator form;
	char *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", op);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* name.column, name.column: the key's columns, each with a suffix. */
static char *
key_columns(Relation rel, const RefitClauses *clauses, Relation index,
			int nkeys, const char *suffix)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < nkeys; i++)
		appendStringInfo(&list, "%s%s.%s%s", i > 0 ? ", " : "",
						 quote_identifier(clauses->alias),
						 quote_identifier(get_attname(
							 RelationGetRelid(rel),
							 index->rd_index->indkey.values[i], false)),
						 suffix);
	return list.data;
}

/* $first, $first + 1: parameters for a key. */
static char *
key_params(int first, int nkeys)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < nkeys; i++)
		appendStringInfo(&list, "%s$%d", i > 0 ? ", " : "", first + i);
	return list.data;
}

/* One end of a range of keys. */
static void
append_key_end(StringInfo sql, Relation rel, const RefitClauses *clauses,
			   Relation index, int nkeys, int first, StrategyNumber strategy)
{
	char *columns = key_columns(rel, clauses, index, nkeys, "");
	char *params = key_params(first, nkeys);
	char *op = comparison(index, strategy);

	if (nkeys > 1)
		appendStringInfo(sql, " AND ROW(%s) %s ROW(%s)", columns, op, params);
	else
		appendStringInfo(sql, " AND %s %s %s", columns, op, params);
}

/* The condition of a range, after WHERE true.  Returns the next parameter. */
static int
append_range(StringInfo sql, Relation rel, const RefitClauses *clauses,
			 Relation index, int nkeys, RefitEnds ends)
{
	const char *name = quote_identifier(clauses->alias);
	int next = 1;

	if (nkeys == 0)
	{
		appendStringInfo(sql, " AND %s.ctid >= $1 AND %s.ctid < $2", name,
						 name);
		return 3;
	}
	if (ends.prefix)
	{
		append_key_end(sql, rel, clauses, index, 1, next++,
					   BTGreaterEqualStrategyNumber);
		return next;
	}
	if (ends.low)
	{
		append_key_end(sql, rel, clauses, index, nkeys, next,
					   ends.inclusive ? BTGreaterEqualStrategyNumber
									  : BTGreaterStrategyNumber);
		next += nkeys;
	}
	if (ends.high)
	{
		append_key_end(sql, rel, clauses, index, nkeys, next,
					   BTLessEqualStrategyNumber);
		next += nkeys;
	}
	return next;
}

/*
 * Is equality of values of this column what makes them the same to the byte?  Not
 * so for 1.0 and 1.00, or under a collation that takes two spellings for one.
 */
static bool
equality_is_identity(Form_pg_attribute att)
{
	TypeCacheEntry *type = lookup_type_cache(
		att->atttypid, TYPECACHE_EQ_OPR | TYPECACHE_BTREE_OPFAMILY);
	Oid proc;

	if (!OidIsValid(type->eq_opr) || !OidIsValid(type->btree_opf))
		return false;
	proc = get_opfamily_proc(type->btree_opf, type->btree_opintype,
							 type->btree_opintype, BTEQUALIMAGE_PROC);
	return OidIsValid(proc) && DatumGetBool(OidFunctionCall1Coll(
								   proc, att->attcollation,
								   ObjectIdGetDatum(type->btree_opintype)));
}

/* Can a new value be evaluated by itself, before it is written? */
static bool
is_plain_value(const TargetEntry *entry)
{
	Node *expr = (Node *) entry->expr;

	while (expr != NULL && IsA(expr, CoerceToDomain))
		expr = (Node *) ((CoerceToDomain *) expr)->arg;
	return !entry->resjunk && expr != NULL && !IsA(expr, SetToDefault) &&
		   !IsA(expr, FieldStore) && !IsA(expr, Param) &&
		   !(IsA(expr, SubscriptingRef) &&
			 ((SubscriptingRef *) expr)->refassgnexpr != NULL) &&
		   !contain_volatile_functions(expr);
}

/* The condition that a row does not hold its new values yet, or NULL. */
static char *
not_there_yet(Relation rel, const RefitClauses *clauses)
{
	const char *name = quote_identifier(clauses->alias);
	Query *query = analyze(whole_statement(rel, clauses), clauses, 0, NULL);
	List *context = deparse_context_for(clauses->alias, RelationGetRelid(rel));
	int guc_level = NewGUCNestLevel();
	StringInfoData sql;
	ListCell *lc;

	/* names are written as they will be read */
	refit_set_local("search_path", clauses->search_path);
	initStringInfo(&sql);
	foreach(lc, query->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		Form_pg_attribute att;
		char *value;

		if (!is_plain_value(entry))
			return NULL;
		att = TupleDescAttr(RelationGetDescr(rel), entry->resno - 1);
		value = deparse_expression((Node *) entry->expr, context, true, true);
		appendStringInfoString(&sql, sql.len > 0 ? " OR " : "");
		if (equality_is_identity(att))
			appendStringInfo(&sql, "%s.%s IS DISTINCT FROM (%s)", name,
							 quote_identifier(NameStr(att->attname)), value);
		else
			appendStringInfo(
				&sql, "pg_catalog.record_image_ne(ROW(%s.%s), ROW((%s)::%s))",
				name, quote_identifier(NameStr(att->attname)), value,
				format_type_extended(att->atttypid, -1,
									 FORMAT_TYPE_TYPEMOD_GIVEN |
										 FORMAT_TYPE_FORCE_QUALIFY));
	}
	AtEOXact_GUC(false, guc_level);
	return sql.data;
}

/* UPDATE or DELETE with a WHERE that conditions can be added to. */
static void
begin_statement(StringInfo sql, Relation rel, const RefitClauses *clauses)
{
	initStringInfo(sql);
	if (clauses->set != NULL)
		appendStringInfo(sql, "UPDATE ONLY %s SET\n%s\n",
						 table_with_alias(rel, clauses), clauses->set);
	else
		appendStringInfo(sql, "DELETE FROM ONLY %s\n",
						 table_with_alias(rel, clauses));
	appendStringInfoString(sql, "WHERE true");
}

/* The conditions on rows that do not depend on the batch. */
static void
append_conditions(StringInfo sql, Relation rel, const RefitClauses *clauses)
{
	char *condition;

	if (clauses->where != NULL)
		appendStringInfo(sql, " AND (\n%s\n)", clauses->where);
	if (clauses->set != NULL &&
		(condition = not_there_yet(rel, clauses)) != NULL)
		appendStringInfo(sql, " AND (%s)", condition);
}

/* One batch's statement. */
char *
refit_statement_batch(Relation rel, const RefitClauses *clauses, Relation index,
					  int nkeys, RefitEnds ends)
{
	StringInfoData sql;

	if (clauses->statement != NULL)
		return pstrdup(clauses->statement);
	begin_statement(&sql, rel, clauses);
	(void) append_range(&sql, rel, clauses, index, nkeys, ends);
	append_conditions(&sql, rel, clauses);
	return sql.data;
}

/* The same for rows named by their positions, in $1. */
char *
refit_statement_rows(Relation rel, const RefitClauses *clauses)
{
	StringInfoData sql;

	begin_statement(&sql, rel, clauses);
	appendStringInfo(&sql, " AND %s.ctid = ANY ($1)",
					 quote_identifier(clauses->alias));
	append_conditions(&sql, rel, clauses);
	return sql.data;
}

/* Asks for the positions of the rows of a batch, and locks them there. */
char *
refit_statement_positions(Relation rel, const RefitClauses *clauses,
						  Relation index, int nkeys, RefitEnds ends)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s.ctid FROM ONLY %s WHERE true",
					 quote_identifier(clauses->alias),
					 table_with_alias(rel, clauses));
	(void) append_range(&sql, rel, clauses, index, nkeys, ends);
	if (clauses->where != NULL)
		appendStringInfo(&sql, " AND (\n%s\n)", clauses->where);
	appendStringInfoString(&sql, " FOR UPDATE");
	return sql.data;
}

/*
 * A key of the range: the one so many rows on, in a parameter after the ends'; or
 * with backwards the last one.
 */
char *
refit_statement_bound(Relation rel, const RefitClauses *clauses, Relation index,
					  int nkeys, RefitEnds ends, bool backwards)
{
	char *columns = key_columns(rel, clauses, index, nkeys, "");
	StringInfoData sql;
	int next;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM %s%s WHERE true", columns,
					 clauses->statement != NULL ? "" : "ONLY ",
					 table_with_alias(rel, clauses));
	next = append_range(&sql, rel, clauses, index, nkeys, ends);
	if (ends.by_where)
		appendStringInfo(&sql, " AND (\n%s\n)", clauses->where);
	appendStringInfo(
		&sql, " ORDER BY %s LIMIT 1",
		key_columns(rel, clauses, index, nkeys, backwards ? " DESC" : ""));
	if (!backwards)
		appendStringInfo(&sql, " OFFSET $%d", next);
	return sql.data;
}
