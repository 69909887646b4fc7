/*-------------------------------------------------------------------------
 *
 * constraint.c
 *	  Phase validate: checking existing rows in chunks.  See constraint.h.
 *
 * progress.cursor is the next block of the constraint that comes first in
 * refit.owed; cursor_end its table's length when the check began.  Blocks that
 * come later hold rows written under the constraint.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "job/catalog.h"
#include "pass/governor.h"
#include "rows/constraint.h"
#include "util/fault.h"
#include "util/sqlutil.h"

/* Blocks checked by one query. */
#define RANGE_BLOCKS 512

/* A constraint that is owed. */
typedef struct Owed
{
	Oid relid;
	Oid oid; /* InvalidOid: it is gone */
	bool valid;
	char *name;
	char *type;
	char *query; /* rows of a ctid range that violate it */
	Oid target;	 /* of a foreign key: the table it refers to */
	Oid target_index;
} Owed;

/* clang-format off */

/* A cast to an operator's declared operand, where there is such a type. */
#define OPERAND_CAST(column, alias) \
	" CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'p' THEN '' ELSE" \
	"  format('::%I.%I', tn.nspname, t.typname) END" \
	"  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace tn" \
	"   ON tn.oid = t.typnamespace WHERE t.oid = " column ") AS " alias \
	"(as_type)"

/*
 * How a foreign key compares one column: with its own operator and, where the
 * columns have two collations, with that of the referenced one.
 */
#define KEY_IS_EQUAL \
	"format('p.%I%s OPERATOR(%I.%s) x.%I%s%s', pa.attname, l.as_type," \
	" n.nspname, o.oprname, fa.attname, r.as_type," \
	" CASE WHEN pa.attcollation <> fa.attcollation THEN" \
	" (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname)" \
	"  FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn" \
	"  ON cn.oid = co.collnamespace WHERE co.oid = pa.attcollation) END)"

/*
 * The query that finds a violating row between two ctids, by the kind of
 * constraint.  A foreign key compares with its own operators, as RI does, and
 * looks at all partitions of a partitioned table; the casts keep others of the
 * same name, which anybody may have made, from being a better match.
 */
#define REFERENCED \
	"CASE (SELECT relkind FROM pg_catalog.pg_class WHERE oid = c.confrelid)" \
	" WHEN 'p' THEN '' ELSE 'ONLY ' END || c.confrelid::regclass"

#define VIOLATION_QUERY \
	"CASE c.contype WHEN 'c' THEN" \
	" format('SELECT left(x::text, 1000) FROM ONLY %s x" \
	"  WHERE x.ctid >= $1 AND" \
	"  x.ctid < $2 AND NOT (%s) LIMIT 1', c.conrelid::regclass," \
	"  pg_get_expr(c.conbin, c.conrelid))" \
	" WHEN 'f' THEN (SELECT format('SELECT (SELECT r FROM (SELECT %s) r)::text" \
	"  FROM ONLY %s x WHERE x.ctid >= $1 AND x.ctid < $2 AND %s LIMIT 1'," \
	"  string_agg(format('x.%I', fa.attname), ', ' ORDER BY k.n)," \
	"  c.conrelid::regclass," \
	"  CASE WHEN c.confmatchtype = 'f' THEN" \
	"   format('NOT (%s) AND (%s OR NOT EXISTS (SELECT FROM %s p" \
	"    WHERE %s))'," \
	"    string_agg(format('x.%I IS NULL', fa.attname), ' AND ')," \
	"    string_agg(format('x.%I IS NULL', fa.attname), ' OR ')," \
	"    " REFERENCED ", string_agg(e.equal, ' AND '))" \
	"  ELSE format('%s AND NOT EXISTS (SELECT FROM %s p WHERE %s)'," \
	"    string_agg(format('x.%I IS NOT NULL', fa.attname), ' AND ')," \
	"    " REFERENCED ", string_agg(e.equal, ' AND ')) END)" \
	"  FROM unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY" \
	"   AS k(f, p, op, n)" \
	"  JOIN pg_catalog.pg_attribute fa ON fa.attrelid = c.conrelid" \
	"   AND fa.attnum = k.f" \
	"  JOIN pg_catalog.pg_attribute pa ON pa.attrelid = c.confrelid" \
	"   AND pa.attnum = k.p" \
	"  JOIN pg_catalog.pg_operator o ON o.oid = k.op" \
	"  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace" \
	OPERAND_CAST("o.oprleft", "l") OPERAND_CAST("o.oprright", "r") \
	" CROSS JOIN LATERAL (SELECT " KEY_IS_EQUAL ") AS e(equal)) END"

/* clang-format on */

/* The next constraint to check, or NULL. */
static Owed *
next_owed(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	MemoryContext context = CurrentMemoryContext;
	Owed *owed = NULL;

	SPI_connect();
	refit_sql("SELECT w.relid::int8, coalesce(c.oid, 0)::int8, w.conname,"
			  " c.contype, coalesce(c.convalidated, true), " VIOLATION_QUERY
			  ", c.confrelid::int8, c.conindid::int8"
			  " FROM refit.owed w LEFT JOIN pg_catalog.pg_constraint c"
			  "  ON c.conrelid = w.relid AND c.conname = w.conname"
			  " WHERE w.id = $1 AND NOT w.done ORDER BY"
			  "  (SELECT count(*) FROM pg_partition_ancestors(w.relid)) DESC,"
			  "  w.relid, w.conname LIMIT 1",
			  1, types, values, NULL);
	if (SPI_processed > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		char *type = SPI_getvalue(row, desc, 4);
		char *query = SPI_getvalue(row, desc, 6);
		char *target = SPI_getvalue(row, desc, 7);
		char *target_index = SPI_getvalue(row, desc, 8);

		owed = palloc0(sizeof(Owed));
		owed->relid = strtoul(SPI_getvalue(row, desc, 1), NULL, 10);
		owed->oid = strtoul(SPI_getvalue(row, desc, 2), NULL, 10);
		owed->name = pstrdup(SPI_getvalue(row, desc, 3));
		owed->type = type != NULL ? pstrdup(type) : NULL;
		owed->valid = SPI_getvalue(row, desc, 5)[0] == 't';
		owed->query = query != NULL ? pstrdup(query) : NULL;
		owed->target = target != NULL ? strtoul(target, NULL, 10) : 0;
		owed->target_index =
			target_index != NULL ? strtoul(target_index, NULL, 10) : 0;
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return owed;
}

/*
 * The same, with its tables locked until our commit: the query names them and
 * their columns, which may be renamed or moved until then.
 */
static Owed *
lock_owed(const RefitMigration *m)
{
	Oid relid = InvalidOid;
	Oid other = InvalidOid;

	for (;;)
	{
		Owed *owed = next_owed(m);

		if (owed == NULL || (owed->relid == relid && owed->target == other))
			return owed;
		relid = owed->relid;
		other = owed->target;
		LockRelationOid(relid, AccessShareLock);
		if (OidIsValid(other))
			LockRelationOid(other, AccessShareLock);
	}
}

/* The row between two blocks that violates the constraint, or NULL. */
static char *
find_violation(const Owed *owed, BlockNumber from, BlockNumber end)
{
	Oid types[2] = {TIDOID, TIDOID};
	Datum values[2];
	ItemPointerData first;
	ItemPointerData last;
	MemoryContext context = CurrentMemoryContext;
	char *result = NULL;
	Oid userid;
	int sec_context;

	ItemPointerSet(&first, from, 0);
	ItemPointerSet(&last, end, 0);
	values[0] = PointerGetDatum(&first);
	values[1] = PointerGetDatum(&last);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(userid, sec_context | SECURITY_NOFORCE_RLS);
	SPI_connect();
	if (SPI_execute_with_args(owed->query, 2, types, values, NULL, false, 1) <
		0)
		elog(ERROR, "could not execute \"%s\"", owed->query);
	if (SPI_processed > 0)
	{
		char *value =
			SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		result = MemoryContextStrdup(context, value != NULL ? value : "");
	}
	SPI_finish();
	SetUserIdAndSecContext(userid, sec_context);
	return result;
}

/* Are both ends of a foreign key ours to read, whatever rights they give? */
static bool
owns_both_ends(const Owed *owed)
{
	return refit_owns_relation(owed->relid) &&
		   refit_owns_relation(owed->target);
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

/*
 * Holds the rows between two blocks to a foreign key, one by one, as
 * validateForeignKeyConstraint() does it.
 *
 * This is for two tables of different owners.  One query over both would read
 * the other's rows with the rights of our table's owner, who may have none, and
 * would run the other's row security policies with them.  RI's own trigger looks
 * at each table as its owner.
 */
static void
check_rows_one_by_one(const Owed *owed, BlockNumber from, BlockNumber end)
{
	Relation rel = table_open(owed->relid, AccessShareLock);
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan =
		table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext per_row = AllocSetContextCreate(
		CurrentMemoryContext, "pg_refit row check", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(per_row);
	Trigger trigger = {.tgname = owed->name,
					   .tgenabled = TRIGGER_FIRES_ON_ORIGIN,
					   .tgisinternal = true,
					   .tgconstrrelid = owed->target,
					   .tgconstrindid = owed->target_index,
					   .tgconstraint = owed->oid};

	heap_setscanlimits(scan, from, end - from);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		check_row(rel, slot, &trigger);
		MemoryContextReset(per_row);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(per_row);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
}

/* The column whose NOT NULL this constraint is to prove, or NULL. */
static char *
proven_column(const RefitMigration *m, const Owed *owed)
{
	int attnum;
	int length = 0;

	sscanf(owed->name,
		   psprintf("refit_" INT64_FORMAT "_%%d_not_null%%n", m->id), &attnum,
		   &length);
	return length > 0 ? get_attname(m->relid, attnum, true) : NULL;
}

/* Fails, naming constraint and row. */
static void
report_violation(const RefitMigration *m, const Owed *owed, const char *row)
{
	bool foreign = owed->type[0] == CONSTRAINT_FOREIGN;
	char *column = proven_column(m, owed);

	if (column != NULL)
		ereport(ERROR, (errcode(ERRCODE_NOT_NULL_VIOLATION),
						errmsg("column \"%s\" of relation %s contains null "
							   "values",
							   column, refit_qualified_name(owed->relid)),
						errdetail("The row is %s.", row)));
	ereport(
		ERROR,
		(errcode(foreign ? ERRCODE_FOREIGN_KEY_VIOLATION
						 : ERRCODE_CHECK_VIOLATION),
		 errmsg("constraint \"%s\" of relation %s is violated by some row",
				owed->name, refit_qualified_name(owed->relid)),
		 errdetail(foreign ? "Key %s has no partner in the referenced table."
						   : "The row is %s.",
				   row),
		 errhint("A constraint that the migration has added is dropped again; "
				 "one that was there before stays, NOT VALID.")));
}

/* Checks blocks until the budget is spent. */
static void
check_blocks(RefitMigration *m, RefitBudget *budget, const Owed *owed)
{
	RefitProgress *p = &m->progress;

	while (p->cursor < p->cursor_end)
	{
		BlockNumber end = Min(p->cursor + RANGE_BLOCKS, p->cursor_end);
		char *row = NULL;

		if (owed->type[0] == CONSTRAINT_FOREIGN && !owns_both_ends(owed))
			check_rows_one_by_one(owed, p->cursor, end);
		else
			row = find_violation(owed, p->cursor, end);
		if (row != NULL)
			report_violation(m, owed, row);
		p->cursor = end;
		CHECK_FOR_INTERRUPTS();
		if (refit_governor_step_over(budget))
			break;
	}
}

/*
 * Owes each partition its part of a partitioned table's constraint.  True:
 * some are not valid yet; they come first, being lower in the tree.
 */
static bool
owe_partitions(const RefitMigration *m, const Owed *owed)
{
	Oid types[4] = {INT8OID, OIDOID, OIDOID, TEXTOID};
	Datum values[4];
	bool result;

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(owed->oid);
	values[2] = ObjectIdGetDatum(owed->relid);
	values[3] = CStringGetTextDatum(owed->name);
	SPI_connect();
	result =
		refit_sql("INSERT INTO refit.owed AS w (id, relid, conname)"
				  " SELECT $1, c.conrelid, c.conname"
				  " FROM pg_catalog.pg_inherits i"
				  " JOIN pg_catalog.pg_constraint c ON c.conrelid = i.inhrelid"
				  " WHERE i.inhparent = $3 AND NOT c.convalidated AND"
				  "  (c.contype = 'f' AND c.conparentid = $2"
				  "   OR c.contype = 'c' AND c.conname = $4::name)"
				  " ON CONFLICT (id, relid, conname) DO UPDATE SET done = false"
				  "  WHERE w.done",
				  4, types, values, NULL) > 0;
	SPI_finish();
	return result;
}

/*
 * Marks the constraint valid and takes it off the list; with it the rows that
 * PostgreSQL has for each partition of the table which a foreign key refers to.
 */
static void
settle(RefitMigration *m, const Owed *owed)
{
	Oid types[4] = {OIDOID, OIDOID, INT8OID, TEXTOID};
	Datum values[4];

	values[0] = ObjectIdGetDatum(owed->oid);
	values[1] = ObjectIdGetDatum(owed->relid);
	values[2] = Int64GetDatum(m->id);
	values[3] = CStringGetTextDatum(owed->name);
	if (OidIsValid(owed->oid))
		LockRelationOid(owed->relid, ShareUpdateExclusiveLock);
	SPI_connect();
	refit_sql("WITH RECURSIVE part(oid) AS (SELECT $1 WHERE $1 <> 0 UNION ALL"
			  " SELECT c.oid FROM part p JOIN pg_catalog.pg_constraint c"
			  "  ON c.conparentid = p.oid AND c.conrelid = $2)"
			  " UPDATE pg_catalog.pg_constraint c SET convalidated = true"
			  " FROM part p WHERE c.oid = p.oid",
			  2, types, values, NULL);
	refit_sql("UPDATE refit.owed SET done = true WHERE id = $3"
			  " AND conname = $4::name AND relid = $2 AND $1 IS NOT NULL",
			  4, types, values, NULL);
	SPI_finish();
	if (OidIsValid(owed->oid))
		CacheInvalidateRelcacheByRelid(owed->relid);
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	CommandCounterIncrement();
	REFIT_FAULT("validate.settled");
}

/* One chunk. */
RefitOutcome
refit_constraint_step(RefitMigration *m, RefitBudget *budget)
{
	RefitProgress *p = &m->progress;
	Owed *owed = lock_owed(m);
	Relation rel;
	double tuples;

	if (owed == NULL)
		return REFIT_NEXT;
	if (!OidIsValid(owed->oid) || owed->valid)
	{
		settle(m, owed);
		return REFIT_MORE;
	}
	if (get_rel_relkind(owed->relid) == RELKIND_PARTITIONED_TABLE)
	{
		/* keeps partitions from being attached until it is valid */
		LockRelationOid(owed->relid, ShareUpdateExclusiveLock);
		if (!owe_partitions(m, owed))
			settle(m, owed);
		return REFIT_MORE;
	}
	rel = table_open(owed->relid, AccessShareLock);
	if (p->cursor_end == 0)
	{
		p->cursor = 0;
		p->cursor_end = RelationGetNumberOfBlocks(rel);
	}
	p->message = psprintf("checking rows against \"%s\"", owed->name);
	check_blocks(m, budget, owed);
	tuples = rel->rd_rel->reltuples;
	table_close(rel, NoLock);
	p->rows_total = (int64) Max(tuples, 0);
	p->rows_done = p->rows_total * p->cursor / Max(p->cursor_end, 1);
	p->bytes_done = p->cursor * BLCKSZ;
	p->bytes_total = p->cursor_end * BLCKSZ;
	REFIT_FAULT("validate.chunk");
	if (p->cursor >= p->cursor_end)
		settle(m, owed);
	return REFIT_MORE;
}
