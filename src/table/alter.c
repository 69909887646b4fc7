/*-------------------------------------------------------------------------
 *
 * alter.c
 *	  Phases alter and settle of the strategies instant and validate.
 *
 * SET NOT NULL on a populated table would scan it under ACCESS EXCLUSIVE.  It
 * is split off: phase alter adds CHECK (column IS NOT NULL) NOT VALID, phase
 * validate checks the rows in chunks, and phase settle runs SET NOT NULL, which
 * finds the constraint and does not scan, and drops the constraint again.  From
 * PostgreSQL 18 on NOT NULL is a constraint itself and can be NOT VALID: then
 * that is what phase alter adds and phase validate makes valid, and phase settle
 * has nothing to do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "job/catalog.h"
#include "rows/violation_sql.h"
#include "table/actions.h"
#include "table/alter.h"
#include "table/dependents.h"
#include "table/tree.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* The name of the constraint that proves NOT NULL for a column. */
static char *
proof_name(const RefitMigration *m, const char *column)
{
	char *name = psprintf("refit_" INT64_FORMAT "_%d_not_null", m->id,
						  get_attnum(m->relid, column));

	return name;
}

/* Owes a constraint a validation. */
static void
owe(const RefitMigration *m, const char *constraint, bool added)
{
	Oid types[4] = {INT8OID, OIDOID, TEXTOID, BOOLOID};
	Datum values[4];

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(m->relid);
	values[2] = CStringGetTextDatum(constraint);
	values[3] = BoolGetDatum(added);
	SPI_connect();
	refit_sql("INSERT INTO refit.owed (id, relid, conname, added)"
			  " VALUES ($1, $2, $3::name, $4) ON CONFLICT DO NOTHING",
			  4, types, values, NULL);
	SPI_finish();
}

/* Owes every CHECK, FOREIGN KEY and NOT NULL that the ALTER has added. */
static void
owe_new_constraints(const RefitMigration *m, const char *known)
{
	Oid types[3] = {INT8OID, OIDOID, TEXTOID};
	Datum values[3];

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(m->relid);
	values[2] = CStringGetTextDatum(known);
	SPI_connect();
	refit_sql("INSERT INTO refit.owed (id, relid, conname, added)"
			  " SELECT $1, $2, conname, true FROM pg_catalog.pg_constraint"
			  " WHERE conrelid = $2 AND contype IN ('c', 'f', 'n')"
			  " AND NOT convalidated AND " IS_ENFORCED(
				  "pg_constraint") " AND NOT oid = ANY ($3::oid[])"
								   " ON CONFLICT DO NOTHING",
			  3, types, values, NULL);
	SPI_finish();
}

/* The constraints of the table as text of an oid[]. */
static char *
known_constraints(Oid relid)
{
	Oid types[1] = {OIDOID};
	Datum values[1] = {ObjectIdGetDatum(relid)};

	return refit_sql_text("SELECT coalesce(array_agg(oid), '{}')::text"
						  " FROM pg_catalog.pg_constraint WHERE conrelid = $1",
						  1, types, values);
}

#ifdef REFIT_HAS_NOT_NULL_CONSTRAINTS

/*
 * Has a column a NOT NULL constraint that PostgreSQL has checked, "t", or not,
 * "f"?  NULL: none.  Owes one that was not.
 */
static char *
owe_not_null(const RefitMigration *m, const char *column, bool added)
{
	Oid types[4] = {INT8OID, OIDOID, TEXTOID, BOOLOID};
	Datum values[4];

	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(m->relid);
	values[2] = CStringGetTextDatum(column);
	values[3] = BoolGetDatum(added);
	return refit_sql_text(
		"WITH here AS (SELECT conname, convalidated"
		"  FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_attribute a"
		"  ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]"
		"  WHERE c.conrelid = $2 AND c.contype = 'n' AND a.attname = $3::name),"
		" owe AS (INSERT INTO refit.owed (id, relid, conname, added)"
		"  SELECT $1, $2, conname, $4 FROM here WHERE NOT convalidated"
		"  ON CONFLICT DO NOTHING)"
		" SELECT left(convalidated::text, 1) FROM here",
		4, types, values);
}

/* Adds what is to prove NOT NULL, unless it is there.  False: it is, and valid. */
static bool
add_proof(RefitMigration *m, const char *column)
{
	char *valid = owe_not_null(m, column, false);

	if (valid == NULL)
	{
		refit_actions_run_own(
			psprintf("ADD NOT NULL %s NOT VALID", quote_identifier(column)),
			m->relid);
		valid = owe_not_null(m, column, true);
	}
	return strcmp(valid, "f") == 0;
}

#else

/* Adds what is to prove NOT NULL.  False: nothing is needed. */
static bool
add_proof(RefitMigration *m, const char *column)
{
	refit_actions_run_own(
		psprintf("ADD CONSTRAINT %s CHECK (%s IS NOT NULL) NOT VALID",
				 quote_identifier(proof_name(m, column)),
				 quote_identifier(column)),
		m->relid);
	owe(m, proof_name(m, column), true);
	return true;
}

#endif

/*
 * Takes SET NOT NULL and VALIDATE CONSTRAINT out of the actions, adding the
 * constraints that prove them, and the constraints that rows are to be checked
 * against.  Returns those; the actions keep what is left.
 */
static AlterTableStmt *
defer_scans(RefitMigration *m, AlterTableStmt *stmt)
{
	AlterTableStmt *constraints = refit_actions_split_constraints(stmt);
	List *kept = NIL;
	ListCell *lc;

	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_ValidateConstraint)
			owe(m, cmd->name, false);
		else if (cmd->subtype != AT_SetNotNull || !add_proof(m, cmd->name))
			kept = lappend(kept, cmd);
	}
	stmt->cmds = kept;
	return constraints;
}

/*
 * Adds the constraints that rows are to be checked against, NOT VALID, and owes
 * them a check.  One that was submitted as NOT VALID is not among them.
 */
static void
add_constraints(RefitMigration *m, const AlterTableStmt *constraints)
{
	char *known = known_constraints(m->relid);

	if (constraints->cmds == NIL)
		return;
	refit_actions_run_public(constraints, m->relid, m->definition,
							 m->search_path);
	owe_new_constraints(m, known);
}

/* The lock on the table and on what hangs on it. */
static bool
lock_table(RefitMigration *m, const AlterTableStmt *stmt)
{
	AlterTableStmt *actions = refit_actions_of(m);
	List *locks = refit_dependents_locks(m->relid, stmt);
	List *reach = refit_tree_reach(m->relid, actions);

	locks = list_concat(locks, refit_tree_locks(m->relid, actions));
	if (!refit_polite_lock_try(m, locks))
		return false;
	/* one that has just come ALTER TABLE would lock itself, and wait for it */
	return list_difference_oid(refit_tree_reach(m->relid, actions), reach) ==
		   NIL;
}

/* Phase alter: one try. */
RefitOutcome
refit_alter_step(RefitMigration *m, RefitBudget *budget)
{
	AlterTableStmt *stmt = refit_actions_parse(m->definition);
	AlterTableStmt *constraints = NULL;
	List *views;

	if (!lock_table(m, stmt))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("alter.locked");
	if (strcmp(m->strategy, "validate") == 0)
		constraints = defer_scans(m, stmt);
	views = refit_dependents_detach_views(m->relid, stmt);
	if (stmt->cmds != NIL)
		refit_actions_run_public(stmt, m->relid, m->definition, m->search_path);
	if (constraints != NULL)
		add_constraints(m, constraints);
	refit_dependents_attach_views(views);
	REFIT_FAULT("alter.done");
	return REFIT_NEXT;
}

/* Is there something to do for SET NOT NULL of a column? */
static bool
is_unsettled(const RefitMigration *m, const char *column)
{
	Oid types[3] = {OIDOID, TEXTOID, TEXTOID};
	Datum values[3] = {ObjectIdGetDatum(m->relid), CStringGetTextDatum(column),
					   CStringGetTextDatum(proof_name(m, column))};

	return refit_sql_text("SELECT 1 FROM pg_catalog.pg_attribute"
						  " WHERE attrelid = $1 AND attname = $2::name"
						  " AND NOT attnotnull UNION ALL"
						  " SELECT 1 FROM pg_catalog.pg_constraint"
						  " WHERE conrelid = $1 AND conname = $3::name LIMIT 1",
						  3, types, values) != NULL;
}

/* The SET NOT NULL actions that are still to run, or NULL. */
static AlterTableStmt *
deferred_actions(RefitMigration *m)
{
	AlterTableStmt *stmt = refit_actions_parse(m->definition);
	StringInfoData sql;
	ListCell *lc;

	initStringInfo(&sql);
	foreach(lc, stmt->cmds)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_SetNotNull && is_unsettled(m, cmd->name))
			appendStringInfo(&sql, "%sALTER COLUMN %s SET NOT NULL",
							 sql.len > 0 ? ", " : "",
							 quote_identifier(cmd->name));
	}
	return sql.len > 0 ? refit_actions_parse(sql.data) : NULL;
}

/* Phase settle: one try. */
RefitOutcome
refit_alter_settle(RefitMigration *m, RefitBudget *budget)
{
	AlterTableStmt *stmt = deferred_actions(m);
	ListCell *lc;

	if (stmt == NULL)
		return REFIT_NEXT;
	if (!lock_table(m, NULL))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("settle.locked");
	refit_actions_run_public(stmt, m->relid, m->definition, m->search_path);
	foreach(lc, stmt->cmds)
	{
		char *proof = proof_name(m, lfirst_node(AlterTableCmd, lc)->name);

		if (OidIsValid(get_relation_constraint_oid(m->relid, proof, true)))
			refit_actions_run_own(
				psprintf("DROP CONSTRAINT %s", quote_identifier(proof)),
				m->relid);
	}
	REFIT_FAULT("settle.done");
	return REFIT_NEXT;
}
