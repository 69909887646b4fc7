/*-------------------------------------------------------------------------
 *
 * row.c
 *	  The indexes that a migration builds: rows of refit.index_build.
 *
 * See row.h.  Statements run as the bootstrap superuser.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "index/row.h"
#include "util/baseline.h"
#include "util/sqlutil.h"

/* Columns of the query in load_rows, in order. */
enum RowColumn
{
	LOAD_NUMBER = 1,
	LOAD_RELID,
	LOAD_IS_LEAF,
	LOAD_PARENT,
	LOAD_TARGET,
	LOAD_INDEX,
	LOAD_STATE,
	LOAD_BASELINE,
	LOAD_BEGIN_LSN,
	LOAD_BEGIN_XID,
	LOAD_FILENODE,
	LOAD_BLOCKS,
	LOAD_NEXT,
	LOAD_REACH,
	LOAD_LOOKING_TO,
	LOAD_WORKER,
	LOAD_ENTRIES
};

/* Plans an index. */
void
refit_index_row_plan(const RefitMigration *m, const RefitIndexRow *row)
{
	Oid types[5] = {INT8OID, OIDOID, BOOLOID, OIDOID, OIDOID};
	Datum values[5] = {Int64GetDatum(m->id), ObjectIdGetDatum(row->relid),
					   BoolGetDatum(row->is_leaf),
					   ObjectIdGetDatum(row->parent),
					   ObjectIdGetDatum(row->target)};

	SPI_connect();
	refit_sql("INSERT INTO refit.index_build (id, number, relid, is_leaf,"
			  " parent, target) SELECT $1, 1 + coalesce(max(number), 0), $2,"
			  " $3, $4, $5 FROM refit.index_build WHERE id = $1",
			  5, types, values, NULL);
	SPI_finish();
}

/* A column of a row as a number. */
static int64
number_of(uint64 i, int column)
{
	return strtoll(
		SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column),
		NULL, 10);
}

/* A column of a row as text, in the present memory context. */
static char *
text_of(uint64 i, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column);
}

/* Fills a row from a row of the query. */
static RefitIndexRow *
read_row(uint64 i)
{
	RefitIndexRow *row = palloc0(sizeof(RefitIndexRow));
	char *baseline = text_of(i, LOAD_BASELINE);

	row->number = (int) number_of(i, LOAD_NUMBER);
	row->relid = (Oid) number_of(i, LOAD_RELID);
	row->is_leaf = number_of(i, LOAD_IS_LEAF) != 0;
	row->parent = (Oid) number_of(i, LOAD_PARENT);
	row->target = (Oid) number_of(i, LOAD_TARGET);
	row->index = (Oid) number_of(i, LOAD_INDEX);
	row->state = text_of(i, LOAD_STATE);
	row->begin_lsn = (XLogRecPtr) number_of(i, LOAD_BEGIN_LSN);
	row->begin_xid = (uint64) number_of(i, LOAD_BEGIN_XID);
	row->filenode = (Oid) number_of(i, LOAD_FILENODE);
	row->blocks = number_of(i, LOAD_BLOCKS);
	row->next = number_of(i, LOAD_NEXT);
	row->reach = number_of(i, LOAD_REACH);
	row->looking_to = number_of(i, LOAD_LOOKING_TO);
	row->worker = text_of(i, LOAD_WORKER);
	row->entries = number_of(i, LOAD_ENTRIES);
	if (baseline != NULL)
		refit_baseline_parse(&row->baseline, baseline);
	return row;
}

/* The migration's rows in that state, or all, in order. */
static List *
load_rows(const RefitMigration *m, const char *state, int most)
{
	Oid types[3] = {INT8OID, TEXTOID, INT4OID};
	Datum values[3] = {Int64GetDatum(m->id), (Datum) 0, Int32GetDatum(most)};
	bool nulls[3] = {false, state == NULL, false};
	MemoryContext caller = CurrentMemoryContext;
	List *rows = NIL;

	if (state != NULL)
		values[1] = CStringGetTextDatum(state);
	SPI_connect();
	refit_sql("SELECT number, relid::int8, is_leaf::int4, parent::int8,"
			  " target::int8, index::int8, state, baseline,"
			  " coalesce(begin_lsn - '0/0', 0)::int8, begin_xid,"
			  " filenode::int8, blocks, next_block, reach, looking_to, worker,"
			  " entries FROM refit.index_build WHERE id = $1"
			  " AND ($2 IS NULL OR state = $2) ORDER BY number LIMIT $3",
			  3, types, values, nulls);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);

		rows = lappend(rows, read_row(i));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return rows;
}

/* The first one in that state, or NULL. */
RefitIndexRow *
refit_index_row_next(const RefitMigration *m, const char *state)
{
	List *rows = load_rows(m, state, 1);

	return rows == NIL ? NULL : linitial(rows);
}

/* All of them. */
List *
refit_index_row_list(const RefitMigration *m)
{
	return load_rows(m, NULL, PG_INT32_MAX);
}

/* Writes a row. */
void
refit_index_row_save(const RefitMigration *m, const RefitIndexRow *row)
{
	Oid types[14] = {INT8OID, INT4OID, OIDOID,	TEXTOID, TEXTOID,
					 LSNOID,  INT8OID, OIDOID,	INT8OID, INT8OID,
					 INT8OID, INT8OID, TEXTOID, INT8OID};
	Datum values[14];
	bool nulls[14] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = Int32GetDatum(row->number);
	values[2] = ObjectIdGetDatum(row->index);
	values[3] = CStringGetTextDatum(row->state);
	nulls[4] = row->baseline.xmax == InvalidTransactionId;
	values[4] = nulls[4]
					? (Datum) 0
					: CStringGetTextDatum(refit_baseline_print(&row->baseline));
	values[5] = LSNGetDatum(row->begin_lsn);
	values[6] = Int64GetDatum((int64) row->begin_xid);
	values[7] = ObjectIdGetDatum(row->filenode);
	values[8] = Int64GetDatum(row->blocks);
	values[9] = Int64GetDatum(row->next);
	values[10] = Int64GetDatum(row->reach);
	values[11] = Int64GetDatum(row->looking_to);
	values[12] = CStringGetTextDatum(row->worker);
	values[13] = Int64GetDatum(row->entries);
	SPI_connect();
	refit_sql("UPDATE refit.index_build SET index = $3, state = $4,"
			  " baseline = $5, begin_lsn = $6, begin_xid = $7, filenode = $8,"
			  " blocks = $9, next_block = $10, reach = $11, looking_to = $12,"
			  " worker = $13, entries = $14 WHERE id = $1 AND number = $2",
			  14, types, values, nulls);
	SPI_finish();
}

/* Forgets one. */
void
refit_index_row_delete(const RefitMigration *m, int number)
{
	Oid types[2] = {INT8OID, INT4OID};
	Datum values[2] = {Int64GetDatum(m->id), Int32GetDatum(number)};

	SPI_connect();
	refit_sql("WITH d AS (DELETE FROM refit.index_doubt WHERE id = $1"
			  " AND number = $2) DELETE FROM refit.index_build WHERE id = $1"
			  " AND number = $2",
			  2, types, values, NULL);
	SPI_finish();
}

/* Forgets all. */
void
refit_index_row_delete_all(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("WITH d AS (DELETE FROM refit.index_doubt WHERE id = $1)"
			  " DELETE FROM refit.index_build WHERE id = $1",
			  1, types, values, NULL);
	SPI_finish();
}

/* How far the walks are, all together. */
void
refit_index_row_sum(RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	RefitProgress *p = &m->progress;
	int64 done;
	int64 total;

	SPI_connect();
	refit_sql("SELECT sum(least(next_block, blocks))::int8, sum(blocks)::int8,"
			  " sum(entries)::int8 FROM refit.index_build WHERE id = $1",
			  1, types, values, NULL);
	done = number_of(0, 1);
	total = number_of(0, 2);
	p->rows_done = number_of(0, 3);
	SPI_finish();
	p->cursor = done;
	p->cursor_end = total;
	p->bytes_done = done * BLCKSZ;
	p->bytes_total = total * BLCKSZ;
	if (done > 0 && p->rows_done > 0)
		p->rows_total = (int64) ((double) p->rows_done * total / done);
}

/* Adds a list of blocks. */
void
refit_index_row_doubt(const RefitMigration *m, const RefitIndexRow *row,
					  List *blocks)
{
	Oid types[3] = {INT8OID, INT4OID, INT8ARRAYOID};
	Datum values[3] = {Int64GetDatum(m->id), Int32GetDatum(row->number)};
	Datum *elements;
	ListCell *lc;

	if (blocks == NIL)
		return;
	elements = palloc(sizeof(Datum) * list_length(blocks));
	foreach(lc, blocks)
		elements[foreach_current_index(lc)] =
			Int64GetDatum((int64) lfirst_oid(lc));
	values[2] = PointerGetDatum(
		construct_array(elements, list_length(blocks), INT8OID, sizeof(int64),
						FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	SPI_connect();
	refit_sql("INSERT INTO refit.index_doubt (id, number, blocks)"
			  " VALUES ($1, $2, $3)",
			  3, types, values, NULL);
	SPI_finish();
}

/* Are there blocks in doubt? */
bool
refit_index_row_has_doubts(const RefitMigration *m, const RefitIndexRow *row)
{
	Oid types[2] = {INT8OID, INT4OID};
	Datum values[2] = {Int64GetDatum(m->id), Int32GetDatum(row->number)};

	return refit_sql_text("SELECT 1 FROM refit.index_doubt WHERE id = $1"
						  " AND number = $2 LIMIT 1",
						  2, types, values) != NULL;
}

/* Takes some lists; as an oid list of blocks in order, NIL: there is none. */
List *
refit_index_row_take_doubts(const RefitMigration *m, const RefitIndexRow *row,
							int lists)
{
	Oid types[3] = {INT8OID, INT4OID, INT4OID};
	Datum values[3] = {Int64GetDatum(m->id), Int32GetDatum(row->number),
					   Int32GetDatum(lists)};
	MemoryContext caller = CurrentMemoryContext;
	List *blocks = NIL;

	SPI_connect();
	refit_sql("WITH d AS (DELETE FROM refit.index_doubt WHERE id = $1"
			  " AND number = $2 AND chunk IN (SELECT chunk"
			  "  FROM refit.index_doubt WHERE id = $1 AND number = $2"
			  "  ORDER BY chunk LIMIT $3) RETURNING blocks)"
			  " SELECT DISTINCT b FROM d, unnest(blocks) b ORDER BY b",
			  3, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Oid block = (Oid) number_of(i, 1);
		MemoryContext old = MemoryContextSwitchTo(caller);

		blocks = lappend_oid(blocks, block);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return blocks;
}

/* Who is waited for. */
char *
refit_index_row_waits(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	return refit_sql_text("SELECT waits FROM refit.index_build WHERE id = $1"
						  " ORDER BY number LIMIT 1",
						  1, types, values);
}

/* Writes down who is waited for. */
void
refit_index_row_save_waits(const RefitMigration *m, const char *waits)
{
	Oid types[2] = {INT8OID, TEXTOID};
	Datum values[2] = {Int64GetDatum(m->id), CStringGetTextDatum(waits)};

	SPI_connect();
	refit_sql("UPDATE refit.index_build SET waits = $2 WHERE id = $1", 2, types,
			  values, NULL);
	SPI_finish();
}
