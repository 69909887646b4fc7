/*-------------------------------------------------------------------------
 *
 * shape.c
 *	  What a table looks like to a rewrite: its key, and a fingerprint of its
 *	  definition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"

#include "table/shape.h"
#include "util/sqlutil.h"

/* Can rows be told apart and found by this index? */
static bool
can_be_key(Relation rel, Relation index)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique ||
		!form->indimmediate || !form->indisvalid || !form->indisready ||
		index->rd_indextuple == NULL ||
		RelationGetIndexPredicate(index) != NIL ||
		RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		AttrNumber attnum = form->indkey.values[i];

		if (attnum <= 0 ||
			!TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attnotnull)
			return false;
	}
	return true;
}

/* Indexes that can serve as a table's key, best first. */
List *
refit_shape_key_indexes(Relation rel)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);

		if (can_be_key(rel, index))
		{
			if (index->rd_index->indisprimary)
				result = lcons_oid(lfirst_oid(lc), result);
			else
				result = lappend_oid(result, lfirst_oid(lc));
		}
		index_close(index, NoLock);
	}
	return result;
}

/* Columns of a key index in its order. */
int
refit_shape_key_attnums(Oid oid, AttrNumber **attnums)
{
	Relation index = index_open(oid, AccessShareLock);
	int nkeys = index->rd_index->indnkeyatts;

	*attnums = palloc(sizeof(AttrNumber) * nkeys);
	for (int i = 0; i < nkeys; i++)
		(*attnums)[i] = index->rd_index->indkey.values[i];
	index_close(index, NoLock);
	return nkeys;
}

/* Is this an index over just these columns, in this order? */
static bool
covers_key(Relation index, int nkeys, const AttrNumber *attnums)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique ||
		form->indnkeyatts != nkeys || RelationGetIndexPredicate(index) != NIL ||
		RelationGetIndexExpressions(index) != NIL)
		return false;
	for (int i = 0; i < nkeys; i++)
		if (form->indkey.values[i] != attnums[i])
			return false;
	return true;
}

/* An index of rel over just these columns that can find a row. */
Oid
refit_shape_find_index(Relation rel, int nkeys, const AttrNumber *attnums)
{
	ListCell *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		bool found = covers_key(index, nkeys, attnums);

		index_close(index, NoLock);
		if (found)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* A place in a table, where a row has no name. */
char *
refit_shape_place_text(ItemPointer tid)
{
	return psprintf("(ctid)=((%u,%u))", ItemPointerGetBlockNumber(tid),
					ItemPointerGetOffsetNumber(tid));
}

/* The values of some columns of a row as (names)=(values). */
char *
refit_shape_row_text(TupleTableSlot *row, int n, const AttrNumber *attnums)
{
	StringInfoData names;
	StringInfoData values;

	if (n == 0)
		return refit_shape_place_text(&row->tts_tid);
	initStringInfo(&names);
	initStringInfo(&values);
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute att =
			TupleDescAttr(row->tts_tupleDescriptor, attnums[i] - 1);
		bool isnull;
		Datum value = slot_getattr(row, attnums[i], &isnull);
		Oid output;
		bool varlena;

		getTypeOutputInfo(att->atttypid, &output, &varlena);
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "",
						 NameStr(att->attname));
		appendStringInfo(&values, "%s%s", i > 0 ? ", " : "",
						 isnull ? "null"
								: OidOutputFunctionCall(output, value));
	}
	return psprintf("(%s)=(%s)", names.data, values.data);
}

/*
 * The definition of a table in one short text.  Where rows written before a
 * column was added find its default is not part of it: VACUUM FULL, which may
 * come at any time, puts it into the rows.
 */
char *
refit_shape_fingerprint(Oid relid)
{
	static const char *const query =
		"SELECT md5(coalesce(string_agg(x.t, E'\\n' ORDER BY x.t), '')) FROM ("
		" SELECT 'a' || concat_ws('|', attnum, attname, atttypid, atttypmod,"
		"  attcollation, attnotnull, attisdropped, attidentity, attgenerated,"
		"  attlen, attalign, attislocal, attinhcount) AS t"
		" FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0"
		" UNION ALL SELECT 'd' || adnum || adbin::text FROM pg_catalog.pg_attrdef"
		" WHERE adrelid = $1"
		" UNION ALL SELECT 'i' || concat_ws('|', i.indexrelid, i.indkey,"
		"  i.indclass, i.indcollation, i.indoption, i.indisunique,"
		"  i.indimmediate, i.indnkeyatts, i.indexprs::text, i.indpred::text,"
		"  i.indisvalid, i.indisready)"
		" FROM pg_catalog.pg_index i WHERE i.indrelid = $1"
		" UNION ALL SELECT 'c' || concat_ws('|', oid, conname, contype,"
		"  condeferrable, condeferred, conkey, confrelid,"
		"  confkey, conbin::text)"
		" FROM pg_catalog.pg_constraint WHERE conrelid = $1"
		" UNION ALL SELECT 'r' || concat_ws('|', relam, relpersistence, relkind,"
		"  reltablespace, relowner, reltoastrelid <> 0, relispartition,"
		"  pg_get_expr(relpartbound, oid))"
		" FROM pg_catalog.pg_class WHERE oid = $1"
		" UNION ALL SELECT 'h' || concat_ws('|', inhrelid, inhdetachpending)"
		" FROM pg_catalog.pg_inherits WHERE inhparent = $1) x";
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relid)};

	return refit_sql_text(query, 1, types, values);
}

/* What helps against a change of others. */
char *
refit_shape_hint(const RefitMigration *m)
{
	if (m->rewrite.reversed)
		return psprintf("End the window with refit.finish(" INT64_FORMAT ").",
						m->id);
	return psprintf("Start it again with refit.retry(" INT64_FORMAT ").",
					m->id);
}

/* An ERROR when the leaf is not what the plan was made for. */
void
refit_shape_check(const RefitMigration *m)
{
	if (strcmp(refit_shape_fingerprint(m->leaf), m->rewrite.fingerprint) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the definition of %s was changed while its migration "
						"was running",
						refit_qualified_name(m->leaf)),
				 errdetail("The work done so far was made for the old "
						   "definition."),
				 errhint("%s", refit_shape_hint(m))));
}

/* Leaves the mark that a crash removes. */
void
refit_shape_mark_unlogged(const RefitMigration *m)
{
	Relation blank = table_open(m->rewrite.blank, /* private: */
								AccessExclusiveLock);

	if (blank->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED &&
		RelationGetNumberOfBlocks(blank) == 0)
		(void) refit_extend_by_page(blank);
	table_close(blank, NoLock);
}

/* Has a crash removed it? */
bool
refit_shape_was_emptied(const RefitMigration *m)
{
	Relation blank = table_open(m->rewrite.blank, AccessShareLock);
	bool result = blank->rd_rel->relpersistence == RELPERSISTENCE_UNLOGGED &&
				  RelationGetNumberOfBlocks(blank) == 0;

	table_close(blank, NoLock);
	return result;
}
