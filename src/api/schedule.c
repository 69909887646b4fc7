/*-------------------------------------------------------------------------
 *
 * schedule.c
 *	  SQL functions for operations that recur: refit.schedule, refit.unschedule.
 *
 * A schedule is refused for whatever its first run would be refused for: one is
 * submitted in a subtransaction that is rolled back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "api/arguments.h"
#include "api/options.h"
#include "job/launcher.h"
#include "job/schedule.h"
#include "job/worker.h"
#include "util/calendar.h"
#include "util/sqlutil.h"

PG_FUNCTION_INFO_V1(refit_schedule);
PG_FUNCTION_INFO_V1(refit_unschedule);
PG_FUNCTION_INFO_V1(refit_tick);
PG_FUNCTION_INFO_V1(refit_next_run);

/* A text argument that must be there. */
static char *
text_needed(FunctionCallInfo fcinfo, int n, const char *name)
{
	char *value = refit_text_arg(fcinfo, n);

	if (value == NULL)
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("%s must not be null", name)));
	return value;
}

/* Is pg_cron in this database? */
static bool
has_pg_cron(void)
{
	return OidIsValid(get_extension_oid("pg_cron", true));
}

/* Says that nothing will tell the time. */
static void
warn_of_no_clock(void)
{
	if (refit_launcher_is_there() || has_pg_cron())
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("there is no clock for schedules"),
			 errdetail("What is due begins when a function of pg_refit is next "
					   "called."),
			 errhint("Add pg_refit to shared_preload_libraries, or create "
					 "extension pg_cron in this database.")));
}

/* Has pg_cron look at the schedules every minute, where it is; or not any more. */
static void
set_pg_cron(bool ticks)
{
	if (!has_pg_cron())
		return;
	SPI_connect();
	if (ticks)
		refit_sql("SELECT cron.schedule('pg_refit', '* * * * *',"
				  " 'SELECT refit._tick()')",
				  0, NULL, NULL, NULL);
	else
		refit_sql("SELECT cron.unschedule(jobid) FROM cron.job"
				  " WHERE jobname = 'pg_refit'"
				  " AND NOT EXISTS (SELECT FROM refit.schedule)",
				  0, NULL, NULL, NULL);
	SPI_finish();
}

/* An ERROR where the caller's code must leave nothing behind. */
static void
check_unrestricted(void)
{
	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot change a schedule within security-restricted "
						"operation")));
}

/* An ERROR unless the caller may change a schedule. */
static void
check_rights(const RefitSchedule *s)
{
	Oid role = get_role_oid(s->role, true);

	if (superuser() ||
		(OidIsValid(role) && has_privs_of_role(GetUserId(), role)) ||
		(get_rel_name(s->relid) != NULL && refit_owns_relation(s->relid)))
		return;
	ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("permission denied for schedule \"%s\"", s->name),
					errdetail("It was made by role \"%s\".", s->role)));
}

/* An ERROR for a name that is not fit for the names of runs. */
static char *
name_needed(FunctionCallInfo fcinfo)
{
	char *name = text_needed(fcinfo, 0, "name");

	if (name[0] == '\0' || strlen(name) > NAMEDATALEN)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the name of a schedule must have 1 to %d bytes",
							   NAMEDATALEN)));
	return name;
}

/* Reads the arguments of refit.schedule(). */
static RefitSchedule *
read_arguments(FunctionCallInfo fcinfo)
{
	static const char *const ends[] = {"pause", "cancel", "finish", NULL};
	RefitSchedule *s = palloc0(sizeof(RefitSchedule));
	RefitWindow window;

	s->name = name_needed(fcinfo);
	s->every = text_needed(fcinfo, 1, "every");
	s->kind = text_needed(fcinfo, 2, "kind");
	if (PG_ARGISNULL(3))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("relation must not be null")));
	s->relid = PG_GETARG_OID(3);
	s->arguments = PG_ARGISNULL(4) ? DatumGetJsonbP(DirectFunctionCall1(
										 jsonb_in, CStringGetDatum("{}")))
								   : PG_GETARG_JSONB_P(4);
	s->options = refit_options_check(fcinfo, 5);
	s->window = refit_text_arg(fcinfo, 6);
	s->at_window_end = refit_word_arg(fcinfo, 7, "at_window_end", ends);
	s->search_path = namespace_search_path;
	s->settings = refit_sql_text("SELECT refit._settings()", 0, NULL, NULL);
	s->role = GetUserNameFromId(GetUserId(), false);
	if (s->window != NULL)
		refit_calendar_parse_window(s->window, &window);
	s->next_run = refit_schedule_first(s);
	if (!PG_ARGISNULL(8))
		s->next_run = PG_GETARG_TIMESTAMPTZ(8);
	return s;
}

/* Is it going on already, and said the same of when? */
static bool
has_same_times(const RefitSchedule *s, const RefitSchedule *earlier)
{
	return earlier->at_home && strcmp(s->every, earlier->every) == 0 &&
		   strcmp(s->settings, earlier->settings) == 0;
}

/* refit.schedule(name, every, kind, relation, arguments, options, time_window,
 * at_window_end, first_run) */
Datum
refit_schedule(PG_FUNCTION_ARGS)
{
	RefitSchedule *s;
	RefitSchedule *earlier;

	check_unrestricted();
	s = read_arguments(fcinfo);
	earlier = refit_schedule_load(s->name);
	if (earlier != NULL)
	{
		check_rights(earlier);
		if (PG_ARGISNULL(8) && has_same_times(s, earlier))
			s->next_run = earlier->next_run;
	}
	refit_schedule_check(s);
	refit_schedule_try(s);
	refit_schedule_save(s);
	warn_of_no_clock();
	set_pg_cron(true);
	refit_worker_start_at_commit();
	PG_RETURN_TIMESTAMPTZ(s->next_run);
}

/* refit.unschedule(name) */
Datum
refit_unschedule(PG_FUNCTION_ARGS)
{
	char *name = text_needed(fcinfo, 0, "name");
	RefitSchedule *s;

	check_unrestricted();
	s = refit_schedule_load(name);
	if (s == NULL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("schedule \"%s\" does not exist", name),
						errhint("Look in refit.schedules.")));
	check_rights(s);
	refit_schedule_delete(s);
	set_pg_cron(false);
	PG_RETURN_VOID();
}

/* refit._tick(): has the schedules looked at, for pg_cron. */
Datum
refit_tick(PG_FUNCTION_ARGS)
{
	refit_worker_start_at_commit();
	PG_RETURN_VOID();
}

/* refit._next_run(every, after): when a schedule would be due. */
Datum
refit_next_run(PG_FUNCTION_ARGS)
{
	RefitEvery every;

	refit_calendar_parse_every(text_to_cstring(PG_GETARG_TEXT_PP(0)), &every);
	PG_RETURN_TIMESTAMPTZ(
		refit_calendar_next(&every, PG_GETARG_TIMESTAMPTZ(1)));
}
