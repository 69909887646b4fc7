/*-------------------------------------------------------------------------
 *
 * mirror_rule.h
 *	  What a mirrored column is made of: the rule that its trigger keeps.
 *
 * The rule is the trigger's WHEN clause,
 *
 *		true OR refit._mirror_rule(new.source, new.target, expression, reverse)
 *
 * which is true without being evaluated, since the planner drops all that
 * follows.  There the expressions are parsed once, by the names of whoever wrote
 * them; PostgreSQL keeps them through renames, records what they depend on, so
 * that neither the columns nor a function can be dropped from under them, and
 * pg_dump writes them out.  So nothing of a mirror is kept in a table of ours.
 *
 * Locks: ACCESS SHARE on the table.  Rights: the caller's; no expression of a
 * user is evaluated here but what the planner folds, which the caller has
 * switched to the owner's rights for.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_MIRROR_RULE_H
#define REFIT_MIRROR_RULE_H

#include "refit.h"

#include "utils/rel.h"

/* As the user asks for it. */
typedef struct RefitMirrorRequest
{
	Oid relid;
	const char *source;
	const char *target;
	const char *expression;	 /* NULL: the source itself */
	const char *reverse;	 /* NULL: the target is not to be written */
	const char *search_path; /* names in the expressions are looked up by */
} RefitMirrorRequest;

/* One that is there, or is to be. */
typedef struct RefitMirror
{
	Oid trigger; /* InvalidOid: not made yet */
	char *name;	 /* the trigger's */
	char enabled;
	AttrNumber source;
	AttrNumber target;
	Node *forward;	  /* the target's value, of any type, by the source */
	Node *backward;	  /* the source's, by the target; or NULL */
	char *expression; /* as text, columns unqualified */
	char *reverse;	  /* or NULL */
} RefitMirror;

/*
 * Checks a request, as the table's owner.  An ERROR for columns or expressions
 * that cannot be mirrored, or that are in another mirror.
 */
extern RefitMirror *refit_mirror_rule_make(const RefitMirrorRequest *request);
/* Is it in the way of another one of the table? */
extern void refit_mirror_rule_check_others(Oid relid,
										   const RefitMirror *mirror);

/* CREATE TRIGGER for it; as the table is called now. */
extern char *refit_mirror_rule_create(Oid relid, const RefitMirror *mirror);
/* What follows SET and WHERE in its backfill; the latter may be NULL. */
extern char *refit_mirror_rule_set(Oid relid, const RefitMirror *mirror);
extern char *refit_mirror_rule_where(Oid relid, const RefitMirror *mirror);

/* The mirrors of a table: a list of RefitMirror. */
extern List *refit_mirror_rule_list(Oid relid);
/* The one with that target, or NULL. */
extern RefitMirror *refit_mirror_rule_by_target(Oid relid, AttrNumber target);
/* Have two the same columns and expressions? */
extern bool refit_mirror_rule_equal(const RefitMirror *a, const RefitMirror *b);

/* Reads a WHEN clause into the columns and expressions of the result. */
extern void refit_mirror_rule_read(const char *qual, RefitMirror *mirror);
/*
 * An expression as it is assigned to a column: coerced, planned.  An ERROR, of
 * datatype mismatch, where it cannot be.
 */
extern Node *refit_mirror_rule_assign(Relation rel, AttrNumber attnum,
									  Node *expression);

#endif /* REFIT_MIRROR_RULE_H */
