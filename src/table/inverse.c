/*-------------------------------------------------------------------------
 *
 * inverse.c
 *	  The way back: what undoes the actions of a migration.  See inverse.h.
 *
 * The text is a JSON object:
 *	  undrop		numbers of the columns to copy back from the blank
 *	  origins		columns that are to have parents again: number, how many, and
 *					whether they are the table's own too
 *	  actions		what follows ALTER TABLE, in an order that does not matter,
 *					since PostgreSQL sorts actions by kind
 *	  indexes		CREATE INDEX statements of indexes that went with a column
 *	  names			of the indexes that there were, and what each stores
 *	  foreign_keys	names that there were before; others are dropped
 *	  sequences		owned sequences and their types
 *	  statistics	extended statistics and their targets, which a change of type
 *					forgets
 *	  comments		of constraints and of indexes, by name
 *	  references	how to find old rows that violate a foreign key which comes
 *					back
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/indexing.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/tablecmds.h"
#include "executor/spi.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "table/actions.h"
#include "table/inverse.h"
#include "table/inverse_sql.h"
#include "table/twin.h"
#include "util/sqlutil.h"

/* A column's value cast back, the careful way where there are two. */
Expr *
refit_inverse_cast(Relation source, Form_pg_attribute to, AttrNumber attnum)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(source), attnum - 1);
	Node *var = (Node *) makeVar(1, attnum, att->atttypid, att->atttypmod,
								 att->attcollation, 0);
	Node *expr = coerce_to_target_type(NULL, var, att->atttypid, to->atttypid,
									   to->atttypmod, COERCION_ASSIGNMENT,
									   COERCE_IMPLICIT_CAST, -1);

	if (expr == NULL)
	{
		expr =
			coerce_to_target_type(NULL, var, att->atttypid, to->atttypid, -1,
								  COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
		if (expr != NULL)
			expr = coerce_to_target_type(NULL, expr, to->atttypid, to->atttypid,
										 to->atttypmod, COERCION_ASSIGNMENT,
										 COERCE_IMPLICIT_CAST, -1);
	}
	if (expr != NULL)
		assign_expr_collations(NULL, expr);
	return (Expr *) expr;
}

/* The columns that the actions drop, or take parents from. */
RefitLostColumns *
refit_inverse_lost_columns(Oid source, Oid twin)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(source), ObjectIdGetDatum(twin)};
	RefitLostColumns *lost = palloc(sizeof(RefitLostColumns));

	lost->dropped = refit_sql_list(
		"SELECT o.attnum FROM pg_catalog.pg_attribute o"
		" JOIN pg_catalog.pg_attribute n"
		"  ON n.attrelid = $2 AND n.attnum = o.attnum AND n.attisdropped"
		" WHERE o.attrelid = $1 AND o.attnum > 0 AND NOT o.attisdropped"
		" ORDER BY 1",
		2, types, values);
	lost->origins = refit_sql_text(
		"SELECT coalesce(jsonb_agg(jsonb_build_object('attnum', attnum,"
		"  'parents', parents, 'local', attislocal)), '[]') FROM ("
		" SELECT o.attnum, o.attislocal, o.attinhcount - CASE"
		"  WHEN n.attisdropped THEN 0 ELSE n.attinhcount END AS parents"
		" FROM pg_catalog.pg_attribute o JOIN pg_catalog.pg_attribute n"
		"  ON n.attrelid = $2 AND n.attnum = o.attnum"
		" WHERE o.attrelid = $1 AND NOT o.attisdropped) x WHERE parents > 0",
		2, types, values);
	return lost;
}

/* What undoes the actions. */
char *
refit_inverse_find(Oid source, Oid twin, const AlterTableStmt *stmt,
				   const RefitLostColumns *lost)
{
	Oid types[5] = {OIDOID, OIDOID, NAMEARRAYOID, TEXTARRAYOID, TEXTOID};
	Datum values[5];

	values[0] = ObjectIdGetDatum(source);
	values[1] = ObjectIdGetDatum(twin);
	values[2] = refit_actions_dropped_constraints(stmt);
	values[3] = PointerGetDatum(strlist_to_textarray(lost->dropped));
	values[4] = CStringGetTextDatum(lost->origins);
	return refit_sql_text(INVERSE, 5, types, values);
}

/* A member of the text, as text; NULL where it is not there. */
static char *
member(const char *inverse, const char *key)
{
	Oid types[2] = {TEXTOID, TEXTOID};
	Datum values[2] = {CStringGetTextDatum(inverse), CStringGetTextDatum(key)};

	return refit_sql_text("SELECT $1::jsonb ->> $2", 2, types, values);
}

/* The elements of a member that is an array. */
static List *
elements(const char *inverse, const char *key)
{
	Oid types[2] = {TEXTOID, TEXTOID};
	Datum values[2] = {CStringGetTextDatum(inverse), CStringGetTextDatum(key)};

	return refit_sql_list("SELECT jsonb_array_elements_text($1::jsonb -> $2)",
						  2, types, values);
}

/* What a column that is there again depends on. */
static void
record_dependencies(Oid relid, HeapTuple tuple)
{
	Form_pg_attribute att = (Form_pg_attribute) GETSTRUCT(tuple);
	ObjectAddress column;
	ObjectAddress object;

	ObjectAddressSubSet(column, RelationRelationId, relid, att->attnum);
	ObjectAddressSet(object, TypeRelationId, att->atttypid);
	recordDependencyOn(&column, &object, DEPENDENCY_NORMAL);
	if (OidIsValid(att->attcollation) &&
		att->attcollation != DEFAULT_COLLATION_OID)
	{
		ObjectAddressSet(object, CollationRelationId, att->attcollation);
		recordDependencyOn(&column, &object, DEPENDENCY_NORMAL);
	}
}

/* The roles in a column's privileges cannot be dropped while it has them. */
static void
record_roles(Oid relid, AttrNumber attnum, HeapTuple tuple)
{
	bool isnull;
	Datum acl =
		SysCacheGetAttr(ATTNUM, tuple, Anum_pg_attribute_attacl, &isnull);
	Oid *members;
	int n;

	if (isnull)
		return;
	n = aclmembers(DatumGetAclP(acl), &members);
	updateAclDependencies(RelationRelationId, relid, attnum,
						  refit_relation_owner(relid), 0, NULL, n, members);
}

/* Copies a comment on a column. */
static void
copy_comment(Oid from, Oid to, AttrNumber attnum)
{
	char *comment = GetComment(from, RelationRelationId, attnum);

	if (comment != NULL)
		CreateComments(to, RelationRelationId, attnum, comment);
}

/* The row of pg_attribute, of a dropped column too. */
static HeapTuple
attribute_tuple(Oid relid, AttrNumber attnum)
{
	HeapTuple tuple =
		SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(attnum));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u",
			 attnum, relid);
	return tuple;
}

/* The stored default, or generation expression, of a column; or NULL. */
static Node *
stored_default(Relation rel, AttrNumber attnum)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
		if (constr->defval[i].adnum == attnum)
			return stringToNode(constr->defval[i].adbin);
	return NULL;
}

/* A copy of one column's row with the options of another's. */
static HeapTuple
with_own_options(Relation pg_attribute, HeapTuple was, HeapTuple now)
{
	Datum values[Natts_pg_attribute] = {0};
	bool nulls[Natts_pg_attribute] = {false};
	bool replace[Natts_pg_attribute] = {false};
	int i = Anum_pg_attribute_attoptions - 1;

	values[i] = SysCacheGetAttr(ATTNUM, now, i + 1, &nulls[i]);
	replace[i] = true;
	return heap_modify_tuple(was, RelationGetDescr(pg_attribute), values, nulls,
							 replace);
}

/* Makes a dropped column what it is in another table. */
static void
undrop_column(Oid relid, Oid from, AttrNumber attnum)
{
	Relation pg_attribute = table_open(AttributeRelationId, RowExclusiveLock);
	Relation source = table_open(from, NoLock);
	HeapTuple was = attribute_tuple(from, attnum);
	HeapTuple now = attribute_tuple(relid, attnum);
	HeapTuple copy = with_own_options(pg_attribute, was, now);
	Form_pg_attribute att = (Form_pg_attribute) GETSTRUCT(copy);
	Node *expr = stored_default(source, attnum);

	att->attrelid = relid;
	att->attnotnull = false; /* an action sets it */
	att->atthasdef = false;	 /* so does StoreAttrDefault */
	att->attislocal = true;	 /* for the time being, see add_parents() */
	att->attinhcount = 0;
	CatalogTupleUpdate(pg_attribute, &now->t_self, copy);
	record_dependencies(relid, copy);
	record_roles(relid, attnum, copy);
	ReleaseSysCache(was);
	ReleaseSysCache(now);
	table_close(pg_attribute, RowExclusiveLock);
	CommandCounterIncrement();
	if (expr != NULL)
	{
		Relation rel = table_open(relid, NoLock);

		refit_store_default(rel, attnum, expr);
		table_close(rel, NoLock);
	}
	table_close(source, NoLock);
	copy_comment(from, relid, attnum);
	CommandCounterIncrement();
}

/*
 * Gives columns the parents again that they have lost, because a table above has
 * their column again, or will have it.
 */
static void
add_parents(const char *origins, Oid relid)
{
	Oid types[2] = {TEXTOID, OIDOID};
	Datum values[2] = {CStringGetTextDatum(origins), ObjectIdGetDatum(relid)};

	SPI_connect();
	refit_sql("UPDATE pg_catalog.pg_attribute a"
			  " SET attinhcount = attinhcount + o.parents, attislocal = o.local"
			  " FROM jsonb_to_recordset($1::jsonb)"
			  "  AS o(attnum int2, parents int, local boolean)"
			  " WHERE a.attrelid = $2 AND a.attnum = o.attnum",
			  2, types, values, NULL);
	SPI_finish();
	CommandCounterIncrement();
}

/* Makes dropped columns what they are in another table. */
void
refit_inverse_undrop(const RefitLostColumns *lost, Oid relid, Oid from)
{
	ListCell *lc;

	foreach(lc, lost->dropped)
		undrop_column(relid, from, atoi(lfirst(lc)));
	if (strcmp(lost->origins, "[]") != 0)
		add_parents(lost->origins, relid);
}

/* Makes the indexes that went with columns. */
static void
create_indexes(const char *inverse, Oid relid)
{
	ListCell *lc;

	foreach(lc, elements(inverse, "indexes"))
		(void) refit_twin_create_index(relid, lfirst(lc));
}

/* Runs it on a twin whose dropped columns are there again. */
void
refit_inverse_run_private(const char *inverse, Oid twin)
{
	char *actions = member(inverse, "actions");

	if (actions[0] != '\0')
		refit_actions_run_private(
			refit_actions_for_twin(refit_actions_parse(actions), twin), twin,
			NULL);
	create_indexes(inverse, twin);
}

/* What a twin has that its table has not, or the other way round; or NULL. */
char *
refit_inverse_difference(Oid source, Oid twin)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(source), ObjectIdGetDatum(twin)};

	return refit_sql_text(DIFFERENCE, 2, types, values);
}

/* Actions that drop the foreign keys which the migration has added. */
static char *
drop_new_foreign_keys(const RefitMigration *m)
{
	Oid types[2] = {OIDOID, TEXTOID};
	Datum values[2] = {ObjectIdGetDatum(m->leaf),
					   CStringGetTextDatum(m->rewrite.inverse)};

	return refit_sql_text(
		"SELECT string_agg(format('DROP CONSTRAINT %I', conname), ', ')"
		" FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'f'"
		" AND conparentid = 0"
		" AND NOT $2::jsonb -> 'foreign_keys' ? conname::text",
		2, types, values);
}

/* All actions as text, or NULL. */
static char *
all_actions(const RefitMigration *m)
{
	char *actions = member(m->rewrite.inverse, "actions");
	char *drop = drop_new_foreign_keys(m);

	if (drop == NULL)
		return actions[0] != '\0' ? actions : NULL;
	return actions[0] != '\0' ? psprintf("%s, %s", drop, actions) : drop;
}

/* The statement that undoes the actions; it has none where there is nothing. */
AlterTableStmt *
refit_inverse_stmt(const RefitMigration *m)
{
	char *actions = all_actions(m);

	return actions != NULL ? refit_actions_parse(actions)
						   : makeNode(AlterTableStmt);
}

/*
 * Commands that give owned sequences the types that they had, where their
 * values fit.
 */
#define NARROW_SEQUENCES                                             \
	"SELECT format('ALTER SEQUENCE %s AS %s', q.seqrelid::regclass," \
	" s.value) FROM jsonb_each_text($1::jsonb -> 'sequences') s"     \
	" JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.key::oid"      \
	" WHERE format_type(q.seqtypid, NULL) <> s.value AND $2 <> 0"    \
	" AND coalesce(pg_sequence_last_value(q.seqrelid), 0) < CASE"    \
	"  s.value WHEN 'smallint' THEN 32767 WHEN 'integer'"            \
	"  THEN 2147483647 ELSE 9223372036854775807 END"

/* Commands that set the targets of statistics that were made again. */
#define STATISTICS_TARGETS                                          \
	"SELECT format('ALTER STATISTICS %s SET STATISTICS %s', s.key," \
	" s.value) FROM jsonb_each_text($1::jsonb -> 'statistics') s"   \
	" JOIN pg_catalog.pg_statistic_ext e ON s.key ="                \
	"  format('%s.%I', e.stxnamespace::regnamespace, e.stxname)"    \
	" WHERE e.stxrelid = $2 AND $2 <> 0"                            \
	" AND coalesce(e.stxstattarget, -1) < 0"

/* Commands that comment on constraints and indexes that were made again. */
#define COMMENTS                                                    \
	"SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', c.key,"  \
	"  k.conrelid::regclass, c.value)"                              \
	" FROM jsonb_each_text($1::jsonb #> '{comments,constraint}') c" \
	" JOIN pg_catalog.pg_constraint k ON k.conname = c.key"         \
	" WHERE k.conrelid = $2 AND $2 <> 0"                            \
	" AND obj_description(k.oid, 'pg_constraint') IS NULL"          \
	" UNION ALL SELECT format('COMMENT ON INDEX %s IS %L',"         \
	"  i.oid::regclass, c.value)"                                   \
	" FROM jsonb_each_text($1::jsonb #> '{comments,index}') c"      \
	" JOIN pg_catalog.pg_class i ON i.relname = c.key"              \
	" JOIN pg_catalog.pg_index x ON x.indexrelid = i.oid"           \
	" WHERE x.indrelid = $2 AND obj_description(i.oid, 'pg_class') IS NULL"

/* Runs the commands that a query makes, as the owner: event triggers. */
static void
run_commands(const RefitMigration *m, const char *query)
{
	Oid types[2] = {TEXTOID, OIDOID};
	Datum values[2] = {CStringGetTextDatum(m->rewrite.inverse),
					   ObjectIdGetDatum(m->leaf)};

	refit_sql_run_all(refit_sql_list(query, 2, types, values));
}

/* Gives indexes the names that they had. */
static void
rename_indexes(const RefitMigration *m)
{
	Oid types[2] = {TEXTOID, OIDOID};
	Datum values[2] = {CStringGetTextDatum(m->rewrite.inverse),
					   ObjectIdGetDatum(m->leaf)};
	ListCell *lc;

	foreach(lc, refit_sql_list(FORMER_NAMES, 2, types, values))
	{
		char *name;
		Oid index = strtoul(lfirst(lc), &name, 10);

		RenameRelationInternal(index, name + 1, false, true);
		CommandCounterIncrement();
	}
}

/* Plans what will run under the locks, by running it for no table. */
void
refit_inverse_warm_up(const RefitMigration *nothing)
{
	(void) elements(nothing->rewrite.inverse, "undrop");
	add_parents("[]", InvalidOid);
	(void) all_actions(nothing);
	rename_indexes(nothing);
	run_commands(nothing, NARROW_SEQUENCES);
	run_commands(nothing, STATISTICS_TARGETS);
	run_commands(nothing, COMMENTS);
}

/* Makes the columns that were dropped what they are in the blank. */
void
refit_inverse_undrop_columns(const RefitMigration *m)
{
	RefitLostColumns lost = {.dropped = elements(m->rewrite.inverse, "undrop"),
							 .origins = member(m->rewrite.inverse, "origins")};

	refit_inverse_undrop(&lost, m->leaf, m->rewrite.blank);
}

/* Runs it on the empty table. */
void
refit_inverse_run(const RefitMigration *m)
{
	char *actions = all_actions(m);
	Relation blank;

	if (actions != NULL)
		refit_actions_run_public(refit_actions_parse(actions), m->leaf, actions,
								 "pg_catalog, pg_temp");
	create_indexes(m->rewrite.inverse, m->leaf);
	rename_indexes(m);
	run_commands(m, NARROW_SEQUENCES);
	run_commands(m, STATISTICS_TARGETS);
	run_commands(m, COMMENTS);

	/* short old rows are read through the table again */
	blank = table_open(m->rewrite.blank, NoLock);
	refit_twin_copy_missing_values(blank, m->leaf);
	table_close(blank, NoLock);
}

/*
 * For each foreign key that is to come back, its name and the query that finds
 * an old row between two ctids which violates it.
 */
#define REFERENCE_QUERIES                                                      \
	"SELECT r ->> 'name', format('SELECT (SELECT r FROM (SELECT %s) r)::text"  \
	" FROM ONLY %s x WHERE x.ctid >= $1 AND x.ctid < $2 AND %s AND NOT EXISTS" \
	" (SELECT FROM %s p WHERE %s) LIMIT 1', r ->> 'columns', $2,"              \
	" r ->> 'present', coalesce(r ->> 'table', 'ONLY ' || $2),"                \
	" r ->> 'match')"                                                          \
	" FROM jsonb_array_elements($1::jsonb -> 'references') r"

/* The first value of what a query on a range of ctids finds, or NULL. */
static char *
find_in_range(const char *query, BlockNumber from, BlockNumber end)
{
	Oid types[2] = {TIDOID, TIDOID};
	ItemPointerData first;
	ItemPointerData last;
	Datum values[2] = {PointerGetDatum(&first), PointerGetDatum(&last)};

	ItemPointerSet(&first, from, 0);
	ItemPointerSet(&last, end, 0);
	if (SPI_execute_with_args(query, 2, types, values, NULL, false, 1) < 0)
		elog(ERROR, "could not execute \"%s\"", query);
	return SPI_processed == 0
			   ? NULL
			   : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* An ERROR where an old row violates a foreign key that is to come back. */
void
refit_inverse_check_references(const RefitMigration *m, BlockNumber from,
							   BlockNumber end)
{
	Oid types[2] = {TEXTOID, TEXTOID};
	Datum values[2] = {
		CStringGetTextDatum(m->rewrite.inverse),
		CStringGetTextDatum(refit_qualified_name(m->rewrite.blank))};
	SPITupleTable *queries;
	uint64 n;

	SPI_connect();
	n = refit_sql(REFERENCE_QUERIES, 2, types, values, NULL);
	queries = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
	{
		char *key = find_in_range(
			SPI_getvalue(queries->vals[i], queries->tupdesc, 2), from, end);

		if (key != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
					 errmsg("foreign key \"%s\" of %s, which was dropped, is "
							"violated by some row",
							SPI_getvalue(queries->vals[i], queries->tupdesc, 1),
							refit_qualified_name(m->leaf)),
					 errdetail("Key %s has no partner in the referenced table.",
							   key)));
	}
	SPI_finish();
}

/* The value of a column that the row does not have: NULL, or its default. */
static Expr *
missing_value(Relation target, Form_pg_attribute att)
{
	Node *expr = NULL;

	if (att->attisdropped)
		return (Expr *) makeNullConst(INT4OID, -1, InvalidOid);
	if (att->attnotnull && att->attgenerated == '\0')
		expr = build_column_default(target, att->attnum);
	return expr != NULL ? (Expr *) expr
						: (Expr *) makeNullConst(att->atttypid, att->atttypmod,
												 att->attcollation);
}

/* Per attribute of the old definition, the expression over the new row. */
Expr **
refit_inverse_exprs(Relation source, Relation target, Bitmapset **kept)
{
	TupleDesc from = RelationGetDescr(source);
	TupleDesc to = RelationGetDescr(target);
	Expr **exprs = palloc(sizeof(Expr *) * Max(to->natts, 1));

	*kept = NULL;
	for (int i = 0; i < to->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(to, i);
		bool gone = TupleDescAttr(from, i)->attisdropped;

		if (att->attisdropped || att->attgenerated != '\0' || gone)
			exprs[i] = missing_value(target, att);
		else
			exprs[i] = refit_inverse_cast(source, att, i + 1);
		if (exprs[i] == NULL)
			elog(ERROR, "column \"%s\" cannot be cast back",
				 NameStr(att->attname));
		if (gone && !att->attisdropped && att->attgenerated == '\0')
			*kept = bms_add_member(*kept, i + 1);
		exprs[i] = expression_planner(exprs[i]);
	}
	return exprs;
}

/* Gives the blank the privileges and comments of the table's columns. */
void
refit_inverse_keep_columns(Relation source, Oid blank)
{
	Oid relid = RelationGetRelid(source);

	for (int i = 0; i < RelationGetDescr(source)->natts; i++)
	{
		HeapTuple tuple;

		if (TupleDescAttr(RelationGetDescr(source), i)->attisdropped)
			continue;
		refit_twin_copy_property(relid, blank, i + 1, Anum_pg_attribute_attacl);
		CommandCounterIncrement();
		tuple = attribute_tuple(blank, i + 1);
		record_roles(blank, i + 1, tuple);
		ReleaseSysCache(tuple);
		copy_comment(relid, blank, i + 1);
	}
	CommandCounterIncrement();
}

/*
 * Adds to the blank, dropped at once, the columns that the table will have as
 * dropped ones.
 */
void
refit_inverse_widen(Oid blank, Oid table)
{
	Relation rel = table_open(table, AccessShareLock);
	Relation narrow = table_open(blank, AccessShareLock);
	int natts = RelationGetDescr(narrow)->natts;
	int wanted = RelationGetDescr(rel)->natts;

	table_close(narrow, NoLock);
	if (natts < wanted)
		LockRelationOid(blank, AccessExclusiveLock); /* private: */
	for (int i = natts; i < wanted; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		refit_actions_run_own(
			psprintf("ADD COLUMN \"$%d\" %s", i + 1,
					 format_type_extended(getBaseType(att->atttypid), -1,
										  FORMAT_TYPE_FORCE_QUALIFY)),
			blank);
		refit_actions_run_own(psprintf("DROP COLUMN \"$%d\"", i + 1), blank);
	}
	table_close(rel, NoLock);
}
