/*-------------------------------------------------------------------------
 *
 * submission.c
 *	  Entering a migration into the queue.
 *
 * See submission.h.  Locks: none but the new row's.  Who submits under the same
 * name meanwhile waits for the commit, in the index of names, and then has an
 * error.  Snapshots: those of its statements.  Rights: refit_sql's; who submits,
 * and his search_path and settings, are written down for the steps.
 *
 * A death before the commit leaves nothing.  The commit starts a worker; if that
 * is lost, the migration waits in the queue for the next look at it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "job/catalog.h"
#include "job/claim.h"
#include "job/state.h"
#include "job/submission.h"
#include "job/worker.h"
#include "util/sqlutil.h"

/* The migration that has this name already, or 0. */
static int64
find_by_name(const RefitSubmission *s)
{
	Oid types[4] = {TEXTOID, TEXTOID, TEXTOID, OIDOID};
	Datum values[4];
	char *found;

	values[0] = CStringGetTextDatum(s->name);
	values[1] = CStringGetTextDatum(s->kind);
	values[2] = CStringGetTextDatum(s->definition);
	values[3] = ObjectIdGetDatum(s->relid);
	found =
		refit_sql_text("SELECT CASE WHEN kind = $2 AND definition = $3"
					   " AND (relid = $4 OR kind = 'ddl') THEN id ELSE -id END"
					   " FROM refit.migration WHERE name = $1",
					   4, types, values);
	return found != NULL ? strtoll(found, NULL, 10) : 0;
}

/* The id of the same submission made before, or 0; another one: ERROR. */
int64
refit_migration_find(const RefitSubmission *s)
{
	int64 id = s->name != NULL ? find_by_name(s) : 0;

	if (id < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("a migration named \"%s\" exists already and does "
						"something else",
						s->name),
				 errdetail("It is migration " INT64_FORMAT ".", -id),
				 errhint("Choose another name.")));
	if (id != 0)
	{
		ereport(NOTICE,
				(errmsg("migration \"%s\" was submitted before", s->name)));
		refit_worker_start_at_commit();
	}
	return id;
}

/* Writes the new row. */
static int64
insert_row(const RefitSubmission *s)
{
	Oid types[15] = {TEXTOID, TEXTOID, OIDOID,		TEXTOID,  TEXTOID,
					 TEXTOID, TEXTOID, INTERVALOID, JSONBOID, TEXTOID,
					 TEXTOID, TEXTOID, TEXTOID,		OIDOID,	  TEXTOID};
	Datum values[15];
	bool nulls[15] = {false};
	int64 id;

	nulls[0] = s->name == NULL;
	values[0] = s->name != NULL ? CStringGetTextDatum(s->name) : (Datum) 0;
	values[1] = CStringGetTextDatum(s->kind);
	values[2] = ObjectIdGetDatum(s->relid);
	values[3] = CStringGetTextDatum(
		OidIsValid(s->relid) ? refit_qualified_name(s->relid) : "");
	values[4] = CStringGetTextDatum(s->definition);
	values[5] = CStringGetTextDatum(s->cutover);
	values[6] = CStringGetTextDatum(s->verify);
	nulls[7] = s->revertible == NULL;
	values[7] = PointerGetDatum(s->revertible);
	values[8] = PointerGetDatum(s->options);
	values[9] = CStringGetTextDatum(namespace_search_path);
	values[10] = CStringGetTextDatum(GetUserNameFromId(GetUserId(), false));
	nulls[11] = s->set_clause == NULL;
	values[11] = nulls[11] ? (Datum) 0 : CStringGetTextDatum(s->set_clause);
	nulls[12] = s->where_clause == NULL;
	values[12] = nulls[12] ? (Datum) 0 : CStringGetTextDatum(s->where_clause);
	values[13] = ObjectIdGetDatum(s->object);
	nulls[14] = s->method == NULL;
	values[14] = nulls[14] ? (Datum) 0 : CStringGetTextDatum(s->method);
	SPI_connect();
	refit_sql("WITH m AS (INSERT INTO refit.migration (name, kind, relid,"
			  " relation, definition, cutover, verify, revertible, options,"
			  " search_path, submitted_by, set_clause, where_clause, object,"
			  " method, home, settings)"
			  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
			  "  $14, $15, refit._home(), refit._settings())"
			  " RETURNING id), p AS (INSERT INTO refit.migration_progress (id)"
			  " SELECT id FROM m) SELECT id FROM m",
			  15, types, values, nulls);
	id = strtoll(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
				 NULL, 10);
	SPI_finish();
	return id;
}

/* Enters a migration and starts a worker at commit. */
int64
refit_migration_submit(const RefitSubmission *s)
{
	RefitMigration *m;
	int64 id;

	id = insert_row(s);
	m = refit_catalog_load(id);
	refit_catalog_event(m, "state", "queued", NULL);
	refit_notify(m);
	if (refit_must_wait_in_queue(m))
		ereport(NOTICE,
				(errmsg("migration " INT64_FORMAT " is queued behind an "
						"earlier one of the same table",
						id)));
	refit_worker_start_at_commit();
	return id;
}
