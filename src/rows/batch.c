/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Passes that run a statement over a table's rows.  See batch.h.
 *
 * What dies here leaves a transaction undone, cursor and all.  What is done, with
 * the size of the next batch and how far the search for a failing row has come, is
 * in refit.pass.
 *
 * A row that was found to fail by itself is tried once more at the beginning of
 * the next chunk, so that what was done before it in this one is kept.
 *
 * Where the index that the pass goes by may have a key several times, all rows
 * with one key are done by one batch at least.  If that fails they are taken by
 * their positions, each half of them that fails in halves again: all in one
 * subtransaction around those of the halves, since the cursor cannot stand between
 * rows with the same key.
 *
 * Of several processes each works other parts; see worker.c.  A helper leaves a
 * part with a row that fails to the leader, whose error is the migration's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "job/catalog.h"
#include "job/share.h"
#include "pass/governor.h"
#include "rows/batch.h"
#include "rows/part.h"
#include "rows/route.h"
#include "util/attempt.h"
#include "util/fault.h"
#include "util/sqlutil.h"

/* ms that a batch is to take: somebody may wait for it. */
#define BATCH_MS 40.0

/* A batch grows to this many times the last one at most, and to so many rows. */
#define MOST_GROWTH 4.0
#define MOST_ROWS 1000000

/* Failures of one batch that may pass, before the search for a row begins. */
#define MOST_ERRORS 3

/* Rests in ms, before a batch is tried again. */
#define REST_SOON 200
#define REST_RETRY 1000

/* Between two looks, in ms, at the last parts, which helpers have. */
#define REST_HELPED 100

static const RefitShare parts = REFIT_SHARE("pass", "NOT done AND NOT poison");

/* Processes that a table is divided for. */
#define MOST_WORKERS 32

/* Rows that may be skipped unless the option says otherwise. */
#define MOST_SKIPPED 100

/* A chunk at work. */
typedef struct Chunk
{
	RefitMigration *m;
	RefitClauses *clauses;
	RefitPart *part;
	bool did_something;
	bool passing; /* the last failure may pass */

	/* the batch at hand */
	int64 size;
	Datum *first; /* of batched: its first key */
	Datum *end;	  /* its last key; NULL: the part's end */
	bool is_last; /* nothing of the part is behind it */
	bool is_empty;
	int64 touched;

	/* rows with the same key, by their positions */
	Datum *rows;
	int nrows;
	int first_row; /* those that are tried now */
	int row_count;
	bool is_group; /* the row at first_row is the one that fails */
} Chunk;

/*
 * One batch
 */

/* Copies a key behind others. */
static int
add_key(const RefitPart *part, const Datum *key, int n, Oid *types,
		Datum *values)
{
	for (int i = 0; i < part->nkeys; i++)
	{
		types[n] = part->types[i];
		values[n++] = key[i];
	}
	return n;
}

/* Asks for a key after the cursor: so many rows on, or the last one. */
static Datum *
find_key(Chunk *c, int64 rows, bool backwards)
{
	RefitPart *part = c->part;
	RefitEnds ends = {.low = part->low != NULL,
					  .high = part->high != NULL,
					  .by_where = part->by_where};
	Oid types[2 * INDEX_MAX_KEYS + 1];
	Datum values[2 * INDEX_MAX_KEYS + 1];
	int n = 0;

	if (ends.low)
		n = add_key(part, part->low, n, types, values);
	if (ends.high)
		n = add_key(part, part->high, n, types, values);
	if (!backwards)
	{
		types[n] = INT8OID;
		values[n++] = Int64GetDatum(rows);
	}
	return refit_part_fetch_key(part, c->clauses,
								refit_statement_bound(part->rel, c->clauses,
													  part->index, part->nkeys,
													  ends, backwards),
								n, types, values);
}

/* Finds where the batch ends. */
static void
find_end(Chunk *c)
{
	RefitPart *part = c->part;

	c->first = NULL;
	c->is_empty = false;
	if (part->nkeys == 0)
	{
		c->is_last = part->position + c->size >= part->position_end;
		return;
	}
	c->end = find_key(c, c->size - 1, false);
	c->is_last = c->end == NULL;
	if (c->clauses->statement != NULL)
	{
		c->first = find_key(c, 0, false);
		c->is_empty = c->first == NULL;
		if (c->is_last && !c->is_empty)
			c->end = find_key(c, 0, true);
	}
	else if (c->is_last && part->high != NULL)
		c->end = part->high;
}

/* Runs the batch's statement, by the user's search_path. */
static void
run_statement(Chunk *c, char *sql, int nargs, Oid *types, Datum *values)
{
	int guc_level = NewGUCNestLevel();
	SPIPlanPtr plan;

	refit_set_local("plan_cache_mode", "force_custom_plan");
	if (c->clauses->statement == NULL)
		refit_set_local("enable_seqscan", "off");
	refit_set_local("search_path", c->clauses->search_path);
	SPI_connect();
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL || SPI_execute_plan(plan, values, NULL, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\": %s", sql,
			 SPI_result_code_string(SPI_result));
	c->touched = SPI_processed;
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

/* The ends of a batch of keys, and their values; returns how many. */
static int
range_of_batch(const Chunk *c, RefitEnds *ends, Oid *types, Datum *values)
{
	const RefitPart *part = c->part;
	int n = 0;

	ends->low = part->low != NULL;
	ends->high = c->end != NULL;
	if (c->first != NULL)
		n = add_key(part, c->first, n, types, values);
	else if (ends->low)
		n = add_key(part, part->low, n, types, values);
	if (ends->high)
		n = add_key(part, c->end, n, types, values);
	return n;
}

/* A batch of keys. */
static void
run_keys(Chunk *c)
{
	RefitPart *part = c->part;
	RefitEnds ends = {0};
	Oid types[2 * INDEX_MAX_KEYS];
	Datum values[2 * INDEX_MAX_KEYS];
	int n = range_of_batch(c, &ends, types, values);

	run_statement(c,
				  refit_statement_batch(part->rel, c->clauses, part->index,
										part->nkeys, ends),
				  n, types, values);
}

/* A batch of positions. */
static void
run_positions(Chunk *c)
{
	RefitPart *part = c->part;
	RefitEnds ends = {true, true};
	Oid types[2] = {TIDOID, TIDOID};
	ItemPointerData tids[2];
	Datum values[2] = {PointerGetDatum(&tids[0]), PointerGetDatum(&tids[1])};

	refit_part_tid(part->position, &tids[0]);
	refit_part_tid(Min(part->position + c->size, part->position_end), &tids[1]);
	run_statement(
		c, refit_statement_batch(c->part->rel, c->clauses, NULL, 0, ends), 2,
		types, values);
}

/* One batch; for refit_attempt. */
static void
run_batch(void *arg)
{
	Chunk *c = arg;

	c->touched = 0;
	c->end = NULL;
	find_end(c);
	if (c->is_empty)
		return;
	if (c->part->nkeys > 0)
		run_keys(c);
	else
		run_positions(c);
	REFIT_FAULT("batches.batch");
}

/* Moves the cursor behind the batch. */
static void
pass_over(Chunk *c, int64 rows)
{
	RefitPart *part = c->part;

	part->done = c->is_last;
	if (part->nkeys == 0)
		part->position = Min(part->position + c->size, part->position_end);
	else if (c->end != NULL)
		part->low = c->end;
	part->scanned += rows;
	part->errors = 0;
	part->poison = false;
}

/* The rows of a batch that has ended: how many, about. */
static int64
count_rows(const Chunk *c)
{
	const RefitPart *part = c->part;

	if (part->nkeys == 0)
		return part->position_end > 0
				   ? part->total *
						 Min(c->size, part->position_end - part->position) /
						 part->position_end
				   : 0;
	if (!c->is_last)
		return c->size;
	return Max(c->touched, Min(part->total - part->scanned, c->size - 1));
}

/* Chooses the size of the next batch by the time that this one took. */
static void
fit_size(RefitPart *part, double ms, const RefitBudget *budget)
{
	double goal = Min(BATCH_MS, budget->chunk_ms / 4.0);
	double factor = Min(goal / Max(ms, 0.1), MOST_GROWTH);

	part->batch = (int64) Min(Max(part->batch * factor, 1), MOST_ROWS);
}

/*
 * Failures
 */

/* Is it the row's fault, and nothing that stands in the way of the whole? */
static bool
is_of_a_row(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION):
			return false;
		default:
			return true;
	}
}

/* Will the same batch probably succeed in a moment? */
static bool
is_passing(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   ERRCODE_TO_CATEGORY(sqlerrcode) ==
			   ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK);
}

/* Does the same batch certainly fail again? */
static bool
is_of_the_data(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_DATA_EXCEPTION ||
		   ERRCODE_TO_CATEGORY(sqlerrcode) ==
			   ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION;
}

/* The row that fails by itself, for messages. */
static char *
name_row(const Chunk *c)
{
	ItemPointerData tid;

	if (c->is_group)
		return refit_part_row_text(
			c->part, (ItemPointer) DatumGetPointer(c->rows[c->first_row]));
	if (c->part->nkeys == 0)
	{
		refit_part_tid(c->part->position, &tid);
		return refit_part_row_text(c->part, &tid);
	}
	if (c->end == NULL)
		return pstrdup("(the last one)");
	return refit_part_key_text(c->part, c->end);
}

/* Records a row that fails. */
static void
write_event(const Chunk *c, const ErrorData *error, bool skipped)
{
	StringInfoData detail;
	const char *statement = c->clauses->statement;

	initStringInfo(&detail);
	appendStringInfoString(&detail, "{\"key\": ");
	escape_json(&detail, name_row(c));
	appendStringInfo(&detail, ", \"sqlstate\": \"%s\", \"message\": ",
					 unpack_sql_state(error->sqlerrcode));
	escape_json(&detail, error->message);
	appendStringInfoString(&detail, ", \"statement\": ");
	escape_json(&detail, statement != NULL ? statement : c->m->definition);
	appendStringInfoChar(&detail, '}');
	refit_catalog_event(c->m, skipped ? "skipped" : "row",
						psprintf("the row with key %s %s: %s", name_row(c),
								 skipped ? "is skipped" : "fails",
								 error->message),
						detail.data);
}

/* May one more row be left out? */
static bool
may_skip(const RefitMigration *m)
{
	char *on_error = refit_catalog_option(m, "on_error");
	char *most = refit_catalog_option(m, "max_skipped");

	return on_error != NULL && strcmp(on_error, "skip") == 0 &&
		   refit_part_sums(m).skipped <
			   (most != NULL ? strtoll(most, NULL, 10) : MOST_SKIPPED);
}

/* Leaves a row out, if that may be. */
static bool
skip_row(Chunk *c, const ErrorData *error)
{
	if (!may_skip(c->m))
		return false;
	write_event(c, error, true);
	c->part->skipped++;
	refit_part_save(c->m, c->part); /* counts for the next one */
	return true;
}

/*
 * The row that fails may not be skipped.  At first the chunk ends before it, with
 * false; then the error is the migration's.
 */
static bool
fail_row(Chunk *c, ErrorData *error)
{
	if (!c->part->poison)
	{
		write_event(c, error, false);
		c->part->poison = true;
		return false;
	}
	error->detail = psprintf("%s%sThe row with key %s is at fault.",
							 error->detail != NULL ? error->detail : "",
							 error->detail != NULL ? " " : "", name_row(c));
	if (error->hint == NULL)
		error->hint = psprintf("Correct it and use refit.retry(" INT64_FORMAT
							   "); to leave such "
							   "rows out, set option on_error to skip before.",
							   c->m->id);
	ReThrowError(error);
	return false;
}

/* The row that fails stands alone.  False: the chunk ends here. */
static bool
handle_row(Chunk *c, ErrorData *error)
{
	if (!skip_row(c, error))
		return fail_row(c, error);
	pass_over(c, 1);
	c->part->limit = c->part->suspects = 0;
	c->did_something = true;
	return true;
}

/*
 * Rows with the same key
 */

/* Lists and locks the rows of the batch. */
static void
list_rows(Chunk *c)
{
	RefitPart *part = c->part;
	RefitEnds ends = {0};
	Oid types[2 * INDEX_MAX_KEYS];
	Datum values[2 * INDEX_MAX_KEYS];
	int n = range_of_batch(c, &ends, types, values);
	MemoryContext caller = CurrentMemoryContext;
	int guc_level = NewGUCNestLevel();

	refit_set_local("enable_seqscan", "off");
	refit_set_local("search_path", c->clauses->search_path);
	SPI_connect();
	if (SPI_execute_with_args(refit_statement_positions(part->rel, c->clauses,
														part->index,
														part->nkeys, ends),
							  n, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not list the rows of a batch");
	c->nrows = (int) SPI_processed;
	c->rows = MemoryContextAlloc(caller, sizeof(Datum) * (c->nrows + 1));
	for (int i = 0; i < c->nrows; i++)
	{
		bool isnull;
		ItemPointer tid = MemoryContextAlloc(caller, sizeof(ItemPointerData));

		ItemPointerCopy(
			(ItemPointer) DatumGetPointer(SPI_getbinval(
				SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull)),
			tid);
		c->rows[i] = PointerGetDatum(tid);
	}
	SPI_finish();
	AtEOXact_GUC(false, guc_level);
}

/* Runs the statement for some of them; for refit_attempt. */
static void
run_rows(void *arg)
{
	Chunk *c = arg;
	Oid types[1] = {TIDARRAYOID};
	Datum values[1];

	values[0] = PointerGetDatum(
		construct_array(c->rows + c->first_row, c->row_count, TIDOID,
						sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	run_statement(c, refit_statement_rows(c->part->rel, c->clauses), 1, types,
				  values);
}

/* Does some of them, by halves as far as it fails. */
static void
split_rows(Chunk *c, int first, int count)
{
	ErrorData *error;

	c->first_row = first;
	c->row_count = count;
	error = refit_attempt(run_rows, c, true);
	if (error == NULL)
	{
		c->part->touched += c->touched;
		return;
	}
	if (is_passing(error->sqlerrcode) || !is_of_a_row(error->sqlerrcode))
		ReThrowError(error);
	if (count > 1)
	{
		split_rows(c, first, count / 2);
		split_rows(c, first + count / 2, count - count / 2);
		return;
	}
	c->is_group = true;
	if (!skip_row(c, error))
		ReThrowError(error);
	c->is_group = false;
}

/* Does all of them but those that fail; for refit_attempt. */
static void
run_group(void *arg)
{
	Chunk *c = arg;

	list_rows(c);
	split_rows(c, 0, c->nrows);
}

/* A batch of one key fails.  False: the chunk ends here. */
static bool
handle_group(Chunk *c, ErrorData *error)
{
	RefitPart before = *c->part;
	ErrorData *second;

	if (c->part->nkeys == 0 || c->part->is_unique ||
		c->clauses->statement != NULL)
		return handle_row(c, error);
	second = refit_attempt(run_group, c, true);
	if (second == NULL)
	{
		pass_over(c, c->nrows);
		c->part->limit = c->part->suspects = 0;
		c->did_something = true;
		return true;
	}
	*c->part = before;
	c->passing = is_passing(second->sqlerrcode);
	return c->is_group ? fail_row(c, second) : false;
}

/* A batch has failed.  False: the chunk ends here. */
static bool
handle_failure(Chunk *c, ErrorData *error)
{
	RefitPart *part = c->part;

	if (!is_of_a_row(error->sqlerrcode) &&
		error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	c->m->progress.message = psprintf("trying again: %s", error->message);
	c->passing = is_passing(error->sqlerrcode);
	if (c->passing)
		return false;
	if (c->size == 1)
		return handle_group(c, error);
	if (!is_of_the_data(error->sqlerrcode) && part->limit == 0 &&
		++part->errors < MOST_ERRORS)
		return false;
	part->suspects = c->size;
	part->limit = c->size / 2;
	return true;
}

/* The search for a row that fails goes on behind the rows that did not. */
static void
narrow_search(RefitPart *part, int64 rows)
{
	if (part->limit == 0)
		return;
	part->suspects -= rows;
	if (part->suspects <= 0)
		part->limit = part->suspects = 0;
}

/*
 * The chunk
 */

/* Batch after batch, until time is up. */
static RefitOutcome
work_part(Chunk *c, RefitBudget *budget)
{
	RefitPart *part = c->part;

	while (!part->done)
	{
		instr_time begun;
		instr_time now;
		ErrorData *error;

		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(begun);
		c->size = part->limit > 0 ? part->limit : part->batch;
		error = refit_attempt(run_batch, c, true);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, begun);
		if (error == NULL)
		{
			part->touched += c->touched;
			pass_over(c, count_rows(c));
			narrow_search(part, c->size);
			if (part->limit == 0)
				fit_size(part, INSTR_TIME_GET_MILLISEC(now), budget);
			c->did_something = true;
		}
		else if (!handle_failure(c, error))
		{
			budget->pause_ms = part->poison ? 0
							   : c->passing ? REST_SOON
											: REST_RETRY;
			return c->did_something || part->poison ? REFIT_MORE : REFIT_WAIT;
		}
		if (refit_governor_step_over(budget))
			break;
	}
	return REFIT_MORE;
}

/* A table that is no partition any more has no rows to do. */
static void
leave_part(RefitMigration *m, RefitPart *part)
{
	const char *what = get_rel_name(part->relid) != NULL
						   ? refit_qualified_name(part->relid)
						   : "a partition that was dropped";

	(void) refit_relation_owner(m->relid);
	refit_catalog_event(
		m, "partition",
		psprintf("%s is left out: it is no partition any more", what),
		psprintf("{\"oid\": %u}", part->relid));
	part->done = true;
	refit_part_save(m, part);
}

/* What has been done is in the parts. */
static void
show_progress(RefitMigration *m, const Chunk *c)
{
	RefitPartSums sums = refit_part_sums(m);

	m->progress.rows_done = sums.scanned;
	m->progress.rows_total = sums.total;
	if (c == NULL || c->part->errors > 0 || c->passing)
		return;
	m->progress.message = psprintf(
		INT64_FORMAT " rows written%s%s", sums.touched,
		sums.skipped > 0 ? psprintf(", " INT64_FORMAT " skipped", sums.skipped)
						 : "",
		c->part->low != NULL
			? psprintf(", up to %s", refit_part_key_text(c->part, c->part->low))
			: "");
}

/* Nobody has left a part to do. */
static RefitOutcome
end_pass(RefitMigration *m, RefitBudget *budget)
{
	RefitPartSums sums = refit_part_sums(m);

	if (sums.left > 0) /* helpers have them */
	{
		show_progress(m, NULL);
		budget->pause_ms = REST_HELPED;
		return REFIT_WAIT;
	}
	if (refit_part_add_new(m, refit_part_clauses(m)) ||
		refit_part_add_rounds(m))
		return REFIT_MORE;
	m->progress.rows_done = sums.touched;
	return REFIT_NEXT;
}

/* What the user's code meets is what a plain statement of the owner would. */
static void
set_up(const RefitMigration *m)
{
	char *fire = refit_catalog_option(m, "fire_triggers");
	bool fires = true;

	if (fire != NULL && parse_bool(fire, &fires) && !fires)
		refit_set_local("session_replication_role", "replica");
	SPI_connect();
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not make constraints immediate");
	SPI_finish();
}

/* One chunk of a part. */
static RefitOutcome
work_chunk(Chunk *c, RefitBudget *budget)
{
	RefitOutcome outcome = REFIT_MORE;

	if (c->part->rel == NULL)
	{
		leave_part(c->m, c->part);
		return REFIT_MORE;
	}
	set_up(c->m);
	c->clauses = refit_part_clauses(c->m);
	outcome = work_part(c, budget);
	refit_part_save(c->m, c->part);
	refit_part_close(c->part);
	REFIT_FAULT("batches.chunk");
	return outcome;
}

/* A chunk of the leader. */
RefitOutcome
refit_batch_step(RefitMigration *m, RefitBudget *budget)
{
	Chunk c = {.m = m};
	RefitOutcome outcome;

	if (refit_share_is_wanted(m) && refit_share_mark_own(m, &parts))
		return REFIT_MORE;
	c.part = refit_part_next(m, false);
	if (c.part == NULL)
		return end_pass(m, budget);
	outcome = work_chunk(&c, budget);
	refit_share_end_chunk(m);
	show_progress(m, &c);
	return outcome;
}

/* A chunk of a helper. */
RefitOutcome
refit_batch_help(RefitMigration *m, RefitBudget *budget)
{
	Chunk c = {.m = m, .part = refit_part_next(m, true)};

	if (c.part == NULL)
		return refit_share_mark(m, &parts) ? REFIT_MORE : REFIT_NEXT;
	REFIT_FAULT("batches.help");
	return work_chunk(&c, budget);
}

/*
 * Planning
 */

/* An ERROR for a tree whose rows a plain statement would reach by other rules. */
static void
check_tree(Relation rel, const RefitClauses *clauses)
{
	Oid relid = RelationGetRelid(rel);

	if (clauses->statement != NULL || !has_subclass(relid) ||
		check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED)
		return;
	ereport(
		ERROR,
		(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
		 errmsg("\"%s\" has partitions and row-level security that holds "
				"for its owner",
				RelationGetRelationName(rel)),
		 errdetail("Each partition is worked by itself, and the policies of "
				   "\"%s\" would not be asked.",
				   RelationGetRelationName(rel)),
		 errhint("Use refit.batched() with a statement on \"%s\".",
				 RelationGetRelationName(rel))));
}

/* An ERROR for a backfill that would move rows between partitions. */
static void
check_partition_key(Relation rel, const RefitClauses *clauses)
{
	Bitmapset *columns = NULL;
	Bitmapset *written;
	int i = -1;

	if (clauses->set == NULL ||
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return;
	written = refit_statement_columns(rel, clauses);
	while ((i = bms_next_member(written, i)) >= 0)
		columns =
			bms_add_member(columns, i - FirstLowInvalidHeapAttributeNumber);
	if (has_partition_attrs(rel, columns, NULL))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("a backfill cannot write the partition key"),
						errdetail("Its rows would belong to other partitions."),
						errhint("Use refit.batched() with an UPDATE.")));
}

/* Types of the key that batches of the user's own statement go by. */
static int
find_key_types(Relation rel, const RefitClauses *clauses, Oid *types)
{
	RefitPart part = {.relid = RelationGetRelid(rel), .rel = rel};

	part.index =
		index_open(refit_route_choose(rel, clauses).index, AccessShareLock);
	refit_part_know_key(&part);
	memcpy(types, part.types, sizeof(Oid) * part.nkeys);
	index_close(part.index, NoLock);
	return part.nkeys;
}

/* An ERROR for clauses that cannot be worked. */
void
refit_batch_check(Oid relid, const RefitClauses *clauses)
{
	RefitRights save;
	Relation rel;
	Oid types[INDEX_MAX_KEYS];
	int nkeys = 0;

	refit_rights_begin(&save, refit_relation_owner(relid), true);
	rel = table_open(relid, AccessShareLock);
	check_tree(rel, clauses);
	if (clauses->statement != NULL)
		nkeys = find_key_types(rel, clauses, types);
	refit_statement_check(rel, clauses, nkeys, types);
	check_partition_key(rel, clauses);
	if (clauses->statement == NULL)
		(void) refit_route_choose(rel, clauses);
	table_close(rel, NoLock);
	refit_rights_end(&save);
}

/* Divides the table. */
char *
refit_batch_plan(RefitMigration *m)
{
	RefitRights save;
	char *workers = refit_catalog_option(m, "workers");
	char *result;

	refit_rights_begin(&save, refit_relation_owner(m->relid), true);
	result = refit_part_divide(
		m, refit_part_clauses(m),
		workers != NULL ? Min(atoi(workers), MOST_WORKERS) : 1);
	refit_rights_end(&save);
	REFIT_FAULT("batches.planned");
	return result;
}
