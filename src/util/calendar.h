/*-------------------------------------------------------------------------
 *
 * calendar.h
 *	  When something recurs, and in which hours it may be done.
 *
 * Every:	an interval, '1 day', counted from a time that the caller has; or cron
 *			text, '30 3 * * mon-fri': minute, hour, day of the month, month, day
 *			of the week; or '@daily' and the like.
 * Window:	'22:00-06:00', also of certain days, 'sat,sun 00:00-24:00'; the day is
 *			the one that it begins on.
 *
 * Local times are those of the session's TimeZone.  Where clocks are put forward,
 * a time that does not exist is taken by the clock of before, an hour later; where
 * they are put back, one that comes twice is the second.  What recurs every hour
 * of the day goes by the time that passes, and so takes no notice.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_CALENDAR_H
#define REFIT_CALENDAR_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef struct RefitEvery
{
	Interval *interval; /* NULL: the fields below */
	uint64 minutes;		/* sets of bits */
	uint64 hours;
	uint64 days;
	uint64 months;
	uint64 weekdays;  /* 0: Sunday */
	bool any_day;	  /* of the month */
	bool any_weekday; /* with neither, one of the two is enough, as in cron */
} RefitEvery;

typedef struct RefitWindow
{
	int begins; /* seconds of the day */
	int ends;	/* not after begins: on the next day */
	uint64 weekdays;
} RefitWindow;

/* An ERROR for text that cannot be understood, or never comes true. */
extern void refit_calendar_parse_every(const char *text, RefitEvery *every);
extern void refit_calendar_parse_window(const char *text, RefitWindow *window);

/* The first time after that one; DT_NOEND: never. */
extern TimestampTz refit_calendar_next(const RefitEvery *every,
									   TimestampTz after);
/* Is it in the window?  Sets when that changes. */
extern bool refit_calendar_is_open(const RefitWindow *window, TimestampTz now,
								   TimestampTz *change);

#endif /* REFIT_CALENDAR_H */
