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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "job/catalog.h"
#include "pass/governor.h"
#include "rows/batch.h"
#include "rows/part.h"
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

/* Rows that may be skipped unless the option says otherwise. */
#define MOST_SKIPPED 100

/* A chunk at work. */
typedef struct Chunk
{
	RefitMigration *m;
	RefitClauses *clauses;
	RefitPart *part;
	Relation rel;
	Relation index; /* NULL: by positions */
	bool did_something;
	bool passing; /* the last failure may pass */

	/* the batch at hand */
	int64 size;
	Datum *first; /* of batched: its first key */
	Datum *end;	  /* its last key; NULL: the part's end */
	bool is_last; /* nothing of the part is behind it */
	bool is_empty;
	int64 touched;
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
	return refit_part_fetch_key(part,
								refit_statement_bound(c->rel, c->clauses,
													  c->index, part->nkeys,
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

/* A batch of keys. */
static void
run_keys(Chunk *c)
{
	RefitPart *part = c->part;
	RefitEnds ends = {.low = part->low != NULL, .high = c->end != NULL};
	Oid types[2 * INDEX_MAX_KEYS];
	Datum values[2 * INDEX_MAX_KEYS];
	int n = 0;

	if (c->first != NULL)
		n = add_key(part, c->first, n, types, values);
	else if (ends.low)
		n = add_key(part, part->low, n, types, values);
	if (ends.high)
		n = add_key(part, c->end, n, types, values);
	run_statement(
		c,
		refit_statement_batch(c->rel, c->clauses, c->index, part->nkeys, ends),
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
	run_statement(c, refit_statement_batch(c->rel, c->clauses, NULL, 0, ends),
				  2, types, values);
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
		case ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR):
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
	if (c->part->nkeys == 0)
		return psprintf("(ctid)=((" INT64_FORMAT "," INT64_FORMAT "))",
						c->part->position / refit_part_position(1),
						c->part->position % refit_part_position(1));
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

/* The row that fails stands alone.  False: it fails the migration. */
static bool
handle_row(Chunk *c, ErrorData *error)
{
	RefitPart *part = c->part;

	if (may_skip(c->m))
	{
		write_event(c, error, true);
		pass_over(c, 1);
		part->skipped++;
		part->limit = part->suspects = 0;
		c->did_something = true;
		refit_part_save(c->m, part); /* counts for the next one */
		return true;
	}
	if (!part->poison)
	{
		write_event(c, error, false);
		part->poison = true;
		return false;
	}
	error->detail = psprintf("%s%sThe row with key %s is at fault.",
							 error->detail != NULL ? error->detail : "",
							 error->detail != NULL ? " " : "", name_row(c));
	ReThrowError(error);
	return false;
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
		return handle_row(c, error);
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

/* A partition that is there no more has no rows to do. */
static RefitOutcome
leave_part(RefitMigration *m, RefitPart *part)
{
	refit_catalog_event(m, "partition", "a partition is gone: nothing to do",
						psprintf("{\"oid\": %u}", part->relid));
	part->done = true;
	refit_part_save(m, part);
	return REFIT_MORE;
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

/* All parts are done, as far as there are any. */
static RefitOutcome
end_pass(RefitMigration *m)
{
	RefitPartSums sums;

	if (refit_part_add_new(m, refit_part_clauses(m)))
		return REFIT_MORE;
	sums = refit_part_sums(m);
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

/* One chunk. */
RefitOutcome
refit_batch_step(RefitMigration *m, RefitBudget *budget)
{
	Chunk c = {.m = m, .part = refit_part_next(m)};
	RefitOutcome outcome;

	if (c.part == NULL)
		return end_pass(m);
	set_up(m);
	if (get_rel_name(c.part->relid) == NULL && c.part->relid != m->relid)
		return leave_part(m, c.part);
	c.clauses = refit_part_clauses(m);
	c.rel = table_open(c.part->relid, RowExclusiveLock);
	if (OidIsValid(c.part->key_index))
		c.index = index_open(c.part->key_index, AccessShareLock);
	outcome = work_part(&c, budget);
	refit_part_save(m, c.part);
	show_progress(m, &c);
	if (c.index != NULL)
		index_close(c.index, NoLock);
	table_close(c.rel, NoLock);
	REFIT_FAULT("batches.chunk");
	return outcome;
}

/*
 * Planning
 */

/* Types of the key that batches of the user's own statement go by. */
static int
find_key_types(Relation rel, const RefitClauses *clauses, Oid *types)
{
	RefitPart part = {.relid = RelationGetRelid(rel)};
	double rows;

	part.key_index =
		refit_part_choose_index(rel, clauses, &part.by_where, &rows);
	refit_part_know_key(&part);
	memcpy(types, part.types, sizeof(Oid) * part.nkeys);
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
	bool by_where;
	double rows;

	refit_rights_begin(&save, refit_relation_owner(relid), true);
	rel = table_open(relid, AccessShareLock);
	if (clauses->statement != NULL)
		nkeys = find_key_types(rel, clauses, types);
	refit_statement_check(rel, clauses, nkeys, types);
	if (clauses->statement == NULL)
		(void) refit_part_choose_index(rel, clauses, &by_where, &rows);
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
	result = refit_part_divide(m, refit_part_clauses(m),
							   workers != NULL ? atoi(workers) : 1);
	refit_rights_end(&save);
	REFIT_FAULT("batches.planned");
	return result;
}
