/*-------------------------------------------------------------------------
 *
 * phase.c
 *	  The strategies, their phases, and which of them a migration goes through.
 *
 * See phase.h.  Phases plan and divide are here; the steps of the others are in
 * the rooms below, each of which says in its header which locks it takes and
 * what a death leaves.
 *
 * Plan and divide are one short transaction each.  They hold ACCESS SHARE on what
 * they look at, for which nobody waits but who changes the definition, and the
 * step's snapshot.  What they find becomes durable with the next phase: after a
 * death they begin anew.  Rights: the step's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ddl/ddl.h"
#include "index/concurrent.h"
#include "index/incremental.h"
#include "index/plan.h"
#include "job/catalog.h"
#include "job/phase.h"
#include "rows/batch.h"
#include "rows/constraint.h"
#include "rows/mirror.h"
#include "rows/statement.h"
#include "rows/validation.h"
#include "table/actions.h"
#include "table/alter.h"
#include "table/build.h"
#include "table/capture.h"
#include "table/catchup.h"
#include "table/copy.h"
#include "table/cutover.h"
#include "table/plan.h"
#include "table/revert.h"
#include "table/space.h"
#include "table/verify.h"
#include "util/fault.h"

static RefitOutcome plan_step(RefitMigration *m, RefitBudget *budget);
static RefitOutcome divide_step(RefitMigration *m, RefitBudget *budget);

static const RefitPhase phases[] = {
	{NULL, "plan", plan_step, false},
	{"batches", "batches", refit_batch_step, false, false, refit_batch_help},
	{"batches", "cleanup", refit_build_cleanup, true},
	{"drop", "drop", refit_index_drop_step, false},
	{"drop", "cleanup", refit_index_cleanup, true},
	{"incremental", "begin", refit_index_begin, false},
	{"incremental", "insert", refit_index_insert, false},
	{"incremental", "publish", refit_index_publish, false},
	{"incremental", "cleanup", refit_index_cleanup, true},
	{"mirror", "install", refit_mirror_install, false},
	{"mirror", "divide", divide_step, false},
	{"mirror", "batches", refit_batch_step, false, false, refit_batch_help},
	{"mirror", "cleanup", refit_build_cleanup, true},
	{"unmirror", "detach", refit_mirror_detach, false},
	{"unmirror", "cleanup", refit_build_cleanup, true},
	{"check", "validate", refit_constraint_step, false},
	{"check", "cleanup", refit_build_cleanup, true},
	{"ddl", "ddl", refit_ddl_step, false},
	{"ddl", "cleanup", refit_ddl_cleanup, true},
	{"command", "command", refit_ddl_command_step, false},
	{"command", "cleanup", refit_ddl_cleanup, true},
	{"concurrently", "concurrently", refit_concurrent_step, false},
	{"concurrently", "cleanup", refit_ddl_cleanup, true},
	{"instant", "alter", refit_alter_step, false},
	{"instant", "cleanup", refit_build_cleanup, true},
	{"validate", "alter", refit_alter_step, false},
	{"validate", "validate", refit_constraint_step, true},
	{"validate", "settle", refit_alter_settle, true},
	{"validate", "cleanup", refit_build_cleanup, true},
	{"rewrite", "prepare", refit_build_prepare, false},
	{"rewrite", "capture", refit_capture_install, false, true},
	{"rewrite", "copy", refit_copy_step, false, true, refit_copy_help},
	{"rewrite", "order", refit_build_order, false, true},
	{"rewrite", "index", refit_build_index, false, true},
	{"rewrite", "analyze", refit_build_analyze, false},
	{"rewrite", "catchup", refit_catchup_step, false, true},
	{"rewrite", "verify", refit_verify_step, false, true},
	{"rewrite", "cutover", refit_cutover_step, false},
	{"rewrite", "validate", refit_constraint_step, true},
	{"rewrite", "settle", refit_build_settle, true},
	{"rewrite", "window", refit_revert_window_step, true},
	{"rewrite", "cleanup", refit_build_cleanup, true},
	{"revert", "catchback", refit_catchup_step, true, true},
	{"revert", "recheck", refit_verify_step, true, true},
	{"revert", "references", refit_revert_check_references, true, true},
	{"revert", "revert", refit_cutover_step, true},
	{"revert", "validate", refit_constraint_step, true},
	{"revert", "settle", refit_build_settle, true},
	{"revert", "cleanup", refit_build_cleanup, true},
};

/* Chooses the strategy of a change of the table's definition or order. */
static char *
plan_change(RefitMigration *m)
{
	AlterTableStmt *stmt = refit_actions_of(m);
	RefitPlanRequest request = {.relid = m->relid,
								.stmt = stmt,
								.order_by = stmt == NULL ? m->definition : NULL,
								.search_path = m->search_path,
								.revertible = m->revertible};
	RefitPlan *plan;

	plan = refit_plan_make(&request);
	refit_space_check(m->relid, plan->needs);
	refit_space_save(m, plan->needs);
	m->strategy = pstrdup(plan->strategy);
	return pstrdup(plan->reason);
}

/* Is it a statement of refit.ddl()?  It may be about no relation. */
bool
refit_is_ddl(const RefitMigration *m)
{
	return strcmp(m->kind, "ddl") == 0;
}

/* Chooses the strategy by the kind of migration; why. */
static char *
choose_strategy(RefitMigration *m)
{
	const char *mirror = refit_mirror_strategy(m->kind);

	if (refit_index_is_kind(m->kind))
		return refit_index_plan(m);
	if (refit_is_ddl(m))
		return refit_ddl_plan(m);
	if (strcmp(m->kind, "validate_constraint") == 0)
	{
		refit_plan_check_owned(m->relid);
		m->strategy = "check";
		return refit_validation_plan(m);
	}
	if (refit_statement_is_kind(m->kind))
	{
		refit_plan_check_rows(m->relid);
		m->strategy = "batches";
		return refit_batch_plan(m);
	}
	if (mirror != NULL)
	{
		m->strategy = pstrdup(mirror);
		return refit_mirror_plan(m);
	}
	refit_plan_check_table(m->relid, strcmp(m->kind, "alter_table") == 0);
	return plan_change(m);
}

/* Phase plan: chooses the strategy, on the table as it is now. */
static RefitOutcome
plan_step(RefitMigration *m, RefitBudget *budget)
{
	char *reason = choose_strategy(m);

	refit_catalog_event(m, "plan",
						psprintf("strategy %s: %s", m->strategy, reason), NULL);
	REFIT_FAULT("plan.made");
	return REFIT_NEXT;
}

/*
 * Phase divide: divides a table whose rows are passed over once the phases before
 * have made sure that none is missed.
 */
static RefitOutcome
divide_step(RefitMigration *m, RefitBudget *budget)
{
	refit_catalog_event(m, "plan", refit_batch_plan(m), NULL);
	return REFIT_NEXT;
}

/* Is the old definition to come back? */
bool
refit_is_reverting(const RefitMigration *m)
{
	return m->goal != NULL && strcmp(m->goal, "reverted") == 0;
}

/* Which phases it goes through: those of its strategy, or of the revert. */
static const char *
path_of(const RefitMigration *m)
{
	return refit_is_reverting(m) ? "revert" : m->strategy;
}

/* The present phase's entry. */
const RefitPhase *
refit_find_phase(const RefitMigration *m)
{
	for (int i = 0; i < lengthof(phases); i++)
		if (strcmp(phases[i].name, m->phase) == 0 &&
			(phases[i].strategy == NULL ||
			 (path_of(m) != NULL &&
			  strcmp(phases[i].strategy, path_of(m)) == 0)))
			return &phases[i];
	elog(ERROR, "migration " INT64_FORMAT " is in unknown phase \"%s\"", m->id,
		 m->phase);
	return NULL;
}

/* The phase after this one, or NULL. */
const RefitPhase *
refit_following_phase(const RefitMigration *m, const RefitPhase *phase)
{
	if (phase->strategy == NULL)
	{
		for (int i = 0; i < lengthof(phases); i++)
			if (phases[i].strategy != NULL &&
				strcmp(phases[i].strategy, m->strategy) == 0)
				return &phases[i];
	}
	else if (phase + 1 < phases + lengthof(phases) &&
			 strcmp(phase[1].strategy, phase->strategy) == 0)
		return phase + 1;
	return NULL;
}

/* Are there commands in this phase that only a worker can run? */
bool
refit_needs_worker(const RefitPhase *phase)
{
	return phase->step == refit_ddl_command_step ||
		   phase->step == refit_concurrent_step;
}

/* Is the change in place already? */
bool
refit_is_too_late(const RefitMigration *m)
{
	const RefitPhase *phase = refit_find_phase(m);

	return phase->after_cutover ||
		   (refit_needs_worker(phase) && refit_ddl_is_done(m));
}
