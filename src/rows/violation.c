/*-------------------------------------------------------------------------
 *
 * violation.c
 *	  Looking for a row that violates a constraint, among those of some blocks.
 *	  See violation.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "rows/violation.h"
#include "util/sqlutil.h"

/*
 * The rows of the range.  That two bounds are given for the age lets the planner
 * expect few rows, which they are: it must not hash the referenced table for them.
 */
static char *
rows_text(const RefitConstraint *c, const RefitRange *range)
{
	return psprintf(
		"ONLY %s x WHERE x.ctid >= $1 AND x.ctid < $2%s",
		refit_qualified_name(c->relid),
		range->recent ? " AND age(x.xmin) BETWEEN '-2147483648' AND $3" : "");
}

/* The query.  An index is probed in its order, page by page. */
static char *
query_text(const RefitConstraint *c, const RefitRange *range)
{
	char *rows = rows_text(c, range);

	if (c->by_probes && c->order != NULL)
		return psprintf("SELECT left(%s, 500), left(%s, 500) FROM"
						" (SELECT x.ctid, x.* FROM %s ORDER BY %s) x"
						" WHERE %s LIMIT 1",
						c->key, c->reference, rows, c->order, c->violates);
	return psprintf("SELECT left(%s, 500), left(%s, 500) FROM %s AND %s"
					" LIMIT 1",
					c->key, c->reference, rows, c->violates);
}

/*
 * How the query is to be planned.  Not in parallel: PostgreSQL would scan the whole
 * table, where without it reads the range alone.
 */
static void
set_planner(const RefitConstraint *c)
{
	refit_set_local("work_mem", psprintf("%d", maintenance_work_mem));
	refit_set_local("hash_mem_multiplier", "1");
	refit_set_local("max_parallel_workers_per_gather", "0");
	if (c->by_probes)
	{
		refit_set_local("enable_hashjoin", "off");
		refit_set_local("enable_mergejoin", "off");
	}
}

/* Runs it with the owner's rights, row security off. */
static bool
run_query(const RefitConstraint *c, const char *sql, Datum *values,
		  Snapshot snapshot)
{
	Oid types[3] = {TIDOID, TIDOID, INT4OID};
	int guc_level = NewGUCNestLevel();
	SPIPlanPtr plan;
	Oid userid;
	int sec_context;

	set_planner(c);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(userid, sec_context | SECURITY_NOFORCE_RLS);
	plan = SPI_prepare(sql, lengthof(types), types);
	if (plan == NULL ||
		SPI_execute_snapshot(plan, values, NULL, snapshot, InvalidSnapshot,
							 true, false, 1) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SetUserIdAndSecContext(userid, sec_context);
	AtEOXact_GUC(true, guc_level);
	return SPI_processed > 0;
}

/* A column of the row that was found, in the caller's context. */
static char *
found_value(int column, MemoryContext context)
{
	char *value =
		SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value != NULL ? MemoryContextStrdup(context, value) : NULL;
}

/* Looks with a query. */
static RefitViolation *
find_by_query(const RefitConstraint *c, const RefitRange *range)
{
	MemoryContext context = CurrentMemoryContext;
	RefitViolation *result = NULL;
	ItemPointerData first;
	ItemPointerData last;
	Datum values[3];

	ItemPointerSet(&first, range->from, 0);
	ItemPointerSet(&last, range->end, 0);
	values[0] = PointerGetDatum(&first);
	values[1] = PointerGetDatum(&last);
	values[2] = Int32GetDatum(range->age);
	SPI_connect();
	if (run_query(c, query_text(c, range), values, range->snapshot))
	{
		result = MemoryContextAlloc(context, sizeof(RefitViolation));
		result->key = found_value(1, context);
		result->reference = found_value(2, context);
	}
	SPI_finish();
	return result;
}

/* Holds one row to a foreign key, as its trigger would. */
static void
check_row(Relation rel, TupleTableSlot *slot, Trigger *trigger)
{
	LOCAL_FCINFO(fcinfo, 0);
	TriggerData data = {.type = T_TriggerData};

	MemSet(fcinfo, 0, SizeForFunctionCallInfo(0));
	data.tg_event = TRIGGER_EVENT_INSERT | TRIGGER_EVENT_ROW;
	data.tg_relation = rel;
	data.tg_trigtuple = ExecFetchSlotHeapTuple(slot, false, NULL);
	data.tg_trigslot = slot;
	data.tg_trigger = trigger;
	fcinfo->context = (Node *) &data;
	(void) RI_FKey_check_ins(fcinfo);
}

/* Is the row one of the range?  As the query says it. */
static bool
is_in_range(const RefitRange *range, TupleTableSlot *slot, TransactionId now)
{
	HeapTupleHeader header =
		((BufferHeapTupleTableSlot *) slot)->base.tuple->t_data;
	TransactionId xmin = HeapTupleHeaderGetRawXmin(header);

	return !range->recent ||
		   (TransactionIdIsNormal(xmin) && (int32) (now - xmin) <= range->age);
}

/* Says which row it was that RI has found. */
static void
add_row_context(void *arg)
{
	TupleTableSlot *slot = arg;

	errcontext("row (%u,%u) of the table",
			   ItemPointerGetBlockNumberNoCheck(&slot->tts_tid),
			   ItemPointerGetOffsetNumberNoCheck(&slot->tts_tid));
}

/* Holds the rows of a scan to a foreign key. */
static void
check_scan(Relation rel, TableScanDesc scan, const RefitRange *range,
		   Trigger *trigger)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TransactionId now = GetStableLatestTransactionId();
	MemoryContext per_row = AllocSetContextCreate(
		CurrentMemoryContext, "pg_refit row check", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(per_row);
	ErrorContextCallback context = {.callback = add_row_context,
									.arg = slot,
									.previous = error_context_stack};

	error_context_stack = &context;
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (is_in_range(range, slot, now))
			check_row(rel, slot, trigger);
		MemoryContextReset(per_row);
	}
	error_context_stack = context.previous;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(per_row);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Holds the rows to a foreign key one by one, as validateForeignKeyConstraint()
 * does it.
 *
 * This is for two tables of different owners.  One query over both would read
 * the other's rows with the rights of our table's owner, who may have none, and
 * would run the other's row security policies with them.  RI's own trigger looks
 * at each table as its owner.  And it is for foreign keys with PERIOD, of which
 * several rows together may be the partner.
 */
static void
check_by_trigger(const RefitConstraint *c, const RefitRange *range)
{
	Relation rel = table_open(c->relid, AccessShareLock);
	BlockNumber end = Min(range->end, RelationGetNumberOfBlocks(rel));
	Trigger trigger = {.tgname = c->name,
					   .tgenabled = TRIGGER_FIRES_ON_ORIGIN,
					   .tgisinternal = true,
					   .tgconstrrelid = c->target,
					   .tgconstrindid = c->target_index,
					   .tgconstraint = c->oid};

	if (range->from < end) /* VACUUM may have made it shorter */
	{
		TableScanDesc scan =
			table_beginscan_strat(rel, range->snapshot, 0, NULL, true, false);

		heap_setscanlimits(scan, range->from, end - range->from);
		check_scan(rel, scan, range, &trigger);
		table_endscan(scan);
	}
	table_close(rel, NoLock);
}

/* The row of a range that violates the constraint, or NULL. */
RefitViolation *
refit_violation_find(const RefitConstraint *c, const RefitRange *range)
{
	if (!c->by_trigger)
		return find_by_query(c, range);
	check_by_trigger(c, range);
	return NULL;
}
