/*-------------------------------------------------------------------------
 *
 * inherit.c
 *	  Plain tables that inherit from each other.  See inherit.h.
 *
 * The twins are linked by catalog rows, as StoreCatalogInheritance1() writes
 * them, and not by ALTER TABLE … INHERIT: that would refuse what has grown over
 * time and is allowed, such as a column that may be null below one that may not
 * be, and it would count parents from the beginning.  How many parents a column
 * or constraint comes from, also from outside of the tree, is copied, since that
 * is what PostgreSQL goes by when it hands actions down or refuses them.
 *
 * Rights: catalog rows are written with low-level functions, or as the bootstrap
 * superuser.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/tablecmds.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "table/inherit.h"
#include "table/shape.h"
#include "table/tree.h"
#include "table/twin.h"
#include "util/sqlutil.h"

/* Is a table related to other plain tables? */
bool
refit_inherit_has_relatives(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_RELATION &&
		   !get_rel_relispartition(relid) &&
		   (has_superclass(relid) ||
			find_inheritance_children(relid, NoLock) != NIL);
}

/*
 * Does any action reach tables below?  Those of the list never do, in any
 * version: see ATPrepCmd().
 */
bool
refit_inherit_recurses(const AlterTableStmt *stmt)
{
	ListCell *lc;

	foreach(lc, stmt != NULL ? stmt->cmds : NIL)
		switch (lfirst_node(AlterTableCmd, lc)->subtype)
		{
			case AT_SetLogged:
			case AT_SetUnLogged:
			case AT_SetAccessMethod:
			case AT_SetTableSpace:
			case AT_SetRelOptions:
			case AT_ResetRelOptions:
				break;
			default:
				return true;
		}
	return false;
}

/* Makes a twin inherit from another one. */
static void
link_twin(Oid child, Oid parent, int seqno)
{
	ObjectAddress child_object;
	ObjectAddress parent_object;

	StoreSingleInheritance(child, parent, seqno);
	ObjectAddressSet(child_object, RelationRelationId, child);
	ObjectAddressSet(parent_object, RelationRelationId, parent);
	recordDependencyOn(&child_object, &parent_object, DEPENDENCY_NORMAL);
	SetRelationHasSubclass(parent, true);
	CommandCounterIncrement();
}

/* Links a twin to the twins of its table's parents. */
static void
link_to_parents(const RefitTwin *t, const List *twins)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(t->source)};
	ListCell *lc;

	foreach(lc, twins)
	{
		const RefitTwin *above = lfirst(lc);
		char *seqno;

		values[1] = ObjectIdGetDatum(above->source);
		seqno = refit_sql_text("SELECT inhseqno FROM pg_catalog.pg_inherits"
							   " WHERE inhrelid = $1 AND inhparent = $2",
							   2, types, values);
		if (seqno != NULL)
			link_twin(t->twin, above->twin, atoi(seqno));
	}
}

/* Copies where columns come from. */
static void
copy_column_origins(Oid source, Oid twin)
{
	Relation rel = table_open(source, AccessShareLock);

	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (att->attisdropped || att->attinhcount == 0)
			continue;
		refit_twin_copy_property(source, twin, i + 1,
								 Anum_pg_attribute_attinhcount);
		CommandCounterIncrement();
		refit_twin_copy_property(source, twin, i + 1,
								 Anum_pg_attribute_attislocal);
		CommandCounterIncrement();
	}
	table_close(rel, NoLock);
}

/* Copies where CHECK and NOT NULL constraints come from. */
static void
copy_constraint_origins(Oid source, Oid twin)
{
	Oid types[2] = {OIDOID, OIDOID};
	Datum values[2] = {ObjectIdGetDatum(source), ObjectIdGetDatum(twin)};

	SPI_connect();
	refit_sql("UPDATE pg_catalog.pg_constraint t SET conislocal = s.conislocal,"
			  " coninhcount = s.coninhcount FROM pg_catalog.pg_constraint s"
			  " WHERE s.conrelid = $1 AND t.conrelid = $2"
			  " AND t.conname = s.conname AND t.contype = s.contype"
			  " AND s.contype IN ('c', 'n') AND s.coninhcount > 0",
			  2, types, values, NULL);
	SPI_finish();
	CommandCounterIncrement();
}

/* Which of its constraints hold for all rows. */
static char *
valid_constraints(Oid twin)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(twin)};

	return refit_sql_text(
		"SELECT coalesce(string_agg(oid::text, ' ' ORDER BY oid), '')"
		" FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND convalidated",
		1, types, values);
}

/* What a twin looks like, as far as its rows could tell. */
static char *
look_of(Oid twin)
{
	HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(twin));
	Oid filenode;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", twin);
	filenode = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
	ReleaseSysCache(tuple);
	return psprintf("%s %u %s", refit_shape_fingerprint(twin), filenode,
					valid_constraints(twin));
}

/* Makes the twins what their tables are to each other. */
void
refit_inherit_link(List *twins)
{
	RefitTwin *root = linitial(twins);
	ListCell *lc;

	if (!refit_inherit_has_relatives(root->source))
		return;
	foreach(lc, twins)
	{
		RefitTwin *t = lfirst(lc);

		link_to_parents(t, twins);
		copy_column_origins(t->source, t->twin);
		copy_constraint_origins(t->source, t->twin);
	}
	foreach(lc, twins)
		((RefitTwin *) lfirst(lc))->look =
			look_of(((RefitTwin *) lfirst(lc))->twin);
}

/* Leaves tables alone that the actions leave alone. */
void
refit_inherit_leave_untouched(List *twins)
{
	ListCell *lc;

	for_each_from(lc, twins, 1)
	{
		RefitTwin *t = lfirst(lc);

		if (t->look != NULL && strcmp(t->look, look_of(t->twin)) == 0)
			t->is_leaf = false;
	}
}
