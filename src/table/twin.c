/*-------------------------------------------------------------------------
 *
 * twin.c
 *	  The private tables of a rewrite, and the schema that holds them.
 *
 * A twin is made from the table's tuple descriptor, not from SQL, since only
 * so do attribute numbers, lengths and alignments of dropped columns come out
 * the same; heap_create_with_catalog() takes them as make_new_heap() shows.
 * Stored defaults and expressions are copied as they are; constraints are
 * written in SQL by PostgreSQL's own deparser and run on the twin, as pg_dump
 * does it.
 *
 * Rights: catalog rows are written with the low-level functions, which check
 * none, since the owner need not have CREATE on the database.  Index
 * expressions and checks of an empty table are parsed, and simplified as the
 * owner: DefineIndex() switches to it by itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/attmap.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/toast_compression.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_partitioned_table.h"
#include "catalog/pg_type.h"
#include "catalog/toasting.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "nodes/makefuncs.h"
#include "parser/parse_utilcmd.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "table/actions.h"
#include "table/twin.h"
#include "util/sqlutil.h"

#define BLANK_NAME "$blank"
#define BLANK_INDEX_FORMAT "$blank_%u"	   /* the index's */
#define ORDER_INDEX_FORMAT "$order_%u"	   /* the twin's */
#define PARTITION_INDEX_FORMAT "$index_%u" /* the index's */

/* Ties an object to the extension. */
void
refit_twin_tie_to_extension(Oid classid, Oid objid, DependencyType how)
{
	ObjectAddress object;
	ObjectAddress extension;

	ObjectAddressSet(object, classid, objid);
	ObjectAddressSet(extension, ExtensionRelationId,
					 get_extension_oid(REFIT_EXTENSION, false));
	recordDependencyOn(&object, &extension, how);
}

/* Makes the work schema. */
Oid
refit_twin_create_schema(int64 id, Oid owner)
{
	char *name = psprintf("refit_" INT64_FORMAT, id);
	Oid schema;

	if (OidIsValid(get_namespace_oid(name, true)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_SCHEMA),
				 errmsg("schema \"%s\" already exists", name),
				 errdetail("pg_refit needs this name for its work tables."),
				 errhint("Rename or drop that schema.")));
	schema = NamespaceCreate(name, owner, false);
	CommandCounterIncrement();
	refit_twin_tie_to_extension(NamespaceRelationId, schema,
								DEPENDENCY_EXTENSION);
	return schema;
}

/* Finds the work schema.  Another one of that name is none of our business. */
Oid
refit_twin_find_schema(int64 id)
{
	Oid schema = get_namespace_oid(psprintf("refit_" INT64_FORMAT, id), true);

	if (!OidIsValid(schema) ||
		getExtensionOfObject(NamespaceRelationId, schema) !=
			get_extension_oid(REFIT_EXTENSION, false))
		return InvalidOid;
	return schema;
}

/* Drops a work object with all that is in it; the extension itself stays. */
static void
drop_member(Oid classid, Oid objid)
{
	ObjectAddress object;

	if (getExtensionOfObject(classid, objid) !=
		get_extension_oid(REFIT_EXTENSION, false))
		return;
	ObjectAddressSet(object, classid, objid);
	performDeletion(&object, DROP_CASCADE,
					PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY |
						PERFORM_DELETION_SKIP_EXTENSIONS);
	CommandCounterIncrement();
}

/* Drops the work schema. */
void
refit_twin_drop_schema(Oid schema)
{
	drop_member(NamespaceRelationId, schema);
}

/* Drops a work table of that source, if it is there. */
void
refit_twin_drop_table(Oid table, Oid source)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	bool is_ours;

	if (!HeapTupleIsValid(tuple))
		return;
	is_ours = ((Form_pg_class) GETSTRUCT(tuple))->relrewrite == source;
	ReleaseSysCache(tuple);
	if (is_ours)
		drop_member(RelationRelationId, table);
}

/* Sets pg_class.relrewrite. */
void
refit_twin_set_relrewrite(Oid relid, Oid value)
{
	Relation pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	if (((Form_pg_class) GETSTRUCT(tuple))->relrewrite != value)
	{
		((Form_pg_class) GETSTRUCT(tuple))->relrewrite = value;
		CatalogTupleUpdate(pg_class, &tuple->t_self, tuple);
		CommandCounterIncrement();
	}
	heap_freetuple(tuple);
	table_close(pg_class, RowExclusiveLock);
}

/*
 * Takes off what makes the twin's defaults keep sequences of other tables from
 * being dropped: the application may drop its table at any time.
 */
static void
forget_sequences(Oid twin)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(twin)};

	SPI_connect();
	refit_sql("DELETE FROM pg_catalog.pg_depend d USING pg_catalog.pg_class s,"
			  " pg_catalog.pg_class t, pg_catalog.pg_attrdef a"
			  " WHERE t.oid = $1 AND a.adrelid = t.oid"
			  " AND d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid"
			  " AND d.refclassid = 'pg_class'::regclass AND d.refobjid = s.oid"
			  " AND s.relkind = 'S' AND s.relnamespace <> t.relnamespace",
			  1, types, values, NULL);
	SPI_finish();
}

/* Hides a work table's TOAST table from logical decoding. */
void
refit_twin_hide(Oid twin, Oid source)
{
	Relation rel = table_open(twin, AccessExclusiveLock); /* private: */
	Oid toast = rel->rd_rel->reltoastrelid;

	table_close(rel, NoLock);
	if (OidIsValid(toast))
		refit_twin_set_relrewrite(toast, source);
	forget_sequences(twin);
}

/*
 * The descriptor with what belongs to rows' layout only: names, types,
 * dropped columns, storage, generated columns.
 */
static TupleDesc
layout_of(TupleDesc desc, bool with_constraints)
{
	TupleDesc copy = CreateTupleDescCopy(desc);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute from = TupleDescAttr(desc, i);
		Form_pg_attribute to = TupleDescAttr(copy, i);

		to->attislocal = true;
		to->attinhcount = 0;
		if (!with_constraints || from->attisdropped)
			continue;
		to->attgenerated = from->attgenerated;
#ifndef REFIT_HAS_NOT_NULL_CONSTRAINTS
		to->attnotnull = from->attnotnull;
#endif
	}
	refit_populate_compact(copy);
	return copy;
}

/* The reloptions of a relation, or (Datum) 0. */
static Datum
reloptions_of(Oid relid)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Datum options;
	bool isnull;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	options = isnull ? (Datum) 0 : datumCopy(options, false, -1);
	ReleaseSysCache(tuple);
	return options;
}

/* The name, or where the twin or an index of it has that, another. */
static const char *
free_name(const char *name, Oid schema)
{
	if (!OidIsValid(get_relname_relid(name, schema)))
		return name;
	return ChooseRelationName(name, NULL, "refit", schema, false);
}

/*
 * An empty table with the given columns; partitioned if source is, but without
 * a partition key yet.
 */
Oid
refit_twin_create_table(Relation source, Oid schema, const char *name,
						TupleDesc desc, Oid owner)
{
	Oid toast = source->rd_rel->reltoastrelid;
	Oid relid;

	relid = heap_create_with_catalog(
		free_name(name, schema), schema, source->rd_rel->reltablespace,
		InvalidOid, InvalidOid, InvalidOid, owner, source->rd_rel->relam, desc,
		NIL, source->rd_rel->relkind, source->rd_rel->relpersistence, false,
		false, ONCOMMIT_NOOP, reloptions_of(RelationGetRelid(source)), false,
		true, true, RelationGetRelid(source), NULL);
	CommandCounterIncrement();
	NewHeapCreateToastTable(
		relid, OidIsValid(toast) ? reloptions_of(toast) : (Datum) 0,
		AccessExclusiveLock, RelationGetRelid(source));
	refit_twin_tie_to_extension(RelationRelationId, relid,
								DEPENDENCY_EXTENSION);
	CommandCounterIncrement();
	return relid;
}

/* Copies default and generation expressions as they are stored. */
static void
copy_defaults(Relation source, Oid twin)
{
	TupleConstr *constr = RelationGetDescr(source)->constr;
	Relation rel;

	if (constr == NULL || constr->num_defval == 0)
		return;
	rel = table_open(twin, AccessExclusiveLock); /* private: */
	for (int i = 0; i < constr->num_defval; i++)
		refit_store_default(rel, constr->defval[i].adnum,
							stringToNode(constr->defval[i].adbin));
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/*
 * Adds CHECK and, where PostgreSQL has them as constraints, NOT NULL.
 * Foreign keys are left out on purpose: see refit_actions_for_twin().
 */
static void
copy_constraints(Relation source, Oid twin)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(RelationGetRelid(source))};
	ListCell *lc;

	foreach(lc, refit_sql_list("SELECT 'ADD CONSTRAINT '"
							   " || quote_ident(conname) || ' '"
							   " || pg_get_constraintdef(oid)"
							   " FROM pg_catalog.pg_constraint"
							   " WHERE conrelid = $1 AND contype IN ('c', 'n')"
							   " ORDER BY contype DESC, oid",
							   1, types, values))
		refit_actions_run_own(lfirst(lc), twin);
}

/*
 * Makes identity columns identity columns, with sequences of their own.  A
 * partition gets its parent's when it is attached, where PostgreSQL hands them
 * down.
 */
static void
copy_identity(Relation source, Oid twin, bool is_partition)
{
	TupleDesc desc = RelationGetDescr(source);

#ifdef REFIT_HAS_PARTITION_IDENTITY
	if (is_partition)
		return;
#endif
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped || att->attidentity == '\0')
			continue;
		refit_actions_run_own(
			psprintf("ALTER COLUMN %s ADD GENERATED %s AS IDENTITY",
					 quote_identifier(NameStr(att->attname)),
					 att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS
						 ? "ALWAYS"
						 : "BY DEFAULT"),
			twin);
	}
}

/* The statement that would make this index on another table. */
static IndexStmt *
clone_index_stmt(Relation source, Oid index, Oid target)
{
	int natts = RelationGetDescr(source)->natts;
	AttrMap *map = make_attrmap(natts);
	Relation rel = index_open(index, AccessShareLock);
	IndexStmt *stmt;
	Oid constraint;

	for (int i = 0; i < natts; i++)
		map->attnums[i] = i + 1;
	stmt = generateClonedIndexStmt(
		makeRangeVar(get_namespace_name(get_rel_namespace(target)),
					 get_rel_name(target), -1),
		rel, map, &constraint);
	stmt->idxname = pstrdup(RelationGetRelationName(rel));
	stmt->idxcomment = NULL;
	index_close(rel, NoLock);
	return stmt;
}

/* DefineIndex with rights on every tablespace; it runs code as the owner. */
static Oid
define_index(Oid target, IndexStmt *stmt)
{
	RefitRights save;
	ObjectAddress address;

	refit_rights_begin(&save, BOOTSTRAP_SUPERUSERID, false);
	address = refit_define_index(target, stmt, true);
	refit_rights_end(&save);
	CommandCounterIncrement();
	return address.objectId;
}

/* Copies one property of a column. */
void
refit_twin_copy_property(Oid from, Oid to, AttrNumber attnum, int property)
{
	Relation pg_attribute = table_open(AttributeRelationId, RowExclusiveLock);
	HeapTuple was =
		SearchSysCache2(ATTNUM, ObjectIdGetDatum(from), Int16GetDatum(attnum));
	HeapTuple now =
		SearchSysCache2(ATTNUM, ObjectIdGetDatum(to), Int16GetDatum(attnum));
	Datum values[Natts_pg_attribute] = {0};
	bool nulls[Natts_pg_attribute] = {false};
	bool replace[Natts_pg_attribute] = {false};
	HeapTuple changed;

	if (!HeapTupleIsValid(was) || !HeapTupleIsValid(now))
		elog(ERROR, "cache lookup failed for attribute %d", attnum);
	values[property - 1] =
		SysCacheGetAttr(ATTNUM, was, property, &nulls[property - 1]);
	replace[property - 1] = true;
	changed = heap_modify_tuple(now, RelationGetDescr(pg_attribute), values,
								nulls, replace);
	CatalogTupleUpdate(pg_attribute, &changed->t_self, changed);
	ReleaseSysCache(was);
	ReleaseSysCache(now);
	table_close(pg_attribute, RowExclusiveLock);
}

/* Gives a twin the table's statistics targets, for its own ANALYZE. */
static void
copy_statistics_targets(Relation source, Oid twin)
{
	for (int i = 0; i < RelationGetDescr(source)->natts; i++)
		if (!TupleDescAttr(RelationGetDescr(source), i)->attisdropped)
			refit_twin_copy_property(RelationGetRelid(source), twin, i + 1,
									 Anum_pg_attribute_attstattarget);
	CommandCounterIncrement();
}

/* Makes an index of a definition. */
Oid
refit_twin_create_index(Oid target, const char *definition)
{
	IndexStmt *stmt = castNode(
		IndexStmt,
		linitial_node(RawStmt, raw_parser(definition, RAW_PARSE_DEFAULT))
			->stmt);

	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(target)),
								  get_rel_name(target), -1);
	return define_index(target, transformIndexStmt(target, stmt, definition));
}

/* Copies the partition key as it is stored. */
static void
copy_partition_key(Relation source, Oid twin)
{
	HeapTuple tuple =
		SearchSysCache1(PARTRELID, ObjectIdGetDatum(RelationGetRelid(source)));
	Form_pg_partitioned_table form;
	Relation rel;
	bool isnull;
	Datum opclasses;
	Datum collations;
	Datum stored;
	List *exprs;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for partition key of relation %u",
			 RelationGetRelid(source));
	form = (Form_pg_partitioned_table) GETSTRUCT(tuple);
	opclasses = SysCacheGetAttr(PARTRELID, tuple,
								Anum_pg_partitioned_table_partclass, &isnull);
	collations = SysCacheGetAttr(
		PARTRELID, tuple, Anum_pg_partitioned_table_partcollation, &isnull);
	stored = SysCacheGetAttr(PARTRELID, tuple,
							 Anum_pg_partitioned_table_partexprs, &isnull);
	exprs = isnull ? NIL : stringToNode(TextDatumGetCString(stored));
	rel = table_open(twin, AccessExclusiveLock); /* private: */
	StorePartitionKey(rel, form->partstrat, form->partnatts,
					  form->partattrs.values, exprs,
					  ((oidvector *) DatumGetPointer(opclasses))->values,
					  ((oidvector *) DatumGetPointer(collations))->values);
	table_close(rel, NoLock);
	ReleaseSysCache(tuple);
	CommandCounterIncrement();
}

/* Twin: same columns, defaults, constraints, indexes. */
Oid
refit_twin_create(Relation source, Oid schema, const char *name)
{
	ListCell *lc;
	Oid twin;

	twin = refit_twin_create_table(
		source, schema, name != NULL ? name : RelationGetRelationName(source),
		layout_of(RelationGetDescr(source), true), source->rd_rel->relowner);
	copy_statistics_targets(source, twin);
	if (source->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		copy_partition_key(source, twin);
	copy_defaults(source, twin);
	copy_constraints(source, twin);
	copy_identity(source, twin, name != NULL && source->rd_rel->relispartition);
	foreach(lc, RelationGetIndexList(source))
	{
		IndexStmt *stmt = clone_index_stmt(source, lfirst_oid(lc), twin);

		if (name != NULL)
			stmt->idxname = psprintf(PARTITION_INDEX_FORMAT, lfirst_oid(lc));
		define_index(twin, stmt);
	}
	return twin;
}

/*
 * Gives the blank the table's fast defaults: after the cutover old rows that
 * end before such a column are read through it; and back again on a revert.
 */
void
refit_twin_copy_missing_values(Relation source, Oid blank)
{
	TupleDesc desc = RelationGetDescr(source);
	Relation pg_attribute = table_open(AttributeRelationId, RowExclusiveLock);

	for (int i = 0; i < desc->natts; i++)
	{
		Datum values[Natts_pg_attribute] = {0};
		bool nulls[Natts_pg_attribute] = {false};
		bool replace[Natts_pg_attribute] = {false};
		HeapTuple from;
		HeapTuple to;
		HeapTuple changed;
		bool isnull;

		if (!TupleDescAttr(desc, i)->atthasmissing)
			continue;
		from =
			SearchSysCache2(ATTNUM, ObjectIdGetDatum(RelationGetRelid(source)),
							Int16GetDatum(i + 1));
		to = SearchSysCache2(ATTNUM, ObjectIdGetDatum(blank),
							 Int16GetDatum(i + 1));
		if (!HeapTupleIsValid(from) || !HeapTupleIsValid(to))
			elog(ERROR, "cache lookup failed for attribute %d", i + 1);
		values[Anum_pg_attribute_attmissingval - 1] = SysCacheGetAttr(
			ATTNUM, from, Anum_pg_attribute_attmissingval, &isnull);
		nulls[Anum_pg_attribute_attmissingval - 1] = isnull;
		values[Anum_pg_attribute_atthasmissing - 1] = BoolGetDatum(true);
		replace[Anum_pg_attribute_attmissingval - 1] = true;
		replace[Anum_pg_attribute_atthasmissing - 1] = true;
		changed = heap_modify_tuple(to, RelationGetDescr(pg_attribute), values,
									nulls, replace);
		CatalogTupleUpdate(pg_attribute, &changed->t_self, changed);
		ReleaseSysCache(from);
		ReleaseSysCache(to);
	}
	table_close(pg_attribute, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Blank: same storage layout, one compatible index for each of source's. */
Oid
refit_twin_create_blank(Relation source, Oid schema, bool whole)
{
	ListCell *lc;
	Oid blank;

	blank = refit_twin_create_table(source, schema, BLANK_NAME,
									layout_of(RelationGetDescr(source), whole),
									source->rd_rel->relowner);
	refit_twin_copy_missing_values(source, blank);
	if (whole)
	{
		copy_statistics_targets(source, blank);
		copy_defaults(source, blank);
		copy_constraints(source, blank);
	}
	if (source->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		copy_partition_key(source, blank);
		return blank;
	}
	foreach(lc, RelationGetIndexList(source))
	{
		IndexStmt *stmt = clone_index_stmt(source, lfirst_oid(lc), blank);

		stmt->idxname = psprintf(BLANK_INDEX_FORMAT, lfirst_oid(lc));
		stmt->unique = stmt->unique && whole;
		stmt->primary = stmt->isconstraint = false;
		stmt->deferrable = stmt->initdeferred = false;
		stmt->excludeOpNames = NIL;
		define_index(blank, stmt);
	}
	return blank;
}

/* The blank's index that goes with an index of the table. */
Oid
refit_twin_blank_index(Oid blank, Oid index)
{
	return get_relname_relid(psprintf(BLANK_INDEX_FORMAT, index),
							 get_rel_namespace(blank));
}

/* Parses an order as the columns of an index. */
static IndexStmt *
parse_order(const char *order_by)
{
	List *statements = raw_parser(
		psprintf("CREATE INDEX ON pg_refit_placeholder (%s)", order_by),
		RAW_PARSE_DEFAULT);
	Node *node = list_length(statements) == 1
					 ? linitial_node(RawStmt, statements)->stmt
					 : NULL;
	IndexStmt *stmt = (IndexStmt *) node;

	if (node == NULL || !IsA(node, IndexStmt) || stmt->whereClause != NULL ||
		stmt->indexIncludingParams != NIL || stmt->options != NIL ||
		stmt->tableSpace != NULL || stmt->nulls_not_distinct)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("invalid order: \"%s\"", order_by),
						errhint("Write columns as in CREATE INDEX: \"a, b "
								"DESC\".")));
	return stmt;
}

/* Makes the index that a twin is ordered by. */
void
refit_twin_create_order_index(Oid twin, const char *order_by,
							  const char *search_path)
{
	IndexStmt *stmt = parse_order(order_by);
	int guc_level = NewGUCNestLevel();

	stmt->idxname = psprintf(ORDER_INDEX_FORMAT, twin);
	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(twin)),
								  get_rel_name(twin), -1);
	refit_set_local("search_path", search_path);
	stmt = transformIndexStmt(twin, stmt, order_by);
	(void) refit_define_index(twin, stmt, true);
	CommandCounterIncrement();
	AtEOXact_GUC(true, guc_level);
}

/* The index that a twin is ordered by, or InvalidOid. */
Oid
refit_twin_order_index(Oid twin)
{
	return get_relname_relid(psprintf(ORDER_INDEX_FORMAT, twin),
							 get_rel_namespace(twin));
}
