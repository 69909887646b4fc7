/*-------------------------------------------------------------------------
 *
 * mirror_trigger.c
 *	  The trigger that keeps a pair of columns in step.
 *
 * It fires before a row is written, behind the other triggers, and looks at
 * which of the two was given: in an UPDATE the one that has changed, in an INSERT
 * the one that is not its default.
 *
 *	  in step already			nothing is done
 *	  the source, or both		the target follows the source
 *	  the target				the source follows the target; where there is no
 *								reverse expression, the target is put back
 *	  neither, in an UPDATE		as the source, unless the expression fails
 *
 * The last is for the backfill, which a row may have escaped whose key or position
 * is another one now.  A row that the expression fails on can still be written
 * otherwise.
 *
 * In step is a pair whose target is what the expression makes of the source, so
 * that the backfill is left alone; and, where both were given, one whose source is
 * what the reverse makes of the target, which may know more.
 *
 * Rights: it fires in everybody's session.  The expressions are the table
 * owner's and run with his rights, restricted as in maintenance commands: not
 * with the rights of whoever writes, who may be a superuser, or may not be
 * allowed to call what they call.  Where nothing but PostgreSQL's own functions
 * and types are used there is nothing to protect, and no switch is made.  In a
 * partition it is the owner of the table that the mirror was made for.
 *
 * Locks and snapshots: none but the statement's.  What is derived from the
 * trigger is kept for the statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "rows/mirror_rule.h"
#include "util/attempt.h"
#include "util/sqlutil.h"

/* One column of the pair. */
typedef struct MirrorColumn
{
	AttrNumber attnum;
	Node *expr;				  /* its value by the other; NULL: it is not set */
	Node *standard;			  /* its default; NULL: none */
	ExprState *value;		  /* expr, ready to be evaluated */
	ExprState *default_value; /* standard, where that is always the same */
} MirrorColumn;

/* What a trigger call needs, kept for the statement. */
typedef struct MirrorState
{
	Oid owner; /* of the expressions; InvalidOid: no switch is needed */
	MirrorColumn source;
	MirrorColumn target;
	ExprContext *econtext;
} MirrorState;

/* A value of a column. */
typedef struct MirrorValue
{
	Datum value;
	bool isnull;
} MirrorValue;

/* A row that is about to be written. */
typedef struct MirrorRow
{
	MirrorState *state;
	TupleTableSlot *slot;
	bool source_given;
	bool target_given;
	MirrorColumn *column; /* which one is to be set; NULL: none */
	MirrorValue value;
} MirrorRow;

PG_FUNCTION_INFO_V1(refit_mirror);
PG_FUNCTION_INFO_V1(refit_mirror_rule);

/*
 * What is kept for the statement
 */

/* Is a function one that a user may have made? */
static bool
is_users_function(Oid function, void *context)
{
	return function >= FirstUnpinnedObjectId;
}

/* Does an expression use what a user may have made? */
static bool
uses_users_code(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, List))
		return expression_tree_walker(node, uses_users_code, context);
	return exprType(node) >= FirstUnpinnedObjectId ||
		   check_functions_in_node(node, is_users_function, context) ||
		   expression_tree_walker(node, uses_users_code, context);
}

/* The table that the mirror was made for: itself, or one above it. */
static Oid
table_of_mirror(Oid relid, Oid trigger)
{
	Relation rel = table_open(TriggerRelationId, AccessShareLock);

	while (OidIsValid(trigger))
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple tuple;

		ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(trigger));
		scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, &key);
		trigger = InvalidOid;
		if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			relid = ((Form_pg_trigger) GETSTRUCT(tuple))->tgrelid;
			trigger = ((Form_pg_trigger) GETSTRUCT(tuple))->tgparentid;
		}
		systable_endscan(scan);
	}
	table_close(rel, AccessShareLock);
	return relid;
}

/* Fills in a column of the pair. */
static void
know_column(MirrorColumn *column, Relation rel, AttrNumber attnum, Node *expr)
{
	column->attnum = attnum;
	if (expr != NULL)
		column->expr = refit_mirror_rule_assign(rel, attnum, expr);
	column->standard = build_column_default(rel, attnum);
	if (column->standard != NULL)
		column->standard =
			(Node *) expression_planner((Expr *) column->standard);
}

/* Makes a column's expressions ready, with the rights they will have. */
static void
prepare_column(MirrorColumn *column)
{
	if (column->expr != NULL)
		column->value = ExecInitExpr((Expr *) column->expr, NULL);
	if (column->standard != NULL &&
		!contain_mutable_functions(column->standard))
		column->default_value = ExecInitExpr((Expr *) column->standard, NULL);
}

/* Switches to the owner's rights, if need be. */
static void
begin_rights(const MirrorState *state, RefitRights *save)
{
	if (OidIsValid(state->owner))
		refit_rights_begin(save, state->owner, true);
}

/* Switches back. */
static void
end_rights(const MirrorState *state, RefitRights *save)
{
	if (OidIsValid(state->owner))
		refit_rights_end(save);
}

/* Reads the rule.  An error in planning puts rights back by the abort. */
static MirrorState *
make_state(TriggerData *data)
{
	MirrorState *state = palloc0(sizeof(MirrorState));
	Relation rel = data->tg_relation;
	Trigger *trigger = data->tg_trigger;
	RefitMirror mirror = {0};
	RefitRights save;

	state->owner = rel->rd_rel->relowner;
	if (trigger->tgisclone)
		state->owner = refit_relation_owner(
			table_of_mirror(RelationGetRelid(rel), trigger->tgoid));
	begin_rights(state, &save);
	refit_mirror_rule_read(trigger->tgqual, &mirror);
	know_column(&state->target, rel, mirror.target, mirror.forward);
	know_column(&state->source, rel, mirror.source, mirror.backward);
	prepare_column(&state->target);
	prepare_column(&state->source);
	state->econtext = CreateStandaloneExprContext();
	end_rights(state, &save);
	if (!uses_users_code(state->target.expr, NULL) &&
		!uses_users_code(state->source.expr, NULL) &&
		!uses_users_code(state->target.standard, NULL) &&
		!uses_users_code(state->source.standard, NULL))
		state->owner = InvalidOid;
	return state;
}

/* What is kept for the statement. */
static MirrorState *
mirror_state(FunctionCallInfo fcinfo, TriggerData *data)
{
	MemoryContext old;

	if (fcinfo->flinfo->fn_extra == NULL)
	{
		old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
		fcinfo->flinfo->fn_extra = make_state(data);
		MemoryContextSwitchTo(old);
	}
	return fcinfo->flinfo->fn_extra;
}

/*
 * A row
 */

/* A column's value in a row. */
static MirrorValue
value_in(TupleTableSlot *slot, const MirrorColumn *column)
{
	MirrorValue result;

	result.value = slot_getattr(slot, column->attnum, &result.isnull);
	return result;
}

/* Evaluates an expression over the row that the context has. */
static MirrorValue
evaluate(ExprState *expr, ExprContext *econtext)
{
	MirrorValue result;

	result.value = ExecEvalExprSwitchContext(expr, econtext, &result.isnull);
	return result;
}

/* Are two values of a column the same, to the byte? */
static bool
are_same(TupleTableSlot *slot, const MirrorColumn *column, MirrorValue a,
		 MirrorValue b)
{
	Form_pg_attribute att =
		TupleDescAttr(slot->tts_tupleDescriptor, column->attnum - 1);

	if (a.isnull || b.isnull)
		return a.isnull == b.isnull;
	return datum_image_eq(a.value, b.value, att->attbyval, att->attlen);
}

/* Has an INSERT given a column a value, rather than left it to its default? */
static bool
is_inserted(const MirrorState *state, TupleTableSlot *slot,
			const MirrorColumn *column)
{
	MirrorValue is = value_in(slot, column);
	MirrorValue standard = {.isnull = true};

	if (column->standard != NULL && column->default_value == NULL)
		return true; /* cannot be told */
	if (column->default_value != NULL)
		standard = evaluate(column->default_value, state->econtext);
	return !are_same(slot, column, is, standard);
}

/* Has a column been given a value?  old is the row before, or NULL. */
static bool
is_given(const MirrorState *state, TupleTableSlot *slot, TupleTableSlot *old,
		 const MirrorColumn *column)
{
	if (old == NULL)
		return is_inserted(state, slot, column);
	return !are_same(slot, column, value_in(slot, column),
					 value_in(old, column));
}

/* Evaluates the expressions as far as need be, and decides. */
static void
bring_in_step(void *arg)
{
	MirrorRow *row = arg;
	MirrorState *state = row->state;
	TupleTableSlot *slot = row->slot;
	MirrorValue source = value_in(slot, &state->source);
	MirrorValue target = value_in(slot, &state->target);
	MirrorValue forward = evaluate(state->target.value, state->econtext);
	MirrorValue backward;

	if (are_same(slot, &state->target, forward, target))
		return;
	row->column = &state->target;
	row->value = forward;
	if (state->source.value == NULL ||
		(row->source_given && !row->target_given))
		return;
	backward = evaluate(state->source.value, state->econtext);
	if (are_same(slot, &state->source, backward, source) && !target.isnull)
		row->column = NULL; /* it may know more */
	else if (row->target_given && !row->source_given)
	{
		row->column = &state->source;
		row->value = backward;
	}
}

/* Is it an error of the value, rather than of the session or the server? */
static bool
is_of_a_value(int sqlerrcode)
{
	int category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		   category != ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) &&
		   category != ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) &&
		   category != ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR);
}

/* Decides which column of a row is set to what. */
static void
decide(MirrorRow *row, TupleTableSlot *old)
{
	MirrorState *state = row->state;
	ErrorData *error;

	row->source_given = is_given(state, row->slot, old, &state->source);
	row->target_given = is_given(state, row->slot, old, &state->target);
	if (old == NULL || row->source_given || row->target_given)
	{
		bring_in_step(row);
		return;
	}
	error = refit_attempt(bring_in_step, row, true);
	if (error == NULL)
		return;
	if (!is_of_a_value(error->sqlerrcode))
		ReThrowError(error);
	row->column = NULL;
}

/* The row with the value that was decided on. */
static HeapTuple
set_value(HeapTuple tuple, TupleDesc desc, MirrorRow *row)
{
	int attnum = row->column->attnum;

	return heap_modify_tuple_by_cols(tuple, desc, 1, &attnum, &row->value.value,
									 &row->value.isnull);
}

/* The trigger function. */
Datum
refit_mirror(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	bool updates;
	HeapTuple tuple;
	MirrorRow row = {0};
	RefitRights save;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(data->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("refit._mirror() is the function of triggers "
							   "that refit.mirror_column() makes"),
						errhint("It cannot be called by hand.")));
	row.state = mirror_state(fcinfo, data);
	updates = TRIGGER_FIRED_BY_UPDATE(data->tg_event);
	tuple = updates ? data->tg_newtuple : data->tg_trigtuple;
	row.slot = updates ? data->tg_newslot : data->tg_trigslot;
	ResetExprContext(row.state->econtext);
	row.state->econtext->ecxt_scantuple = row.slot;
	begin_rights(row.state, &save);
	decide(&row, updates ? data->tg_trigslot : NULL);
	end_rights(row.state, &save);
	if (row.column != NULL)
		tuple = set_value(tuple, RelationGetDescr(data->tg_relation), &row);
	return PointerGetDatum(tuple); /* not PG_RETURN_..., for a trigger */
}

/* Carries the rule in the trigger's WHEN clause; never evaluated. */
Datum
refit_mirror_rule(PG_FUNCTION_ARGS)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("refit._mirror_rule() cannot be called"),
					errhint("Use refit.mirror_column().")));
	PG_RETURN_BOOL(true);
}
