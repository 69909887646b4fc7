/*-------------------------------------------------------------------------
 *
 * constraint.c
 *	  Phase validate: checking existing rows in chunks.  See constraint.h.
 *
 * progress.cursor is the next block of the constraint that comes first in
 * refit.owed; cursor_end its table's length when the check began.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "job/catalog.h"
#include "pass/governor.h"
#include "rows/constraint.h"
#include "rows/violation.h"
#include "rows/violation_sql.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/*
 * Blocks looked at by the first query of a chunk, and by the largest one.  Each
 * has twice as many as the one before, since it may hash the referenced table.
 */
#define FIRST_BLOCKS 512
#define MOST_BLOCKS 32768

/* A constraint that is owed. */
typedef struct Owed
{
	RefitConstraint constraint;
	char *listed_as; /* its name in refit.owed */
	bool valid;
	Oid filenode; /* the storage that is being checked; 0: none yet */
	int64 since;  /* the oldest transaction running when that began */
} Owed;

/* A number of a row, 0 for NULL. */
static int64
number_of(HeapTuple row, TupleDesc desc, int column)
{
	char *value = SPI_getvalue(row, desc, column);

	return value != NULL ? strtoll(value, NULL, 10) : 0;
}

/* A text of a row in the current context. */
static char *
text_of(HeapTuple row, TupleDesc desc, int column)
{
	char *value = SPI_getvalue(row, desc, column);

	return value != NULL ? pstrdup(value) : NULL;
}

/* The columns of next_owed's query. */
enum
{
	COL_RELID = 1,
	COL_OID,
	COL_LISTED_AS,
	COL_NAME,
	COL_TYPE,
	COL_VALID,
	COL_TARGET,
	COL_TARGET_INDEX,
	COL_LARGE,
	COL_TEMPORAL,
	COL_FILENODE,
	COL_SINCE,
	COL_KEY,
	COL_REFERENCE,
	COL_ORDER,
	COL_VIOLATES
};

/* Fills an entry from a row of that query. */
static Owed *
read_owed(HeapTuple row, TupleDesc desc)
{
	Owed *owed = palloc0(sizeof(Owed));
	RefitConstraint *c = &owed->constraint;

	c->relid = number_of(row, desc, COL_RELID);
	c->oid = number_of(row, desc, COL_OID);
	owed->listed_as = text_of(row, desc, COL_LISTED_AS);
	owed->valid = number_of(row, desc, COL_VALID) != 0;
	owed->filenode = number_of(row, desc, COL_FILENODE);
	owed->since = number_of(row, desc, COL_SINCE);
	if (!OidIsValid(c->oid))
		return owed;
	c->name = text_of(row, desc, COL_NAME);
	c->type = text_of(row, desc, COL_TYPE)[0];
	c->target = number_of(row, desc, COL_TARGET);
	c->target_index = number_of(row, desc, COL_TARGET_INDEX);
	c->by_probes = number_of(row, desc, COL_LARGE) != 0;
	c->by_trigger = number_of(row, desc, COL_TEMPORAL) != 0;
	c->key = text_of(row, desc, COL_KEY);
	c->reference = text_of(row, desc, COL_REFERENCE);
	c->order = text_of(row, desc, COL_ORDER);
	c->violates = text_of(row, desc, COL_VIOLATES);
	return owed;
}

/*
 * The next constraint to check, or NULL.  From the first look on it is known by
 * its oid: it may be renamed.
 */
static Owed *
next_owed(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	MemoryContext context = CurrentMemoryContext;
	Owed *owed = NULL;

	SPI_connect();
	refit_sql("UPDATE refit.owed w SET conoid = c.oid"
			  " FROM pg_catalog.pg_constraint c WHERE w.id = $1"
			  " AND w.conoid = 0 AND NOT w.done AND c.conrelid = w.relid"
			  " AND c.conname = w.conname",
			  1, types, values, NULL);
	refit_sql("SELECT w.relid::int8, c.oid::int8, w.conname, c.conname,"
			  " c.contype, c.convalidated::int4, c.confrelid::int8,"
			  " c.conindid::int8, " REFERENCED_IS_LARGE "::int4,"
			  " " IS_TEMPORAL "::int4, w.filenode::int8,"
			  " w.since, " KEY_OF_ROW ", " REFERENCE_OF_ROW ", " REFERENCE_ORDER
			  ", " ROW_VIOLATES
			  " FROM refit.owed w LEFT JOIN pg_catalog.pg_constraint c"
			  "  ON c.oid = w.conoid AND c.conrelid = w.relid"
			  " WHERE w.id = $1 AND NOT w.done"
			  " ORDER BY w.depth DESC, w.relid, w.conname LIMIT 1",
			  1, types, values, NULL);
	if (SPI_processed > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		owed = read_owed(SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return owed;
}

/* Are both ends of a foreign key ours to read, whatever rights they give? */
static bool
owns_both_ends(const RefitConstraint *c)
{
	return refit_owns_relation(c->relid) && refit_owns_relation(c->target);
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
		RefitConstraint *c;

		if (owed == NULL)
			return NULL;
		c = &owed->constraint;
		if (c->relid == relid && c->target == other)
		{
			if (OidIsValid(c->target) && !owns_both_ends(c))
				c->by_trigger = true;
			return owed;
		}
		relid = c->relid;
		other = c->target;
		LockRelationOid(relid, AccessShareLock);
		if (OidIsValid(other))
			LockRelationOid(other, AccessShareLock);
	}
}

/* The column whose NOT NULL this constraint is to prove, or NULL. */
static char *
proven_column(const RefitMigration *m, const Owed *owed)
{
	const RefitConstraint *c = &owed->constraint;
	int attnum;
	int length = 0;

	if (c->type == 'n')
	{
		Oid types[1] = {OIDOID};
		Datum values[1] = {ObjectIdGetDatum(c->oid)};

		return refit_sql_text(
			"SELECT a.attname FROM pg_catalog.pg_constraint c"
			" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid"
			" AND a.attnum = c.conkey[1] WHERE c.oid = $1",
			1, types, values);
	}
	sscanf(owed->listed_as,
		   psprintf("refit_" INT64_FORMAT "_%%d_not_null%%n", m->id), &attnum,
		   &length);
	return length > 0 ? get_attname(m->relid, attnum, true) : NULL;
}

/* Fails, naming constraint and row. */
static void
report_violation(const RefitMigration *m, const Owed *owed,
				 const RefitViolation *row)
{
	const RefitConstraint *c = &owed->constraint;
	char *column = proven_column(m, owed);
	bool foreign = c->type == CONSTRAINT_FOREIGN;

	if (column != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("column \"%s\" of relation %s contains null "
						"values",
						column, refit_qualified_name(c->relid)),
				 errdetail("The row with key %s is at fault.", row->key)));
	ereport(
		ERROR,
		(errcode(foreign ? ERRCODE_FOREIGN_KEY_VIOLATION
						 : ERRCODE_CHECK_VIOLATION),
		 errmsg("constraint \"%s\" of relation %s is violated by some row",
				c->name, refit_qualified_name(c->relid)),
		 foreign ? errdetail("The row with key %s is at fault: %s has no match "
							 "in %s.",
							 row->key, row->reference,
							 refit_qualified_name(c->target))
				 : errdetail("The row with key %s is at fault.", row->key),
		 strcmp(m->strategy, "check") == 0
			 ? errhint("Change or delete the row, then start again with "
					   "refit.retry().")
			 : errhint("A constraint that the migration has added is dropped "
					   "again; one that was there before stays, NOT VALID.")));
}

/* Looks at some rows; an ERROR names one that violates the constraint. */
static void
check_range(const RefitMigration *m, const Owed *owed, const RefitRange *range)
{
	RefitViolation *row = refit_violation_find(&owed->constraint, range);

	if (row != NULL)
		report_violation(m, owed, row);
}

/* Checks blocks until the budget is spent. */
static void
check_blocks(RefitMigration *m, RefitBudget *budget, const Owed *owed)
{
	RefitProgress *p = &m->progress;
	int64 blocks = FIRST_BLOCKS;

	while (p->cursor < p->cursor_end)
	{
		RefitRange range = {.from = p->cursor};

		range.end = Min(p->cursor + blocks, p->cursor_end);
		range.snapshot = RegisterSnapshot(GetLatestSnapshot());
		check_range(m, owed, &range);
		UnregisterSnapshot(range.snapshot);
		p->cursor = range.end;
		blocks = Min(blocks * 2, MOST_BLOCKS);
		CHECK_FOR_INTERRUPTS();
		if (refit_governor_step_over(budget))
			break;
	}
}

/*
 * How old a transaction is for age(), which counts from an xid that stays the
 * same in a transaction.  One too old to say is older than any.
 */
static int32
age_of(int64 since)
{
	TransactionId now = GetStableLatestTransactionId();
	FullTransactionId next = ReadNextFullTransactionId();
	int64 full_now = U64FromFullTransactionId(next) -
					 (uint32) (XidFromFullTransactionId(next) - now);

	return (int32) Min(Max(full_now - since, 0), PG_INT32_MAX);
}

/*
 * The last look of a foreign key: at all rows written since the check began, in
 * one snapshot.  False: somebody waits for a lock of ours.
 */
static bool
check_moved_rows(RefitMigration *m, const RefitBudget *budget, const Owed *owed,
				 Relation rel)
{
	RefitRange range = {.recent = true, .age = age_of(owed->since)};
	RefitBudget patience = {.start = budget->start, .chunk_ms = INT_MAX};
	BlockNumber length;
	bool done = true;

	range.snapshot = RegisterSnapshot(GetLatestSnapshot());
	length = RelationGetNumberOfBlocks(rel);
	REFIT_FAULT("validate.last_look");
	while (done && range.from < length)
	{
		range.end = Min((uint64) range.from + FIRST_BLOCKS, length);
		check_range(m, owed, &range);
		range.from = range.end;
		CHECK_FOR_INTERRUPTS();
		done = !refit_governor_step_over(&patience);
	}
	UnregisterSnapshot(range.snapshot);
	return done;
}

/*
 * Owes each table below its part of the constraint.  True: some are not valid
 * yet; they come first.
 */
static bool
owe_children(const RefitMigration *m, const Owed *owed)
{
	Oid types[4] = {INT8OID, OIDOID, OIDOID, TEXTOID};
	Datum values[4];
	bool result;

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(owed->constraint.oid);
	values[2] = ObjectIdGetDatum(owed->constraint.relid);
	values[3] = CStringGetTextDatum(owed->listed_as);
	SPI_connect();
	result = refit_sql(
				 "INSERT INTO refit.owed AS w (id, relid, conname, conoid,"
				 "  depth)"
				 " SELECT $1, c.conrelid, c.conname, c.oid, above.depth + 1"
				 " FROM pg_catalog.pg_inherits i"
				 " JOIN pg_catalog.pg_constraint c ON c.conrelid = i.inhrelid"
				 " JOIN pg_catalog.pg_constraint p ON p.oid = $2"
				 " JOIN refit.owed above ON above.id = $1 AND above.relid = $3"
				 "  AND above.conname = $4::name"
				 " WHERE i.inhparent = $3 AND NOT c.convalidated"
				 "  AND c.contype = p.contype AND NOT p.connoinherit"
				 "  AND CASE c.contype WHEN 'f' THEN c.conparentid = $2"
				 "   WHEN 'c' THEN c.conname = p.conname"
				 "   WHEN 'n' THEN (SELECT attname"
				 "     FROM pg_catalog.pg_attribute WHERE attrelid = c.conrelid"
				 "     AND attnum = c.conkey[1]) = (SELECT attname"
				 "     FROM pg_catalog.pg_attribute WHERE attrelid = p.conrelid"
				 "     AND attnum = p.conkey[1]) END"
				 " ON CONFLICT (id, relid, conname) DO UPDATE"
				 "  SET done = false, conoid = excluded.conoid,"
				 "   depth = greatest(w.depth, excluded.depth)"
				 "  WHERE w.done OR w.depth < excluded.depth",
				 4, types, values, NULL) > 0;
	SPI_finish();
	return result;
}

/* Keeps what the check of this table began with. */
static void
save_beginning(const RefitMigration *m, const Owed *owed)
{
	Oid types[5] = {INT8OID, OIDOID, TEXTOID, OIDOID, INT8OID};
	Datum values[5];

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(owed->constraint.relid);
	values[2] = CStringGetTextDatum(owed->listed_as);
	values[3] = ObjectIdGetDatum(owed->filenode);
	values[4] = Int64GetDatum(owed->since);
	SPI_connect();
	refit_sql("UPDATE refit.owed SET filenode = $4, since = $5"
			  " WHERE id = $1 AND relid = $2 AND conname = $3::name",
			  5, types, values, NULL);
	SPI_finish();
}

/*
 * Begins at the first block.  Every transaction that is older than the oldest one
 * running now has ended, and what it wrote is seen by each chunk.
 */
static void
begin_check(RefitMigration *m, Owed *owed, Relation rel)
{
	TransactionId oldest = GetLatestSnapshot()->xmin;
	FullTransactionId next = ReadNextFullTransactionId(); /* after it */
	uint32 age = XidFromFullTransactionId(next) - oldest;

	m->progress.cursor = 0;
	m->progress.cursor_end = RelationGetNumberOfBlocks(rel);
	owed->filenode = rel->rd_rel->relfilenode;
	owed->since = U64FromFullTransactionId(next) - age;
	save_beginning(m, owed);
}

/*
 * Marks the constraint valid and takes it off the list; with it the rows that
 * PostgreSQL has for each partition of the table which a foreign key refers to.
 * The caller has SHARE UPDATE EXCLUSIVE, if the constraint is there.  With the
 * last one the phase ends, in the same transaction: what is valid is not called
 * cancelled.
 */
static RefitOutcome
settle(RefitMigration *m, const Owed *owed)
{
	const RefitConstraint *c = &owed->constraint;
	Oid types[4] = {OIDOID, OIDOID, INT8OID, TEXTOID};
	Datum values[4];

	values[0] = ObjectIdGetDatum(c->oid);
	values[1] = ObjectIdGetDatum(c->relid);
	values[2] = Int64GetDatum(m->id);
	values[3] = CStringGetTextDatum(owed->listed_as);
	SPI_connect();
	refit_sql("WITH RECURSIVE part(oid) AS (SELECT $1 WHERE $1 <> 0 UNION ALL"
			  " SELECT c.oid FROM part p JOIN pg_catalog.pg_constraint c"
			  "  ON c.conparentid = p.oid AND c.conrelid = $2)"
			  " UPDATE pg_catalog.pg_constraint c SET convalidated = true"
			  " FROM part p WHERE c.oid = p.oid AND NOT c.convalidated",
			  2, types, values, NULL);
	refit_sql("UPDATE refit.owed SET done = true WHERE id = $3"
			  " AND conname = $4::name AND relid = $2 AND $1 IS NOT NULL",
			  4, types, values, NULL);
	SPI_finish();
	if (OidIsValid(c->oid))
		CacheInvalidateRelcacheByRelid(c->relid);
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	CommandCounterIncrement();
	REFIT_FAULT("validate.settled");
	return next_owed(m) == NULL ? REFIT_NEXT : REFIT_MORE;
}

/* Nobody has added the constraint but its user, who asks for it and drops it. */
static void
refuse_dropped(const RefitMigration *m, const Owed *owed)
{
	if (strcmp(m->kind, "validate_constraint") != 0 ||
		owed->constraint.relid != m->relid)
		return;
	AcceptInvalidationMessages(); /* it may be the table that was dropped */
	(void) refit_relation_owner(m->relid);
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("constraint \"%s\" of relation %s was dropped while "
						   "its rows were checked",
						   owed->listed_as, refit_qualified_name(m->relid))));
}

/* All blocks are checked: what is left to do under a lock.  One try. */
static RefitOutcome
end_check(RefitMigration *m, RefitBudget *budget, Owed *owed, Relation rel)
{
	List *locks = list_make1(
		refit_polite_lock_on(RelationGetRelid(rel), ShareUpdateExclusiveLock));

	/* it keeps tables from becoming children, too */
	if (!refit_polite_lock_try(m, locks))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	if (owe_children(m, owed))
		return REFIT_MORE;
	if (owed->constraint.type == CONSTRAINT_FOREIGN &&
		rel->rd_rel->relkind == RELKIND_RELATION &&
		!check_moved_rows(m, budget, owed, rel))
		return REFIT_MORE;
	return settle(m, owed);
}

/* How far it is, for people. */
static void
show_progress(RefitMigration *m, const Owed *owed, Relation rel)
{
	RefitProgress *p = &m->progress;
	BlockNumber pages;
	double rows; /* by statistics, or by the width of rows */
	double visible;

	p->message =
		psprintf("checking rows against \"%s\"", owed->constraint.name);
	estimate_rel_size(rel, NULL, &pages, &rows, &visible);
	p->rows_total = (int64) rows;
	p->rows_done = p->rows_total * p->cursor / Max(p->cursor_end, 1);
	p->bytes_done = p->cursor * BLCKSZ;
	p->bytes_total = p->cursor_end * BLCKSZ;
}

/* One chunk of a constraint that is there. */
static RefitOutcome
check_step(RefitMigration *m, RefitBudget *budget, Owed *owed)
{
	RefitProgress *p = &m->progress;
	Relation rel = table_open(owed->constraint.relid, AccessShareLock);
	RefitOutcome outcome = REFIT_MORE;

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		p->cursor = p->cursor_end = 0;
	else if (owed->filenode != rel->rd_rel->relfilenode || p->cursor_end == 0)
		begin_check(m, owed, rel);
	check_blocks(m, budget, owed);
	show_progress(m, owed, rel);
	REFIT_FAULT("validate.chunk");
	if (p->cursor >= p->cursor_end)
		outcome = end_check(m, budget, owed, rel);
	table_close(rel, NoLock);
	return outcome;
}

/* One chunk. */
RefitOutcome
refit_constraint_step(RefitMigration *m, RefitBudget *budget)
{
	Owed *owed = lock_owed(m);

	if (owed == NULL)
		return REFIT_NEXT;
	if (!OidIsValid(owed->constraint.oid))
		refuse_dropped(m, owed);
	if (!OidIsValid(owed->constraint.oid) || owed->valid)
		return settle(m, owed);
	if (m->progress.cursor_end == 0 && owe_children(m, owed))
		return REFIT_MORE;
	return check_step(m, budget, owed);
}
