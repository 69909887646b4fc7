/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  When something recurs, and in which hours it may be done.  See calendar.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "util/attempt.h"
#include "util/calendar.h"

#define FIELDS 5
#define ALL_HOURS ((UINT64CONST(1) << 24) - 1)
#define ALL_WEEKDAYS ((UINT64CONST(1) << 7) - 1)
#define DAY_SECONDS (24 * 60 * 60)

/* 29 February may be as far away as this: 1896 to 1904, 2096 to 2104. */
#define MOST_DAYS (366 * 8 + 7)
/* Minutes to walk through where every hour counts: across a change of clocks. */
#define MOST_MINUTES 180

static const char *const month_names[] = {"jan", "feb", "mar", "apr", "may",
										  "jun", "jul", "aug", "sep", "oct",
										  "nov", "dec", NULL};
static const char *const day_names[] = {"sun", "mon", "tue", "wed",
										"thu", "fri", "sat", NULL};

/* A field of cron text. */
typedef struct Field
{
	const char *name;
	int low;
	int high;
	const char *const *names; /* of low and on, or NULL */
} Field;

static const Field fields[FIELDS] = {
	{"minute", 0, 59, NULL},
	{"hour", 0, 23, NULL},
	{"day of the month", 1, 31, NULL},
	{"month", 1, 12, month_names},
	{"day of the week", 0, 7, day_names},
};

static const struct
{
	const char *word;
	const char *text;
} abbreviations[] = {
	{"@yearly", "0 0 1 1 *"},  {"@annually", "0 0 1 1 *"},
	{"@monthly", "0 0 1 * *"}, {"@weekly", "0 0 * * 0"},
	{"@daily", "0 0 * * *"},   {"@midnight", "0 0 * * *"},
	{"@hourly", "0 * * * *"},
};

/*
 * Reading
 */

/* An ERROR that says what is wrong with a schedule. */
static void
refuse_every(const char *text, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid schedule: \"%s\"", text),
			 detail != NULL ? errdetail("%s", detail) : 0,
			 errhint("Write an interval like '1 day', or cron text like '30 3 "
					 "* * mon-fri': minute, hour, day, month, weekday.")));
}

/* Reads a number or a name of a field.  Returns what follows, or NULL. */
static const char *
read_value(const char *text, const Field *field, int *value)
{
	char *end;

	for (int i = 0; field->names != NULL && field->names[i] != NULL; i++)
		if (pg_strncasecmp(text, field->names[i], 3) == 0 &&
			!isalnum((unsigned char) text[3]))
		{
			*value = field->low + i;
			return text + 3;
		}
	if (!isdigit((unsigned char) *text))
		return NULL;
	*value = (int) Min(strtoul(text, &end, 10), 1000);
	return *value < field->low || *value > field->high ? NULL : end;
}

/* Reads one of a field's items: *, 3, 3-7, with a step or without. */
static const char *
read_item(const char *text, const Field *field, uint64 *bits)
{
	int low = field->low;
	int high = field->high;
	int step = 1;
	bool is_single = false;

	if (*text == '*')
		text++;
	else if ((text = read_value(text, field, &low)) == NULL)
		return NULL;
	else if (*text == '-')
	{
		if ((text = read_value(text + 1, field, &high)) == NULL || high < low)
			return NULL;
	}
	else
		is_single = true;
	if (*text == '/')
	{
		char *end;

		if (!isdigit((unsigned char) text[1]))
			return NULL;
		step = (int) Min(strtoul(text + 1, &end, 10), 1000);
		text = end;
		is_single = false;
	}
	if (step == 0)
		return NULL;
	for (int i = low; i <= (is_single ? low : high); i += step)
		*bits |= UINT64CONST(1) << i;
	return text;
}

/* Reads a field: items, separated by commas.  False: it is none. */
static bool
read_field(const char *text, const Field *field, uint64 *bits)
{
	*bits = 0;
	for (;;)
	{
		if ((text = read_item(text, field, bits)) == NULL)
			return false;
		if (*text == '\0')
			break;
		if (*text++ != ',')
			return false;
	}
	if (field->names == day_names && (*bits & (UINT64CONST(1) << 7)) != 0)
		*bits = (*bits | 1) & ALL_WEEKDAYS;
	return true;
}

/* Divides text at white space.  Returns how many pieces, at most one too many. */
static int
split(char *text, char **pieces, int most)
{
	char *rest = text;
	char *piece;
	int n = 0;

	while (n <= most && (piece = strtok_r(rest, " \t\n", &rest)) != NULL)
		pieces[n++] = piece;
	return n;
}

/* Reads cron text. */
static void
read_cron(const char *text, char **pieces, RefitEvery *every)
{
	uint64 *sets[FIELDS] = {&every->minutes, &every->hours, &every->days,
							&every->months, &every->weekdays};

	for (int i = 0; i < FIELDS; i++)
		if (!read_field(pieces[i], &fields[i], sets[i]))
			refuse_every(text, psprintf("Field %s cannot be \"%s\".",
										fields[i].name, pieces[i]));
	every->any_day = pieces[2][0] == '*';
	every->any_weekday = pieces[4][0] == '*';
}

/* What is read within a subtransaction. */
typedef struct IntervalRead
{
	const char *text;
	Interval *interval;
} IntervalRead;

/* Reads an interval. */
static void
read_interval(void *arg)
{
	IntervalRead *read = arg;

	read->interval = DatumGetIntervalP(
		DirectFunctionCall3(interval_in, CStringGetDatum(read->text),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/* An interval of a second or more; otherwise an ERROR. */
static Interval *
parse_interval(const char *text)
{
	Interval second = {.time = USECS_PER_SEC};
	IntervalRead read = {.text = text};
	ErrorData *error = refit_attempt(read_interval, &read, true);

	if (error != NULL)
		refuse_every(text, "It is neither an interval nor cron text.");
	if (DatumGetInt32(DirectFunctionCall2(interval_cmp,
										  IntervalPGetDatum(read.interval),
										  IntervalPGetDatum(&second))) < 0)
		refuse_every(text, "It is less than a second.");
	return read.interval;
}

/* Reads when something recurs. */
void
refit_calendar_parse_every(const char *text, RefitEvery *every)
{
	char *pieces[FIELDS + 1];
	const char *cron = text;

	memset(every, 0, sizeof(RefitEvery));
	for (int i = 0; i < lengthof(abbreviations); i++)
		if (pg_strcasecmp(text, abbreviations[i].word) == 0)
			cron = abbreviations[i].text;
	/* '1 day 2 hours ago' has five pieces too; a field is no word */
	if (split(pstrdup(cron), pieces, FIELDS) == FIELDS &&
		(isdigit((unsigned char) pieces[1][0]) || pieces[1][0] == '*'))
		read_cron(text, pieces, every);
	else
		every->interval = parse_interval(text);
	if (refit_calendar_next(every, GetCurrentTimestamp()) == DT_NOEND)
		refuse_every(text, "There is no such day.");
}

/* Reads a time of the day: 22:00 or 22:00:30.  Returns what follows, or NULL. */
static const char *
read_time(const char *text, int *seconds)
{
	int part[3] = {0};
	int n = 0;

	while (n < lengthof(part) && isdigit((unsigned char) *text))
	{
		char *end;

		part[n++] = (int) Min(strtoul(text, &end, 10), 1000);
		text = end;
		if (*text != ':')
			break;
		text++;
	}
	*seconds = (part[0] * 60 + part[1]) * 60 + part[2];
	return n < 2 || part[1] > 59 || part[2] > 59 || *seconds > DAY_SECONDS
			   ? NULL
			   : text;
}

/* Reads a window. */
void
refit_calendar_parse_window(const char *text, RefitWindow *window)
{
	char *pieces[3];
	int n = split(pstrdup(text), pieces, 2);
	const char *rest = n == 1 || n == 2 ? pieces[n - 1] : NULL;

	window->weekdays = ALL_WEEKDAYS;
	if (n == 2 && !read_field(pieces[0], &fields[4], &window->weekdays))
		rest = NULL;
	if (rest != NULL)
		rest = read_time(rest, &window->begins);
	if (rest != NULL)
		rest = *rest == '-' ? read_time(rest + 1, &window->ends) : NULL;
	if (rest == NULL || *rest != '\0' || window->begins == window->ends ||
		window->begins == DAY_SECONDS)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("invalid time_window: \"%s\"", text),
						errhint("Write, for example, '22:00-06:00' or "
								"'sat,sun 00:00-24:00'.")));
}

/*
 * Reckoning
 */

/* The local time. */
static void
to_local(TimestampTz time, struct pg_tm *tm)
{
	fsec_t fsec;
	int tz;

	if (timestamp2tm(time, &tz, tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
}

/* So many seconds by the clock after the begin of a day, a Julian date. */
static TimestampTz
from_local(int day, int seconds)
{
	struct pg_tm tm = {0};
	TimestampTz result;
	int tz;

	j2date(day + seconds / DAY_SECONDS, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	seconds %= DAY_SECONDS;
	tm.tm_hour = seconds / 3600;
	tm.tm_min = seconds / 60 % 60;
	tm.tm_sec = seconds % 60;
	tz = DetermineTimeZoneOffset(&tm, session_timezone);
	if (tm2timestamp(&tm, 0, &tz, &result) != 0)
		ereport(ERROR, (errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
						errmsg("timestamp out of range")));
	return result;
}

/* Is the number in the set? */
static bool
has(uint64 set, int number)
{
	return (set & (UINT64CONST(1) << number)) != 0;
}

/* Does it recur on this day? */
static bool
is_day(const RefitEvery *every, int day)
{
	int year;
	int month;
	int mday;
	bool by_day;
	bool by_weekday = has(every->weekdays, j2day(day));

	j2date(day, &year, &month, &mday);
	by_day = has(every->days, mday);
	if (!has(every->months, month))
		return false;
	return every->any_day || every->any_weekday ? by_day && by_weekday
												: by_day || by_weekday;
}

/* The first time after that one on this day, or DT_NOEND. */
static TimestampTz
next_on_day(const RefitEvery *every, int day, TimestampTz after)
{
	TimestampTz result = DT_NOEND;

	for (int minute = 0; minute < 24 * 60; minute++)
	{
		TimestampTz time;

		if (!has(every->hours, minute / 60) ||
			!has(every->minutes, minute % 60))
			continue;
		time = from_local(day, minute * 60);
		if (time > after && time < result)
			result = time;
	}
	return result;
}

/* Where every hour counts: the first time within some hours, or DT_NOEND. */
static TimestampTz
next_by_the_minute(const RefitEvery *every, TimestampTz after)
{
	TimestampTz time = after - after % USECS_PER_MINUTE;

	for (int i = 0; i < MOST_MINUTES; i++)
	{
		struct pg_tm tm;

		time += USECS_PER_MINUTE;
		to_local(time, &tm);
		if (time > after && has(every->minutes, tm.tm_min) &&
			is_day(every, date2j(tm.tm_year, tm.tm_mon, tm.tm_mday)))
			return time;
	}
	return DT_NOEND;
}

/* The first time after that one. */
TimestampTz
refit_calendar_next(const RefitEvery *every, TimestampTz after)
{
	TimestampTz result = DT_NOEND;
	struct pg_tm tm;
	int today;

	if (every->interval != NULL)
		return DatumGetTimestampTz(DirectFunctionCall2(
			timestamptz_pl_interval, TimestampTzGetDatum(after),
			IntervalPGetDatum(every->interval)));
	if (every->hours == ALL_HOURS)
		result = next_by_the_minute(every, after);
	to_local(after, &tm);
	today = date2j(tm.tm_year, tm.tm_mon, tm.tm_mday);
	for (int i = 0; i < MOST_DAYS && result == DT_NOEND; i++)
		if (is_day(every, today + i))
			result = next_on_day(every, today + i, after);
	return result;
}

/* Is it in the window? */
bool
refit_calendar_is_open(const RefitWindow *window, TimestampTz now,
					   TimestampTz *change)
{
	int length = window->ends > window->begins ? window->ends
											   : window->ends + DAY_SECONDS;
	struct pg_tm tm;
	int today;
	bool is_open = false;

	to_local(now, &tm);
	today = date2j(tm.tm_year, tm.tm_mon, tm.tm_mday);
	*change = DT_NOEND;
	for (int day = today - 1; day <= today + 8; day++)
	{
		TimestampTz begins = from_local(day, window->begins);
		TimestampTz ends = from_local(day, length);

		if (!has(window->weekdays, j2day(day)))
			continue;
		if (begins <= now && now < ends)
		{
			is_open = true;
			*change = ends;
		}
		else if (is_open && begins <= *change)
			*change = ends; /* it goes on where the last one ends */
		else if (begins > now && *change == DT_NOEND)
			*change = begins;
	}
	return is_open;
}
