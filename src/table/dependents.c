/*-------------------------------------------------------------------------
 *
 * dependents.c
 *	  What hangs on the columns that the actions change: views, foreign keys,
 *	  sequences.  See dependents.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_type.h"
#include "commands/view.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "table/actions.h"
#include "table/dependents.h"
#include "table/tree.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/*
 * The queries here have these parameters: $1, the table and those below it;
 * $2 and $3, columns of theirs, as two arrays of the same length.
 */
#define COLUMNS "unnest($2, $3) AS u(relid, attnum)"

/* Is any of the columns one of a constraint's key? */
#define IN_KEY                                               \
	"EXISTS (SELECT FROM " COLUMNS " WHERE relid = conrelid" \
	" AND attnum = ANY (conkey))"
#define IN_REFERENCED_KEY                                     \
	"EXISTS (SELECT FROM " COLUMNS " WHERE relid = confrelid" \
	" AND attnum = ANY (confkey))"

/* Views over the columns and views over those, with how far they are away. */
#define VIEW_CLOSURE                                                      \
	"WITH RECURSIVE v(oid, depth) AS ("                                   \
	" SELECT r.ev_class, 1 FROM " COLUMNS " JOIN pg_catalog.pg_depend d"  \
	"  ON d.refclassid = 'pg_class'::regclass AND d.refobjid = u.relid"   \
	"  AND d.refobjsubid = u.attnum"                                      \
	" JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"                    \
	" WHERE d.classid = 'pg_rewrite'::regclass"                           \
	" AND r.ev_class <> ALL ($1)"                                         \
	" UNION SELECT r.ev_class, v.depth + 1 FROM v"                        \
	" JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_class'::regclass" \
	"  AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass"     \
	" JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"                    \
	"  AND r.ev_class <> v.oid) "

/* A table with those below it, and columns of all of them. */
typedef struct ColumnSet
{
	Datum tables;
	Datum relids;
	Datum attnums;
} ColumnSet;

/* Have the actions, run on the twins, left a table its column? */
static bool
has_kept(const List *twins, Oid relid, AttrNumber attnum, const char *name)
{
	ListCell *lc;

	foreach(lc, twins)
		if (((RefitTwin *) lfirst(lc))->source == relid)
			return get_attnum(((RefitTwin *) lfirst(lc))->twin, name) == attnum;
	return false;
}

/*
 * The columns that actions of one kind name, by number in each table.  twins: only
 * those that are lost and without CASCADE; a column that a table has not only from
 * above stays.
 */
static ColumnSet *
action_columns(Oid relid, const AlterTableStmt *stmt, AlterTableType type,
			   const List *twins)
{
	ColumnSet *set = palloc(sizeof(ColumnSet));
	List *tables = refit_tree_reach(relid, stmt);
	int most = list_length(tables) * (stmt ? list_length(stmt->cmds) : 0);
	Datum *relids = palloc(sizeof(Datum) * Max(1, most));
	Datum *attnums = palloc(sizeof(Datum) * Max(1, most));
	int n = 0;
	ListCell *lc_table;
	ListCell *lc;

	foreach(lc_table, tables)
		foreach(lc, stmt != NULL ? stmt->cmds : NIL)
		{
			AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
			Oid table = lfirst_oid(lc_table);
			AttrNumber attnum;

			if (cmd->subtype != type ||
				(twins != NIL && cmd->behavior == DROP_CASCADE))
				continue;
			attnum = get_attnum(table, cmd->name);
			if (attnum == InvalidAttrNumber ||
				has_kept(twins, table, attnum, cmd->name))
				continue;
			relids[n] = ObjectIdGetDatum(table);
			attnums[n++] = Int32GetDatum(attnum);
		}
	set->tables = refit_tree_reach_array(relid, stmt);
	set->relids = PointerGetDatum(
		construct_array(relids, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
	set->attnums = PointerGetDatum(construct_array(
		attnums, n, INT4OID, sizeof(int32), true, TYPALIGN_INT));
	return set;
}

/* Runs a query with the tables and columns as parameters. */
static uint64
query_columns(const char *sql, const ColumnSet *set)
{
	Oid types[3] = {OIDARRAYOID, OIDARRAYOID, INT4ARRAYOID};
	Datum values[3] = {set->tables, set->relids, set->attnums};

	return refit_sql(sql, 3, types, values, NULL);
}

/* Raises an error when the query names an object that is in the way. */
static void
refuse_dependents(const char *sql, const ColumnSet *set, const char *message,
				  const char *hint)
{
	MemoryContext context = CurrentMemoryContext;
	char *object = NULL;

	SPI_connect();
	if (query_columns(sql, set) > 0)
		object = MemoryContextStrdup(
			context,
			SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	SPI_finish();
	if (object != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("%s", message), errdetail("%s depends on it.", object),
				 errhint("%s", hint)));
}

/* Is a constraint dropped that a foreign key refers to? */
static void
check_dropped_constraints(Oid relid, const AlterTableStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		Oid types[2] = {OIDOID, TEXTOID};
		Datum values[2];
		char *object;

		if (cmd->subtype != AT_DropConstraint || cmd->behavior == DROP_CASCADE)
			continue;
		values[0] = ObjectIdGetDatum(relid);
		values[1] = CStringGetTextDatum(cmd->name);
		object = refit_sql_text(
			"SELECT pg_describe_object(d.classid, d.objid, d.objsubid)"
			" FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_depend d"
			"  ON d.refclassid = 'pg_class'::regclass"
			"  AND d.refobjid = c.conindid AND d.deptype = 'n'"
			"  AND d.classid = 'pg_constraint'::regclass AND d.objid <> c.oid"
			" WHERE c.conrelid = $1 AND c.conname = $2::name"
			"  AND c.contype IN ('p', 'u') LIMIT 1",
			2, types, values);
		if (object != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
					 errmsg("constraint \"%s\" of %s cannot be dropped",
							cmd->name, refit_qualified_name(relid)),
					 errdetail("%s depends on it.", object),
					 errhint("Drop that object first, or write DROP CONSTRAINT "
							 "... CASCADE.")));
	}
}

/* Is anything in the way of the actions? */
void
refit_dependents_check(Oid relid, const AlterTableStmt *stmt, const List *twins)
{
	ColumnSet *retyped = action_columns(relid, stmt, AT_AlterColumnType, NIL);
	ColumnSet *dropped = action_columns(relid, stmt, AT_DropColumn, twins);

	refuse_dependents(
		"SELECT pg_describe_object(classid, objid, objsubid)"
		" FROM " COLUMNS " JOIN pg_catalog.pg_depend"
		"  ON refclassid = 'pg_class'::regclass AND refobjid = relid"
		"  AND refobjsubid = attnum WHERE $1 IS NOT NULL AND classid IN"
		" ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,"
		"  'pg_publication_rel'::regclass)",
		retyped,
		psprintf("the type of a column of %s cannot be altered",
				 refit_qualified_name(relid)),
		"Drop that object and create it again after the migration.");
	refuse_dependents(
		VIEW_CLOSURE
		"SELECT pg_describe_object('pg_class'::regclass, v.oid, 0)"
		" FROM v JOIN pg_catalog.pg_class c USING (oid) WHERE c.relkind <> 'v'"
		" UNION ALL SELECT pg_describe_object(d.classid, d.objid, d.objsubid)"
		" FROM v JOIN pg_catalog.pg_depend d ON"
		"  d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid"
		"  AND d.refobjsubid > 0 AND d.classid IN"
		"  ('pg_trigger'::regclass, 'pg_proc'::regclass)"
		" UNION ALL SELECT pg_describe_object('pg_class'::regclass, a.attrelid,"
		"  a.attnum) FROM v JOIN pg_catalog.pg_type t ON t.typrelid = v.oid"
		" JOIN pg_catalog.pg_attribute a ON a.atttypid IN (t.oid, t.typarray)"
		"  AND NOT a.attisdropped",
		retyped,
		psprintf("the type of a column of %s cannot be altered",
				 refit_qualified_name(relid)),
		"Only plain views are carried over; drop that object and create it "
		"again after the migration.");
	refuse_dependents(
		"SELECT pg_describe_object(classid, objid, objsubid)"
		" FROM " COLUMNS " JOIN pg_catalog.pg_depend"
		"  ON refclassid = 'pg_class'::regclass AND refobjid = relid"
		"  AND refobjsubid = attnum WHERE deptype = 'n'"
		" AND NOT (classid = 'pg_constraint'::regclass AND objid IN (SELECT oid"
		"  FROM pg_catalog.pg_constraint WHERE conrelid = ANY ($1)))"
		" AND NOT (classid = 'pg_attrdef'::regclass)",
		dropped,
		psprintf("a column of %s cannot be dropped",
				 refit_qualified_name(relid)),
		"Drop that object first, or write DROP COLUMN ... CASCADE.");
	check_dropped_constraints(relid, stmt);
	refuse_dependents(
		"SELECT pg_describe_object('pg_class'::regclass, a.attrelid, a.attnum)"
		" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_type t"
		"  ON t.oid = c.reltype JOIN pg_catalog.pg_attribute a"
		"  ON a.atttypid IN (t.oid, t.typarray) AND NOT a.attisdropped"
		" WHERE c.oid = ANY ($1) AND $2 IS NOT NULL AND $3 IS NOT NULL",
		retyped,
		psprintf("the row type of %s is used as a column's type",
				 refit_qualified_name(relid)),
		"Neither PostgreSQL nor pg_refit can alter such a table.");
	refuse_dependents(
		"SELECT pg_describe_object('pg_constraint'::regclass, c.oid, 0)"
		" FROM pg_catalog.pg_constraint c"
		" JOIN pg_catalog.pg_class t ON t.oid = c.conrelid"
		" WHERE contype = 'f' AND t.relkind = 'p' AND t.oid <> ALL ($1)"
		" AND " IN_REFERENCED_KEY " ORDER BY c.conparentid, c.oid LIMIT 1",
		retyped,
		psprintf("the type of a column of %s cannot be altered",
				 refit_qualified_name(relid)),
		"Drop that foreign key of a partitioned table and add it again after "
		"the migration.");
}

/* Relations to lock beside the table. */
List *
refit_dependents_locks(Oid relid, const AlterTableStmt *stmt)
{
	static const char *const query = VIEW_CLOSURE
		"SELECT DISTINCT oid::int8, 8 FROM v"
		" UNION SELECT reltoastrelid::int8, 8 FROM pg_catalog.pg_class"
		"  WHERE oid = ANY ($1) AND reltoastrelid <> 0"
		" UNION SELECT indexrelid::int8, 8 FROM pg_catalog.pg_index"
		"  WHERE indrelid = ANY ($1)"
		" UNION SELECT unnest(ARRAY[conrelid, confrelid])::int8, 8"
		"  FROM pg_catalog.pg_constraint WHERE contype = 'f'"
		"  AND (" IN_KEY " OR " IN_REFERENCED_KEY ")"
		" UNION SELECT d.objid::int8, 6 FROM " COLUMNS
		"  JOIN pg_catalog.pg_depend d ON d.refobjid = u.relid"
		"   AND d.refclassid = 'pg_class'::regclass"
		"   AND d.refobjsubid = u.attnum"
		"  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
		"  WHERE d.classid = 'pg_class'::regclass";
	MemoryContext context = CurrentMemoryContext;
	List *locks = NIL;
	ListCell *lc;

	SPI_connect();
	query_columns(query, action_columns(relid, stmt, AT_AlterColumnType, NIL));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);

		locks = lappend(
			locks,
			refit_polite_lock_on(strtoul(SPI_getvalue(row, desc, 1), NULL, 10),
								 atoi(SPI_getvalue(row, desc, 2))));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();

	/* tables that new foreign keys refer to */
	foreach(lc, stmt != NULL ? stmt->cmds : NIL)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		Constraint *c = (Constraint *) cmd->def;
		List *targets;
		ListCell *lc_target;

		if (cmd->subtype != AT_AddConstraint || c->contype != CONSTR_FOREIGN)
			continue;
		targets =
			refit_tree_members(RangeVarGetRelid(c->pktable, NoLock, true));
		foreach(lc_target, targets)
			locks = lappend(locks, refit_polite_lock_on(lfirst_oid(lc_target),
														ShareRowExclusiveLock));
	}
	return locks;
}

/* Takes a view's rule off what it says about the tables' columns. */
static void
unhook_rule(Oid rule, const List *tables)
{
	ListCell *lc;

	foreach(lc, tables)
		deleteDependencyRecordsForSpecific(RewriteRelationId, rule,
										   DEPENDENCY_NORMAL,
										   RelationRelationId, lfirst_oid(lc));
}

/* Unhooks views from the columns. */
List *
refit_dependents_detach_views(Oid relid, const AlterTableStmt *stmt)
{
	MemoryContext context = CurrentMemoryContext;
	List *tables = refit_tree_reach(relid, stmt);
	List *views = NIL;

	SPI_connect();
	query_columns(VIEW_CLOSURE
				  "SELECT v.oid::int8, pg_get_viewdef(v.oid), r.oid::int8"
				  " FROM v JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid"
				  "  AND r.rulename = '_RETURN'"
				  " GROUP BY v.oid, r.oid ORDER BY max(v.depth), v.oid",
				  action_columns(relid, stmt, AT_AlterColumnType, NIL));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		RefitView *view = palloc(sizeof(RefitView));

		view->relid = strtoul(SPI_getvalue(row, desc, 1), NULL, 10);
		view->query = pstrdup(SPI_getvalue(row, desc, 2));
		views = lappend(views, view);
		MemoryContextSwitchTo(old);
		unhook_rule(strtoul(SPI_getvalue(row, desc, 3), NULL, 10), tables);
	}
	SPI_finish();
	CommandCounterIncrement();
	return views;
}

/* Gives a column of a view the type that its query now has. */
static void
retype_view_column(Relation pg_attribute, Oid view, AttrNumber attnum,
				   Node *expr)
{
	HeapTuple tuple = SearchSysCacheCopy2(ATTNUM, ObjectIdGetDatum(view),
										  Int16GetDatum(attnum));
	Form_pg_attribute att;
	HeapTuple type;
	Form_pg_type form;
	ObjectAddress column;
	ObjectAddress type_object;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for column %d of view %u", attnum,
			 view);
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	if (att->atttypid == exprType(expr) && att->atttypmod == exprTypmod(expr) &&
		att->attcollation == exprCollation(expr))
		return;
	type = SearchSysCache1(TYPEOID, ObjectIdGetDatum(exprType(expr)));
	if (!HeapTupleIsValid(type))
		elog(ERROR, "cache lookup failed for type %u", exprType(expr));
	form = (Form_pg_type) GETSTRUCT(type);
	att->atttypid = form->oid;
	att->atttypmod = exprTypmod(expr);
	att->attcollation = exprCollation(expr);
	att->attlen = form->typlen;
	att->attbyval = form->typbyval;
	att->attalign = form->typalign;
	att->attstorage = form->typstorage;
	CatalogTupleUpdate(pg_attribute, &tuple->t_self, tuple);

	ObjectAddressSubSet(column, RelationRelationId, view, attnum);
	ObjectAddressSet(type_object, TypeRelationId, form->oid);
	recordDependencyOn(&column, &type_object, DEPENDENCY_NORMAL);
	ReleaseSysCache(type);
}

/*
 * Parses a view's text as the view's owner.  Literals of domains, in arrays or
 * rows, and of ranges are read here, and that runs what the owner has made them
 * check.
 */
static Query *
parse_view(const RefitView *view)
{
	RawStmt *raw =
		linitial_node(RawStmt, raw_parser(view->query, RAW_PARSE_DEFAULT));
	RefitRights save;
	Query *query;

	refit_rights_begin(&save, refit_relation_owner(view->relid), true);
	query = parse_analyze_fixedparams(raw, view->query, NULL, 0, NULL);
	refit_rights_end(&save);
	return query;
}

/* Makes one view anew. */
static void
redefine_view(const RefitView *view)
{
	Query *query = parse_view(view);
	Relation pg_attribute = table_open(AttributeRelationId, RowExclusiveLock);
	ListCell *lc;

	foreach(lc, query->targetList)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);

		if (!target->resjunk)
			retype_view_column(pg_attribute, view->relid, target->resno,
							   (Node *) target->expr);
	}
	table_close(pg_attribute, RowExclusiveLock);
	CommandCounterIncrement();

	/* columns apart, it is what it was: options, owner, grants */
	StoreViewQuery(view->relid, query, true);
	CommandCounterIncrement();
}

/* Makes unhooked views anew, the nearest first. */
void
refit_dependents_attach_views(List *views)
{
	RefitRights save;
	ListCell *lc;

	refit_rights_begin(&save, BOOTSTRAP_SUPERUSERID, false);
	foreach(lc, views)
		redefine_view(lfirst(lc));
	refit_rights_end(&save);
}

/*
 * Foreign keys on retyped columns become NOT VALID, but for those of a
 * partitioned table, which cannot be: they are its own or those of its
 * partitions, which are empty now, and become NOT VALID after the ALTER.
 */
void
refit_dependents_suspend_foreign_keys(const RefitMigration *m,
									  const AlterTableStmt *stmt)
{
	ColumnSet *set = action_columns(m->relid, stmt, AT_AlterColumnType, NIL);
	Oid types[4] = {OIDARRAYOID, OIDARRAYOID, INT4ARRAYOID, INT8OID};
	Datum values[4];

	values[0] = set->tables;
	values[1] = set->relids;
	values[2] = set->attnums;
	values[3] = Int64GetDatum(m->id);
	SPI_connect();
	refit_sql("WITH RECURSIVE k(oid, parent, relid) AS ("
			  " SELECT oid, conparentid, conrelid FROM pg_catalog.pg_constraint"
			  "  WHERE contype = 'f' AND convalidated AND $1 IS NOT NULL"
			  "  AND (" IN_KEY " OR " IN_REFERENCED_KEY ")"
			  " UNION ALL SELECT k.oid, p.conparentid, p.conrelid FROM k"
			  "  JOIN pg_catalog.pg_constraint p ON p.oid = k.parent),"
			  " suspended AS (UPDATE pg_catalog.pg_constraint c"
			  "  SET convalidated = false"
			  "  FROM k JOIN pg_catalog.pg_class t ON t.oid = k.relid"
			  "  WHERE c.oid = k.oid AND k.parent = 0 AND t.relkind <> 'p'"
			  "  RETURNING c.conrelid, c.conname, c.conparentid)"
			  " INSERT INTO refit.owed (id, relid, conname)"
			  " SELECT $4, conrelid, conname FROM suspended"
			  " WHERE conparentid = 0",
			  4, types, values, NULL);
	SPI_finish();
	CommandCounterIncrement();
}

/* What foreign keys the tables have that the actions reach. */
RefitForeignKeys *
refit_dependents_foreign_keys(Oid relid, const AlterTableStmt *stmt)
{
	RefitForeignKeys *keys = palloc(sizeof(RefitForeignKeys));
	Oid types[2] = {OIDARRAYOID, OIDOID};
	Datum values[2] = {refit_tree_reach_array(relid, stmt),
					   ObjectIdGetDatum(relid)};

	keys->oids = refit_sql_text("SELECT coalesce(array_agg(oid), '{}')::text"
								" FROM pg_catalog.pg_constraint"
								" WHERE conrelid = ANY ($1) AND contype = 'f'"
								" AND $2 IS NOT NULL",
								2, types, values);
	keys->names =
		refit_sql_text("SELECT coalesce(array_agg(conname), '{}')::text"
					   " FROM pg_catalog.pg_constraint"
					   " WHERE conrelid = $2 AND contype = 'f'"
					   " AND $1 IS NOT NULL",
					   2, types, values);
	return keys;
}

/*
 * Foreign keys that the ALTER has made, or made anew and called valid, are owed
 * a validation too.  Of those that belong together the topmost is; see
 * rows/constraint.c for how the others follow.
 */
void
refit_dependents_owe_new_foreign_keys(const RefitMigration *m,
									  const AlterTableStmt *stmt,
									  const RefitForeignKeys *known)
{
	Oid types[5] = {OIDARRAYOID, INT8OID, OIDOID, TEXTOID, TEXTOID};
	Datum values[5];

	values[0] = refit_tree_reach_array(m->relid, stmt);
	values[1] = Int64GetDatum(m->id);
	values[2] = ObjectIdGetDatum(m->relid);
	values[3] = CStringGetTextDatum(known->oids);
	values[4] = CStringGetTextDatum(known->names);
	SPI_connect();
	refit_sql("WITH suspended AS (UPDATE pg_catalog.pg_constraint"
			  " SET convalidated = false WHERE contype = 'f'"
			  " AND convalidated AND conrelid = ANY ($1)"
			  " AND oid <> ALL ($4::oid[])"
			  " RETURNING conrelid, conname, conparentid)"
			  " INSERT INTO refit.owed (id, relid, conname, added)"
			  " SELECT $2, conrelid, conname,"
			  "  conrelid = $3 AND conname <> ALL ($5::name[])"
			  " FROM suspended WHERE conparentid = 0"
			  " ON CONFLICT DO NOTHING",
			  5, types, values, NULL);
	SPI_finish();
	CommandCounterIncrement();
}

/* Sequences follow their columns. */
void
refit_dependents_adjust_sequences(Oid relid, Oid twin,
								  const AlterTableStmt *stmt)
{
	static const char *const widen =
		"SELECT format('ALTER SEQUENCE %s AS bigint', s.oid::regclass)"
		" FROM " COLUMNS " JOIN pg_catalog.pg_depend d"
		"  ON d.refclassid = 'pg_class'::regclass AND d.refobjid = u.relid"
		"  AND d.refobjsubid = u.attnum"
		" JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
		" JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid"
		"  AND a.attnum = d.refobjsubid"
		" WHERE d.classid = 'pg_class'::regclass"
		" AND d.deptype IN ('a', 'i') AND a.atttypid = 'int8'::regtype"
		" AND q.seqtypid <> 'int8'::regtype";
	static const char *const advance =
		"SELECT setval(x.mine, pg_sequence_last_value(x.twin)) FROM ("
		" SELECT pg_get_serial_sequence($1::regclass::text, a.attname)"
		"   ::regclass AS mine,"
		"  pg_get_serial_sequence($2::regclass::text, a.attname)"
		"   ::regclass AS twin"
		" FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1"
		"  AND a.attnum > 0 AND NOT a.attisdropped) x"
		" WHERE x.mine IS NOT NULL AND x.twin IS NOT NULL"
		" AND pg_sequence_last_value(x.twin) IS NOT NULL";
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(relid), ObjectIdGetDatum(twin)};
	ColumnSet *set = action_columns(relid, stmt, AT_AlterColumnType, NIL);
	Oid column_types[3] = {OIDARRAYOID, OIDARRAYOID, INT4ARRAYOID};
	Datum columns[3] = {set->tables, set->relids, set->attnums};

	refit_sql_run_all(refit_sql_list(widen, 3, column_types, columns));

	/* only those of new columns were ever used on the twin */
	SPI_connect();
	refit_sql(advance, 2, types, values, NULL);
	SPI_finish();
}
