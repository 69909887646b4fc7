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
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "api/arguments.h"
#include "api/options.h"
#include "ddl/ddl.h"
#include "job/migration.h"
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
 * What PostgreSQL reports of a command: counters, and who is waited for.  Read as
 * the bootstrap superuser, or nobody else would see the worker's; the view shows
 * waiting_for to those only who may see the migration's texts.
 */
#define COMMAND_QUERY                                                         \
	"SELECT p.phase, p.tuples_done, p.tuples_total,"                          \
	" p.blocks_done * current_setting('block_size')::int8,"                   \
	" p.blocks_total * current_setting('block_size')::int8,"                  \
	" (SELECT string_agg('pid ' || b.pid"                                     \
	"   || coalesce(' (' || nullif(b.backend_type, 'client backend') || ')'," \
	"    '') || coalesce(', ' || nullif(b.state, ''), '')"                    \
	"   || coalesce(', for ' || date_trunc('milliseconds',"                   \
	"    clock_timestamp() - b.xact_start), '')"                              \
	"   || CASE WHEN b.usesysid IS NULL OR pg_has_role($2::name,"             \
	"    b.usesysid, 'USAGE') THEN coalesce(': ' || left(b.query, 200), '')"  \
	"    ELSE '' END, '; ' ORDER BY b.xact_start)"                            \
	"  FROM pg_catalog.pg_stat_activity b"                                    \
	"  WHERE b.pid = ANY (pg_blocking_pids($1)))"                             \
	" FROM (SELECT 1) one LEFT JOIN"                                          \
	" (SELECT pid, phase, tuples_done, tuples_total, blocks_done,"            \
	"   blocks_total FROM pg_catalog.pg_stat_progress_create_index"           \
	"  UNION ALL SELECT pid, phase, NULL, NULL, heap_blks_scanned,"           \
	"   heap_blks_total FROM pg_catalog.pg_stat_progress_vacuum) p"           \
	"  ON p.pid = $1"

/* refit._command(pid, submitted_by) */
Datum
refit_command_progress(PG_FUNCTION_ARGS)
{
	Oid types[2] = {INT4OID, TEXTOID};
	Datum args[2];
	Datum values[6] = {0};
	bool nulls[6] = {true, true, true, true, true, true};
	TupleDesc desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	args[0] = PG_GETARG_DATUM(0);
	args[1] = PG_GETARG_DATUM(1);
	SPI_connect();
	if (refit_sql(COMMAND_QUERY, 2, types, args, NULL) > 0)
		for (int i = 0; i < lengthof(values); i++)
		{
			Datum value = SPI_getbinval(
				SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &nulls[i]);
			bool by_value = i > 0 && i < 5;

			if (!nulls[i])
				values[i] = SPI_datumTransfer(value, by_value,
											  by_value ? sizeof(int64) : -1);
		}
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
