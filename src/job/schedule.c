/*-------------------------------------------------------------------------
 *
 * schedule.c
 *	  Operations that recur.  See schedule.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "job/catalog.h"
#include "job/request.h"
#include "job/schedule.h"
#include "util/attempt.h"
#include "util/calendar.h"
#include "util/sqlutil.h"

#define MOST_ARGUMENTS 2

/* When to look again, in us: at what could not be begun; after an error. */
#define LOOK_AGAIN (5 * USECS_PER_SEC)
#define LOOK_AFTER_ERROR (60 * USECS_PER_SEC)

/* An argument of the function that submits a kind. */
typedef struct Argument
{
	const char *name;
	bool needed;
} Argument;

/* What can recur: refit.<kind>(relation, arguments, name, options). */
typedef struct Kind
{
	const char *name;
	Argument arguments[MOST_ARGUMENTS];
} Kind;

static const Kind kinds[] = {
	{"backfill", {{"set_clause", true}, {"where_clause", false}}},
	{"batched", {{"statement", true}}},
	{"purge", {{"where_clause", true}}},
	{"rebuild_index", {{"method", false}}},
	{"repack", {{"order_by", false}}},
};

/* A run that is to be submitted within a subtransaction. */
typedef struct Submission
{
	const RefitSchedule *schedule;
	const char *name; /* of the migration */
	int64 id;
} Submission;

/* What a look does with a schedule. */
typedef enum Action
{
	DO_NOTHING,
	BEGIN_RUN,
	END_WINDOW,
	REOPEN_WINDOW,
	LEAVE_OUT
} Action;

/* A schedule that is being looked at. */
typedef struct Look
{
	RefitSchedule *schedule;
	TimestampTz now;
	TimestampTz again; /* when to look again */
} Look;

/*
 * The call that submits a run
 */

/* The kind of that name; otherwise an ERROR. */
static const Kind *
find_kind(const char *name)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(kinds); i++)
	{
		if (strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "", kinds[i].name);
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("operations of kind \"%s\" do not recur", name),
					errhint("Available kinds: %s.", names.data)));
	return NULL;
}

/* The text of a member of a JSON object, or NULL. */
static char *
member_text(const Jsonb *object, const char *key)
{
	JsonbValue buf;
	JsonbValue *value = getKeyJsonValueFromContainer(
		(JsonbContainer *) &object->root, key, strlen(key), &buf);

	if (value == NULL || value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("argument \"%s\" must be a string", key)));
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* Does a kind take an argument of that name? */
static bool
takes(const Kind *kind, const char *name)
{
	for (int i = 0; i < MOST_ARGUMENTS; i++)
		if (kind->arguments[i].name != NULL &&
			strcmp(kind->arguments[i].name, name) == 0)
			return true;
	return false;
}

/* The names of a kind's arguments, for a hint. */
static char *
argument_names(const Kind *kind)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < MOST_ARGUMENTS && kind->arguments[i].name != NULL; i++)
		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "",
						 kind->arguments[i].name);
	return names.data;
}

/* An ERROR for what is not to be called. */
void
refit_schedule_check(const RefitSchedule *schedule)
{
	const Kind *kind = find_kind(schedule->kind);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;

	if (!JB_ROOT_IS_OBJECT(schedule->arguments))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("arguments must be a JSON object"),
						errhint("Available arguments of a %s: %s.", kind->name,
								argument_names(kind))));
	it = JsonbIteratorInit((JsonbContainer *) &schedule->arguments->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char *key;

		if (token != WJB_KEY)
			continue;
		key = pnstrdup(v.val.string.val, v.val.string.len);
		if (!takes(kind, key))
			ereport(
				ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a %s has no argument \"%s\"", kind->name, key),
				 errhint("Available arguments: %s.", argument_names(kind))));
		(void) member_text(schedule->arguments, key);
	}
}

/* Calls the function that submits this kind, as the caller. */
static int64
call_function(const RefitSchedule *schedule, const char *name)
{
	const Kind *kind = find_kind(schedule->kind);
	Oid types[3 + MOST_ARGUMENTS] = {REGCLASSOID, TEXTOID, JSONBOID};
	Datum values[3 + MOST_ARGUMENTS];
	char nulls[3 + MOST_ARGUMENTS + 1] = "   ";
	int n = 3;
	StringInfoData sql;
	int64 id;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT " REFIT_SCHEMA ".%s($1, name => $2,"
					 " options => $3",
					 kind->name);
	values[0] = ObjectIdGetDatum(schedule->relid);
	values[1] = CStringGetTextDatum(name);
	values[2] = JsonbPGetDatum(schedule->options);
	for (int i = 0; i < MOST_ARGUMENTS && kind->arguments[i].name != NULL; i++)
	{
		const Argument *argument = &kind->arguments[i];
		char *text = member_text(schedule->arguments, argument->name);

		if (text == NULL && !argument->needed)
			continue;
		types[n] = TEXTOID;
		nulls[n] = text == NULL ? 'n' : ' ';
		values[n] = text != NULL ? CStringGetTextDatum(text) : (Datum) 0;
		appendStringInfo(&sql, ", %s => $%d", argument->name, ++n);
	}
	appendStringInfoChar(&sql, ')');
	SPI_connect();
	if (SPI_execute_with_args(sql.data, n, types, values, nulls, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql.data);
	id = strtoll(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
				 NULL, 10);
	SPI_finish();
	return id;
}

/* Sets what the session of whoever made the schedule had set. */
static void
apply_settings(const RefitSchedule *schedule)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(schedule->settings)};

	SPI_connect();
	refit_sql("SELECT key, value FROM jsonb_each_text($1::jsonb)", 1, types,
			  values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
		refit_set_local(
			SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1),
			SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2));
	SPI_finish();
}

/* Submits a run as whoever made the schedule. */
static void
submit(void *arg)
{
	Submission *submission = arg;
	const RefitSchedule *schedule = submission->schedule;
	RefitRights save;

	refit_rights_begin(&save, get_role_oid(schedule->role, false), true);
	apply_settings(schedule);
	refit_set_local("search_path", schedule->search_path);
	refit_set_local("client_min_messages", "warning");
	submission->id = call_function(schedule, submission->name);
	refit_rights_end(&save);
}

/* An ERROR unless a run would be submitted now. */
void
refit_schedule_try(const RefitSchedule *schedule)
{
	Submission submission = {.schedule = schedule};
	ErrorData *error;

	submission.name = psprintf("schedule/%s", schedule->name);
	error = refit_attempt(submit, &submission, false);
	if (error != NULL)
		ReThrowError(error);
}

/*
 * Times
 */

/* The first time after that one that a run is due. */
static TimestampTz
next_after(const RefitSchedule *schedule, TimestampTz after)
{
	int guc_level = NewGUCNestLevel();
	RefitEvery every;
	TimestampTz result;

	apply_settings(schedule);
	refit_calendar_parse_every(schedule->every, &every);
	result = refit_calendar_next(&every, after);
	AtEOXact_GUC(false, guc_level);
	return result;
}

/*
 * When the next run is due, in the future.  It is reckoned from when the last one
 * was, so that times do not drift; after missed ones from now.
 */
static TimestampTz
next_due(const RefitSchedule *schedule, TimestampTz now)
{
	TimestampTz next = next_after(schedule, schedule->next_run);

	return next > now ? next : next_after(schedule, now);
}

/* May it run at this time?  Sets when that changes. */
static bool
is_open(const RefitSchedule *schedule, TimestampTz now, TimestampTz *change)
{
	int guc_level;
	RefitWindow window;
	bool result;

	*change = DT_NOEND;
	if (schedule->window == NULL)
		return true;
	guc_level = NewGUCNestLevel();
	apply_settings(schedule);
	refit_calendar_parse_window(schedule->window, &window);
	result = refit_calendar_is_open(&window, now, change);
	AtEOXact_GUC(false, guc_level);
	return result;
}

/* When it is due for the first time. */
TimestampTz
refit_schedule_first(const RefitSchedule *schedule)
{
	TimestampTz change;

	(void) is_open(schedule, GetCurrentTimestamp(), &change);
	return next_after(schedule, GetCurrentTimestamp());
}

/*
 * Rows of refit.schedule
 */

/* Columns of a row as they are read. */
#define COLUMNS                                                            \
	"name, relid::oid, kind, arguments, options, every, time_window,"      \
	" at_window_end, search_path, settings::text, scheduled_by, next_run," \
	" coalesce(last_migration, 0), waits, home = refit._home()"

/* A row as a struct, in the present memory context. */
static RefitSchedule *
read_row(HeapTuple row, TupleDesc desc)
{
	RefitSchedule *s = palloc0(sizeof(RefitSchedule));
	bool isnull;

	s->name = SPI_getvalue(row, desc, 1);
	s->relid = DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull));
	s->kind = SPI_getvalue(row, desc, 3);
	s->arguments = DatumGetJsonbPCopy(SPI_getbinval(row, desc, 4, &isnull));
	s->options = DatumGetJsonbPCopy(SPI_getbinval(row, desc, 5, &isnull));
	s->every = SPI_getvalue(row, desc, 6);
	s->window = SPI_getvalue(row, desc, 7);
	s->at_window_end = SPI_getvalue(row, desc, 8);
	s->search_path = SPI_getvalue(row, desc, 9);
	s->settings = SPI_getvalue(row, desc, 10);
	s->role = SPI_getvalue(row, desc, 11);
	s->next_run = DatumGetTimestampTz(SPI_getbinval(row, desc, 12, &isnull));
	s->last_migration = DatumGetInt64(SPI_getbinval(row, desc, 13, &isnull));
	s->waits = DatumGetBool(SPI_getbinval(row, desc, 14, &isnull));
	s->at_home = DatumGetBool(SPI_getbinval(row, desc, 15, &isnull));
	return s;
}

/* The rows that a query finds, in the caller's memory context. */
static List *
read_rows(const char *sql, int nargs, Oid *types, Datum *values)
{
	MemoryContext caller = CurrentMemoryContext;
	List *result = NIL;

	SPI_connect();
	refit_sql(sql, nargs, types, values, NULL);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
		result = lappend(
			result, read_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
	SPI_finish();
	return result;
}

/* The one of that name, locked. */
RefitSchedule *
refit_schedule_load(const char *name)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(name)};
	List *found =
		read_rows("SELECT " COLUMNS " FROM refit.schedule WHERE name = $1"
				  " FOR UPDATE",
				  1, types, values);

	return found != NIL ? linitial(found) : NULL;
}

/*
 * Writes the row.  When it is next due stays as it was where the text and the
 * caller say nothing else.
 */
void
refit_schedule_save(const RefitSchedule *s)
{
	Oid types[12] = {TEXTOID,  OIDOID,	TEXTOID, JSONBOID,
					 JSONBOID, TEXTOID, TEXTOID, TEXTOID,
					 TEXTOID,  TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum values[12];
	bool nulls[12] = {false};
	const char *texts[] = {s->every,	   s->window,	s->at_window_end,
						   s->search_path, s->settings, s->role};

	values[0] = CStringGetTextDatum(s->name);
	values[1] = ObjectIdGetDatum(s->relid);
	values[2] = CStringGetTextDatum(s->kind);
	values[3] = JsonbPGetDatum(s->arguments);
	values[4] = JsonbPGetDatum(s->options);
	for (int i = 0; i < lengthof(texts); i++)
	{
		nulls[5 + i] = texts[i] == NULL;
		values[5 + i] =
			texts[i] != NULL ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	}
	values[11] = TimestampTzGetDatum(s->next_run);
	SPI_connect();
	refit_sql("INSERT INTO refit.schedule AS s (name, relid, kind, arguments,"
			  " options, every, time_window, at_window_end, search_path,"
			  " settings, scheduled_by, next_run, home)"
			  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, $11,"
			  "  $12, refit._home())"
			  " ON CONFLICT (name) DO UPDATE SET relid = excluded.relid,"
			  " kind = excluded.kind, arguments = excluded.arguments,"
			  " options = excluded.options, every = excluded.every,"
			  " time_window = excluded.time_window,"
			  " at_window_end = excluded.at_window_end,"
			  " search_path = excluded.search_path,"
			  " settings = excluded.settings,"
			  " scheduled_by = excluded.scheduled_by,"
			  " waits = s.waits AND s.home = excluded.home,"
			  " next_run = excluded.next_run, home = excluded.home,"
			  " last_error = NULL",
			  12, types, values, nulls);
	SPI_finish();
}

/* Has the migration not ended yet?  One of another server never will. */
static bool
is_unfinished(int64 id)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(id)};

	return refit_sql_text("SELECT 1 FROM refit.migration WHERE id = $1"
						  " AND finished_at IS NULL AND home = refit._home()",
						  1, types, values) != NULL;
}

/* Deletes it. */
void
refit_schedule_delete(const RefitSchedule *s)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(s->name)};

	if (s->waits && is_unfinished(s->last_migration))
		(void) refit_migration_cancel(s->last_migration);
	SPI_connect();
	refit_sql("DELETE FROM refit.schedule WHERE name = $1", 1, types, values,
			  NULL);
	SPI_finish();
}

/* Writes what a look has changed.  error: of this look's run, or NULL. */
static void
save_look(const RefitSchedule *s, bool has_run, const char *error)
{
	Oid types[6] = {TEXTOID, TIMESTAMPTZOID, INT8OID,
					BOOLOID, BOOLOID,		 TEXTOID};
	Datum values[6];
	bool nulls[6] = {false};

	values[0] = CStringGetTextDatum(s->name);
	values[1] = TimestampTzGetDatum(s->next_run);
	values[2] = Int64GetDatum(s->last_migration);
	nulls[2] = s->last_migration == 0;
	values[3] = BoolGetDatum(s->waits);
	values[4] = BoolGetDatum(has_run);
	values[5] = error != NULL ? CStringGetTextDatum(error) : (Datum) 0;
	nulls[5] = error == NULL;
	SPI_connect();
	refit_sql(
		"UPDATE refit.schedule SET next_run = $2, last_migration = $3,"
		" waits = $4,"
		" last_run = CASE WHEN $5 THEN clock_timestamp() ELSE last_run END,"
		" last_error = CASE WHEN $5 THEN $6 ELSE last_error END"
		" WHERE name = $1",
		6, types, values, nulls);
	SPI_finish();
}

/* Records what happened, for refit.events; id 0: of no migration. */
static void
write_event(const RefitSchedule *s, int64 id, const char *message)
{
	Oid types[3] = {INT8OID, TEXTOID, TEXTOID};
	Datum values[3];
	bool nulls[3] = {id == 0, false, false};

	values[0] = Int64GetDatum(id);
	values[1] = CStringGetTextDatum(message);
	values[2] = CStringGetTextDatum(s->name);
	SPI_connect();
	refit_sql(
		"INSERT INTO refit.event (migration_id, kind, message, detail)"
		" VALUES ($1, 'schedule', $2, jsonb_build_object('schedule', $3))",
		3, types, values, nulls);
	SPI_finish();
}

/*
 * A look
 */

/* What is to be done with it now, if anything. */
static Action
choose_action(const Look *look, const RefitSchedule *s)
{
	TimestampTz change;
	bool open = is_open(s, look->now, &change);

	if (!is_unfinished(s->last_migration))
		return open && s->next_run <= look->now ? BEGIN_RUN : DO_NOTHING;
	if (!open && !s->waits && strcmp(s->at_window_end, "finish") != 0)
		return END_WINDOW;
	if (open && s->waits)
		return REOPEN_WINDOW;
	return s->next_run <= look->now ? LEAVE_OUT : DO_NOTHING;
}

/* Will it probably go better in a moment? */
static bool
is_passing(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		   sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		   sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		   sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/* The name of the migration that a run is. */
static char *
name_run(const Look *look)
{
	Oid types[2] = {TIMESTAMPTZOID, TEXTOID};
	Datum values[2] = {TimestampTzGetDatum(look->now),
					   CStringGetTextDatum("YYYY-MM-DD HH24:MI:SS.US")};

	return psprintf("schedule/%s/%s", look->schedule->name,
					refit_sql_text("SELECT to_char($1 AT TIME ZONE 'UTC', $2)",
								   2, types, values));
}

/* Begins a run, or records why that cannot be. */
static void
begin_run(Look *look)
{
	RefitSchedule *s = look->schedule;
	Submission submission = {.schedule = s, .name = name_run(look)};
	ErrorData *error = refit_attempt(submit, &submission, true);
	char *text = NULL;

	if (error != NULL && is_passing(error->sqlerrcode))
		return; /* it is still due */
	s->waits = false;
	s->next_run = next_due(s, look->now);
	if (error == NULL)
	{
		s->last_migration = submission.id;
		write_event(s, submission.id, psprintf("run of schedule %s", s->name));
	}
	else
	{
		text = psprintf("%s: %s", unpack_sql_state(error->sqlerrcode),
						error->message);
		write_event(s, 0,
					psprintf("schedule %s could not begin a run: %s", s->name,
							 error->message));
	}
	save_look(s, true, text);
}

/* The window of a run under way has ended. */
static void
end_window(Look *look)
{
	RefitSchedule *s = look->schedule;
	bool cancels = strcmp(s->at_window_end, "cancel") == 0;

	if (cancels)
		(void) refit_migration_cancel(s->last_migration);
	else
		(void) refit_migration_pause(s->last_migration);
	write_event(s, s->last_migration,
				cancels ? "cancelled: its time window ends"
						: "paused: its time window ends");
	s->waits = true;
	save_look(s, false, NULL);
}

/* The window of a run that waits for it has begun. */
static void
reopen_window(Look *look)
{
	RefitSchedule *s = look->schedule;

	(void) refit_migration_resume(s->last_migration);
	write_event(s, s->last_migration, "resumed: its time window begins");
	s->waits = false;
	save_look(s, false, NULL);
}

/* What is due while a run is under way is left out. */
static void
leave_out(Look *look)
{
	RefitSchedule *s = look->schedule;

	s->next_run = next_due(s, look->now);
	write_event(s, s->last_migration, "not begun again: it is not over yet");
	save_look(s, false, NULL);
}

/* Does what is to be done with a schedule, unless somebody else does. */
static void
act_on(Look *look)
{
	Oid types[1] = {TEXTOID};
	Datum values[1] = {CStringGetTextDatum(look->schedule->name)};
	List *found =
		read_rows("SELECT " COLUMNS " FROM refit.schedule WHERE name = $1"
				  " AND home = refit._home() FOR UPDATE SKIP LOCKED",
				  1, types, values);

	if (found == NIL)
		return;
	look->schedule = linitial(found);
	switch (choose_action(look, look->schedule))
	{
		case BEGIN_RUN:
			begin_run(look);
			break;
		case END_WINDOW:
			end_window(look);
			break;
		case REOPEN_WINDOW:
			reopen_window(look);
			break;
		case LEAVE_OUT:
			leave_out(look);
			break;
		case DO_NOTHING:
			break;
	}
}

/* When it will need a look again. */
static TimestampTz
look_again(const Look *look)
{
	const RefitSchedule *s = look->schedule;
	TimestampTz change;
	bool open = is_open(s, look->now, &change);

	if (s->next_run > look->now)
		return Min(s->next_run, change);
	return open || is_unfinished(s->last_migration) ? look->now + LOOK_AGAIN
													: change;
}

/* Looks at one schedule. */
static void
look_at(void *arg)
{
	Look *look = arg;

	if (choose_action(look, look->schedule) != DO_NOTHING)
		act_on(look);
	look->again = look_again(look);
}

/* Begins what is due in this database. */
TimestampTz
refit_schedule_look(void)
{
	TimestampTz result = DT_NOEND;
	ListCell *lc;

	foreach(lc, read_rows("SELECT " COLUMNS " FROM refit.schedule"
						  " WHERE home = refit._home() ORDER BY name",
						  0, NULL, NULL))
	{
		Look look = {.schedule = lfirst(lc), .now = GetCurrentTimestamp()};
		ErrorData *error = refit_attempt(look_at, &look, true);

		if (error != NULL)
		{
			error->elevel = LOG;
			ThrowErrorData(error);
			look.again = look.now + LOOK_AFTER_ERROR;
		}
		result = Min(result, look.again);
	}
	return result;
}
