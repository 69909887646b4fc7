/*-------------------------------------------------------------------------
 *
 * validation.c
 *	  Kind validate_constraint: what VALIDATE CONSTRAINT does, in chunks.
 *
 * If the process dies: phase plan is one transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "job/catalog.h"
#include "rows/validation.h"
#include "rows/violation_sql.h"
#include "util/sqlutil.h"

/* Refuses a constraint that is not there. */
static void
refuse_unknown(Oid relid, const char *constraint)
{
	ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
					errmsg("constraint \"%s\" of relation %s does not exist",
						   constraint, refit_qualified_name(relid)),
					errhint("To add one and have the rows checked, use "
							"refit.alter_table(%s, 'ADD CONSTRAINT ...').",
							quote_literal_cstr(refit_qualified_name(relid)))));
}

/* Refuses a kind of constraint that is an index or a trigger. */
static void
refuse_kind(Oid relid, const char *constraint, char type)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("constraint \"%s\" of relation %s cannot be validated",
					constraint, refit_qualified_name(relid)),
			 errdetail("It is of type %s and needs no validation.",
					   type == CONSTRAINT_PRIMARY	  ? "primary key"
					   : type == CONSTRAINT_UNIQUE	  ? "unique"
					   : type == CONSTRAINT_EXCLUSION ? "exclusion"
													  : "trigger"),
			 errhint("Name a CHECK, foreign key or NOT NULL constraint.")));
}

/* Refuses a constraint that is not enforced. */
static void
refuse_unenforced(Oid relid, const char *constraint)
{
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("constraint \"%s\" of relation %s is NOT ENFORCED",
						   constraint, refit_qualified_name(relid)),
					errdetail("New rows are not held to it."),
					errhint("Make it ENFORCED first, or drop it and add it NOT "
							"VALID.")));
}

/* Can it be validated, and is it valid already? */
bool
refit_validation_check(Oid relid, const char *constraint)
{
	Oid types[2] = {OIDOID, TEXTOID};
	Datum values[2] = {ObjectIdGetDatum(relid),
					   CStringGetTextDatum(constraint)};
	char *found = refit_sql_text(
		"SELECT c.contype::text || CASE WHEN NOT " IS_ENFORCED(
			"c") " THEN 'u' WHEN c.convalidated THEN 'v' ELSE '' END"
				 " FROM pg_catalog.pg_constraint c"
				 " WHERE c.conrelid = $1 AND c.conname = $2::name",
		2, types, values);

	if (found == NULL)
		refuse_unknown(relid, constraint);
	if (strchr("cfn", found[0]) == NULL)
		refuse_kind(relid, constraint, found[0]);
	if (found[1] == 'u')
		refuse_unenforced(relid, constraint);
	return found[1] == 'v';
}

/* Phase plan: owes the constraint. */
char *
refit_validation_plan(RefitMigration *m)
{
	Oid types[3] = {INT8OID, OIDOID, TEXTOID};
	Datum values[3];

	if (refit_validation_check(m->relid, m->definition))
		return "the constraint is valid already";
	values[0] = Int64GetDatum(m->id);
	values[1] = ObjectIdGetDatum(m->relid);
	values[2] = CStringGetTextDatum(m->definition);
	SPI_connect();
	refit_sql("DELETE FROM refit.owed WHERE id = $1 AND $2 IS NOT NULL"
			  " AND $3 IS NOT NULL",
			  3, types, values, NULL);
	refit_sql("INSERT INTO refit.owed (id, relid, conname, conoid)"
			  " SELECT $1, conrelid, conname, oid"
			  " FROM pg_catalog.pg_constraint"
			  " WHERE conrelid = $2 AND conname = $3::name",
			  3, types, values, NULL);
	SPI_finish();
	return "existing rows are checked against a constraint";
}
