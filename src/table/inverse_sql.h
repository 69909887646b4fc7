/*-------------------------------------------------------------------------
 *
 * inverse_sql.h
 *	  The queries of inverse.c: what a definition consists of, and what leads
 *	  from one to another.
 *
 * $1 is the table, of the old definition, $2 its twin, of the new one but with
 * the columns there again that the actions drop, $3 the names of constraints
 * that they drop, $4 the numbers of those columns, $5 the parents that columns
 * have again.
 *
 * Where the twin is a partition or a child, what undoes the actions in the
 * tables above it has been run.  What those hand down is left out; and names say
 * nothing there, neither of indexes nor of the constraints that they enforce,
 * since PostgreSQL makes them up, or they are the child's own affair.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_INVERSE_SQL_H
#define REFIT_INVERSE_SQL_H

/* clang-format off */

#ifdef REFIT_HAS_NOT_NULL_CONSTRAINTS
#define NOT_NULL_IS_CONSTRAINT "true"
#define CONSTRAINT_TYPES "'c', 'p', 'u', 'x', 'n'"
#else
#define NOT_NULL_IS_CONSTRAINT "false"
#define CONSTRAINT_TYPES "'c', 'p', 'u', 'x'"
#endif

/*
 * Is the twin the one of the table that the actions are run on?  Where 18 makes a
 * NOT NULL constraint anew it hands its name down with it, so below that table
 * only the columns tell of NOT NULL.
 */
#define IS_TOP \
	"(NOT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = $2))"

/*
 * The indexes of a relation: what each stores and is held to, and whether it is
 * there because the table above has one.
 */
#define INDEXES(relid) \
	"(SELECT i.indexrelid, ic.relname, concat_ws('|', i.indkey, i.indclass," \
	"  i.indcollation, i.indoption, i.indisunique, i.indisprimary," \
	"  i.indimmediate, i.indisexclusion, i.indnkeyatts," \
	"  pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)," \
	"  ic.relam, ic.reloptions) AS shape," \
	" EXISTS (SELECT FROM pg_catalog.pg_inherits" \
	"  WHERE inhrelid = i.indexrelid) AS is_handed_down" \
	" FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic" \
	"  ON ic.oid = i.indexrelid WHERE i.indrelid = " relid ")"

/* The constraints of a relation, its foreign keys left out. */
#define CONSTRAINTS(relid) \
	"(SELECT conname, contype, pg_get_constraintdef(oid) AS def" \
	" FROM pg_catalog.pg_constraint WHERE conrelid = " relid \
	" AND contype IN (" CONSTRAINT_TYPES "))"

/* Options of a relation without what pg_refit sets itself. */
#define OPTIONS(relid) \
	"(SELECT x FROM pg_catalog.pg_class c, unnest(c.reloptions) x" \
	" WHERE c.oid = " relid " UNION ALL SELECT 'toast.' || x" \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_class t" \
	" ON t.oid = c.reltoastrelid, unnest(t.reloptions) x" \
	" WHERE c.oid = " relid ")"

/* Options of column c.k of a relation. */
#define COLUMN_OPTIONS(relid) \
	"pg_catalog.pg_attribute a, unnest(a.attoptions) x" \
	" WHERE a.attrelid = " relid " AND a.attnum = c.k" \
	" AND split_part(x, '=', 1) IN ('n_distinct', 'n_distinct_inherited')"

/* Columns that both have: of the old table $1, of the new one $2. */
#define COLUMNS \
	"(SELECT o.attnum AS k, quote_ident(o.attname) AS name, o.attstorage AS os," \
	" n.attstorage AS ns, o.attcompression AS oc, n.attcompression AS nc," \
	" coalesce(o.attstattarget, -1) AS ot," \
	" coalesce(n.attstattarget, -1) AS nt," \
	" o.attnotnull AS onn, n.attnotnull AS nnn, o.attidentity AS oi," \
	" n.attidentity AS ni, o.attgenerated AS og, n.attgenerated AS ng," \
	" o.attnum = ANY ($4::int2[]) AS undrop," \
	" (o.atttypid, o.atttypmod, o.attcollation)" \
	"  <> (n.atttypid, n.atttypmod, n.attcollation) AS retyped," \
	" format_type(o.atttypid, o.atttypmod) AS type," \
	" CASE WHEN o.attcollation <> 0 THEN (SELECT format(' COLLATE %I.%I'," \
	"   s.nspname, l.collname) FROM pg_catalog.pg_collation l" \
	"  JOIN pg_catalog.pg_namespace s ON s.oid = l.collnamespace" \
	"  WHERE l.oid = o.attcollation) ELSE '' END AS coll," \
	" pg_get_expr(od.adbin, o.attrelid) AS odef," \
	" pg_get_expr(nd.adbin, n.attrelid) AS ndef" \
	" FROM pg_catalog.pg_attribute o JOIN pg_catalog.pg_attribute n" \
	"  ON n.attrelid = $2 AND n.attnum = o.attnum" \
	" LEFT JOIN pg_catalog.pg_attrdef od" \
	"  ON od.adrelid = $1 AND od.adnum = o.attnum" \
	" LEFT JOIN pg_catalog.pg_attrdef nd" \
	"  ON nd.adrelid = $2 AND nd.adnum = n.attnum" \
	" WHERE o.attrelid = $1 AND o.attnum > 0 AND NOT o.attisdropped)"

/*
 * One action per row.  $3: names of constraints that the actions drop.  A
 * retyped column loses its default first, which need not have a cast.  A NOT NULL
 * constraint is dropped by its column: the table's may have another name than the
 * twin's.
 */
#define ACTIONS \
	"SELECT format('DROP CONSTRAINT %I', conname) AS action" \
	" FROM (SELECT * FROM " CONSTRAINTS("$2") " a EXCEPT SELECT * FROM " \
	CONSTRAINTS("$1") " b) x WHERE contype = 'c'" \
	" OR contype <> 'n' AND " IS_TOP \
	" UNION ALL SELECT format('DROP COLUMN %I', attname)" \
	" FROM pg_catalog.pg_attribute WHERE attrelid = $2 AND NOT attisdropped" \
	" AND attnum > (SELECT max(attnum) FROM pg_catalog.pg_attribute" \
	"  WHERE attrelid = $1)" \
	" UNION ALL SELECT format('ALTER COLUMN %s DROP DEFAULT', name)" \
	" FROM c WHERE NOT undrop AND ndef IS NOT NULL AND ng = ''" \
	" AND (retyped OR odef IS NULL)" \
	" UNION ALL SELECT format('ALTER COLUMN %s TYPE %s%s%s', name, type," \
	"  coll, CASE WHEN og = '' THEN format(' USING NULL::%s', type)" \
	"  ELSE '' END) FROM c WHERE retyped" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET DEFAULT %s', name, odef)" \
	" FROM c WHERE NOT undrop AND odef IS NOT NULL AND og = '' AND ng = ''" \
	" AND (retyped OR odef IS DISTINCT FROM ndef)" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET EXPRESSION AS (%s)', name," \
	"  odef) FROM c WHERE NOT undrop AND og <> '' AND og = ng" \
	" AND odef IS DISTINCT FROM ndef AND NOT retyped" \
	" UNION ALL SELECT format('ALTER COLUMN %s %s NOT NULL', name," \
	"  CASE WHEN onn THEN 'SET' ELSE 'DROP' END) FROM c" \
	" WHERE onn <> (nnn AND NOT undrop)" \
	" AND NOT (onn AND " NOT_NULL_IS_CONSTRAINT " AND " IS_TOP ")" \
	" UNION ALL SELECT format('ALTER COLUMN %s DROP IDENTITY', name) FROM c" \
	" WHERE NOT undrop AND oi = '' AND ni <> ''" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET GENERATED %s', name," \
	"  CASE oi WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END) FROM c" \
	" WHERE NOT undrop AND oi <> '' AND ni <> '' AND oi <> ni" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET STORAGE %s', name," \
	"  CASE os WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'" \
	"  WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) FROM c" \
	" WHERE NOT undrop AND (retyped OR os <> ns)" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET COMPRESSION %s', name," \
	"  CASE oc WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE 'default' END)" \
	" FROM c WHERE NOT undrop AND oc <> nc" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET STATISTICS %s', name, ot)" \
	" FROM c WHERE NOT undrop AND ot <> nt" \
	" UNION ALL SELECT format('ALTER COLUMN %s SET (%s)', name, x)" \
	" FROM c, " COLUMN_OPTIONS("$1") " AND (undrop OR x NOT IN" \
	"  (SELECT x FROM " COLUMN_OPTIONS("$2") "))" \
	" UNION ALL SELECT format('ALTER COLUMN %s RESET (%s)', name," \
	"  split_part(x, '=', 1)) FROM c, " COLUMN_OPTIONS("$2") \
	" AND NOT undrop AND split_part(x, '=', 1) NOT IN" \
	"  (SELECT split_part(x, '=', 1) FROM " COLUMN_OPTIONS("$1") ")" \
	" UNION ALL SELECT format('ADD CONSTRAINT %I %s', conname, def)" \
	" FROM (SELECT * FROM " CONSTRAINTS("$1") " a EXCEPT SELECT * FROM " \
	CONSTRAINTS("$2") " b) x WHERE " IS_TOP " OR contype = 'c'" \
	" UNION ALL SELECT format('ADD CONSTRAINT %I %s', k.conname," \
	"  pg_get_constraintdef(k.oid)) FROM pg_catalog.pg_constraint k" \
	" WHERE k.conrelid = $1 AND k.contype IN ('p', 'u', 'x')" \
	" AND NOT " IS_TOP " AND k.conparentid = 0 AND NOT EXISTS" \
	"  (SELECT FROM pg_catalog.pg_constraint n WHERE n.conrelid = $2" \
	"   AND n.contype = k.contype" \
	"   AND pg_get_constraintdef(n.oid) = pg_get_constraintdef(k.oid))" \
	" UNION ALL SELECT format('ADD CONSTRAINT %I %s', f.conname," \
	"  pg_get_constraintdef(f.oid))" \
	" FROM pg_catalog.pg_constraint f WHERE f.conrelid = $1" \
	" AND f.contype = 'f' AND f.conparentid = 0" \
	" AND (" IS_TOP " AND f.conname = ANY ($3) OR EXISTS" \
	"  (SELECT FROM c WHERE undrop AND c.k = ANY (f.conkey)))" \
	" UNION ALL SELECT format('RESET (%s)', split_part(x, '=', 1))" \
	" FROM " OPTIONS("$2") " n WHERE split_part(x, '=', 1) NOT IN" \
	"  (SELECT split_part(x, '=', 1) FROM " OPTIONS("$1") " o)" \
	" UNION ALL SELECT format('SET (%s)', x) FROM " OPTIONS("$1") " o" \
	" WHERE x NOT IN (SELECT x FROM " OPTIONS("$2") " n)"

/* The name of a foreign key f, or of the one that it was handed down from. */
#define FIRST_NAME \
	"(WITH RECURSIVE u(up, name) AS (SELECT f.conparentid, f.conname" \
	"  UNION ALL SELECT k.conparentid, k.conname" \
	"  FROM u JOIN pg_catalog.pg_constraint k ON k.oid = u.up)" \
	" SELECT name FROM u WHERE up = 0)"

/*
 * Of each valid foreign key that the actions drop: its name, its columns, and
 * what a row x that violates it is like.  p is the referenced table, which may
 * be the same.  A partitioned one that is referred to has one for each of its
 * partitions too, which say nothing more.
 */
#define REFERENCES \
	"(SELECT coalesce(jsonb_agg(jsonb_build_object('name', f.conname," \
	"  'table', CASE WHEN f.confrelid <> $1 THEN format('%s%s'," \
	"   CASE WHEN t.relkind = 'p' THEN '' ELSE 'ONLY ' END," \
	"   f.confrelid::regclass) END," \
	"  'columns', q.columns, 'present', q.present, 'match', q.match)), '[]')" \
	" FROM pg_catalog.pg_constraint f" \
	" JOIN pg_catalog.pg_class t ON t.oid = f.confrelid, LATERAL" \
	" (SELECT string_agg(format('x.%I', fa.attname), ', ' ORDER BY k.n)," \
	"  string_agg(format('x.%I IS NOT NULL', fa.attname), ' AND ')," \
	"  string_agg(format('p.%I OPERATOR(%I.%s) x.%I', pa.attname," \
	"   n.nspname, o.oprname, fa.attname), ' AND ')" \
	"  FROM unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY" \
	"   AS k(f, p, op, n)" \
	"  JOIN pg_catalog.pg_attribute fa ON fa.attrelid = f.conrelid" \
	"   AND fa.attnum = k.f" \
	"  JOIN pg_catalog.pg_attribute pa ON pa.attrelid = f.confrelid" \
	"   AND pa.attnum = k.p" \
	"  JOIN pg_catalog.pg_operator o ON o.oid = k.op" \
	"  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace)" \
	"  AS q(columns, present, match)" \
	" WHERE f.conrelid = $1 AND f.contype = 'f' AND f.convalidated" \
	" AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k" \
	"  WHERE k.oid = f.conparentid AND k.conrelid = f.conrelid)" \
	" AND (" FIRST_NAME " = ANY ($3) OR EXISTS" \
	"  (SELECT FROM c WHERE undrop AND c.k = ANY (f.conkey))))"

/* What undoes the actions: what the columns are joined by nothing else. */
#define INVERSE \
	"WITH c AS " COLUMNS " SELECT jsonb_build_object(" \
	" 'undrop', to_jsonb($4::int2[]), 'origins', $5::jsonb," \
	" 'actions', (SELECT coalesce(string_agg(action, ', '), '')" \
	"  FROM (" ACTIONS ") a)," \
	" 'indexes', (SELECT coalesce(jsonb_agg(pg_get_indexdef(i.indexrelid)" \
	"   ORDER BY i.indexrelid), '[]')" \
	"  FROM " INDEXES("$1") " i WHERE NOT is_handed_down" \
	"  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k" \
	"   WHERE k.conindid = i.indexrelid AND k.conrelid = $1)" \
	"  AND NOT EXISTS (SELECT FROM " INDEXES("$2") " n WHERE CASE" \
	"   WHEN " IS_TOP " THEN n.relname = i.relname" \
	"   ELSE n.shape = i.shape END))," \
	" 'names', (SELECT coalesce(jsonb_object_agg(relname, shape), '{}')" \
	"  FROM " INDEXES("$1") " i)," \
	" 'foreign_keys', (SELECT coalesce(jsonb_agg(conname), '[]')" \
	"  FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND contype = 'f')," \
	" 'sequences', (SELECT coalesce(jsonb_object_agg(q.seqrelid," \
	"   format_type(q.seqtypid, NULL)), '{}') FROM pg_catalog.pg_depend d" \
	"  JOIN pg_catalog.pg_sequence q ON q.seqrelid = d.objid" \
	"  WHERE d.classid = 'pg_class'::regclass AND d.refobjid = $1" \
	"  AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a')," \
	" 'statistics', (SELECT coalesce(jsonb_object_agg(" \
	"   format('%s.%I', stxnamespace::regnamespace, stxname)," \
	"   stxstattarget), '{}') FROM pg_catalog.pg_statistic_ext" \
	"  WHERE stxrelid = $1 AND stxstattarget >= 0)," \
	" 'comments', jsonb_build_object('constraint'," \
	"  (SELECT coalesce(jsonb_object_agg(conname, x), '{}')" \
	"   FROM pg_catalog.pg_constraint k," \
	"   obj_description(k.oid, 'pg_constraint') x" \
	"   WHERE conrelid = $1 AND x IS NOT NULL)," \
	"  'index', (SELECT coalesce(jsonb_object_agg(relname, x), '{}')" \
	"   FROM pg_catalog.pg_index JOIN pg_catalog.pg_class i" \
	"   ON i.oid = indexrelid, obj_description(i.oid, 'pg_class') x" \
	"   WHERE indrelid = $1 AND x IS NOT NULL))," \
	" 'references', " REFERENCES ")::text"

/*
 * Everything of a definition that must come back, a line each.  What comes from
 * parents that are no partitioned tables PostgreSQL counts.
 */
#define DESCRIPTION(relid) \
	"(SELECT format('column %I', a.attname) AS what, concat_ws('|', a.attnum," \
	"  a.atttypid, a.atttypmod, a.attcollation, a.attnotnull, a.attidentity," \
	"  a.attgenerated, a.attstorage, a.attcompression," \
	"  coalesce(a.attstattarget, -1), pg_get_expr(d.adbin, a.attrelid)," \
	"  CASE WHEN NOT c.relispartition THEN format('%s %s', a.attislocal," \
	"   a.attinhcount) END) AS def" \
	" FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c" \
	"  ON c.oid = a.attrelid LEFT JOIN pg_catalog.pg_attrdef d" \
	"  ON d.adrelid = a.attrelid AND d.adnum = a.attnum" \
	" WHERE a.attrelid = " relid " AND a.attnum > 0 AND NOT a.attisdropped" \
	" UNION ALL SELECT CASE WHEN " IS_TOP " OR contype = 'c'" \
	"  THEN format('constraint %I', conname) ELSE 'a constraint' END," \
	"  concat_ws('|', contype, pg_get_constraintdef(k.oid)," \
	"  CASE WHEN contype IN ('c', 'n') AND NOT c.relispartition" \
	"   THEN format('%s %s', conislocal, coninhcount) END)" \
	" FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c" \
	"  ON c.oid = conrelid WHERE conrelid = " relid \
	" AND contype IN (" CONSTRAINT_TYPES ")" \
	" UNION ALL SELECT CASE WHEN " IS_TOP " THEN format('index %I', relname)" \
	"  ELSE 'an index' END, concat_ws('|', is_handed_down, shape)" \
	" FROM " INDEXES(relid) " i" \
	" UNION ALL SELECT 'option ' || x, '' FROM " OPTIONS( relid) " p" \
	" UNION ALL SELECT 'persistence', relpersistence::text" \
	" FROM pg_catalog.pg_class WHERE oid = " relid ")"

/* The first thing that one definition has and the other has not. */
#define DIFFERENCE \
	"SELECT min(what) FROM ((SELECT * FROM " DESCRIPTION("$1") " a" \
	" EXCEPT ALL SELECT * FROM " DESCRIPTION("$2") " b)" \
	" UNION ALL (SELECT * FROM " DESCRIPTION("$2") " a" \
	" EXCEPT ALL SELECT * FROM " DESCRIPTION("$1") " b)) x"

/*
 * Of an inverse, $1, and its table, $2: indexes that were made again under
 * another name, and the name they had, where nothing else has that now.
 */
#define FORMER_NAMES \
	"WITH w AS (SELECT key AS name, value AS shape, row_number() OVER" \
	"  (PARTITION BY value ORDER BY key) AS n" \
	"  FROM jsonb_each_text($1::jsonb -> 'names')" \
	"  WHERE key NOT IN (SELECT relname FROM " INDEXES("$2") " i))," \
	" x AS (SELECT indexrelid, shape, row_number() OVER" \
	"  (PARTITION BY shape ORDER BY indexrelid) AS n" \
	"  FROM " INDEXES("$2") " i" \
	"  WHERE NOT $1::jsonb -> 'names' ? relname::text)" \
	" SELECT x.indexrelid || ' ' || w.name FROM w JOIN x USING (shape, n)" \
	" JOIN pg_catalog.pg_class c ON c.oid = x.indexrelid" \
	" WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class o" \
	"  WHERE o.relname = w.name AND o.relnamespace = c.relnamespace)"

/* clang-format on */

#endif /* REFIT_INVERSE_SQL_H */
