/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  Arguments of SQL functions that submit work.  See arguments.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "api/arguments.h"

/* In bytes; JSON may make six of each, and a payload has room for 8000. */
#define LONGEST_NAME 1000

/* A text argument, or NULL. */
char *
refit_text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* The name argument, or NULL.  A notification has to have room for it. */
char *
refit_name_arg(FunctionCallInfo fcinfo, int n)
{
	char *name = refit_text_arg(fcinfo, n);

	if (name != NULL && strlen(name) > LONGEST_NAME)
		ereport(ERROR, (errcode(ERRCODE_NAME_TOO_LONG),
						errmsg("the name of a migration must not be longer "
							   "than %d bytes",
							   LONGEST_NAME)));
	return name;
}

/* A text argument that must be one of a few words. */
char *
refit_word_arg(FunctionCallInfo fcinfo, int n, const char *name,
			   const char *const *words)
{
	char *value = refit_text_arg(fcinfo, n);
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; words[i] != NULL; i++)
	{
		if (value != NULL && strcmp(value, words[i]) == 0)
			return value;
		appendStringInfo(&list, "%s\"%s\"", i > 0 ? ", " : "", words[i]);
	}
	ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					errmsg("invalid value for %s: \"%s\"", name,
						   value != NULL ? value : "NULL"),
					errhint("Available values: %s.", list.data)));
	return NULL;
}

/* The relation argument; NULL is an error. */
Oid
refit_relation_arg(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("relation must not be null")));
	return PG_GETARG_OID(0);
}
