/*-------------------------------------------------------------------------
 *
 * mirror_rule.c
 *	  What a mirrored column is made of.  See mirror_rule.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_func.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "rewrite/prs2lock.h"
#include "rewrite/rewriteManip.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "rows/mirror_rule.h"
#include "table/tree.h"
#include "util/sqlutil.h"

/*
 * Behind every letter: the triggers before it may still set the source.  The
 * target's name follows.
 */
#define TRIGGER_PREFIX "~refit_mirror"

/* Arguments of the rule. */
#define ARG_SOURCE 0
#define ARG_TARGET 1
#define ARG_FORWARD 2
#define ARG_BACKWARD 3

/*
 * The user's expressions
 */

/* An ERROR for what is no single expression. */
static void
refuse_text(const char *what)
{
	ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
					errmsg("%s must be one expression, nothing else", what),
					errhint("Write, for example, 'price * 100'.")));
}

/* Parses an expression by itself, so that it cannot reach out of its place. */
static Node *
parse_text(const char *text, const char *what)
{
	List *statements = refit_sql_parse(psprintf("SELECT\n%s\n", text));
	SelectStmt *bare = makeNode(SelectStmt);
	SelectStmt *stmt;
	ResTarget *target;

	if (list_length(statements) != 1)
		refuse_text(what);
	stmt = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (!IsA(stmt, SelectStmt) || list_length(stmt->targetList) != 1)
		refuse_text(what);
	bare->targetList = stmt->targetList;
	bare->limitOption = stmt->limitOption;
	target = linitial_node(ResTarget, stmt->targetList);
	if (!equal(bare, stmt) || target->name != NULL)
		refuse_text(what);
	return target->val;
}

/* An ERROR unless an expression reads that column and nothing else. */
static void
check_columns(Relation rel, Node *node, AttrNumber attnum, const char *what)
{
	Bitmapset *used = NULL;
	int number = attnum - FirstLowInvalidHeapAttributeNumber;

	pull_varattnos(node, 1, &used);
	if (bms_membership(used) == BMS_SINGLETON && bms_is_member(number, used))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
			 errmsg("%s must read column \"%s\" and no other", what,
					get_attname(RelationGetRelid(rel), attnum, false)),
			 errdetail("The trigger sees changes of the mirrored pair only.")));
}

/* An ERROR unless an expression is the same for everybody at any time. */
static void
check_immutable(Node *node, const char *what)
{
	Expr *planned = expression_planner((Expr *) copyObject(node));

	if (!contain_mutable_functions((Node *) planned))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("%s is not immutable", what),
			 errdetail("Its value could be another for the backfill than for "
					   "a session that writes, with other settings or at "
					   "another time."),
			 errhint("Name what it depends on, as in ts AT TIME ZONE 'UTC', "
					 "or call a function declared IMMUTABLE.")));
}

/* Analyzes an expression over one column. */
static Node *
analyze_text(Relation rel, const char *text, AttrNumber reads,
			 AttrNumber writes, const char *what)
{
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item = addRangeTableEntryForRelation(
		pstate, rel, AccessShareLock, NULL, false, true);
	Node *node;

	addNSItemToQuery(pstate, item, false, true, true);
	node =
		transformExpr(pstate, parse_text(text, what), EXPR_KIND_TRIGGER_WHEN);
	assign_expr_collations(pstate, node);
	free_parsestate(pstate);
	check_columns(rel, node, reads, what);
	(void) refit_mirror_rule_assign(rel, writes, node);
	check_immutable(node, what);
	return node;
}

/* An expression as it is assigned to a column. */
Node *
refit_mirror_rule_assign(Relation rel, AttrNumber attnum, Node *expression)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	Oid type = exprType(expression);
	Node *node = coerce_to_target_type(
		NULL, copyObject(expression), type, att->atttypid, att->atttypmod,
		COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);

	if (node == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" is of type %s but the expression is of "
						"type %s",
						NameStr(att->attname), format_type_be(att->atttypid),
						format_type_be(type)),
				 errhint("You will need to rewrite or cast the expression.")));
	assign_expr_collations(NULL, node);
	return (Node *) expression_planner((Expr *) node);
}

/* An expression as text; its columns with that prefix, or NULL for none. */
static char *
deparse(Oid relid, Node *node, const char *prefix)
{
	return deparse_expression(
		node,
		deparse_context_for(prefix != NULL ? prefix : get_rel_name(relid),
							relid),
		prefix != NULL, false);
}

/* Fills in the expressions' texts. */
static void
write_texts(Oid relid, RefitMirror *mirror)
{
	mirror->expression = deparse(relid, mirror->forward, NULL);
	if (mirror->backward != NULL)
		mirror->reverse = deparse(relid, mirror->backward, NULL);
}

/*
 * Columns
 */

/* The number of a column that a mirror may have. */
static AttrNumber
find_column(Relation rel, const char *name)
{
	AttrNumber attnum = get_attnum(RelationGetRelid(rel), name);

	if (attnum == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist", name,
						RelationGetRelationName(rel)),
				 errhint("Add it first, without a default.")));
	if (attnum < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("system column \"%s\" cannot be mirrored", name)));
	if (TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attgenerated != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("generated column \"%s\" cannot be mirrored", name),
				 errhint("Mirror the columns that it is generated from.")));
	return attnum;
}

/* Is the column part of the partition key, here or further down? */
static bool
is_in_partition_key(Oid relid, const char *column)
{
	ListCell *lc;

	foreach(lc, refit_tree_members(relid))
	{
		Oid member = lfirst_oid(lc);
		AttrNumber attnum = get_attnum(member, column);
		Relation rel;
		bool result;

		if (get_rel_relkind(member) != RELKIND_PARTITIONED_TABLE)
			continue;
		rel = table_open(member, AccessShareLock);
		result = has_partition_attrs(
			rel,
			bms_make_singleton(attnum - FirstLowInvalidHeapAttributeNumber),
			NULL);
		table_close(rel, NoLock);
		if (result)
			return true;
	}
	return false;
}

/* An ERROR unless the trigger may write to the column. */
static void
check_writable(Relation rel, const char *name, AttrNumber attnum)
{
	if (TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attidentity != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("identity column \"%s\" cannot be the target of a "
						"mirror",
						name),
				 errhint("Leave reverse_expression out, or drop the identity "
						 "first.")));
	if (is_in_partition_key(RelationGetRelid(rel), name))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" of the partition key cannot be the "
						"target of a mirror",
						name),
				 errdetail("A trigger may not move rows to another "
						   "partition.")));
}

/* Makes a mirror of a request. */
RefitMirror *
refit_mirror_rule_make(const RefitMirrorRequest *request)
{
	RefitMirror *mirror = palloc0(sizeof(RefitMirror));
	Relation rel = table_open(request->relid, AccessShareLock);
	int guc_level = NewGUCNestLevel();

	mirror->source = find_column(rel, request->source);
	mirror->target = find_column(rel, request->target);
	if (mirror->source == mirror->target)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a column cannot be mirrored to itself")));
	check_writable(rel, request->target, mirror->target);
	if (request->reverse != NULL)
		check_writable(rel, request->source, mirror->source);
	refit_set_local("search_path", request->search_path);
	mirror->forward = analyze_text(
		rel,
		request->expression != NULL ? request->expression
									: quote_identifier(request->source),
		mirror->source, mirror->target, "expression");
	if (request->reverse != NULL)
		mirror->backward = analyze_text(rel, request->reverse, mirror->target,
										mirror->source, "reverse_expression");
	AtEOXact_GUC(false, guc_level);
	mirror->name = makeObjectName(TRIGGER_PREFIX, request->target, NULL);
	write_texts(request->relid, mirror);
	table_close(rel, NoLock);
	return mirror;
}

/*
 * As SQL
 */

/* The statement that makes the trigger. */
char *
refit_mirror_rule_create(Oid relid, const RefitMirror *mirror)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(
		&sql,
		"CREATE TRIGGER %s BEFORE INSERT OR UPDATE ON %s FOR EACH ROW WHEN "
		"(true OR " REFIT_SCHEMA "._mirror_rule(new.%s, ",
		quote_identifier(mirror->name), refit_qualified_name(relid),
		quote_identifier(get_attname(relid, mirror->source, false)));
	appendStringInfo(
		&sql, "new.%s, %s",
		quote_identifier(get_attname(relid, mirror->target, false)),
		deparse(relid, mirror->forward, "new"));
	if (mirror->backward != NULL)
		appendStringInfo(&sql, ", %s", deparse(relid, mirror->backward, "new"));
	appendStringInfoString(&sql,
						   ")) EXECUTE FUNCTION " REFIT_SCHEMA "._mirror()");
	return sql.data;
}

/* What its backfill sets. */
char *
refit_mirror_rule_set(Oid relid, const RefitMirror *mirror)
{
	return psprintf("%s = %s",
					quote_identifier(get_attname(relid, mirror->target, false)),
					mirror->expression);
}

/*
 * Which rows its backfill sets.  A target that leads back to the source was
 * written by somebody who knows more than the source does, and stays.
 */
char *
refit_mirror_rule_where(Oid relid, const RefitMirror *mirror)
{
	Oid type;
	int32 typmod;
	Oid collation;

	if (mirror->backward == NULL)
		return NULL;
	get_atttypetypmodcoll(relid, mirror->source, &type, &typmod, &collation);
	return psprintf(
		"%s IS NULL OR ROW(%s)::pg_catalog.record OPERATOR(pg_catalog.*<>) "
		"ROW((%s)::%s)::pg_catalog.record",
		quote_identifier(get_attname(relid, mirror->target, false)),
		quote_identifier(get_attname(relid, mirror->source, false)),
		mirror->reverse,
		format_type_extended(type, typmod,
							 FORMAT_TYPE_TYPEMOD_GIVEN |
								 FORMAT_TYPE_FORCE_QUALIFY));
}

/*
 * Those that are there
 */

/* The call that carries the rule, in a WHEN clause. */
static bool
find_rule(Node *node, FuncExpr **rule)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncExpr))
	{
		FuncExpr *call = (FuncExpr *) node;
		char *name = get_func_name(call->funcid);

		if (name != NULL && strcmp(name, "_mirror_rule") == 0 &&
			get_func_namespace(call->funcid) ==
				get_namespace_oid(REFIT_SCHEMA, true))
		{
			*rule = call;
			return true;
		}
	}
	return expression_tree_walker(node, find_rule, rule);
}

/* Reads a WHEN clause. */
void
refit_mirror_rule_read(const char *qual, RefitMirror *mirror)
{
	FuncExpr *rule = NULL;

	if (qual != NULL)
		(void) find_rule(stringToNode(qual), &rule);
	if (rule == NULL || !IsA(list_nth(rule->args, ARG_SOURCE), Var) ||
		!IsA(list_nth(rule->args, ARG_TARGET), Var))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("a trigger that calls refit._mirror() has no rule"),
				 errhint("Drop it, and use refit.mirror_column().")));
	ChangeVarNodes((Node *) rule, PRS2_NEW_VARNO, 1, 0);
	mirror->source = list_nth_node(Var, rule->args, ARG_SOURCE)->varattno;
	mirror->target = list_nth_node(Var, rule->args, ARG_TARGET)->varattno;
	mirror->forward = list_nth(rule->args, ARG_FORWARD);
	if (list_length(rule->args) > ARG_BACKWARD)
		mirror->backward = list_nth(rule->args, ARG_BACKWARD);
}

/* A mirror by its trigger's row. */
static RefitMirror *
read_row(Oid relid, Relation pg_trigger, HeapTuple tuple)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	RefitMirror *mirror = palloc0(sizeof(RefitMirror));
	bool isnull;
	Datum qual = heap_getattr(tuple, Anum_pg_trigger_tgqual,
							  RelationGetDescr(pg_trigger), &isnull);

	mirror->trigger = form->oid;
	mirror->name = pstrdup(NameStr(form->tgname));
	mirror->enabled = form->tgenabled;
	refit_mirror_rule_read(isnull ? NULL : TextDatumGetCString(qual), mirror);
	write_texts(relid, mirror);
	return mirror;
}

/* The mirrors of a table. */
List *
refit_mirror_rule_list(Oid relid)
{
	Oid function = LookupFuncName(
		list_make2(makeString(REFIT_SCHEMA), makeString("_mirror")), 0, NULL,
		false);
	Relation rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	List *result = NIL;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan =
		systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		if (((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid == function)
			result = lappend(result, read_row(relid, rel, tuple));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* The one with that target. */
RefitMirror *
refit_mirror_rule_by_target(Oid relid, AttrNumber target)
{
	ListCell *lc;

	foreach(lc, refit_mirror_rule_list(relid))
		if (((RefitMirror *) lfirst(lc))->target == target)
			return lfirst(lc);
	return NULL;
}

/* Have two the same columns and expressions? */
bool
refit_mirror_rule_equal(const RefitMirror *a, const RefitMirror *b)
{
	return a->source == b->source && a->target == b->target &&
		   strcmp(a->expression, b->expression) == 0 &&
		   (a->reverse == NULL) == (b->reverse == NULL) &&
		   (a->reverse == NULL || strcmp(a->reverse, b->reverse) == 0);
}

/*
 * An ERROR when a column is in another mirror already.  Two triggers that set
 * each other's columns would have to fire in both orders.
 */
void
refit_mirror_rule_check_others(Oid relid, const RefitMirror *mirror)
{
	ListCell *lc;

	foreach(lc, refit_mirror_rule_list(relid))
	{
		RefitMirror *other = lfirst(lc);

		if (refit_mirror_rule_equal(mirror, other))
			continue;
		if (other->source != mirror->source &&
			other->source != mirror->target &&
			other->target != mirror->source && other->target != mirror->target)
			continue;
		ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT),
						errmsg("a column of the pair is mirrored already"),
						errdetail("Column \"%s\" follows column \"%s\".",
								  get_attname(relid, other->target, false),
								  get_attname(relid, other->source, false)),
						errhint("Take that mirror away with "
								"refit.unmirror_column() first.")));
	}
}
