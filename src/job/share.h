/*-------------------------------------------------------------------------
 *
 * share.h
 *	  Which process works which part of a migration that several work.
 *
 * A part is a row of refit.rewrite, a leaf to copy, or of refit.pass.  Column
 * helper says who has begun it: a helper, by its pid; the leader, by 0, one part
 * at a time; nobody, by NULL.  See worker.c for who leads and who helps.
 *
 * A mark is durable before the first chunk, so after a crash of the server the
 * parts that may have caused it are known.  Those of helpers who are gone, for
 * whatever reason, are the leader's to begin with: he takes each as his own, until
 * he has come as far as they may have, whose last commits a crash undoes.  After a
 * death at work he begins with the part he was at.  So if that one kills he dies of
 * it again, with no chunk of another part between, and his deaths are counted.
 *
 * Who works a part holds its row's lock until the end of the chunk, and so does who
 * marks one; others pass by what is locked, so nobody waits.  Snapshot: the
 * statement's.  Rights: refit_sql's; no code of the user's runs here.  A death after
 * a mark leaves the mark, before its commit nothing.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_SHARE_H
#define REFIT_SHARE_H

#include "refit.h"

typedef struct RefitShare
{
	const char *mark;	  /* $1: id of the migration, $2: pid of the helper */
	const char *mark_own; /* $1: id, $2: must the leader stay with his own? */
} RefitShare;

/* The statements for a table, and what is true of its parts that may be begun. */
#define REFIT_SHARE(table, is_open)                                            \
	{                                                                          \
		.mark = "UPDATE refit." table " SET helper = $2 WHERE id = $1"         \
				" AND number = (SELECT number FROM refit." table               \
				"  WHERE id = $1 AND number > 0 AND helper IS NULL"            \
				"  AND " is_open                                               \
				"  ORDER BY number DESC LIMIT 1 FOR UPDATE SKIP LOCKED)",      \
		.mark_own =                                                            \
			"WITH own AS (SELECT FROM refit." table                            \
			"  WHERE id = $1 AND number > 0 AND helper = 0 AND " is_open "),"  \
			" next AS (SELECT number FROM refit." table                        \
			"  WHERE id = $1 AND number > 0 AND " is_open                      \
			"  AND CASE WHEN helper IS NULL THEN NOT EXISTS (SELECT FROM own)" \
			"   ELSE helper <> 0 AND NOT EXISTS (SELECT"                       \
			"    FROM pg_catalog.pg_stat_get_activity(helper))"                \
			"    AND NOT ($2 AND EXISTS (SELECT FROM own)) END"                \
			"  ORDER BY helper IS NULL, number"                                \
			"  LIMIT 1 FOR UPDATE SKIP LOCKED)"                                \
			" UPDATE refit." table " r"                                        \
			" SET helper = CASE WHEN r.number = next.number THEN 0 END"        \
			" FROM next WHERE id = $1"                                         \
			" AND (r.number = next.number OR helper = 0)"                      \
	}

/* Does the migration want helpers? */
extern bool refit_share_is_wanted(const RefitMigration *m);
/* Marks the last part that nobody has as this helper's; false: there is none. */
extern bool refit_share_mark(const RefitMigration *m, const RefitShare *share);
/*
 * Marks another part as the leader's, of whom it is called before each chunk: one
 * whose helper is gone, or, when he has none, the first that nobody has.  The one
 * he had is nobody's then.  False: he goes on with what he has, if anything.
 */
extern bool refit_share_mark_own(const RefitMigration *m,
								 const RefitShare *share);
/* The leader has done a chunk of his own. */
extern void refit_share_end_chunk(const RefitMigration *m);

#endif /* REFIT_SHARE_H */
