/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Rows of the bookkeeping tables as structs, and back.
 *
 * See catalog.h.  A progress row is written with every chunk, in the chunk's
 * own transaction: an update of unindexed columns in a page with room, so a
 * HOT update of some hundred bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "job/catalog.h"
#include "util/baseline.h"
#include "util/sqlutil.h"

/* Tries for locks that are kept of one migration. */
#define MOST_LOCK_TRIES 1000

/* Columns of the query in refit_catalog_load, in order. */
enum LoadColumn
{
	LOAD_NAME = 1,
	LOAD_KIND,
	LOAD_RELID,
	LOAD_RELATION,
	LOAD_DEFINITION,
	LOAD_STRATEGY,
	LOAD_STATE,
	LOAD_PHASE,
	LOAD_REQUEST,
	LOAD_GOAL,
	LOAD_CUTOVER,
	LOAD_SEARCH_PATH,
	LOAD_OPTIONS,
	LOAD_CUTOVER_ATTEMPTS,
	LOAD_CUTOVER_LOCK_MS,
	LOAD_CURSOR,
	LOAD_CURSOR_END,
	LOAD_ROWS_DONE,
	LOAD_ROWS_TOTAL,
	LOAD_BYTES_DONE,
	LOAD_BYTES_TOTAL,
	LOAD_PENDING,
	LOAD_RATE,
	LOAD_BUDGET_MS,
	LOAD_ERRORS,
	LOAD_THROTTLED_BY,
	LOAD_DEATHS,
	LOAD_WORKER_PID,
	LOAD_SAID,
	LOAD_VERIFY,
	LOAD_REVERTIBLE,
	LOAD_LEAF,
	LOAD_LEAVES,
	LOAD_LEAF_NUMBER,
	LOAD_STANDS_STILL,
	LOAD_OBJECT,
	LOAD_METHOD,
	LOAD_SUBMITTED_BY
};

/* Columns of the query in load_rewrites, in order. */
enum RewriteColumn
{
	LOAD_REWRITE_RELID = 1,
	LOAD_NUMBER,
	LOAD_TWIN,
	LOAD_BLANK,
	LOAD_KEY_INDEX,
	LOAD_TRIGGER,
	LOAD_TRIGGER_XMIN,
	LOAD_LOG0,
	LOAD_LOG1,
	LOAD_FILENODE,
	LOAD_SOURCE_BLOCKS,
	LOAD_COPIED_BLOCKS,
	LOAD_COPIED_ROWS,
	LOAD_TWIN_BLOCKS,
	LOAD_TOAST_BLOCKS,
	LOAD_FINGERPRINT,
	LOAD_BASELINE,
	LOAD_SUSPECTS,
	LOAD_VERIFY_STATE,
	LOAD_VERIFY_FILENODE,
	LOAD_VERIFY_SOURCE,
	LOAD_VERIFY_TWIN,
	LOAD_VERIFY_ROWS,
	LOAD_VERIFY_SKIPPED,
	LOAD_VERIFY_WALKS,
	LOAD_VERIFIED,
	LOAD_DISCREPANCIES,
	LOAD_FINDING,
	LOAD_REVERSED,
	LOAD_INVERSE,
	LOAD_BACK_LOG0,
	LOAD_BACK_LOG1,
	LOAD_BACK_SUSPECTS
};

/* A column of a row as text in the given context, or NULL. */
static char *
row_text(uint64 row, MemoryContext context, int column)
{
	char *value =
		SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value == NULL ? NULL : MemoryContextStrdup(context, value);
}

/* A column of a row as a number; 0 where it is NULL. */
static int64
row_int(uint64 row, int column)
{
	char *value =
		SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value == NULL ? 0 : strtoll(value, NULL, 10);
}

/* A column of the first row as text in the given context, or NULL. */
static char *
load_text(MemoryContext context, int column)
{
	return row_text(0, context, column);
}

/* A column of the first row as a number; 0 where it is NULL. */
static int64
load_int(int column)
{
	return row_int(0, column);
}

/* A column of the first row as a float; what is given where it is NULL. */
static double
load_float(int column, double otherwise)
{
	char *value =
		SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value == NULL ? otherwise : strtod(value, NULL);
}

/* Fills how far the verification is. */
static void
load_verification(RefitRewrite *r, uint64 row, MemoryContext context)
{
	r->suspects = row_int(row, LOAD_SUSPECTS);
	r->verify = row_text(row, context, LOAD_VERIFY_STATE);
	r->verify_filenode = row_int(row, LOAD_VERIFY_FILENODE);
	r->verify_source = row_int(row, LOAD_VERIFY_SOURCE);
	r->verify_twin = row_int(row, LOAD_VERIFY_TWIN);
	r->verify_rows = row_int(row, LOAD_VERIFY_ROWS);
	r->verify_skipped = row_int(row, LOAD_VERIFY_SKIPPED);
	r->verify_walks = row_int(row, LOAD_VERIFY_WALKS);
	r->verified = row_int(row, LOAD_VERIFIED);
	r->discrepancies = row_int(row, LOAD_DISCREPANCIES);
	r->finding = row_text(row, context, LOAD_FINDING);
}

/* Fills what the revert window needs. */
static void
load_inverse(RefitRewrite *r, uint64 row, MemoryContext context)
{
	r->reversed = row_int(row, LOAD_REVERSED) != 0;
	r->target = r->reversed ? r->blank : r->twin;
	r->inverse = row_text(row, context, LOAD_INVERSE);
	r->back_logs[0] = row_int(row, LOAD_BACK_LOG0);
	r->back_logs[1] = row_int(row, LOAD_BACK_LOG1);
	r->back_suspects = row_int(row, LOAD_BACK_SUSPECTS);
}

/* Fills a rewrite from a row of refit.rewrite. */
static void
load_rewrite(RefitRewrite *r, uint64 row, MemoryContext context)
{
	char *baseline = row_text(row, context, LOAD_BASELINE);

	r->exists = true;
	r->number = row_int(row, LOAD_NUMBER);
	r->twin = row_int(row, LOAD_TWIN);
	r->blank = row_int(row, LOAD_BLANK);
	r->key_index = row_int(row, LOAD_KEY_INDEX);
	r->trigger = row_int(row, LOAD_TRIGGER);
	r->trigger_xmin = row_int(row, LOAD_TRIGGER_XMIN);
	r->logs[0] = row_int(row, LOAD_LOG0);
	r->logs[1] = row_int(row, LOAD_LOG1);
	r->filenode = row_int(row, LOAD_FILENODE);
	r->source_blocks = row_int(row, LOAD_SOURCE_BLOCKS);
	r->copied_blocks = row_int(row, LOAD_COPIED_BLOCKS);
	r->copied_rows = row_int(row, LOAD_COPIED_ROWS);
	r->twin_blocks = row_int(row, LOAD_TWIN_BLOCKS);
	r->toast_blocks = row_int(row, LOAD_TOAST_BLOCKS);
	r->fingerprint = row_text(row, context, LOAD_FINGERPRINT);
	load_verification(r, row, context);
	load_inverse(r, row, context);
	if (baseline != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		refit_baseline_parse(&r->baseline, baseline);
		MemoryContextSwitchTo(old);
	}
}

/* Fills the part that comes from refit.migration_progress. */
static void
load_progress(RefitProgress *p, MemoryContext context)
{
	p->cursor = load_int(LOAD_CURSOR);
	p->cursor_end = load_int(LOAD_CURSOR_END);
	p->rows_done = load_int(LOAD_ROWS_DONE);
	p->rows_total = load_int(LOAD_ROWS_TOTAL);
	p->bytes_done = load_int(LOAD_BYTES_DONE);
	p->bytes_total = load_int(LOAD_BYTES_TOTAL);
	p->pending = load_int(LOAD_PENDING);
	p->rate = load_float(LOAD_RATE, 0);
	p->budget_ms = load_int(LOAD_BUDGET_MS);
	p->errors = load_int(LOAD_ERRORS);
	p->deaths = load_int(LOAD_DEATHS);
	p->stands_still = load_int(LOAD_STANDS_STILL) != 0;
	p->worker_pid = load_int(LOAD_WORKER_PID);
	p->throttled_by = load_text(context, LOAD_THROTTLED_BY);
	p->said = load_text(context, LOAD_SAID);
}

/* Fills the part that comes from refit.migration. */
static void
load_migration(RefitMigration *m, MemoryContext context)
{
	char *options = load_text(context, LOAD_OPTIONS);
	MemoryContext old;

	m->name = load_text(context, LOAD_NAME);
	m->kind = load_text(context, LOAD_KIND);
	m->relid = load_int(LOAD_RELID);
	m->relation = load_text(context, LOAD_RELATION);
	m->definition = load_text(context, LOAD_DEFINITION);
	m->object = load_int(LOAD_OBJECT);
	m->method = load_text(context, LOAD_METHOD);
	m->strategy = load_text(context, LOAD_STRATEGY);
	m->state = load_text(context, LOAD_STATE);
	m->phase = load_text(context, LOAD_PHASE);
	m->request = load_text(context, LOAD_REQUEST);
	m->goal = load_text(context, LOAD_GOAL);
	m->cutover = load_text(context, LOAD_CUTOVER);
	m->verify = load_text(context, LOAD_VERIFY);
	m->revertible = load_int(LOAD_REVERTIBLE) != 0;
	m->search_path = load_text(context, LOAD_SEARCH_PATH);
	m->submitted_by = load_text(context, LOAD_SUBMITTED_BY);
	m->cutover_attempts = load_int(LOAD_CUTOVER_ATTEMPTS);
	m->cutover_lock_ms = load_float(LOAD_CUTOVER_LOCK_MS, -1);

	old = MemoryContextSwitchTo(context);
	m->options =
		DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(options)));
	MemoryContextSwitchTo(old);
}

/* The rows of a migration with a number in a range, in order of it. */
static List *
load_rewrites(int64 id, int first, int last)
{
	Oid types[3] = {INT8OID, INT4OID, INT4OID};
	Datum values[3] = {Int64GetDatum(id), Int32GetDatum(first),
					   Int32GetDatum(last)};
	MemoryContext context = CurrentMemoryContext;
	List *leaves = NIL;

	SPI_connect();
	refit_sql(
		"SELECT relid::int8, number, twin::int8, blank::int8,"
		" key_index::int8, trigger::int8, trigger_xmin, log0::int8,"
		" log1::int8, filenode::int8, source_blocks, copied_blocks,"
		" copied_rows, twin_blocks, toast_blocks, fingerprint, baseline,"
		" suspects::int8, verify, verify_filenode::int8, verify_source,"
		" verify_twin, verify_rows, verify_skipped, verify_walks, verified,"
		" discrepancies, finding, reversed::int4, inverse,"
		" back_log0::int8, back_log1::int8, back_suspects::int8"
		" FROM refit.rewrite WHERE id = $1 AND number BETWEEN $2 AND $3"
		" ORDER BY number, relid",
		3, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		RefitLeaf *leaf = palloc0(sizeof(RefitLeaf));

		leaf->relid = row_int(i, LOAD_REWRITE_RELID);
		load_rewrite(&leaf->rewrite, i, context);
		leaves = lappend(leaves, leaf);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return leaves;
}

/* The tables with rows, in their order. */
List *
refit_catalog_leaves(const RefitMigration *m)
{
	return load_rewrites(m->id, 1, PG_INT32_MAX);
}

/* Members of the tree that need no rewrite: partitioned ones, for example. */
List *
refit_catalog_parents(const RefitMigration *m)
{
	return load_rewrites(m->id, 0, 0);
}

/* Makes a leaf the one that is worked. */
void
refit_catalog_use_leaf(RefitMigration *m, const RefitLeaf *leaf)
{
	m->leaf = leaf->relid;
	m->rewrite = leaf->rewrite;
}

/* Goes to the leaf of that number; false: there is none. */
bool
refit_catalog_select_leaf(RefitMigration *m, int number)
{
	List *found = load_rewrites(m->id, number, number);

	if (found == NIL)
		return false;
	refit_catalog_use_leaf(m, linitial(found));
	return true;
}

/* Makes a leaf to copy the one at work, keeping other processes from it. */
static bool
lock_leaf(RefitMigration *m, const char *sql, int argument)
{
	Oid types[2] = {INT8OID, INT4OID};
	Datum values[2] = {Int64GetDatum(m->id), Int32GetDatum(argument)};
	char *found = refit_sql_text(sql, 2, types, values);

	/* as the one who had it until now has left it */
	return found != NULL && refit_catalog_select_leaf(m, atoi(found));
}

/* A leaf by its number. */
bool
refit_catalog_lock_leaf(RefitMigration *m, int number)
{
	return lock_leaf(m,
					 "SELECT number FROM refit.rewrite WHERE id = $1"
					 " AND number = $2 FOR UPDATE SKIP LOCKED",
					 number);
}

/* One that the leader (0) or a helper has begun; see share.h. */
bool
refit_catalog_lock_begun(RefitMigration *m, int pid)
{
	return lock_leaf(m,
					 "SELECT number FROM refit.rewrite WHERE id = $1"
					 " AND helper = $2 AND number > 0"
					 " AND copied_blocks < source_blocks"
					 " ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED",
					 pid);
}

/* Reads a migration with its progress and rewrite rows. */
RefitMigration *
refit_catalog_load(int64 id)
{
	static const char *const query =
		"SELECT m.name, m.kind, m.relid::int8, m.relation, m.definition,"
		" m.strategy, m.state, m.phase, m.request, m.goal, m.cutover,"
		" m.search_path, m.options, m.cutover_attempts, m.cutover_lock_ms,"
		" p.cursor, p.cursor_end, p.rows_done, p.rows_total, p.bytes_done,"
		" p.bytes_total, p.pending, p.rate, p.budget_ms, p.errors,"
		" p.throttled_by, p.deaths, p.worker_pid, p.message, m.verify,"
		" (m.revertible > interval '0')::int4,"
		" coalesce(p.leaf, m.relid)::int8,"
		" (SELECT count(*) FROM refit.rewrite r WHERE r.id = m.id"
		"  AND r.number > 0),"
		" (SELECT number FROM refit.rewrite r WHERE r.id = m.id"
		"  AND r.relid = coalesce(p.leaf, m.relid)), p.stands_still::int4,"
		" m.object::int8, m.method, m.submitted_by"
		" FROM refit.migration m LEFT JOIN refit.migration_progress p USING (id)"
		" WHERE m.id = $1";
	MemoryContext context = CurrentMemoryContext;
	RefitMigration *m = NULL;
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(id)};
	int number = 0;

	SPI_connect();
	if (refit_sql(query, 1, types, values, NULL) > 0)
	{
		m = MemoryContextAllocZero(context, sizeof(RefitMigration));
		m->id = id;
		load_migration(m, context);
		load_progress(&m->progress, context);
		m->leaf = load_int(LOAD_LEAF);
		m->nleaves = load_int(LOAD_LEAVES);
		number = load_int(LOAD_LEAF_NUMBER);
	}
	SPI_finish();
	if (number > 0)
		(void) refit_catalog_select_leaf(m, number);
	return m;
}

/* A text parameter that may be NULL. */
static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/* Writes the progress row. */
void
refit_catalog_save_progress(const RefitMigration *m)
{
	const RefitProgress *p = &m->progress;
	Oid types[18] = {INT8OID, INT8OID, INT8OID,	  INT8OID, INT8OID, INT8OID,
					 INT8OID, INT8OID, FLOAT8OID, INT4OID, INT4OID, TEXTOID,
					 TEXTOID, TEXTOID, INT4OID,	  INT4OID, OIDOID,	BOOLOID};
	Datum values[18];
	bool nulls[18] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = Int64GetDatum(p->cursor);
	values[2] = Int64GetDatum(p->cursor_end);
	values[3] = Int64GetDatum(p->rows_done);
	values[4] = Int64GetDatum(p->rows_total);
	values[5] = Int64GetDatum(p->bytes_done);
	values[6] = Int64GetDatum(p->bytes_total);
	values[7] = Int64GetDatum(p->pending);
	values[8] = Float8GetDatum(p->rate);
	values[9] = Int32GetDatum(p->budget_ms);
	values[10] = Int32GetDatum(p->errors);
	values[11] = text_or_null(p->throttled_by, &nulls[11]);
	values[12] = text_or_null(p->waiting_for, &nulls[12]);
	values[13] = text_or_null(p->message, &nulls[13]);
	values[14] = Int32GetDatum(MyProcPid);
	values[15] = Int32GetDatum(p->deaths);
	values[16] = ObjectIdGetDatum(m->leaf);
	nulls[16] = m->leaf == m->relid;
	values[17] = BoolGetDatum(p->stands_still);

	SPI_connect();
	refit_sql(
		"UPDATE refit.migration_progress SET cursor = $2,"
		" cursor_end = $3, rows_done = $4, rows_total = $5,"
		" bytes_done = $6, bytes_total = $7, pending = $8, rate = $9,"
		" budget_ms = $10, errors = $11, throttled_by = $12,"
		" waiting_for = $13, message = $14, worker_pid = $15, deaths = $16,"
		" leaf = $17, stands_still = $18,"
		" updated_at = pg_catalog.clock_timestamp() WHERE id = $1",
		18, types, values, nulls);
	SPI_finish();
}

/* Writes how far the verification of the leaf is. */
static void
save_verification(const RefitMigration *m)
{
	const RefitRewrite *r = &m->rewrite;
	Oid types[13] = {INT8OID, OIDOID,  TEXTOID, OIDOID,	 INT8OID,
					 INT8OID, INT8OID, INT8OID, INT4OID, INT8OID,
					 INT8OID, TEXTOID, OIDOID};
	Datum values[13];
	bool nulls[13] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(r->suspects);
	values[2] = CStringGetTextDatum(r->verify != NULL ? r->verify : "walking");
	values[3] = ObjectIdGetDatum(r->verify_filenode);
	values[4] = Int64GetDatum(r->verify_source);
	values[5] = Int64GetDatum(r->verify_twin);
	values[6] = Int64GetDatum(r->verify_rows);
	values[7] = Int64GetDatum(r->verify_skipped);
	values[8] = Int32GetDatum(r->verify_walks);
	values[9] = Int64GetDatum(r->verified);
	values[10] = Int64GetDatum(r->discrepancies);
	values[11] = text_or_null(r->finding, &nulls[11]);
	values[12] = ObjectIdGetDatum(m->leaf);

	SPI_connect();
	refit_sql("UPDATE refit.rewrite SET suspects = $2, verify = $3,"
			  " verify_filenode = $4, verify_source = $5, verify_twin = $6,"
			  " verify_rows = $7, verify_skipped = $8, verify_walks = $9,"
			  " verified = $10, discrepancies = $11, finding = $12"
			  " WHERE id = $1 AND relid = $13",
			  13, types, values, nulls);
	SPI_finish();
}

/* Writes what the revert window needs. */
static void
save_inverse(const RefitMigration *m)
{
	const RefitRewrite *r = &m->rewrite;
	Oid types[7] = {INT8OID, BOOLOID, TEXTOID, OIDOID, OIDOID, OIDOID, OIDOID};
	Datum values[7];
	bool nulls[7] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = BoolGetDatum(r->reversed);
	values[2] = text_or_null(r->inverse, &nulls[2]);
	values[3] = ObjectIdGetDatum(r->back_logs[0]);
	values[4] = ObjectIdGetDatum(r->back_logs[1]);
	values[5] = ObjectIdGetDatum(r->back_suspects);
	values[6] = ObjectIdGetDatum(m->leaf);
	SPI_connect();
	refit_sql("UPDATE refit.rewrite SET reversed = $2, inverse = $3,"
			  " back_log0 = $4, back_log1 = $5, back_suspects = $6"
			  " WHERE id = $1 AND relid = $7",
			  7, types, values, nulls);
	SPI_finish();
}

/* Writes the rewrite row of the leaf; makes it where there is none yet. */
void
refit_catalog_save_rewrite(const RefitMigration *m)
{
	const RefitRewrite *r = &m->rewrite;
	Oid types[19] = {INT8OID, OIDOID,  OIDOID,	OIDOID, OIDOID,
					 INT8OID, OIDOID,  OIDOID,	OIDOID, INT8OID,
					 INT8OID, TEXTOID, TEXTOID, OIDOID, TEXTOID,
					 INT4OID, INT8OID, INT8OID, INT8OID};
	Datum values[19];
	bool nulls[19] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(r->twin);
	values[2] = ObjectIdGetDatum(r->blank);
	values[3] = ObjectIdGetDatum(r->key_index);
	values[4] = ObjectIdGetDatum(r->trigger);
	values[5] = Int64GetDatum((int64) r->trigger_xmin);
	values[6] = ObjectIdGetDatum(r->logs[0]);
	values[7] = ObjectIdGetDatum(r->logs[1]);
	values[8] = ObjectIdGetDatum(r->filenode);
	values[9] = Int64GetDatum(r->twin_blocks);
	values[10] = Int64GetDatum(r->toast_blocks);
	values[11] = CStringGetTextDatum(r->fingerprint);
	values[12] = text_or_null(
		OidIsValid(r->trigger) ? refit_baseline_print(&r->baseline) : NULL,
		&nulls[12]);
	values[13] = ObjectIdGetDatum(m->leaf);
	values[14] = CStringGetTextDatum(refit_qualified_name(m->leaf));
	values[15] = Int32GetDatum(r->number);
	values[16] = Int64GetDatum(r->source_blocks);
	values[17] = Int64GetDatum(r->copied_blocks);
	values[18] = Int64GetDatum(r->copied_rows);

	SPI_connect();
	refit_sql("INSERT INTO refit.rewrite AS r (id, twin, blank, key_index,"
			  " trigger, trigger_xmin, log0, log1, filenode, twin_blocks,"
			  " toast_blocks, fingerprint, baseline, relid, relation, number,"
			  " source_blocks, copied_blocks, copied_rows)"
			  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,"
			  "  $13, $14, $15, $16, $17, $18, $19)"
			  " ON CONFLICT (id, relid) DO UPDATE SET twin = $2, blank = $3,"
			  " key_index = $4, trigger = $5, trigger_xmin = $6, log0 = $7,"
			  " log1 = $8, filenode = $9, twin_blocks = $10,"
			  " toast_blocks = $11, fingerprint = $12, baseline = $13,"
			  " number = $16, source_blocks = $17, copied_blocks = $18,"
			  " copied_rows = $19",
			  19, types, values, nulls);
	SPI_finish();
	save_verification(m);
	save_inverse(m);
}

/* Tells how many rows were compared, and how many of them differed. */
void
refit_catalog_save_verified(RefitMigration *m)
{
	RefitProgress *p = &m->progress;
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("UPDATE refit.migration m SET verified_rows = r.verified,"
			  " discrepancies = r.discrepancies FROM (SELECT"
			  "  sum(verified) AS verified, sum(discrepancies) AS discrepancies"
			  "  FROM refit.rewrite WHERE id = $1) r WHERE m.id = $1",
			  1, types, values, NULL);
	refit_sql("SELECT sum(r.done)::int8, sum(greatest(r.copied_rows, r.done))"
			  " ::int8, sum(CASE WHEN r.verify = 'passed' THEN r.copied_blocks"
			  "  ELSE r.verify_source END)::int8, sum(r.copied_blocks)::int8"
			  " FROM (SELECT *, CASE WHEN verify = 'passed' THEN verified"
			  "  ELSE verify_rows + verify_skipped END AS done"
			  "  FROM refit.rewrite WHERE id = $1) r",
			  1, types, values, NULL);
	p->rows_done = load_int(1);
	p->rows_total = load_int(2);
	p->bytes_done = load_int(3) * BLCKSZ;
	p->bytes_total = load_int(4) * BLCKSZ;
	SPI_finish();
}

/* How far the copy of all leaves is. */
void
refit_catalog_sum_copied(RefitMigration *m)
{
	RefitProgress *p = &m->progress;
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	int64 done;
	int64 total;

	SPI_connect();
	refit_sql("SELECT sum(copied_rows)::int8, sum(copied_blocks)::int8,"
			  " sum(source_blocks)::int8 FROM refit.rewrite WHERE id = $1",
			  1, types, values, NULL);
	p->rows_done = load_int(1);
	done = load_int(2);
	total = load_int(3);
	SPI_finish();
	p->bytes_done = done * BLCKSZ;
	p->bytes_total = total * BLCKSZ;
	if (done > 0 && p->rows_done > 0)
		p->rows_total = (int64) ((double) p->rows_done * total / done);
}

/* The twin of the table that the user named. */
Oid
refit_catalog_root_twin(const RefitMigration *m)
{
	Oid types[2] = {INT8OID, OIDOID};
	Datum values[2] = {Int64GetDatum(m->id), ObjectIdGetDatum(m->relid)};
	char *text = refit_sql_text(
		"SELECT twin::int8 FROM refit.rewrite WHERE id = $1 AND relid = $2", 2,
		types, values);

	return text != NULL ? strtoul(text, NULL, 10) : InvalidOid;
}

/* Removes the rewrite rows, when the objects they name are gone. */
void
refit_catalog_delete_rewrite(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("WITH s AS (DELETE FROM refit.space WHERE id = $1)"
			  " DELETE FROM refit.rewrite WHERE id = $1",
			  1, types, values, NULL);
	SPI_finish();
}

/* Is it on its way to cancelled or failed? */
bool
refit_catalog_is_given_up(const RefitMigration *m)
{
	return m->goal != NULL && (strcmp(m->goal, "cancelled") == 0 ||
							   strcmp(m->goal, "failed") == 0);
}

/* Records something that happened. */
void
refit_catalog_event(const RefitMigration *m, const char *kind,
					const char *message, const char *detail)
{
	Oid types[5] = {INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[5];
	bool nulls[5] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = CStringGetTextDatum(kind);
	values[2] = text_or_null(m->phase, &nulls[2]);
	values[3] = CStringGetTextDatum(message);
	values[4] = text_or_null(detail, &nulls[4]);

	SPI_connect();
	refit_sql("INSERT INTO refit.event (migration_id, kind, phase, message,"
			  " detail) VALUES ($1, $2, $3, $4, $5::jsonb)",
			  5, types, values, nulls);
	SPI_finish();
}

/* Writes one try for locks. */
static void
save_lock_try(const RefitMigration *m, const RefitLockTry *try)
{
	Oid types[8] = {INT8OID,   TEXTOID, BOOLOID, FLOAT8OID,
					FLOAT8OID, TEXTOID, TEXTOID, TEXTOID};
	Datum values[8];
	bool nulls[8] = {false};

	values[0] = Int64GetDatum(m->id);
	values[1] = text_or_null(m->phase, &nulls[1]);
	values[2] = BoolGetDatum(try->granted);
	values[3] = Float8GetDatum(try->waited_ms);
	values[4] = Float8GetDatum(try->queued_ms);
	values[5] = CStringGetTextDatum(try->locks);
	values[6] = text_or_null(try->blocked_by, &nulls[6]);
	values[7] = text_or_null(try->behind, &nulls[7]);
	refit_sql("INSERT INTO refit.lock_attempt (migration_id, phase, granted,"
			  " waited_ms, queued_ms, locks, blocked_by, behind)"
			  " VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8::jsonb)",
			  8, types, values, nulls);
}

/*
 * Writes the tries for locks of this step, and forgets the oldest once in a
 * while: somebody may be in the way for days.
 */
void
refit_catalog_save_lock_tries(const RefitMigration *m)
{
	static int written = 0;
	Oid types[2] = {INT8OID, INT4OID};
	Datum values[2] = {Int64GetDatum(m->id), Int32GetDatum(MOST_LOCK_TRIES)};
	ListCell *lc;

	if (m->lock_tries == NIL)
		return;
	SPI_connect();
	foreach(lc, m->lock_tries)
		save_lock_try(m, lfirst(lc));
	written += list_length(m->lock_tries);
	if (written >= MOST_LOCK_TRIES / 10)
	{
		written = 0;
		refit_sql("DELETE FROM refit.lock_attempt WHERE migration_id = $1"
				  " AND at < (SELECT at FROM refit.lock_attempt"
				  "  WHERE migration_id = $1 ORDER BY at DESC OFFSET $2"
				  "  LIMIT 1)",
				  2, types, values, NULL);
	}
	SPI_finish();
}

/* The option's text, or NULL where the migration does not set it. */
char *
refit_catalog_option(const RefitMigration *m, const char *key)
{
	JsonbValue buf;
	JsonbValue *v =
		getKeyJsonValueFromContainer(&m->options->root, key, strlen(key), &buf);

	if (v == NULL || v->type == jbvNull)
		return NULL;
	if (v->type == jbvString)
		return pnstrdup(v->val.string.val, v->val.string.len);
	if (v->type == jbvNumeric)
		return DatumGetCString(
			DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
	if (v->type == jbvBool)
		return pstrdup(v->val.boolean ? "true" : "false");
	return NULL;
}

/* A duration in ms: the option, else the default. */
int
refit_catalog_option_ms(const RefitMigration *m, const char *key,
						int default_ms)
{
	char *text = refit_catalog_option(m, key);
	int result;

	if (text == NULL || !parse_int(text, &result, GUC_UNIT_MS, NULL))
		return default_ms;
	return result;
}
