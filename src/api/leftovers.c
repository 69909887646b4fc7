/*-------------------------------------------------------------------------
 *
 * leftovers.c
 *	  refit.leftovers and refit.clean_leftovers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "job/leftovers.h"

#define COLUMNS 6

/* Tries for the lock on a table, and the pause between them. */
#define LOCK_TRIES 5
#define LOCK_PAUSE_US 50000

PG_FUNCTION_INFO_V1(refit_leftovers);
PG_FUNCTION_INFO_V1(refit_clean_leftovers);

/* A text, or NULL. */
static Datum
text_value(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text != NULL ? CStringGetTextDatum(text) : (Datum) 0;
}

/* Adds a row. */
static void
put_leftover(ReturnSetInfo *rsinfo, const RefitLeftover *l,
			 const char *what_to_do)
{
	Datum values[COLUMNS];
	bool nulls[COLUMNS] = {false};

	values[0] = CStringGetTextDatum(l->kind);
	values[1] = CStringGetTextDatum(l->object);
	values[2] = text_value(l->table, &nulls[2]);
	values[3] = Int64GetDatum(l->id);
	nulls[3] = l->id == 0;
	values[4] = CStringGetTextDatum(l->made_by);
	values[5] = CStringGetTextDatum(what_to_do);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* refit.leftovers() */
Datum
refit_leftovers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, refit_leftovers_list(GetUserId()))
	{
		RefitLeftover *l = lfirst(lc);

		put_leftover(rsinfo, l, l->what_to_do);
	}
	return (Datum) 0;
}

/* Tries for a while to remove one; what became of it. */
static const char *
clean(const RefitLeftover *l)
{
	for (int i = 0; i < LOCK_TRIES; i++)
	{
		if (i > 0)
			pg_usleep(LOCK_PAUSE_US);
		if (refit_leftovers_remove(l))
			return "removed";
		CHECK_FOR_INTERRUPTS();
	}
	return "in use: call again later";
}

/* refit.clean_leftovers(): what is ours, and the caller's. */
Datum
refit_clean_leftovers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell *lc;

	if (InSecurityRestrictedOperation())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot clean leftovers within security-restricted "
						"operation")));
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, refit_leftovers_list(GetUserId()))
	{
		RefitLeftover *l = lfirst(lc);

		if (refit_leftovers_may_remove(l, GetUserId()))
			put_leftover(rsinfo, l, clean(l));
	}
	return (Datum) 0;
}
