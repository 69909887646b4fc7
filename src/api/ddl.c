/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  refit.ddl: submits one DDL statement; and what a command that is running
 *	  says of itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api/arguments.h"
#include "api/options.h"
#include "ddl/ddl.h"
#include "job/catalog.h"
#include "job/submission.h"
#include "util/sqlutil.h"

PG_FUNCTION_INFO_V1(refit_ddl);
PG_FUNCTION_INFO_V1(refit_command_progress);

/* refit.ddl(statement, name, options) */
Datum
refit_ddl(PG_FUNCTION_ARGS)
{
	RefitSubmission s = {.kind = "ddl", .cutover = "auto", .verify = "off"};
	int64 id;

	s.definition = refit_text_arg(fcinfo, 0);
	if (s.definition == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("statement must not be null")));
	s.name = refit_name_arg(fcinfo, 1);
	s.options = refit_options_check(fcinfo, 2);
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot submit a statement within security-restricted "
						"operation")));
	if ((id = refit_migration_find(&s)) != 0)
		PG_RETURN_INT64(id);
	s.relid = refit_ddl_check(pstrdup(s.definition))->relid;
	PG_RETURN_INT64(refit_migration_submit(&s));
}

/*
 * What PostgreSQL reports of the command that a migration's worker $1 runs:
 * counters, and who is waited for.  Read as the bootstrap superuser, or nobody else
 * would see the worker's; of those who are waited for, what the caller $2 would see
 * in pg_stat_activity, and nothing unless $3.
 */
#define COMMAND_QUERY                                                   \
	"SELECT p.phase, p.tuples_done, p.tuples_total,"                    \
	" p.blocks_done * current_setting('block_size')::int8,"             \
	" p.blocks_total * current_setting('block_size')::int8,"            \
	" CASE WHEN $3 THEN (SELECT string_agg('pid ' || b.pid"             \
	"   || coalesce(' (' || nullif(b.backend_type, 'client backend')"   \
	"    || ')', '') || coalesce(', ' || nullif(b.state, ''), '')"      \
	"   || coalesce(', for ' || date_trunc('milliseconds',"             \
	"    clock_timestamp() - b.xact_start), '')"                        \
	"   || CASE WHEN b.usesysid IS NULL OR pg_has_role($2, b.usesysid," \
	"    'USAGE') OR pg_has_role($2, 'pg_read_all_stats', 'USAGE')"     \
	"    THEN coalesce(': ' || left(b.query, 200), '') ELSE '' END,"    \
	"   '; ' ORDER BY b.xact_start) FROM pg_catalog.pg_stat_activity b" \
	"  WHERE b.pid = ANY (pg_blocking_pids($1))) END"                   \
	" FROM (SELECT 1) one LEFT JOIN"                                    \
	" (SELECT pid, phase, tuples_done, tuples_total, blocks_done,"      \
	"   blocks_total FROM pg_catalog.pg_stat_progress_create_index"     \
	"  UNION ALL SELECT pid, phase, NULL, NULL, heap_blks_scanned,"     \
	"   heap_blks_total FROM pg_catalog.pg_stat_progress_vacuum) p"     \
	"  ON p.pid = $1"

/* May the caller see what the migration waits for? */
static bool
may_see(const RefitMigration *m)
{
	Oid submitter = get_role_oid(m->submitted_by, true);

	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		   (OidIsValid(submitter) &&
			has_privs_of_role(GetUserId(), submitter)) ||
		   (get_rel_name(m->relid) != NULL && refit_owns_relation(m->relid));
}

/* Fills the columns that the query has. */
static void
read_command(const RefitMigration *m, Datum *values, bool *nulls, int count)
{
	Oid types[3] = {INT4OID, OIDOID, BOOLOID};
	Datum args[3] = {Int32GetDatum(m->progress.worker_pid),
					 ObjectIdGetDatum(GetUserId()), BoolGetDatum(may_see(m))};

	SPI_connect();
	refit_sql(COMMAND_QUERY, 3, types, args, NULL);
	for (int i = 0; i < count; i++)
	{
		Datum value = SPI_getbinval(SPI_tuptable->vals[0],
									SPI_tuptable->tupdesc, i + 1, &nulls[i]);
		bool is_number = i > 0 && i < count - 1;

		if (!nulls[i])
			values[i] = SPI_datumTransfer(value, is_number,
										  is_number ? sizeof(int64) : -1);
	}
	SPI_finish();
}

/* refit._command(id) */
Datum
refit_command_progress(PG_FUNCTION_ARGS)
{
	RefitMigration *m = refit_catalog_load(PG_GETARG_INT64(0));
	Datum values[6] = {0};
	bool nulls[6] = {true, true, true, true, true, true};
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (m != NULL && m->progress.worker_pid != 0)
		read_command(m, values, nulls, lengthof(values));
	PG_RETURN_DATUM(HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
