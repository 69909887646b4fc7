/*-------------------------------------------------------------------------
 *
 * obstacle.c
 *	  What actions take away for good, so that they cannot be undone.
 *
 * See obstacle.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "table/actions.h"
#include "table/inverse.h"
#include "table/obstacle.h"
#include "table/shape.h"
#include "table/transform.h"
#include "util/sqlutil.h"

/* Is there an action that takes more away than it names? */
static char *
find_irreversible_action(const AlterTableStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->behavior == DROP_CASCADE)
			return pstrdup("CASCADE drops other objects for good");
		if (cmd->subtype == AT_SetIdentity || cmd->subtype == AT_DropIdentity)
			return psprintf("the sequence behind column \"%s\" is changed",
							cmd->name);
		if (cmd->subtype == AT_AlterConstraint)
			return pstrdup("ALTER CONSTRAINT is not undone");
	}
	return NULL;
}

/* Is there something that goes with a dropped column and cannot come back? */
static char *
find_lost_object(Relation source, Relation twin)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(RelationGetRelid(source)),
					   ObjectIdGetDatum(RelationGetRelid(twin))};

	return refit_sql_text(
		"SELECT pg_describe_object(d.classid, d.objid, d.objsubid)"
		" || ' goes with a dropped column'"
		" FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute n"
		"  ON n.attrelid = $2 AND n.attnum = d.refobjsubid AND n.attisdropped"
		" JOIN pg_catalog.pg_attribute o"
		"  ON o.attrelid = $1 AND o.attnum = n.attnum AND NOT o.attisdropped"
		" WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1"
		" AND d.deptype IN ('a', 'i') AND (d.classid ="
		"  'pg_statistic_ext'::regclass OR d.classid = 'pg_class'::regclass"
		"  AND (SELECT relkind FROM pg_catalog.pg_class WHERE oid = d.objid)"
		"  = 'S') LIMIT 1",
		2, types, values);
}

/* Is there a column whose values a volatile expression makes? */
static char *
find_volatile_column(Relation source, Relation twin, Expr **exprs)
{
	TupleDesc desc = RelationGetDescr(source);

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(RelationGetDescr(twin), i)->attisdropped &&
			contain_volatile_functions((Node *) exprs[i]))
			return psprintf("column \"%s\" gets values from a volatile "
							"expression",
							NameStr(TupleDescAttr(desc, i)->attname));
	return NULL;
}

/* Is the key, over the same columns, a key of the twin? */
static bool
has_key(Relation twin, int nkeys, const AttrNumber *attnums)
{
	ListCell *lc;

	foreach(lc, refit_shape_key_indexes(twin))
	{
		AttrNumber *others;

		if (refit_shape_key_attnums(lfirst_oid(lc), &others) == nkeys &&
			memcmp(attnums, others, sizeof(AttrNumber) * nkeys) == 0)
			return true;
	}
	return false;
}

/*
 * Can old rows be found by the keys of the new ones?  The cast back must lead to
 * the very key that a row had.
 */
static char *
find_lost_key(Relation source, Relation twin, Oid key_index, Expr **exprs)
{
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(key_index, &attnums);

	if (!has_key(twin, nkeys, attnums))
		return pstrdup("the key that rows are found by is dropped");
	for (int i = 0; i < nkeys; i++)
		if (!refit_transform_is_invertible(exprs[attnums[i] - 1]))
			return psprintf(
				"old rows cannot be found by the new values of key "
				"column \"%s\"",
				NameStr(TupleDescAttr(RelationGetDescr(source), attnums[i] - 1)
							->attname));
	return NULL;
}

/* Is there a column that cannot be cast back? */
static char *
find_uncastable_column(Relation source, Relation twin)
{
	TupleDesc desc = RelationGetDescr(source);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Form_pg_attribute from = TupleDescAttr(RelationGetDescr(twin), i);

		if (!att->attisdropped && !from->attisdropped &&
			att->attgenerated == '\0' &&
			refit_inverse_cast(twin, att, i + 1) == NULL)
			return psprintf("column \"%s\" cannot be cast back from type %s "
							"to %s",
							NameStr(att->attname),
							format_type_be(from->atttypid),
							format_type_be(att->atttypid));
	}
	return NULL;
}

/* Does a foreign key go that leads from one table of a tree to another? */
static char *
find_lost_reference(Relation source, Relation twin, const AlterTableStmt *stmt)
{
	Oid types[3] = {OIDOID, OIDOID, NAMEARRAYOID};
	Datum values[3] = {ObjectIdGetDatum(RelationGetRelid(source)),
					   ObjectIdGetDatum(RelationGetRelid(twin)),
					   refit_actions_dropped_constraints(stmt)};

	return refit_sql_text(
		"WITH RECURSIVE tree(relid) AS (SELECT $1 UNION"
		" SELECT CASE relid WHEN inhrelid THEN inhparent ELSE inhrelid END"
		" FROM tree JOIN pg_catalog.pg_inherits"
		"  ON relid IN (inhrelid, inhparent))"
		" SELECT format('foreign key \"%s\", which goes, refers to the tree"
		" itself', f.conname) FROM pg_catalog.pg_constraint f"
		" JOIN pg_catalog.pg_class c ON c.oid = f.conrelid"
		" WHERE f.conrelid = $1 AND f.contype = 'f' AND f.conparentid = 0"
		" AND (f.confrelid <> $1 OR c.relispartition OR c.relkind = 'p')"
		" AND f.confrelid IN (TABLE tree)"
		" AND (f.conname = ANY ($3) OR EXISTS"
		"  (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = $2"
		"   AND attisdropped AND attnum = ANY (f.conkey))) LIMIT 1",
		3, types, values);
}

/* Why the actions cannot be undone in a table. */
char *
refit_obstacle_find(Relation source, Relation twin, Oid key_index,
					const AlterTableStmt *stmt, const char *search_path)
{
	Expr **exprs = refit_transform_exprs(source, twin, stmt, search_path);
	char *reason;

	if (source->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED)
		return pstrdup("an unlogged table does not outlive a crash");
	if ((reason = find_irreversible_action(stmt)) == NULL &&
		(reason = find_lost_object(source, twin)) == NULL &&
		(reason = find_volatile_column(source, twin, exprs)) == NULL &&
		(reason = find_uncastable_column(source, twin)) == NULL &&
		(reason = find_lost_reference(source, twin, stmt)) == NULL &&
		OidIsValid(key_index))
		reason = find_lost_key(source, twin, key_index, exprs);
	return reason;
}
