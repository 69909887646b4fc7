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
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/*
 * Views over the columns $2 of table $1 and views over those, with how far
 * they are away.
 */
#define VIEW_CLOSURE                                                      \
	"WITH RECURSIVE v(oid, depth) AS ("                                   \
	" SELECT r.ev_class, 1 FROM pg_catalog.pg_depend d"                   \
	" JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"                    \
	" WHERE d.classid = 'pg_rewrite'::regclass"                           \
	" AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1"        \
	" AND d.refobjsubid = ANY ($2) AND r.ev_class <> $1"                  \
	" UNION SELECT r.ev_class, v.depth + 1 FROM v"                        \
	" JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_class'::regclass" \
	"  AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass"     \
	" JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid"                    \
	"  AND r.ev_class <> v.oid) "

/* Column numbers of the actions of one kind, as int2[]. */
static Datum
action_columns(Oid relid, const AlterTableStmt *stmt, AlterTableType type,
			   bool restrict_only)
{
	Datum *numbers;
	int n = 0;
	ListCell *lc;

	numbers =
		palloc(sizeof(Datum) * Max(1, stmt ? list_length(stmt->cmds) : 0));
	foreach(lc, stmt != NULL ? stmt->cmds : NIL)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);
		AttrNumber attnum;

		if (cmd->subtype != type ||
			(restrict_only && cmd->behavior == DROP_CASCADE))
			continue;
		attnum = get_attnum(relid, cmd->name);
		if (attnum != InvalidAttrNumber)
			numbers[n++] = Int16GetDatum(attnum);
	}
	return PointerGetDatum(construct_array(numbers, n, INT2OID, sizeof(int16),
										   true, TYPALIGN_SHORT));
}

/* Runs a query with the table and a set of its columns as parameters. */
static uint64
query_columns(const char *sql, Oid relid, Datum columns)
{
	Oid types[2] = {OIDOID, INT2ARRAYOID};
	Datum values[2] = {ObjectIdGetDatum(relid), columns};

	return refit_sql(sql, 2, types, values, NULL);
}

/* Raises an error when the query names an object that is in the way. */
static void
refuse_dependents(const char *sql, Oid relid, Datum columns,
				  const char *message, const char *hint)
{
	MemoryContext context = CurrentMemoryContext;
	char *object = NULL;

	SPI_connect();
	if (query_columns(sql, relid, columns) > 0)
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
refit_dependents_check(Oid relid, const AlterTableStmt *stmt)
{
	Datum retyped = action_columns(relid, stmt, AT_AlterColumnType, false);
	Datum dropped = action_columns(relid, stmt, AT_DropColumn, true);

	refuse_dependents(
		"SELECT pg_describe_object(classid, objid, objsubid)"
		" FROM pg_catalog.pg_depend WHERE refclassid = 'pg_class'::regclass"
		" AND refobjid = $1 AND refobjsubid = ANY ($2) AND classid IN"
		" ('pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_proc'::regclass,"
		"  'pg_publication_rel'::regclass)",
		relid, retyped,
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
		relid, retyped,
		psprintf("the type of a column of %s cannot be altered",
				 refit_qualified_name(relid)),
		"Only plain views are carried over; drop that object and create it "
		"again after the migration.");
	refuse_dependents(
		"SELECT pg_describe_object(classid, objid, objsubid)"
		" FROM pg_catalog.pg_depend WHERE refclassid = 'pg_class'::regclass"
		" AND refobjid = $1 AND refobjsubid = ANY ($2) AND deptype = 'n'"
		" AND NOT (classid = 'pg_constraint'::regclass AND objid IN"
		"  (SELECT oid FROM pg_catalog.pg_constraint WHERE conrelid = $1))"
		" AND NOT (classid = 'pg_attrdef'::regclass)",
		relid, dropped,
		psprintf("a column of %s cannot be dropped",
				 refit_qualified_name(relid)),
		"Drop that object first, or write DROP COLUMN ... CASCADE.");
	check_dropped_constraints(relid, stmt);
	refuse_dependents(
		"SELECT pg_describe_object('pg_class'::regclass, a.attrelid, a.attnum)"
		" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_type t"
		"  ON t.oid = c.reltype JOIN pg_catalog.pg_attribute a"
		"  ON a.atttypid IN (t.oid, t.typarray) AND NOT a.attisdropped"
		" WHERE c.oid = $1 AND $2 IS NOT NULL",
		relid, retyped,
		psprintf("the row type of %s is used as a column's type",
				 refit_qualified_name(relid)),
		"Neither PostgreSQL nor pg_refit can alter such a table.");
}

/* Relations to lock beside the table. */
List *
refit_dependents_locks(Oid relid, const AlterTableStmt *stmt)
{
	static const char *const query = VIEW_CLOSURE
		"SELECT DISTINCT oid::int8, 8 FROM v"
		" UNION SELECT reltoastrelid::int8, 8 FROM pg_catalog.pg_class"
		"  WHERE oid = $1 AND reltoastrelid <> 0"
		" UNION SELECT indexrelid::int8, 8 FROM pg_catalog.pg_index"
		"  WHERE indrelid = $1"
		" UNION SELECT CASE WHEN conrelid = $1 THEN confrelid"
		"  ELSE conrelid END::int8, 8 FROM pg_catalog.pg_constraint"
		"  WHERE contype = 'f' AND $1 IN (conrelid, confrelid)"
		"  AND conrelid <> confrelid"
		"  AND (CASE WHEN conrelid = $1 THEN conkey ELSE confkey END) && $2"
		" UNION SELECT d.objid::int8, 6 FROM pg_catalog.pg_depend d"
		"  JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
		"  WHERE d.classid = 'pg_class'::regclass AND d.refobjid = $1"
		"  AND d.refclassid = 'pg_class'::regclass"
		"  AND d.refobjsubid = ANY ($2)";
	MemoryContext context = CurrentMemoryContext;
	List *locks = NIL;
	ListCell *lc;

	SPI_connect();
	query_columns(query, relid,
				  action_columns(relid, stmt, AT_AlterColumnType, false));
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
		Oid target;

		if (cmd->subtype != AT_AddConstraint || c->contype != CONSTR_FOREIGN)
			continue;
		target = RangeVarGetRelid(c->pktable, NoLock, true);
		if (OidIsValid(target) && target != relid)
			locks = lappend(
				locks, refit_polite_lock_on(target, ShareRowExclusiveLock));
	}
	return locks;
}

/* Unhooks views from the columns. */
List *
refit_dependents_detach_views(Oid relid, const AlterTableStmt *stmt)
{
	MemoryContext context = CurrentMemoryContext;
	List *views = NIL;

	SPI_connect();
	query_columns(VIEW_CLOSURE
				  "SELECT v.oid::int8, pg_get_viewdef(v.oid), r.oid::int8"
				  " FROM v JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid"
				  "  AND r.rulename = '_RETURN'"
				  " GROUP BY v.oid, r.oid ORDER BY max(v.depth), v.oid",
				  relid,
				  action_columns(relid, stmt, AT_AlterColumnType, false));
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
		deleteDependencyRecordsForSpecific(
			RewriteRelationId, strtoul(SPI_getvalue(row, desc, 3), NULL, 10),
			DEPENDENCY_NORMAL, RelationRelationId, relid);
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

/* Foreign keys on retyped columns become NOT VALID. */
void
refit_dependents_suspend_foreign_keys(const RefitMigration *m,
									  const AlterTableStmt *stmt)
{
	Oid types[3] = {OIDOID, INT2ARRAYOID, INT8OID};
	Datum values[3];

	values[0] = ObjectIdGetDatum(m->relid);
	values[1] = action_columns(m->relid, stmt, AT_AlterColumnType, false);
	values[2] = Int64GetDatum(m->id);
	SPI_connect();
	refit_sql("WITH suspended AS (UPDATE pg_catalog.pg_constraint"
			  " SET convalidated = false WHERE contype = 'f' AND convalidated"
			  " AND ((conrelid = $1 AND conkey && $2)"
			  "  OR (confrelid = $1 AND confkey && $2))"
			  " RETURNING conrelid, conname)"
			  " INSERT INTO refit.owed (id, relid, conname)"
			  " SELECT $3, conrelid, conname FROM suspended",
			  3, types, values, NULL);
	SPI_finish();
	CommandCounterIncrement();
}

/* The names of the table's foreign keys. */
List *
refit_dependents_foreign_keys(Oid relid)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relid)};
	List *names = NIL;
	ListCell *lc;

	foreach(lc, refit_sql_list("SELECT conname FROM pg_catalog.pg_constraint"
							   " WHERE conrelid = $1 AND contype = 'f'",
							   1, types, values))
		names = lappend(names, makeString(lfirst(lc)));
	return names;
}

/* Foreign keys that the ALTER has made are owed a validation too. */
void
refit_dependents_owe_new_foreign_keys(const RefitMigration *m, List *known)
{
	ListCell *lc;

	foreach(lc, refit_dependents_foreign_keys(m->relid))
	{
		Oid types[3] = {OIDOID, TEXTOID, INT8OID};
		Datum values[3];

		if (list_member(known, lfirst(lc)))
			continue;
		values[0] = ObjectIdGetDatum(m->relid);
		values[1] = CStringGetTextDatum(strVal(lfirst(lc)));
		values[2] = Int64GetDatum(m->id);
		SPI_connect();
		refit_sql("WITH suspended AS (UPDATE pg_catalog.pg_constraint"
				  " SET convalidated = false WHERE contype = 'f'"
				  " AND convalidated AND conrelid = $1 AND conname = $2::name"
				  " RETURNING conrelid, conname)"
				  " INSERT INTO refit.owed (id, relid, conname, added)"
				  " SELECT $3, conrelid, conname, true FROM suspended",
				  3, types, values, NULL);
		SPI_finish();
	}
	CommandCounterIncrement();
}

/* Sequences follow their columns. */
void
refit_dependents_adjust_sequences(Oid relid, Oid twin,
								  const AlterTableStmt *stmt)
{
	static const char *const widen =
		"SELECT format('ALTER SEQUENCE %s AS bigint', s.oid::regclass)"
		" FROM pg_catalog.pg_depend d"
		" JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
		" JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid"
		"  AND a.attnum = d.refobjsubid"
		" WHERE d.classid = 'pg_class'::regclass AND d.refobjid = $1"
		" AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')"
		" AND d.refobjsubid = ANY ($2) AND a.atttypid = 'int8'::regtype"
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
	Oid column_types[2] = {OIDOID, INT2ARRAYOID};
	Datum columns[2];

	columns[0] = ObjectIdGetDatum(relid);
	columns[1] = action_columns(relid, stmt, AT_AlterColumnType, false);
	refit_sql_run_all(refit_sql_list(widen, 2, column_types, columns));

	/* only those of new columns were ever used on the twin */
	SPI_connect();
	refit_sql(advance, 2, types, values, NULL);
	SPI_finish();
}
