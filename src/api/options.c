/*-------------------------------------------------------------------------
 *
 * options.c
 *	  The options of a migration, as they come from SQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"

#include "api/options.h"
#include "job/terms.h"

typedef enum OptionType
{
	OPTION_DURATION,
	OPTION_SIZE,
	OPTION_COUNT,
	OPTION_BOOL,
	OPTION_RATIO,
	OPTION_ON_ERROR,
	OPTION_DEADLINE,
	OPTION_WINDOW
} OptionType;

/* Every option that a migration takes, by name. */
static const struct
{
	const char *key;
	OptionType type;
	const char *setting; /* PostgreSQL's, that it is a value of; or NULL */
} options[] = {
	{"cancel_blockers_after", OPTION_DURATION, NULL},
	{"cancel_idle_in_transaction_after", OPTION_DURATION, NULL},
	{"check", OPTION_BOOL, NULL},
	{"chunk_time", OPTION_DURATION, NULL},
	{"cutover_window", OPTION_WINDOW, NULL},
	{"deadline", OPTION_DEADLINE, NULL},
	{"fire_triggers", OPTION_BOOL, NULL},
	{"lock_timeout", OPTION_DURATION, "refit.lock_timeout"},
	{"maintenance_work_mem", OPTION_SIZE, "maintenance_work_mem"},
	{"max_attempts", OPTION_COUNT, NULL},
	{"max_dead_ratio", OPTION_RATIO, NULL},
	{"max_replica_lag", OPTION_DURATION, NULL},
	{"max_skipped", OPTION_COUNT, NULL},
	{"max_wal_rate", OPTION_SIZE, NULL},
	{"on_error", OPTION_ON_ERROR, NULL},
	{"parallel_workers", OPTION_COUNT, "max_parallel_maintenance_workers"},
	{"statement_timeout", OPTION_DURATION, NULL},
	{"workers", OPTION_COUNT, NULL},
};

/* The names of all options, for a hint. */
static char *
option_names(void)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < lengthof(options); i++)
		appendStringInfo(&names, "%s\"%s\"", i > 0 ? ", " : "", options[i].key);
	return names.data;
}

/* Is the text a value of this type? */
static bool
is_valid(OptionType type, const char *value)
{
	int number;
	double real;
	bool truth;

	switch (type)
	{
		case OPTION_DURATION:
			return parse_int(value, &number, GUC_UNIT_MS, NULL) && number > 0;
		case OPTION_SIZE:
			return parse_int(value, &number, GUC_UNIT_KB, NULL) && number > 0;
		case OPTION_COUNT:
			return parse_int(value, &number, 0, NULL) && number >= 0;
		case OPTION_BOOL:
			return parse_bool(value, &truth);
		case OPTION_RATIO:
			return parse_real(value, &real, 0, NULL) && real > 0 && real <= 1;
		case OPTION_ON_ERROR:
			return strcmp(value, "fail") == 0 || strcmp(value, "skip") == 0;
		case OPTION_DEADLINE:
			return refit_terms_is_deadline(value);
		case OPTION_WINDOW:
			return refit_terms_is_window(value);
	}
	return false;
}

/* Triggers are left out by superusers only, as by the setting. */
static void
check_superuser(const char *key, const char *value)
{
	bool fires = true;

	if (strcmp(key, "fire_triggers") == 0 && parse_bool(value, &fires) &&
		!fires && !superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"fire_triggers\""),
				 errdetail("It sets session_replication_role, which superusers "
						   "may.")));
}

/* Checks one option's value. */
void
refit_options_check_value(const char *key, const char *value)
{
	static const char *const examples[] = {
		"a duration like \"500ms\"",
		"a size like \"64MB\"",
		"a number",
		"true or false",
		"a number above 0, up to 1",
		"\"fail\" or \"skip\"",
		"a duration like \"8h\" or a time like \"2030-01-31 06:00+00\"",
		"two times of the day like \"22:00-06:00\""};

	for (int i = 0; i < lengthof(options); i++)
	{
		if (strcmp(options[i].key, key) != 0)
			continue;
		if (value == NULL || !is_valid(options[i].type, value))
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
							errmsg("invalid value for option \"%s\": \"%s\"",
								   key, value != NULL ? value : "null"),
							errhint("Write %s.", examples[options[i].type])));
		check_superuser(key, value);
		if (options[i].setting != NULL) /* an ERROR if it is out of range */
			(void) set_config_option(options[i].setting, value, PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_SET, false, 0,
									 false);
		return;
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("unknown option \"%s\"", key),
					errhint("Available options: %s.", option_names())));
}

/* The jsonb argument n, checked. */
Jsonb *
refit_options_check(FunctionCallInfo fcinfo, int n)
{
	Jsonb *jb;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue v;
	char *key = NULL;

	if (PG_ARGISNULL(n))
		return DatumGetJsonbP(
			DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	jb = PG_GETARG_JSONB_P(n);
	if (!JB_ROOT_IS_OBJECT(jb))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("options must be a JSON object"),
						errhint("Write, for example, {\"chunk_time\": "
								"\"500ms\"}.")));
	it = JsonbIteratorInit(&jb->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && v.type == jbvString)
			refit_options_check_value(
				key, pnstrdup(v.val.string.val, v.val.string.len));
		else if (token == WJB_VALUE && v.type == jbvNumeric)
			refit_options_check_value(
				key, DatumGetCString(DirectFunctionCall1(
						 numeric_out, NumericGetDatum(v.val.numeric))));
		else if (token == WJB_VALUE && v.type == jbvBool)
			refit_options_check_value(key, v.val.boolean ? "true" : "false");
		else if (token == WJB_VALUE)
			refit_options_check_value(key, NULL);
	}
	return jb;
}
