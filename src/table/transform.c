/*-------------------------------------------------------------------------
 *
 * transform.c
 *	  From a row of the table to the row of its twin.
 *
 * See transform.h.  Expressions are built from the same parse trees that
 * ALTER TABLE builds them from (compare ATPrepAlterColumnType), against the
 * table's own descriptor, and run by the executor: nothing is printed as SQL
 * and parsed again per row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "executor/nodeModifyTable.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "table/actions.h"
#include "table/finder.h"
#include "table/inverse.h"
#include "table/shape.h"
#include "table/transform.h"
#include "util/attempt.h"
#include "table/tree.h"
#include "util/sqlutil.h"

/* A CHECK constraint that rows are held to. */
typedef struct RefitCheck
{
	char *name;
	ExprState *state;
} RefitCheck;

/* The row at fault, in TopMemoryContext, until somebody asks. */
static char *failing_row = NULL;

/* The old column as an expression. */
static Expr *
old_value(Relation source, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(source), attnum - 1);

	return (Expr *) makeVar(1, attnum, att->atttypid, att->atttypmod,
							att->attcollation, 0);
}

/* NULL of whatever type; a dropped column's is gone, int4 does. */
static Expr *
null_value(Form_pg_attribute att)
{
	if (att->attisdropped)
		return (Expr *) makeNullConst(INT4OID, -1, InvalidOid);
	return (Expr *) makeNullConst(att->atttypid, att->atttypmod,
								  att->attcollation);
}

/*
 * The USING expression, or the old column, coerced to the new type.  name: how
 * the expression may call the table.
 */
static Expr *
retyped_value(Relation source, const char *name, Form_pg_attribute att,
			  Node *using_expr)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	Node *expr;
	Node *coerced;

	item = addRangeTableEntryForRelation(pstate, source, AccessShareLock,
										 makeAlias(name, NIL), false, true);
	addNSItemToQuery(pstate, item, false, true, true);
	if (using_expr != NULL)
		expr = transformExpr(pstate, copyObject(using_expr),
							 EXPR_KIND_ALTER_COL_TRANSFORM);
	else
		expr = (Node *) old_value(source, att->attnum);
	coerced = coerce_to_target_type(pstate, expr, exprType(expr), att->atttypid,
									att->atttypmod, COERCION_ASSIGNMENT,
									COERCE_IMPLICIT_CAST, -1);
	if (coerced == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" cannot be cast automatically to type %s",
						NameStr(att->attname), format_type_be(att->atttypid)),
				 errhint("Add USING with an expression that converts it.")));
	assign_expr_collations(pstate, coerced);
	free_parsestate(pstate);
	return (Expr *) coerced;
}

/*
 * The value of a column that the table does not have.
 *
 * A default that PostgreSQL evaluated once, when the column was added to the
 * twin, stands there as the "missing" value: it is the same for every row.
 */
static Expr *
new_value(Relation twin, Form_pg_attribute att)
{
	Node *expr;

	if (att->attgenerated != '\0')
		return null_value(att);
	if (att->atthasmissing)
	{
		bool isnull;
		Datum value =
			getmissingattr(RelationGetDescr(twin), att->attnum, &isnull);

		return (Expr *) makeConst(
			att->atttypid, att->atttypmod, att->attcollation, att->attlen,
			datumCopy(value, att->attbyval, att->attlen), false, att->attbyval);
	}
	expr = build_column_default(twin, att->attnum);
	if (expr == NULL && refit_domain_has_constraints(att->atttypid))
	{
		Oid base = getBaseType(att->atttypid);

		expr = coerce_to_domain((Node *) makeNullConst(base, -1, InvalidOid),
								base, -1, att->atttypid, COERCION_IMPLICIT,
								COERCE_IMPLICIT_CAST, -1, false);
	}
	return expr != NULL ? (Expr *) expr : null_value(att);
}

/* Per attribute of the twin, the expression over the source's row. */
Expr **
refit_transform_exprs(Relation source, Relation twin,
					  const AlterTableStmt *stmt, const char *search_path)
{
	TupleDesc old_desc = RelationGetDescr(source);
	TupleDesc new_desc = RelationGetDescr(twin);
	Expr **exprs = palloc(sizeof(Expr *) * Max(new_desc->natts, 1));
	int guc_level = NewGUCNestLevel();

	if (search_path != NULL)
		refit_set_local("search_path", search_path);
	for (int i = 0; i < new_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(new_desc, i);
		Form_pg_attribute old =
			i < old_desc->natts && !TupleDescAttr(old_desc, i)->attisdropped
				? TupleDescAttr(old_desc, i)
				: NULL;
		Node *using_expr;
		Expr *expr;

		if (att->attisdropped || (old != NULL && att->attgenerated != '\0'))
			expr = null_value(att);
		else if (old == NULL)
			expr = new_value(twin, att);
		else if (refit_actions_alters_type(stmt, NameStr(old->attname),
										   &using_expr))
			expr = retyped_value(
				source, get_rel_name(refit_tree_root(RelationGetRelid(twin))),
				att, using_expr);
		else
			expr = old_value(source, att->attnum);
		if (!att->attisdropped && exprType((Node *) expr) != att->atttypid)
			ereport(
				ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("column \"%s\" of the twin of \"%s\" is not of "
						"the type that the actions give it",
						NameStr(att->attname), RelationGetRelationName(source)),
				 errhint("Was the twin altered by hand? Use "
						 "refit.retry().")));
		exprs[i] = expression_planner(expr);
	}
	AtEOXact_GUC(true, guc_level);
	return exprs;
}

/* Is this attribute just handed on? */
bool
refit_transform_is_copied(Expr **exprs, AttrNumber attnum)
{
	Expr *expr = exprs[attnum - 1];

	return IsA(expr, Var) && ((Var *) expr)->varattno == attnum;
}

/* Has the table a valid CHECK of this name already? */
static bool
source_enforces(Relation source, const char *name)
{
	TupleConstr *constr = RelationGetDescr(source)->constr;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
		if (strcmp(constr->check[i].ccname, name) == 0)
			return constr->check[i].ccvalid;
	return false;
}

/* Does an expression over the twin's row use a column that is not copied? */
static bool
uses_changed_column(RefitTransform *t, Node *expr)
{
	Bitmapset *used = NULL;
	int i = -1;

	pull_varattnos(expr, 1, &used);
	while ((i = bms_next_member(used, i)) >= 0)
	{
		AttrNumber attnum = i + FirstLowInvalidHeapAttributeNumber;

		if (attnum <= 0 || !refit_transform_is_copied(t->exprs, attnum))
			return true;
	}
	return false;
}

/* Prepares the CHECK constraints that old rows were not held to. */
static void
prepare_checks(RefitTransform *t)
{
	TupleConstr *constr = RelationGetDescr(t->twin)->constr;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
	{
		ConstrCheck *c = &constr->check[i];
		RefitCheck *check;
		Node *expr;

		if (!c->ccvalid)
			continue;
		expr = stringToNode(c->ccbin);
		if (source_enforces(t->source, c->ccname) &&
			!uses_changed_column(t, expr))
			continue;
		check = palloc(sizeof(RefitCheck));
		check->name = pstrdup(c->ccname);
		check->state = ExecPrepareExpr((Expr *) expr, t->estate);
		t->checks = lappend(t->checks, check);
	}
}

/* Collects the NOT NULL columns that old rows were not held to. */
static void
prepare_not_null(RefitTransform *t)
{
	TupleDesc old_desc = RelationGetDescr(t->source);
	TupleDesc new_desc = RelationGetDescr(t->twin);

	for (int i = 0; i < new_desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(new_desc, i);
		bool held = i < old_desc->natts &&
					TupleDescAttr(old_desc, i)->attnotnull &&
					refit_transform_is_copied(t->exprs, i + 1);

		if (att->attnotnull && !held && !att->attisdropped)
			t->not_null = bms_add_member(t->not_null, i + 1);
	}
}

/* Prepares the projection from the source's row to the twin's. */
static void
prepare_projection(RefitTransform *t)
{
	List *targets = NIL;

	for (int i = 0; i < RelationGetDescr(t->twin)->natts; i++)
		targets =
			lappend(targets, makeTargetEntry(t->exprs[i], i + 1, NULL, false));
	t->projection =
		ExecBuildProjectionInfo(targets, GetPerTupleExprContext(t->estate),
								t->output, NULL, RelationGetDescr(t->source));
}

/* The columns that a generated column of the twin is computed from. */
static Bitmapset *
generated_from(Relation twin, AttrNumber attnum)
{
	Bitmapset *used = NULL;

	pull_varattnos(build_column_default(twin, attnum), 1, &used);
	return used;
}

/* Has the source no such column? */
static bool
is_new_column(RefitTransform *t, int i)
{
	TupleDesc desc = RelationGetDescr(t->source);

	return i >= desc->natts || TupleDescAttr(desc, i)->attisdropped;
}

/*
 * Chooses the columns to compare: all but those that a volatile function has a
 * part in.  Their expressions must not run again: they may have effects, as
 * nextval() has.  After the cutover new columns have values of their own.
 */
static void
prepare_comparison(RefitTransform *t, bool reversed)
{
	TupleDesc desc = RelationGetDescr(t->twin);
	Bitmapset *left_out = NULL;

	t->compared = palloc(sizeof(AttrNumber) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		if (!contain_volatile_functions((Node *) t->exprs[i]) &&
			!(reversed && is_new_column(t, i)))
			continue;
		t->exprs[i] = null_value(TupleDescAttr(desc, i));
		left_out = bms_add_member(left_out,
								  i + 1 - FirstLowInvalidHeapAttributeNumber);
	}
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped ||
			bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber,
						  left_out) ||
			(att->attgenerated == ATTRIBUTE_GENERATED_STORED &&
			 bms_overlap(generated_from(t->twin, i + 1), left_out)))
			continue;
		t->compared[t->ncompared++] = i + 1;
	}
}

/*
 * Prepares to try whether what is cast back is lossless: the actions must make
 * the same of it again.
 */
static void
prepare_round_trip(RefitTransform *t, const RefitMigration *m)
{
	Expr **forth = refit_transform_exprs(t->twin, t->source,
										 refit_actions_of(m), m->search_path);
	TupleDesc desc = RelationGetDescr(t->twin);

	t->forth = palloc0(sizeof(ExprState *) * Max(desc->natts, 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->attgenerated != '\0' ||
			bms_is_member(i + 1, t->kept) ||
			(refit_transform_is_copied(t->exprs, i + 1) &&
			 refit_transform_is_copied(forth, i + 1)))
			continue;
		t->forth[i] = ExecInitExpr(forth[i], NULL);
	}
}

/* Prepares the expressions. */
static void
prepare_exprs(RefitTransform *t, const RefitMigration *m, bool to_compare)
{
	if (m->rewrite.reversed && !to_compare)
	{
		t->exprs = refit_inverse_exprs(t->source, t->twin, &t->kept);
		prepare_round_trip(t, m);
		return;
	}
	t->exprs = refit_transform_exprs(t->source, t->twin, refit_actions_of(m),
									 m->search_path);
	if (to_compare)
		prepare_comparison(t, m->rewrite.reversed);
}

/* Is the expression a column, perhaps under another name of its type? */
static bool
is_relabelled(Expr *expr)
{
	while (IsA(expr, RelabelType))
		expr = ((RelabelType *) expr)->arg;
	return IsA(expr, Var);
}

/* Is the expression the cast of one integer type to another? */
static bool
is_integer_cast(Expr *expr)
{
	FuncExpr *call = (FuncExpr *) expr;
	Oid from;
	Oid to;
	Oid function;

	if (!IsA(expr, FuncExpr) || list_length(call->args) != 1 ||
		!IsA(linitial(call->args), Var))
		return false;
	from = exprType(linitial(call->args));
	to = call->funcresulttype;
	return (from == INT2OID || from == INT4OID || from == INT8OID) &&
		   (to == INT2OID || to == INT4OID || to == INT8OID) &&
		   find_coercion_pathway(to, from, COERCION_ASSIGNMENT, &function) ==
			   COERCION_PATH_FUNC &&
		   function == call->funcid;
}

/* Is the expression a column written as text in the only way there is? */
static bool
is_canonical_text(Expr *expr)
{
	Oid from;

	if (!IsA(expr, CoerceViaIO) || !IsA(((CoerceViaIO *) expr)->arg, Var))
		return false;
	from = exprType((Node *) ((CoerceViaIO *) expr)->arg);
	return from == INT2OID || from == INT4OID || from == INT8OID ||
		   from == UUIDOID;
}

/* Does each value lead to one that the cast back leads from to this value? */
bool
refit_transform_is_invertible(Expr *expr)
{
	return is_relabelled(expr) || is_integer_cast(expr) ||
		   is_canonical_text(expr);
}

/*
 * Prepares to lead keys back from the twin to the table.  Where that is not
 * certain to succeed, keys that two rows lead to must not be: two keys that lead
 * back cannot have become one, since the old values differ in a unique index, so
 * a row of the twin belongs to the key that it leads to.
 */
static void
prepare_key_back(RefitTransform *t, Oid key_index)
{
	Relation index = index_open(key_index, AccessShareLock);

	t->key_back = palloc(sizeof(ExprState *) * t->nkeys);
	t->key_order = refit_finder_order(t->source, index, t->nkeys);
	index_close(index, NoLock);
	for (int i = 0; i < t->nkeys; i++)
	{
		AttrNumber attnum = t->key_attnums[i];
		Expr *back = refit_inverse_cast(
			t->twin, TupleDescAttr(RelationGetDescr(t->source), attnum - 1),
			attnum);

		if (back == NULL)
			elog(ERROR, "key column %d cannot be cast back", attnum);
		t->key_back[i] = ExecInitExpr(expression_planner(back), NULL);
		if (!refit_transform_is_invertible(t->exprs[attnum - 1]))
			t->key_must_lead_back = true;
	}
}

/* Prepares to transform rows. */
RefitTransform *
refit_transform_open(const RefitMigration *m, Relation source, Relation twin,
					 bool to_compare)
{
	RefitTransform *t = palloc0(sizeof(RefitTransform));
	TupleConstr *constr = RelationGetDescr(twin)->constr;

	t->source = source;
	t->twin = twin;
	t->estate = CreateExecutorState();
	t->result_rel = makeNode(ResultRelInfo);
	InitResultRelInfo(t->result_rel, twin, 1, NULL, 0);
	t->output =
		MakeSingleTupleTableSlot(RelationGetDescr(twin), &TTSOpsVirtual);
	t->key_row =
		MakeSingleTupleTableSlot(RelationGetDescr(source), &TTSOpsVirtual);
	t->has_generated = constr != NULL && constr->has_generated_stored;
	prepare_exprs(t, m, to_compare);
	prepare_projection(t);
	if (!to_compare)
	{
		prepare_checks(t);
		prepare_not_null(t);
	}

	t->nkeys = refit_shape_key_attnums(m->rewrite.key_index, &t->key_attnums);
	t->key_states = palloc(sizeof(ExprState *) * t->nkeys);
	for (int i = 0; i < t->nkeys; i++)
		t->key_states[i] = ExecInitExpr(t->exprs[t->key_attnums[i] - 1], NULL);
	t->twin_key_row =
		MakeSingleTupleTableSlot(RelationGetDescr(twin), &TTSOpsVirtual);
	if (to_compare || !m->rewrite.reversed)
		prepare_key_back(t, m->rewrite.key_index);
	return t;
}

/* Gives back what the executor holds. */
void
refit_transform_close(RefitTransform *t)
{
	ExecDropSingleTupleTableSlot(t->output);
	ExecDropSingleTupleTableSlot(t->key_row);
	ExecDropSingleTupleTableSlot(t->twin_key_row);
	ExecCloseIndices(t->result_rel);
	FreeExecutorState(t->estate);
}

/* Holds a new row to the constraints. */
static void
enforce_constraints(RefitTransform *t, TupleTableSlot *row)
{
	ListCell *lc;
	int attnum = -1;

	while ((attnum = bms_next_member(t->not_null, attnum)) >= 0)
		if (slot_attisnull(row, attnum))
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("column \"%s\" of relation \"%s\" contains null "
							"values",
							NameStr(TupleDescAttr(row->tts_tupleDescriptor,
												  attnum - 1)
										->attname),
							RelationGetRelationName(t->source))));

	GetPerTupleExprContext(t->estate)->ecxt_scantuple = row;
	foreach(lc, t->checks)
	{
		RefitCheck *check = lfirst(lc);

		if (!ExecCheck(check->state, GetPerTupleExprContext(t->estate)))
			ereport(ERROR,
					(errcode(ERRCODE_CHECK_VIOLATION),
					 errmsg("check constraint \"%s\" of relation \"%s\" is "
							"violated by some row",
							check->name, RelationGetRelationName(t->source))));
	}
}

/* Takes over from the old row what the new definition does not have. */
static void
keep_old_values(RefitTransform *t, TupleTableSlot *result)
{
	int attnum = -1;

	if (t->old_row == NULL)
		return;
	while ((attnum = bms_next_member(t->kept, attnum)) >= 0)
		result->tts_values[attnum - 1] =
			slot_getattr(t->old_row, attnum, &result->tts_isnull[attnum - 1]);
}

/* Are two values of a type the same, whatever scale a number is written in? */
bool
refit_transform_is_same(Form_pg_attribute att, Datum a, Datum b)
{
	return datum_image_eq(a, b, att->attbyval, att->attlen) ||
		   (att->atttypid == NUMERICOID &&
			DatumGetBool(DirectFunctionCall2(numeric_eq, a, b)));
}

/* Holds what was cast back against what it was cast from. */
static void
try_round_trip(RefitTransform *t, TupleTableSlot *row, TupleTableSlot *result)
{
	ExprContext *econtext = GetPerTupleExprContext(t->estate);

	econtext->ecxt_scantuple = result;
	for (int i = 0; i < result->tts_tupleDescriptor->natts; i++)
	{
		Form_pg_attribute att;
		bool was_null;
		bool is_null;
		Datum was;
		Datum is;

		if (t->forth[i] == NULL)
			continue;
		att = TupleDescAttr(row->tts_tupleDescriptor, i);
		was = slot_getattr(row, i + 1, &was_null);
		is = ExecEvalExprSwitchContext(t->forth[i], econtext, &is_null);
		if (was_null != is_null ||
			(!was_null && !refit_transform_is_same(att, was, is)))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("the value of column \"%s\" cannot be cast back to "
							"type %s without loss",
							NameStr(att->attname),
							format_type_be(
								TupleDescAttr(result->tts_tupleDescriptor, i)
									->atttypid))));
	}
}

/* Casts the key in a row of the twin back to the table's. */
static void
cast_key_back(RefitTransform *t, TupleTableSlot *twin, Datum *source_key)
{
	ExprContext *econtext = GetPerTupleExprContext(t->estate);

	econtext->ecxt_scantuple = twin;
	for (int i = 0; i < t->nkeys; i++)
	{
		bool isnull;

		source_key[i] =
			ExecEvalExprSwitchContext(t->key_back[i], econtext, &isnull);
		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("the key of a row of \"%s\" is null where it is "
							"cast back",
							RelationGetRelationName(t->source))));
	}
}

/* Does the key in a row of the twin lead back to a source key? */
static bool
key_leads_back(RefitTransform *t, const Datum *source_key, TupleTableSlot *twin)
{
	Datum back[INDEX_MAX_KEYS];

	cast_key_back(t, twin, back);
	return refit_finder_compare(t->key_order, t->nkeys, back, source_key) == 0;
}

/* A key to cast back, for refit_attempt. */
typedef struct KeyTrace
{
	RefitTransform *t;
	TupleTableSlot *twin;
	Datum *source_key;
} KeyTrace;

static void
trace_key(void *arg)
{
	KeyTrace *trace = arg;

	cast_key_back(trace->t, trace->twin, trace->source_key);
}

/* The source key that a row of the twin leads back to. */
bool
refit_transform_trace_key(RefitTransform *t, TupleTableSlot *twin,
						  Datum *source_key)
{
	KeyTrace trace = {t, twin, source_key};
	ErrorData *edata = refit_attempt(trace_key, &trace, true);

	if (edata != NULL &&
		ERRCODE_TO_CATEGORY(edata->sqlerrcode) != ERRCODE_DATA_EXCEPTION &&
		ERRCODE_TO_CATEGORY(edata->sqlerrcode) !=
			ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		ReThrowError(edata);
	return edata == NULL;
}

/* An ERROR for a row that could not be told from another one in the twin. */
static void
check_key(RefitTransform *t, TupleTableSlot *row, TupleTableSlot *result)
{
	Datum key[INDEX_MAX_KEYS];

	if (!t->key_must_lead_back)
		return;
	refit_transform_get_key(t, row, key);
	if (!key_leads_back(t, key, result))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("the key of a row of \"%s\" does not lead back from "
						"its new value",
						RelationGetRelationName(t->source)),
				 errhint("Rows whose keys could become the same cannot be "
						 "followed.  Give the table another unique index on "
						 "NOT NULL columns.")));
}

/* The twin's row. */
TupleTableSlot *
refit_transform_row(RefitTransform *t, TupleTableSlot *row)
{
	TupleTableSlot *result;

	t->input = row;
	ResetPerTupleExprContext(t->estate);
	GetPerTupleExprContext(t->estate)->ecxt_scantuple = row;
	result = ExecProject(t->projection);
	if (t->kept != NULL)
		keep_old_values(t, result);
	if (t->has_generated)
		ExecComputeStoredGenerated(t->result_rel, t->estate, result,
								   CMD_INSERT);
	if (t->checks != NIL || t->not_null != NULL)
		enforce_constraints(t, result);
	if (t->forth != NULL)
		try_round_trip(t, row, result);
	check_key(t, row, result);
	t->input = NULL;
	return result;
}

/* The twin's key for a source key. */
void
refit_transform_key(RefitTransform *t, const Datum *source_key, Datum *key)
{
	ExprContext *econtext = GetPerTupleExprContext(t->estate);
	TupleTableSlot *row = t->key_row;

	ExecClearTuple(row);
	memset(row->tts_isnull, true,
		   row->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < t->nkeys; i++)
	{
		row->tts_values[t->key_attnums[i] - 1] = source_key[i];
		row->tts_isnull[t->key_attnums[i] - 1] = false;
	}
	ExecStoreVirtualTuple(row);

	t->input = row;
	ResetPerTupleExprContext(t->estate);
	econtext->ecxt_scantuple = row;
	for (int i = 0; i < t->nkeys; i++)
	{
		bool isnull;

		key[i] = ExecEvalExprSwitchContext(t->key_states[i], econtext, &isnull);
		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("the new value of key column \"%s\" is null",
							NameStr(TupleDescAttr(RelationGetDescr(t->twin),
												  t->key_attnums[i] - 1)
										->attname))));
	}
	t->input = NULL;
}

/* The largest number of an integer type. */
static int64
largest_of(Oid type)
{
	return type == INT2OID	 ? PG_INT16_MAX
		   : type == INT4OID ? PG_INT32_MAX
							 : PG_INT64_MAX;
}

/* An integer datum as a number. */
static int64
integer_of(Oid type, Datum value)
{
	return type == INT2OID	 ? DatumGetInt16(value)
		   : type == INT4OID ? DatumGetInt32(value)
							 : DatumGetInt64(value);
}

/* Does the twin's key for a source key lead back to that? */
static bool
key_can_lead_back(RefitTransform *t, const Datum *source_key)
{
	TupleTableSlot *twin = t->twin_key_row;
	Datum key[INDEX_MAX_KEYS];

	refit_transform_key(t, source_key, key);
	ExecClearTuple(twin);
	memset(twin->tts_isnull, true,
		   twin->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < t->nkeys; i++)
	{
		twin->tts_values[t->key_attnums[i] - 1] = key[i];
		twin->tts_isnull[t->key_attnums[i] - 1] = false;
	}
	ExecStoreVirtualTuple(twin);
	return key_leads_back(t, source_key, twin);
}

/* Can the twin have a key for a source key? */
bool
refit_transform_key_fits(RefitTransform *t, const Datum *source_key)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		Expr *expr = t->exprs[t->key_attnums[i] - 1];
		int64 value;
		int64 largest;

		if (!is_integer_cast(expr))
			continue;
		value = integer_of(exprType(linitial(((FuncExpr *) expr)->args)),
						   source_key[i]);
		largest = largest_of(((FuncExpr *) expr)->funcresulttype);
		if (value > largest || value < -largest - 1)
			return false;
	}
	return !t->key_must_lead_back || key_can_lead_back(t, source_key);
}

/* The key of a row. */
void
refit_transform_get_key(RefitTransform *t, TupleTableSlot *row, Datum *key)
{
	for (int i = 0; i < t->nkeys; i++)
	{
		bool isnull;

		key[i] = slot_getattr(row, t->key_attnums[i], &isnull);
		if (isnull)
			elog(ERROR, "a row's key is null");
	}
}

/* The key of a row as text. */
char *
refit_transform_key_text(RefitTransform *t, TupleTableSlot *row)
{
	return refit_shape_row_text(row, t->nkeys, t->key_attnums);
}

/* Remembers the row that an error was raised for. */
void
refit_transform_note_failing_key(const char *key)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	failing_row = psprintf("The row with key %s is at fault.", key);
	MemoryContextSwitchTo(old);
}

/* Remembers the row that was at work. */
void
refit_transform_note_failure(RefitTransform *t)
{
	if (t->input != NULL)
		refit_transform_note_failing_key(refit_transform_key_text(t, t->input));
}

/* Takes what was noted. */
char *
refit_transform_take_failure(void)
{
	char *result = failing_row;

	failing_row = NULL;
	return result;
}
