/*-------------------------------------------------------------------------
 *
 * leftovers.c
 *	  What migrations that are over, or whose rows are gone, have left behind.
 *
 * See leftovers.h.  How we know what is ours:
 *
 *	work schema			a member of our extension with a migration's name
 *	capture trigger		calls our trigger function, with the migration's id
 *	constraint			has the name of a proof of NOT NULL and is on the
 *						migration's table, or is owed by a migration that is over
 *	invalid index		is what a command of refit.command has not finished
 *
 * Nothing of an unfinished migration: its id is claimed, and its state looked at
 * again, before anything of it is removed.
 *
 * Who waits: users of the table, for refit.lock_timeout at most, then for the
 * milliseconds that it takes to drop a trigger, a constraint or an index; until
 * the end of the transaction.  If the process dies: it is still there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "ddl/fate.h"
#include "job/catalog.h"
#include "job/claim.h"
#include "job/leftovers.h"
#include "job/state.h"
#include "table/capture.h"
#include "table/twin.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

#define UNFINISHED "('queued', 'running', 'paused', 'ready', 'revertible')"

/* What is ours: kind, name, table, migration, object, owner. */
#define OURS                                                                \
	"SELECT 'work schema', n.nspname::text, 0::oid,"                        \
	"  substr(n.nspname, 7)::int8, n.oid, n.nspowner"                       \
	" FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_depend d"           \
	"  ON d.classid = 'pg_namespace'::regclass AND d.objid = n.oid"         \
	"  AND d.refclassid = 'pg_extension'::regclass"                         \
	"  AND d.refobjid = (SELECT oid FROM pg_catalog.pg_extension"           \
	"   WHERE extname = 'pg_refit')"                                        \
	" WHERE n.nspname ~ '^refit_[0-9]{1,18}$'"                              \
	" UNION ALL SELECT 'capture trigger', min(t.tgname), t.tgrelid,"        \
	"  a.id, min(t.oid), c.relowner"                                        \
	" FROM pg_catalog.pg_trigger t"                                         \
	" JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid"                      \
	" CROSS JOIN LATERAL (SELECT split_part(encode(t.tgargs, 'escape'),"    \
	"  '\\000', 1)::int8) a(id)"                                            \
	" WHERE t.tgfoid = 'refit._capture'::regproc AND t.tgisinternal"        \
	"  AND t.tgnargs > 0 GROUP BY t.tgrelid, a.id, c.relowner"              \
	" UNION ALL SELECT DISTINCT 'constraint', k.conname::text, k.conrelid," \
	"  m.id, k.oid, c.relowner"                                             \
	" FROM pg_catalog.pg_constraint k"                                      \
	" JOIN pg_catalog.pg_class c ON c.oid = k.conrelid"                     \
	" JOIN refit.migration m ON m.relid = k.conrelid"                       \
	" LEFT JOIN refit.owed o ON o.id = m.id AND o.relid = k.conrelid"       \
	"  AND o.conname = k.conname AND o.added AND NOT k.convalidated"        \
	" WHERE k.contype IN ('c', 'f') AND (o.id IS NOT NULL OR k.conname"     \
	"  LIKE 'refit\\_' || m.id || '\\_%\\_not\\_null')"                     \
	" UNION ALL SELECT 'invalid index', c.relname::text, i.indrelid, w.id," \
	"  c.oid, c.relowner" REFIT_DEBRIS_FROM

/* What is not: kind, name, table, who made it, what to do, owner. */
#define OF_OTHERS                                                              \
	"SELECT 'invalid index', c.relname::text, i.indrelid,"                     \
	"  CASE WHEN c.relname ~ '_cc(new|old)[0-9]*$'"                            \
	"   THEN 'REINDEX CONCURRENTLY' ELSE 'CREATE INDEX CONCURRENTLY' END,"     \
	"  'drop it', c.relowner"                                                  \
	" FROM pg_catalog.pg_index i"                                              \
	" JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"                      \
	" WHERE NOT i.indisvalid AND c.relkind = 'i'"                              \
	"  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p" \
	"   WHERE p.index_relid = c.oid)"                                          \
	"  AND NOT EXISTS (SELECT FROM refit.migration m"                          \
	"   WHERE m.state IN " UNFINISHED                                          \
	"   AND refit._overlap(m.relid, i.indrelid))"                              \
	"  AND c.oid NOT IN (SELECT oid FROM ours WHERE kind = 'invalid index')"   \
	" UNION ALL SELECT 'work table', c.relname::text,"                         \
	"  substring(c.relname FROM '[0-9]+$')::oid, 'pg_repack',"                 \
	"  'see the documentation of pg_repack', c.relowner"                       \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"               \
	"  ON n.oid = c.relnamespace WHERE n.nspname = 'repack'"                   \
	"  AND c.relkind = 'r' AND c.relname ~ '^(log|table)_[0-9]{1,10}$'"        \
	" UNION ALL SELECT 'trigger', t.tgname::text, t.tgrelid,"                  \
	"  CASE WHEN t.tgname = 'repack_trigger' THEN 'pg_repack'"                 \
	"   ELSE 'pgroll' END, CASE WHEN t.tgname = 'repack_trigger'"              \
	"   THEN 'drop it unless pg_repack is at work'"                            \
	"   ELSE 'complete or roll back its migration' END, c.relowner"            \
	" FROM pg_catalog.pg_trigger t"                                            \
	" JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid"                         \
	" WHERE t.tgname = 'repack_trigger' OR t.tgname ~ '^_pgroll_trigger_'"     \
	" UNION ALL SELECT 'column', a.attname::text, a.attrelid, 'pgroll',"       \
	"  'complete or roll back its migration', c.relowner"                      \
	" FROM pg_catalog.pg_attribute a"                                          \
	" JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"                        \
	" WHERE a.attname ~ '^_pgroll_(new|del|dup)_' AND NOT a.attisdropped"      \
	"  AND c.relkind IN ('r', 'p')"

#define LEFTOVERS                                                             \
	"WITH made(kind, object, relid, id, oid, owner) AS (" OURS "),"           \
	" ours AS (SELECT * FROM made WHERE NOT EXISTS (SELECT"                   \
	"  FROM refit.migration m WHERE m.id = made.id"                           \
	"  AND m.state IN " UNFINISHED ")),"                                      \
	" others(kind, object, relid, made_by, what_to_do, owner) AS (" OF_OTHERS \
	")"                                                                       \
	" SELECT kind, object, relid::int8, id, 'pg_refit',"                      \
	"  'refit.clean_leftovers()', oid::int8, owner, 0 AS n FROM ours"         \
	" UNION ALL SELECT kind, object, relid::int8, 0, made_by, what_to_do, 0," \
	"  owner, 1 FROM others"

/* A column of a row as text. */
static char *
text_of(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/* A column of a row as an oid. */
static Oid
oid_of(uint64 row, int column)
{
	return strtoul(text_of(row, column), NULL, 10);
}

/* One row; in the caller's memory context. */
static RefitLeftover *
read_leftover(uint64 row)
{
	RefitLeftover *result = palloc0(sizeof(RefitLeftover));

	result->kind = pstrdup(text_of(row, 1));
	result->object = pstrdup(text_of(row, 2));
	result->relid = oid_of(row, 3);
	result->id = strtoll(text_of(row, 4), NULL, 10);
	result->made_by = pstrdup(text_of(row, 5));
	result->what_to_do = pstrdup(text_of(row, 6));
	result->objid = oid_of(row, 7);
	if (OidIsValid(result->relid))
		result->table = refit_qualified_name(result->relid);
	return result;
}

/* What that role may see. */
List *
refit_leftovers_list(Oid role)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(role)};
	MemoryContext context = CurrentMemoryContext;
	List *result = NIL;

	SPI_connect();
	refit_sql(
		"SELECT * FROM (" LEFTOVERS ") l WHERE pg_has_role($1,"
		" 'pg_read_all_stats', 'USAGE') OR pg_has_role($1, owner, 'USAGE')"
		" ORDER BY n, kind, relid, object",
		1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		result = lappend(result, read_leftover(i));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

/* Who owns what it is: the schema, or the table. */
bool
refit_leftovers_may_remove(const RefitLeftover *leftover, Oid role)
{
	Oid types[3] = {OIDOID, OIDOID, OIDOID};
	Datum values[3] = {ObjectIdGetDatum(leftover->relid),
					   ObjectIdGetDatum(leftover->objid),
					   ObjectIdGetDatum(role)};

	return leftover->id != 0 &&
		   refit_sql_text(
			   "SELECT 1 FROM (SELECT relowner AS owner"
			   " FROM pg_catalog.pg_class WHERE oid = $1"
			   " UNION ALL SELECT nspowner"
			   " FROM pg_catalog.pg_namespace WHERE oid = $2"
			   " AND $1 = 0) o WHERE pg_has_role($3, owner, 'USAGE')",
			   3, types, values) != NULL;
}

/*
 * Is its migration over, and nobody at it?  The claim is held to the end of the
 * transaction then.
 */
static bool
is_over(int64 id)
{
	RefitMigration *m;

	if (!refit_migration_claim(id, false))
		return false;
	m = refit_catalog_load(id);
	return m == NULL || refit_migration_is_over(m);
}

/* Takes the lock on its table. */
static bool
lock_table(RefitMigration *m, const RefitLeftover *leftover)
{
	List *locks =
		list_make1(refit_polite_lock_on(leftover->relid, AccessExclusiveLock));

	if (strcmp(leftover->kind, "invalid index") == 0)
		locks = lappend(
			locks, refit_polite_lock_on(leftover->objid, AccessExclusiveLock));
	return refit_polite_lock_try(m, locks);
}

/*
 * Can it be removed, now that the lock is held?  A work schema has what the
 * migration's triggers write to: as long as there is one, no client could write to
 * the table without it.
 */
static bool
can_be_removed(const RefitLeftover *leftover)
{
	bool is_schema = strcmp(leftover->kind, "work schema") == 0;
	bool found = false;
	ListCell *lc;

	foreach(lc, refit_leftovers_list(BOOTSTRAP_SUPERUSERID))
	{
		const RefitLeftover *l = lfirst(lc);

		if (is_schema && l->id == leftover->id &&
			strcmp(l->kind, "capture trigger") == 0)
			return false;
		if (l->objid == leftover->objid && strcmp(l->kind, leftover->kind) == 0)
			found = true;
	}
	return found;
}

/* Drops something that PostgreSQL knows as an object. */
static void
drop_object(Oid classid, Oid objid)
{
	ObjectAddress object;

	ObjectAddressSet(object, classid, objid);
	performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
}

/* Removes one. */
bool
refit_leftovers_remove(const RefitLeftover *leftover)
{
	RefitMigration m = {
		.id = leftover->id, .relid = leftover->relid, .leaf = leftover->relid};

	if (!is_over(m.id) || (OidIsValid(m.relid) && !lock_table(&m, leftover)) ||
		!can_be_removed(leftover))
		return false;
	REFIT_FAULT("leftovers.locked");
	if (strcmp(leftover->kind, "work schema") == 0)
		refit_twin_drop_schema(leftover->objid);
	else if (strcmp(leftover->kind, "capture trigger") == 0)
		refit_capture_remove(&m);
	else if (strcmp(leftover->kind, "constraint") == 0)
		drop_object(ConstraintRelationId, leftover->objid);
	else
		drop_object(RelationRelationId, leftover->objid);
	ereport(
		LOG,
		(errmsg("pg_refit removed %s \"%s\", left by migration " INT64_FORMAT,
				leftover->kind, leftover->object, leftover->id)));
	return true;
}
