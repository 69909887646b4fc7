/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  Phase verify: no cutover before the twin was found equal to the table.
 *
 * See verify.h.  The table of suspects has the key of a row in both forms: as
 * the table has it, NULL where only the twin has the row, and as the twin has
 * it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "job/catalog.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/compare.h"
#include "table/shape.h"
#include "table/twin.h"
#include "table/verify.h"
#include "util/fault.h"
#include "util/sqlutil.h"

/* More rows than these that differ are no accident. */
#define MOST_SUSPECTS 100

/* Walks that may find nothing but dirty rows. */
#define MOST_EMPTY_WALKS 20

/* With verify => 'sample': one extent of so many. */
#define SAMPLE_STRIDE 20

/* A chunk, in ms, while a manual cutover waits. */
#define ROLLING_MS 50

/* One chunk at work. */
typedef struct Verification
{
	RefitMigration *m;
	RefitComparison *comparison;
	Relation suspects;
	bool second; /* comparing suspects again: nothing is mended now */
} Verification;

/* Makes the table of suspects. */
Oid
refit_verify_create_suspects(Relation source, Relation twin, Oid schema,
							 const char *name, Oid key_index)
{
	Relation sides[2] = {source, twin};
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(key_index, &attnums);
	TupleDesc desc = CreateTemplateTupleDesc(2 * nkeys);

	for (int i = 0; i < 2 * nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(
			RelationGetDescr(sides[i / nkeys]), attnums[i % nkeys] - 1);

		TupleDescInitEntry(desc, i + 1, psprintf("key%d", i + 1), att->atttypid,
						   att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, i + 1, att->attcollation);
	}
	return refit_twin_create_table(source, schema, name, desc,
								   BOOTSTRAP_SUPERUSERID);
}

/* Begins anew. */
void
refit_verify_reset(RefitMigration *m)
{
	RefitRewrite *r = &m->rewrite;

	r->verify = "walking";
	r->verify_source = 0;
	r->verify_twin = 0;
	r->verify_rows = 0;
	r->verify_skipped = 0;
}

/* May the cutover come? */
bool
refit_verify_is_passed(const RefitMigration *m)
{
	return strcmp(m->verify, "off") == 0 ||
		   strcmp(m->rewrite.verify, "passed") == 0;
}

/* Fails the verification, for good once this transaction is committed. */
static void
fail(Verification *v, const char *finding)
{
	v->m->rewrite.verify = "failed";
	v->m->rewrite.finding = pstrdup(finding);
	v->comparison->stop = true;
}

/* Has it failed? */
static bool
has_failed(const RefitMigration *m)
{
	return strcmp(m->rewrite.verify, "failed") == 0;
}

/* The error of a verification that has failed. */
static void
report_failure(const RefitMigration *m)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("verification of the twin of %s has failed",
					refit_qualified_name(m->leaf)),
			 errdetail("%s", m->rewrite.finding),
			 errhint("The table is as it was.  Is a function in the actions "
					 "declared IMMUTABLE that is not?  See refit.events.")));
}

/* What a finding says. */
static char *
describe(const RefitMigration *m, RefitFinding finding, const char *key_text,
		 const char *column)
{
	const char *copy = m->rewrite.reversed ? "old copy" : "twin";
	bool only_there =
		finding == (m->rewrite.reversed ? REFIT_MISSING : REFIT_EXTRA);

	if (finding == REFIT_DIFFERS)
		return psprintf("The row with key %s differs in column \"%s\".",
						key_text, column);
	if (finding == REFIT_TWO_VERSIONS)
		return psprintf("The %s has more than one row with key %s.", copy,
						key_text);
	if (only_there)
		return psprintf("The row with key %s is in the %s only.", key_text,
						copy);
	return psprintf("The row with key %s is missing in the %s.", key_text,
					copy);
}

/* Adds a row to the suspects. */
static void
add_suspect(Verification *v, const Datum *source_key, const Datum *twin_key)
{
	TupleDesc desc = RelationGetDescr(v->suspects);
	int nkeys = desc->natts / 2;
	Datum values[2 * INDEX_MAX_KEYS] = {0};
	bool nulls[2 * INDEX_MAX_KEYS] = {false};
	HeapTuple tuple;

	for (int i = 0; i < nkeys; i++)
	{
		nulls[i] = source_key == NULL;
		values[i] = source_key == NULL ? (Datum) 0 : source_key[i];
		values[nkeys + i] = twin_key[i];
	}
	tuple = heap_form_tuple(desc, values, nulls);
	heap_insert(v->suspects, tuple, GetCurrentCommandId(true), 0, NULL);
	heap_freetuple(tuple);
}

/* Marks the table's key dirty, so that catch-up makes the row anew. */
static void
mend(Verification *v, RefitFinding finding, const Datum *source_key,
	 const Datum *twin_key, ItemPointer tid)
{
	bool reversed = v->m->rewrite.reversed;
	const Datum *key = reversed ? twin_key : source_key;
	Relation log;

	if (finding == REFIT_EXTRA && !reversed)
		simple_table_tuple_delete(v->comparison->twin, tid,
								  v->comparison->snapshot);
	if (key == NULL)
		return;
	log = table_open(v->m->rewrite.logs[0], RowExclusiveLock);
	refit_capture_mark_key(log, key);
	table_close(log, NoLock);
}

/* A RefitFindingHandler. */
static void
note_finding(void *arg, RefitFinding finding, const char *key_text,
			 const char *column, const Datum *source_key, const Datum *twin_key,
			 ItemPointer tid)
{
	static const char *const words[] = {"differs", "missing", "extra",
										"two versions"};
	Verification *v = arg;
	RefitRewrite *r = &v->m->rewrite;
	char *text = describe(v->m, finding, key_text, column);
	StringInfoData detail;

	if (has_failed(v->m))
		return;
	initStringInfo(&detail);
	appendStringInfo(&detail,
					 "{\"finding\": \"%s\", \"key\": ", words[finding]);
	escape_json(&detail, key_text);
	appendStringInfoString(&detail, ", \"column\": ");
	if (column != NULL)
		escape_json(&detail, column);
	else
		appendStringInfoString(&detail, "null");
	appendStringInfo(&detail, ", \"second\": %s}",
					 v->second ? "true" : "false");
	refit_catalog_event(v->m, "discrepancy", text, detail.data);

	if (v->second || finding == REFIT_TWO_VERSIONS)
	{
		fail(v, text);
		r->discrepancies += v->second ? 0 : 1;
		return;
	}
	if (++r->discrepancies > MOST_SUSPECTS)
	{
		fail(v, psprintf("More than %d rows differ; the last one: %s",
						 MOST_SUSPECTS, text));
		return;
	}
	add_suspect(v, source_key, twin_key);
	mend(v, finding, source_key, twin_key, tid);
}

/* Is anybody suspected? */
static bool
has_suspects(Verification *v)
{
	SysScanDesc scan =
		systable_beginscan(v->suspects, InvalidOid, false, NULL, 0, NULL);
	bool result = HeapTupleIsValid(systable_getnext(scan));

	systable_endscan(scan);
	return result;
}

/* Decides what a walk that is over has shown. */
static void
end_walk(Verification *v)
{
	RefitRewrite *r = &v->m->rewrite;
	bool empty = r->verify_rows == 0 && refit_compare_has_rows(v->comparison);

	if (empty &&
		(r->verify_skipped == 0 || ++r->verify_walks >= MOST_EMPTY_WALKS))
	{
		fail(v, "The table has rows, but none of them was compared.");
		return;
	}
	if (!empty)
	{
		r->verified = r->verify_rows;
		r->verify = has_suspects(v) ? "suspect" : "passed";
	}
	r->verify_source = 0;
	r->verify_twin = 0;
	r->verify_rows = 0;
	r->verify_skipped = 0;
}

/* Walks on. */
static void
walk(Verification *v, const RefitBudget *budget)
{
	RefitRewrite *r = &v->m->rewrite;
	RefitComparison *c = v->comparison;
	bool done = refit_compare_walk(
		c, budget, strcmp(v->m->verify, "sample") == 0 ? SAMPLE_STRIDE : 1,
		&r->verify_source, &r->verify_twin);

	r->verify_rows += c->compared;
	r->verify_skipped += c->skipped;
	CommandCounterIncrement();
	if (has_failed(v->m))
		return;
	if (done)
		end_walk(v);
	else if (strcmp(r->verify, "passed") == 0 && has_suspects(v))
		r->verify = "suspect";
}

/* Compares the suspects again; those that are dirty have to wait. */
static void
compare_suspects(Verification *v)
{
	RefitRewrite *r = &v->m->rewrite;
	TableScanDesc scan = table_beginscan_strat(
		v->suspects, v->comparison->snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(v->suspects, NULL);
	int nkeys = slot->tts_tupleDescriptor->natts / 2;
	bool all = true;

	v->second = true;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		slot_getallattrs(slot);
		if (!refit_compare_key(v->comparison,
							   slot->tts_isnull[0] ? NULL : slot->tts_values,
							   slot->tts_values + nkeys))
			all = false;
		else if (!has_failed(v->m))
			simple_heap_delete(v->suspects, &slot->tts_tid);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	if (all && !has_failed(v->m))
	{
		r->verify = "passed";
		refit_catalog_event(v->m, "verify",
							"rows that had differed are equal now", NULL);
	}
}

/* Begins anew where the table's storage is another than the walk began with. */
static void
follow_storage(Verification *v)
{
	Relation table =
		v->m->rewrite.reversed ? v->comparison->twin : v->comparison->source;
	Oid filenode = table->rd_rel->relfilenode;

	if (v->m->rewrite.verify_filenode != filenode)
		refit_verify_reset(v->m);
	v->m->rewrite.verify_filenode = filenode;
}

/* One chunk of comparing. */
static void
compare_chunk(RefitMigration *m, const RefitBudget *budget)
{
	Verification v = {.m = m};

	v.suspects = table_open(m->rewrite.suspects, RowExclusiveLock);
	v.comparison = refit_compare_open(m, note_finding, &v);
	PG_TRY();
	{
		follow_storage(&v);
		if (v.comparison->truncated)
			; /* all keys are dirty */
		else if (strcmp(m->rewrite.verify, "suspect") == 0)
			compare_suspects(&v);
		else
			walk(&v, budget);
	}
	PG_CATCH();
	{
		refit_transform_note_failure(v.comparison->transform);
		PG_RE_THROW();
	}
	PG_END_TRY();
	refit_compare_close(v.comparison);
	table_close(v.suspects, NoLock);
}

/* Applies what was captured, for half of the budget. */
static RefitOutcome
keep_in_step(RefitMigration *m, const RefitBudget *budget)
{
	RefitBudget half = *budget;
	RefitProgress before = m->progress;
	RefitOutcome outcome;
	bool complete;

	half.chunk_ms = Max(budget->chunk_ms / 2, 1);
	outcome = refit_catchup_round(m, &half, &complete);
	m->progress.rows_done = before.rows_done;
	m->progress.rows_total = before.rows_total;

	/* all that there was is good enough: what has come since is left out */
	return outcome == REFIT_MORE && complete ? REFIT_NEXT : outcome;
}

/*
 * The time for a comparison: the other half, from now on, however long the
 * first one was; and little while a cutover waits.
 */
static RefitBudget
compare_budget(const RefitMigration *m, const RefitBudget *budget)
{
	RefitBudget half = *budget;

	INSTR_TIME_SET_CURRENT(half.start);
	half.chunk_ms = Max(budget->chunk_ms / 2, 1);
	if (strcmp(m->state, "ready") == 0)
		half.chunk_ms =
			Min(half.chunk_ms, Max(ROLLING_MS / Max(m->nleaves, 1), 5));
	return half;
}

/* One chunk. */
RefitOutcome
refit_verify_step(RefitMigration *m, RefitBudget *budget)
{
	bool waiting = strcmp(m->state, "ready") == 0;
	bool is_off = strcmp(m->verify, "off") == 0;
	RefitOutcome outcome;
	RefitBudget time;

	if (has_failed(m))
		report_failure(m);
	if (refit_verify_is_passed(m) && !waiting)
		return REFIT_NEXT;
	outcome = keep_in_step(m, budget);
	if (outcome != REFIT_NEXT || is_off)
		return outcome;
	time = compare_budget(m, budget);
	compare_chunk(m, &time);
	REFIT_FAULT("verify.chunk");
	refit_catalog_save_rewrite(m);
	refit_catalog_save_verified(m);
	return refit_verify_is_passed(m) ? REFIT_NEXT : REFIT_MORE;
}
