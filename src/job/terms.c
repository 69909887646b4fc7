/*-------------------------------------------------------------------------
 *
 * terms.c
 *	  When a migration may do what.  See terms.h.
 *
 * Nothing is kept: the options are read before each step, so that what
 * refit.set_option() changes counts from the next one on.  A deadline fails a
 * migration like an error of a step, and so leaves what any failure leaves:
 * nothing of a rewrite, and the rows done of a pass over rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "job/catalog.h"
#include "job/terms.h"
#include "util/attempt.h"
#include "util/sqlutil.h"

/* Reads a text as a point in time; for refit_attempt. */
static void
read_timestamp(void *text)
{
	(void) DirectFunctionCall3(timestamptz_in, CStringGetDatum((char *) text),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* A duration from the submission on, or a point in time. */
bool
refit_terms_is_deadline(const char *text)
{
	int ms;

	if (parse_int(text, &ms, GUC_UNIT_MS, NULL))
		return ms > 0;
	return refit_attempt(read_timestamp, unconstify(char *, text), true) ==
		   NULL;
}

/* A time of the day as minutes since midnight, or -1. */
static int
minutes_of(int hour, int minute)
{
	return hour >= 0 && hour <= 24 && minute >= 0 && minute <= 59 &&
				   hour * 60 + minute <= 24 * 60
			   ? hour * 60 + minute
			   : -1;
}

/* Reads "22:00-06:00"; false: it is something else. */
static bool
read_window(const char *text, int *from, int *until)
{
	int h1, m1, h2, m2;
	int length = 0;

	if (sscanf(text, "%2d:%2d-%2d:%2d%n", &h1, &m1, &h2, &m2, &length) != 4 ||
		text[length] != '\0')
		return false;
	*from = minutes_of(h1, m1);
	*until = minutes_of(h2, m2);
	return *from >= 0 && *until >= 0 && *from != *until;
}

/* Two times of the day. */
bool
refit_terms_is_window(const char *text)
{
	int from;
	int until;

	return read_window(text, &from, &until);
}

/*
 * Asks for something with a text, as of the session that submitted the
 * migration: "t" or another.  sql has parameters $1, the id, and $2, the text.
 */
static char *
ask_as_submitted(const RefitMigration *m, const char *sql, const char *text)
{
	Oid types[2] = {INT8OID, TEXTOID};
	Datum values[2] = {Int64GetDatum(m->id), CStringGetTextDatum(text)};
	static const char *const settings[] = {"TimeZone", "DateStyle"};
	int guc_level = NewGUCNestLevel();
	char *result;

	for (int i = 0; i < lengthof(settings); i++)
	{
		Datum both[2] = {values[0], CStringGetTextDatum(settings[i])};
		char *value = refit_sql_text("SELECT settings ->> $2"
									 " FROM refit.migration WHERE id = $1",
									 2, types, both);

		if (value != NULL)
			refit_set_local(settings[i], value);
	}
	result = refit_sql_text(sql, 2, types, values);
	AtEOXact_GUC(false, guc_level);
	return result;
}

/* An ERROR when the deadline has passed. */
void
refit_terms_check_deadline(const RefitMigration *m)
{
	char *text = refit_catalog_option(m, "deadline");
	char *passed;
	bool is_duration;
	int ms;

	if (text == NULL)
		return;
	is_duration = parse_int(text, &ms, GUC_UNIT_MS, NULL);
	if (is_duration && strcmp(m->kind, "ddl") == 0)
		return; /* counted from its start, by itself */
	if (is_duration)
		passed = ask_as_submitted(
			m,
			"SELECT created_at + $2::interval FROM refit.migration"
			" WHERE id = $1 AND clock_timestamp() >= created_at"
			"  + $2::interval",
			psprintf("%d ms", ms));
	else
		passed = ask_as_submitted(m,
								  "SELECT $2::timestamptz WHERE $1 > 0"
								  " AND clock_timestamp() >= $2::timestamptz",
								  text);
	if (passed != NULL)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("migration " INT64_FORMAT
					" was not finished by its deadline",
					m->id),
			 errdetail("The deadline was %s.", passed),
			 errhint("Set option \"deadline\" anew or take it off, and start "
					 "it again with refit.retry(" INT64_FORMAT ").",
					 m->id)));
}

/* Is it the time of the day for a cutover? */
bool
refit_terms_window_is_open(const RefitMigration *m)
{
	char *text = refit_catalog_option(m, "cutover_window");
	char *now;
	int from;
	int until;
	int minute;

	if (text == NULL || !read_window(text, &from, &until))
		return true;
	now = ask_as_submitted(
		m,
		"SELECT floor(extract(epoch FROM clock_timestamp()::time) / 60)::int"
		" WHERE $1 > 0 AND $2 IS NOT NULL",
		text);
	minute = now == NULL ? 0 : atoi(now);
	return from < until ? minute >= from && minute < until
						: minute >= from || minute < until;
}
