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

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
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
} Owed;

/*
 * The query that finds a violating row between two ctids, by the kind of
 * constraint.  A foreign key compares with its own operators, as RI does.
 */
#define VIOLATION_QUERY                                                         \
	"CASE c.contype WHEN 'c' THEN"                                              \
	" format('SELECT x::text FROM ONLY %s x WHERE x.ctid >= $1 AND"             \
	"  x.ctid < $2 AND NOT (%s) LIMIT 1', c.conrelid::regclass,"                \
	"  pg_get_expr(c.conbin, c.conrelid))"                                      \
	" WHEN 'f' THEN (SELECT format('SELECT (SELECT r FROM (SELECT %s) r)::text" \
	"  FROM ONLY %s x WHERE x.ctid >= $1 AND x.ctid < $2 AND %s LIMIT 1',"      \
	"  string_agg(format('x.%I', fa.attname), ', ' ORDER BY k.n),"              \
	"  c.conrelid::regclass,"                                                   \
	"  CASE WHEN c.confmatchtype = 'f' THEN"                                    \
	"   format('NOT (%s) AND (%s OR NOT EXISTS (SELECT FROM %s p"               \
	"    WHERE %s))',"                                                          \
	"    string_agg(format('x.%I IS NULL', fa.attname), ' AND '),"              \
	"    string_agg(format('x.%I IS NULL', fa.attname), ' OR '),"               \
	"    r.name,"                                                               \
	"    string_agg(format('p.%I OPERATOR(%I.%s) x.%I', pa.attname,"            \
	"     n.nspname, o.oprname, fa.attname), ' AND '))"                         \
	"  ELSE format('%s AND NOT EXISTS (SELECT FROM %s p WHERE %s)',"            \
	"    string_agg(format('x.%I IS NOT NULL', fa.attname), ' AND '),"          \
	"    r.name,"                                                               \
	"    string_agg(format('p.%I OPERATOR(%I.%s) x.%I', pa.attname,"            \
	"     n.nspname, o.oprname, fa.attname), ' AND ')) END)"                    \
	"  FROM unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY"           \
	"   AS k(f, p, op, n)"                                                      \
	"  JOIN pg_catalog.pg_attribute fa ON fa.attrelid = c.conrelid"             \
	"   AND fa.attnum = k.f"                                                    \
	"  JOIN pg_catalog.pg_attribute pa ON pa.attrelid = c.confrelid"            \
	"   AND pa.attnum = k.p"                                                    \
	"  JOIN pg_catalog.pg_operator o ON o.oid = k.op"                           \
	"  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace,"               \
	"  (SELECT CASE WHEN relkind = 'p' THEN '' ELSE 'ONLY ' END"                \
	"   || c.confrelid::regclass FROM pg_catalog.pg_class"                      \
	"   WHERE oid = c.confrelid) AS r(name) GROUP BY r.name) END"

/* The next constraint to check, or NULL. */
static Owed *
next_owed(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	MemoryContext context = CurrentMemoryContext;
	Owed *owed = NULL;

	SPI_connect();
	refit_sql(
		"SELECT w.relid::int8, coalesce(c.oid, 0)::int8, w.conname,"
		" c.contype, coalesce(c.convalidated, true), " VIOLATION_QUERY
		" FROM refit.owed w LEFT JOIN pg_catalog.pg_constraint c"
		"  ON c.conrelid = w.relid AND c.conname = w.conname"
		" WHERE w.id = $1 AND NOT w.done ORDER BY w.relid, w.conname LIMIT 1",
		1, types, values, NULL);
	if (SPI_processed > 0)
	{
		HeapTuple row = SPI_tuptable->vals[0];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		char *type = SPI_getvalue(row, desc, 4);
		char *query = SPI_getvalue(row, desc, 6);

		owed = palloc0(sizeof(Owed));
		owed->relid = strtoul(SPI_getvalue(row, desc, 1), NULL, 10);
		owed->oid = strtoul(SPI_getvalue(row, desc, 2), NULL, 10);
		owed->name = pstrdup(SPI_getvalue(row, desc, 3));
		owed->type = type != NULL ? pstrdup(type) : NULL;
		owed->valid = SPI_getvalue(row, desc, 5)[0] == 't';
		owed->query = query != NULL ? pstrdup(query) : NULL;
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return owed;
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

/* The column whose NOT NULL this constraint is to prove, or NULL. */
static char *
proven_column(const RefitMigration *m, const Owed *owed)
{
	int attnum;
	int length = 0;

	sscanf(owed->name,
		   psprintf("refit_" INT64_FORMAT "_%%d_not_null%%n", m->id), &attnum,
		   &length);
	return length > 0 ? get_attname(owed->relid, attnum, true) : NULL;
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
		char *row = find_violation(owed, p->cursor, end);

		if (row != NULL)
			report_violation(m, owed, row);
		p->cursor = end;
		CHECK_FOR_INTERRUPTS();
		if (refit_governor_step_over(budget))
			break;
	}
}

/* Marks the constraint valid and takes it off the list. */
static void
settle(RefitMigration *m, const Owed *owed)
{
	Oid types[4] = {OIDOID, INT8OID, TEXTOID, OIDOID};
	Datum values[4];

	values[0] = ObjectIdGetDatum(owed->oid);
	values[1] = Int64GetDatum(m->id);
	values[2] = CStringGetTextDatum(owed->name);
	values[3] = ObjectIdGetDatum(owed->relid);
	if (OidIsValid(owed->oid))
		LockRelationOid(owed->relid, ShareUpdateExclusiveLock);
	SPI_connect();
	refit_sql("UPDATE pg_catalog.pg_constraint SET convalidated = true"
			  " WHERE oid = $1",
			  1, types, values, NULL);
	refit_sql("UPDATE refit.owed SET done = true WHERE id = $2"
			  " AND conname = $3::name"
			  " AND relid = $4",
			  4, types, values, NULL);
	SPI_finish();
	if (OidIsValid(owed->oid))
		CacheInvalidateRelcacheByRelid(owed->relid);
	m->progress.cursor = 0;
	m->progress.cursor_end = 0;
	CommandCounterIncrement();
}

/* One chunk. */
RefitOutcome
refit_constraint_step(RefitMigration *m, RefitBudget *budget)
{
	RefitProgress *p = &m->progress;
	Owed *owed = next_owed(m);
	Relation rel;
	double tuples;

	if (owed == NULL)
		return REFIT_NEXT;
	if (!OidIsValid(owed->oid) || owed->valid)
	{
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
