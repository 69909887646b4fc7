/*-------------------------------------------------------------------------
 *
 * look.c
 *	  SQL functions behind the views that show what goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "utils/tuplestore.h"

#include "pass/governor.h"

#define SIGNALS_COLUMNS 7

PG_FUNCTION_INFO_V1(refit_signals);

/* The word for a state in refit.signals. */
static const char *
state_word(RefitSignalState state)
{
	switch (state)
	{
		case REFIT_SIGNAL_OK:
			return "ok";
		case REFIT_SIGNAL_SLOW:
			return "slow";
		case REFIT_SIGNAL_STOP:
			return "stop";
		case REFIT_SIGNAL_UNKNOWN:
			break;
	}
	return "unknown";
}

/* Adds one signal to the result. */
static void
put_signal(ReturnSetInfo *rsinfo, const RefitSignal *signal, bool with_reason)
{
	Datum values[SIGNALS_COLUMNS] = {0};
	bool nulls[SIGNALS_COLUMNS] = {false};

	values[0] = CStringGetTextDatum(signal->name);
	values[1] = Float8GetDatum(signal->value);
	nulls[1] = !signal->has_value;
	values[2] = Float8GetDatum(signal->soft_limit);
	nulls[2] = isinf(signal->soft_limit);
	values[3] = Float8GetDatum(signal->hard_limit);
	nulls[3] = isinf(signal->hard_limit);
	if (signal->unit != NULL)
		values[4] = CStringGetTextDatum(signal->unit);
	nulls[4] = signal->unit == NULL;
	values[5] = CStringGetTextDatum(state_word(signal->state));
	if (signal->reason != NULL && with_reason)
		values[6] = CStringGetTextDatum(signal->reason);
	nulls[6] = signal->reason == NULL || !with_reason;

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * refit._signals(): a row per signal, with the limits of the settings.
 *
 * Reasons name standbys and the like, which PostgreSQL shows to those who may
 * read all statistics.
 */
Datum
refit_signals(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool with_reason = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	ListCell *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, refit_signals_read(NULL))
		put_signal(rsinfo, lfirst(lc), with_reason);
	return (Datum) 0;
}
