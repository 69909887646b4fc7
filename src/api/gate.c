/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  Gates for deploy scripts: refit.require and refit.require_all.
 *
 * Three answers that a script can tell apart by SQLSTATE, besides "go on":
 *
 *	object_in_use (55006)						not finished: wait, as the hint says
 *	object_not_in_prerequisite_state (55000)	failed, cancelled or reverted: it
 *												will not come by itself
 *	undefined_object (42704)					was never submitted
 *
 * Anybody may ask, and sees no more than in refit.progress.  No locks but of
 * reading.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "util/sqlutil.h"

/* Migrations that are named in one message. */
#define MOST_NAMED 10

PG_FUNCTION_INFO_V1(refit_require);
PG_FUNCTION_INFO_V1(refit_require_all);

/* What a gate asks of one migration. */
typedef struct GateEntry
{
	char *id;
	char *name;
	char *state;
	char *how_far; /* of one that is not finished: percent and expected end */
} GateEntry;

/*
 * How far each is and when the whole is expected to end: this phase at its pace,
 * and the phases after it in the proportion that they usually take.
 */
#define GATE_QUERY                                                        \
	"SELECT m.id, m.name, m.state, p.percent || ' % done, ' || coalesce(" \
	" 'expected to end at ' || date_trunc('second', clock_timestamp()"    \
	"  + (p.eta - clock_timestamp()) * greatest(1, (99 - p.percent)"      \
	"   / nullif(refit._percent(m.strategy, m.phase, 1, 1)"               \
	"    - p.percent::float8, 0))),"                                      \
	" 'end not known')"                                                   \
	" FROM refit.migration m LEFT JOIN refit.progress p USING (id)"

/* The migrations that a query gives, in the caller's context. */
static List *
load_entries(const char *sql, Datum text)
{
	Oid types[1] = {TEXTOID};
	MemoryContext context = CurrentMemoryContext;
	List *entries = NIL;

	SPI_connect();
	refit_sql(sql, 1, types, &text, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple row = SPI_tuptable->vals[i];
		TupleDesc desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(context);
		GateEntry *entry = palloc(sizeof(GateEntry));

		entry->id = SPI_getvalue(row, desc, 1);
		entry->name = SPI_getvalue(row, desc, 2);
		entry->state = SPI_getvalue(row, desc, 3);
		entry->how_far = SPI_getvalue(row, desc, 4);
		entries = lappend(entries, entry);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return entries;
}

/* Has it ended in another way than by being completed? */
static bool
is_dead(const GateEntry *entry)
{
	return strcmp(entry->state, "failed") == 0 ||
		   strcmp(entry->state, "cancelled") == 0 ||
		   strcmp(entry->state, "reverted") == 0;
}

/* What somebody has to do for it. */
static char *
hint_for(const GateEntry *entry)
{
	static const char *const hints[][2] = {
		{"paused", "Let it go on with refit.resume(%s)."},
		{"ready", "It waits for refit.cutover(%s)."},
		{"revertible", "End its revert window with refit.finish(%s)."},
		{"failed", "See refit.migrations for the error; start it again with "
				   "refit.retry(%s)."},
		{"cancelled", "Start it again with refit.retry(%s)."},
		{"reverted", "Start it again with refit.retry(%s)."}};

	for (int i = 0; i < lengthof(hints); i++)
		if (strcmp(entry->state, hints[i][0]) == 0)
			return psprintf(hints[i][1], entry->id);
	return psprintf("Wait for it with refit.wait(%s).", entry->id);
}

/* refit.require(name): an ERROR unless that migration is completed. */
Datum
refit_require(PG_FUNCTION_ARGS)
{
	char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List *entries =
		load_entries(GATE_QUERY " WHERE m.name = $1", PG_GETARG_DATUM(0));
	GateEntry *entry;

	if (entries == NIL)
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
						errmsg("there is no migration named \"%s\"", name),
						errhint("Submit it first.")));
	entry = linitial(entries);
	if (strcmp(entry->state, "completed") == 0)
		return CStringGetTextDatum(entry->state);
	ereport(ERROR,
			(errcode(is_dead(entry) ? ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
									: ERRCODE_OBJECT_IN_USE),
			 errmsg("migration \"%s\" is not completed", name),
			 errdetail("It is %s%s%s.", entry->state,
					   entry->how_far != NULL ? ", " : "",
					   entry->how_far != NULL ? entry->how_far : ""),
			 errhint("%s", hint_for(entry))));
	PG_RETURN_NULL();
}

/* Those of a list that are dead, or those that are not finished, for a reader. */
static char *
name_entries(const List *entries, bool dead, int *count)
{
	StringInfoData text;
	ListCell *lc;

	*count = 0;
	initStringInfo(&text);
	foreach(lc, entries)
	{
		GateEntry *entry = lfirst(lc);

		if (strcmp(entry->state, "completed") == 0 || is_dead(entry) != dead ||
			++*count > MOST_NAMED)
			continue;
		appendStringInfo(&text, "%s\"%s\" is %s%s%s.", *count > 1 ? " " : "",
						 entry->name, entry->state,
						 entry->how_far != NULL ? ", " : "",
						 entry->how_far != NULL ? entry->how_far : "");
	}
	if (*count > MOST_NAMED)
		appendStringInfo(&text, " And %d more.", *count - MOST_NAMED);
	return text.data;
}

/* refit.require_all(prefix): as refit.require, for all names that begin so. */
Datum
refit_require_all(PG_FUNCTION_ARGS)
{
	char *prefix = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List *entries =
		load_entries(GATE_QUERY " WHERE starts_with(m.name, $1) ORDER BY m.id",
					 PG_GETARG_DATUM(0));
	int count;
	char *names;

	if (entries == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no migration whose name begins with \"%s\"",
						prefix),
				 errhint("Submit them first.")));
	names = name_entries(entries, true, &count);
	if (count > 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%d of %d migrations with a name like \"%s%%\" will not be "
					"completed by themselves",
					count, list_length(entries), prefix),
			 errdetail("%s", names),
			 errhint("See refit.migrations; start them again with "
					 "refit.retry().")));
	names = name_entries(entries, false, &count);
	if (count > 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg(
				 "%d of %d migrations with a name like \"%s%%\" are not completed",
				 count, list_length(entries), prefix),
			 errdetail("%s", names),
			 errhint("Wait for them with refit.wait().")));
	PG_RETURN_INT64(list_length(entries));
}
