/*-------------------------------------------------------------------------
 *
 * mirror.c
 *	  A column that is kept in step with another one.  See mirror.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "job/catalog.h"
#include "rows/mirror.h"
#include "rows/mirror_rule.h"
#include "table/tree.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* The strategy of a kind. */
const char *
refit_mirror_strategy(const char *kind)
{
	if (strcmp(kind, "mirror_column") == 0)
		return "mirror";
	return strcmp(kind, "unmirror_column") == 0 ? "unmirror" : NULL;
}

/* A member of the definition, or NULL. */
static char *
member(const RefitMigration *m, const char *key)
{
	Oid types[2] = {TEXTOID, TEXTOID};
	Datum values[2] = {CStringGetTextDatum(m->definition),
					   CStringGetTextDatum(key)};

	return refit_sql_text("SELECT $1::pg_catalog.jsonb ->> $2", 2, types,
						  values);
}

/* The mirror that the definition asks for, of the table as it is now. */
static RefitMirror *
mirror_of(const RefitMigration *m)
{
	RefitMirrorRequest request = {.relid = m->relid,
								  .source = member(m, "source"),
								  .target = member(m, "target"),
								  .expression = member(m, "expression"),
								  .reverse = member(m, "reverse"),
								  .search_path = m->search_path};

	return refit_mirror_rule_make(&request);
}

/* Says what will be done. */
char *
refit_mirror_plan(RefitMigration *m)
{
	if (strcmp(m->kind, "unmirror_column") == 0)
		return psprintf("the trigger that keeps column %s in step is dropped",
						member(m, "target"));
	return psprintf("trigger %s keeps the columns in step while existing rows "
					"are filled",
					mirror_of(m)->name);
}

/* One try for a lock on the table and its partitions. */
static bool
lock_tables(RefitMigration *m, LOCKMODE mode, RefitBudget *budget)
{
	List *locks = NIL;
	ListCell *lc;

	foreach(lc, refit_tree_members(m->relid))
		locks = lappend(locks, refit_polite_lock_on(lfirst_oid(lc), mode));
	if (refit_polite_lock_try(m, locks))
		return true;
	budget->pause_ms = refit_polite_lock_backoff(m);
	return false;
}

/* Makes the trigger; it fires for rows that replication writes too. */
static void
create_trigger(const RefitMigration *m, const RefitMirror *mirror)
{
	char *sql = refit_mirror_rule_create(m->relid, mirror);
	CreateTrigStmt *stmt = castNode(
		CreateTrigStmt, linitial_node(RawStmt, refit_sql_parse(sql))->stmt);
	RefitRights save;

	refit_rights_begin(&save, BOOTSTRAP_SUPERUSERID, false);
	(void) CreateTriggerFiringOn(stmt, sql, m->relid, InvalidOid, InvalidOid,
								 InvalidOid, InvalidOid, InvalidOid, NULL,
								 false, false, TRIGGER_FIRES_ALWAYS);
	CommandCounterIncrement();
	refit_rights_end(&save);
}

/* What an earlier try has filled may be out of step: there was no trigger. */
static void
forget_pass(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("DELETE FROM refit.pass WHERE id = $1", 1, types, values, NULL);
	SPI_finish();
}

/* Makes the trigger, unless it is there from an earlier try. */
static void
make_trigger(const RefitMigration *m)
{
	RefitMirror *mirror = mirror_of(m);
	RefitMirror *present =
		refit_mirror_rule_by_target(m->relid, mirror->target);

	if (present != NULL && refit_mirror_rule_equal(mirror, present))
		return;
	refit_mirror_rule_check_others(m->relid, mirror);
	create_trigger(m, mirror);
	forget_pass(m);
}

/* Phase install: one try. */
RefitOutcome
refit_mirror_install(RefitMigration *m, RefitBudget *budget)
{
	if (!lock_tables(m, ShareRowExclusiveLock, budget))
		return REFIT_WAIT;
	REFIT_FAULT("install.locked");
	make_trigger(m);
	REFIT_FAULT("install.done");
	return REFIT_NEXT;
}

/* Phase detach: one try.  A trigger that is gone has been dropped by hand. */
RefitOutcome
refit_mirror_detach(RefitMigration *m, RefitBudget *budget)
{
	RefitMirror *mirror;
	ObjectAddress object;

	if (!lock_tables(m, AccessExclusiveLock, budget))
		return REFIT_WAIT;
	REFIT_FAULT("detach.locked");
	mirror = refit_mirror_rule_by_target(
		m->relid, get_attnum(m->relid, member(m, "target")));
	if (mirror != NULL)
	{
		ObjectAddressSet(object, TriggerRelationId, mirror->trigger);
		performDeletion(&object, DROP_RESTRICT, 0);
	}
	REFIT_FAULT("detach.done");
	return REFIT_NEXT;
}
