/*-------------------------------------------------------------------------
 *
 * violation_sql.h
 *	  SQL of constraint.c: texts of queries that find rows which violate a
 *	  constraint, as expressions over its row c of pg_constraint.
 *
 * In what they give, x is the row that is looked at.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_VIOLATION_SQL_H
#define REFIT_VIOLATION_SQL_H

/* clang-format off */

/* A cast to an operator's declared operand, where there is such a type. */
#define OPERAND_CAST(column, alias) \
	" CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'p' THEN '' ELSE" \
	"  format('::%I.%I', tn.nspname, t.typname) END" \
	"  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace tn" \
	"   ON tn.oid = t.typnamespace WHERE t.oid = " column ") AS " alias \
	"(as_type)"

/*
 * How a foreign key compares one column: with its own operator and, where the
 * columns have two collations, with that of the referenced one.
 */
#define KEY_IS_EQUAL \
	"format('p.%I%s OPERATOR(%I.%s) x.%I%s%s', pa.attname, l.as_type," \
	" n.nspname, o.oprname, fa.attname, r.as_type," \
	" CASE WHEN pa.attcollation <> fa.attcollation THEN" \
	" (SELECT format(' COLLATE %I.%I', cn.nspname, co.collname)" \
	"  FROM pg_catalog.pg_collation co JOIN pg_catalog.pg_namespace cn" \
	"  ON cn.oid = co.collnamespace WHERE co.oid = pa.attcollation) END)"

/* The table that a foreign key refers to, with all partitions. */
#define REFERENCED \
	"CASE (SELECT relkind FROM pg_catalog.pg_class WHERE oid = c.confrelid)" \
	" WHEN 'p' THEN '' ELSE 'ONLY ' END || c.confrelid::regclass"

/*
 * A foreign key compares with its own operators, as RI does; the casts keep
 * others of the same name, which anybody may have made, from being a better
 * match.
 */
#define FOREIGN_KEY_VIOLATION \
	"(SELECT CASE WHEN c.confmatchtype = 'f' THEN" \
	"   format('NOT (%s) AND (%s OR NOT EXISTS (SELECT FROM %s p" \
	"    WHERE %s))'," \
	"    string_agg(format('x.%I IS NULL', fa.attname), ' AND ')," \
	"    string_agg(format('x.%I IS NULL', fa.attname), ' OR ')," \
	"    " REFERENCED ", string_agg(e.equal, ' AND '))" \
	"  ELSE format('%s AND NOT EXISTS (SELECT FROM %s p WHERE %s)'," \
	"    string_agg(format('x.%I IS NOT NULL', fa.attname), ' AND ')," \
	"    " REFERENCED ", string_agg(e.equal, ' AND ')) END" \
	"  FROM unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY" \
	"   AS k(f, p, op, n)" \
	"  JOIN pg_catalog.pg_attribute fa ON fa.attrelid = c.conrelid" \
	"   AND fa.attnum = k.f" \
	"  JOIN pg_catalog.pg_attribute pa ON pa.attrelid = c.confrelid" \
	"   AND pa.attnum = k.p" \
	"  JOIN pg_catalog.pg_operator o ON o.oid = k.op" \
	"  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace" \
	OPERAND_CAST("o.oprleft", "l") OPERAND_CAST("o.oprright", "r") \
	" CROSS JOIN LATERAL (SELECT " KEY_IS_EQUAL ") AS e(equal))"

/* 18 has rows for NOT NULL, which may be NOT VALID. */
#define NOT_NULL_VIOLATION \
	"(SELECT format('x.%I IS NULL', attname) FROM pg_catalog.pg_attribute" \
	" WHERE attrelid = c.conrelid AND attnum = c.conkey[1])"

/* Does the row violate the constraint? */
#define ROW_VIOLATES \
	"CASE c.contype WHEN 'c' THEN" \
	" format('NOT (%s)', pg_get_expr(c.conbin, c.conrelid))" \
	" WHEN 'n' THEN " NOT_NULL_VIOLATION \
	" WHEN 'f' THEN " FOREIGN_KEY_VIOLATION " END"

/* "(a, b)=(1, 2)" of columns, by their numbers in order. */
#define COLUMNS_OF_ROW(numbers) \
	"(SELECT format('%L || concat_ws('', '', %s) || '')'''," \
	"  format('(%s)=(', string_agg(a.attname, ', ' ORDER BY k.n))," \
	"  string_agg(format('CASE WHEN x.%I IS NULL THEN ''null'' ELSE" \
	"   concat(x.%I) END', a.attname, a.attname), ', ' ORDER BY k.n))" \
	" FROM unnest(" numbers ") WITH ORDINALITY AS k(attnum, n)" \
	" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid" \
	"  AND a.attnum = k.attnum)"

/* What names the row: its primary or another unique key, or where it is. */
#define KEY_OF_ROW \
	"coalesce((SELECT " \
	COLUMNS_OF_ROW("(i.indkey::int2[])[0:i.indnkeyatts - 1]") \
	" FROM pg_catalog.pg_index i WHERE i.indrelid = c.conrelid" \
	" AND i.indisunique AND i.indisvalid AND i.indimmediate" \
	" AND i.indpred IS NULL AND i.indexprs IS NULL" \
	" AND (i.indisprimary OR NOT EXISTS (SELECT" \
	"  FROM pg_catalog.pg_attribute WHERE attrelid = i.indrelid" \
	"  AND attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])" \
	"  AND NOT attnotnull))" \
	" ORDER BY i.indisprimary DESC, i.indexrelid LIMIT 1)," \
	" '''(ctid)='' || x.ctid')"

/* The columns of a foreign key. */
#define REFERENCE_OF_ROW \
	"CASE c.contype WHEN 'f' THEN " COLUMNS_OF_ROW("c.conkey") \
	" ELSE 'NULL::text' END"

/*
 * Is the table that a foreign key refers to so large, or of unknown size, that its
 * index is to be probed?  To hash it for each query of a chunk would cost more.  Five
 * million rows that refer to 100,000 took 1.5 s hashed and 5.1 s probed.
 */
#define REFERENCED_IS_LARGE \
	"coalesce((SELECT reltuples NOT BETWEEN 0 AND 250000" \
	" FROM pg_catalog.pg_class WHERE oid = c.confrelid), false)"

/*
 * The columns of a foreign key as its operators take them, for ORDER BY; NULL where
 * they have no order.
 */
#define REFERENCE_ORDER \
	"CASE c.contype WHEN 'f' THEN (SELECT CASE WHEN bool_and(EXISTS (" \
	"   SELECT FROM pg_catalog.pg_opclass WHERE opcmethod = 403" \
	"   AND opcdefault AND opcintype = o.oprright)) THEN" \
	"  string_agg(format('x.%I%s', a.attname, r.as_type), ', '" \
	"   ORDER BY k.n) END" \
	" FROM unnest(c.conkey, c.conpfeqop) WITH ORDINALITY AS k(f, op, n)" \
	" JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid" \
	"  AND a.attnum = k.f" \
	" JOIN pg_catalog.pg_operator o ON o.oid = k.op" \
	OPERAND_CAST("o.oprright", "r") ") END"

/* A foreign key that only RI's own trigger can tell about: one with PERIOD. */
#define IS_TEMPORAL \
	"coalesce((to_jsonb(c) ->> 'conperiod')::boolean, false)"

/* Of 18; before, every constraint is enforced. */
#define IS_ENFORCED(c) \
	"coalesce((to_jsonb(" c ") ->> 'conenforced')::boolean, true)"

/* clang-format on */

#endif /* REFIT_VIOLATION_SQL_H */
