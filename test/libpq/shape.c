/*-------------------------------------------------------------------------
 *
 * shape.c
 *	  What the catalogs say of a table, without OIDs, object by object.
 *
 * Every row of every catalog that describes the table, or an object that
 * hangs on it, becomes a line.  Rows are taken whole, as jsonb, so that a
 * property that a later PostgreSQL adds is compared too; only what is left out
 * is named, and OIDs are replaced by the names of what they stand for.
 *
 * "item", which was migrated, must then look like "model", an empty table of
 * the same making that PostgreSQL's own ALTER TABLE was run on.
 *
 * Left out, since they describe storage or its contents: relfilenode,
 * relpages, reltuples, relallvisible, relallfrozen, relfrozenxid, relminmxid.
 * Left out, since VACUUM clears them when it likes: relhasindex, relhasrules,
 * relhastriggers, relhassubclass; and indcheckxmin, which the age of row
 * versions decides.
 *
 * The minor releases of November 2026 keep a version number of each column in
 * attoptions; that there is one counts, which one does not.
 *
 * The order of reloptions means nothing; an option that was set again is last.
 *
 * Left out, since no ALTER TABLE can remove it: the dropped column that an
 * added one has become when the change was reverted.
 *
 * Security labels are compared where a provider has set any; the servers of
 * the tests have none.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

/* The table, and the objects that belong to it. */
#define OBJECTS                                                                \
	"WITH rel AS (SELECT * FROM pg_class WHERE oid = 'zoo.#'::regclass),"      \
	" seqs AS (SELECT objid AS oid FROM rel, pg_depend"                        \
	"  WHERE refclassid = 'pg_class'::regclass AND refobjid = rel.oid"         \
	"  AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')"           \
	"  AND objid IN (SELECT seqrelid FROM pg_sequence)),"                      \
	" rels AS (SELECT oid FROM rel UNION SELECT indexrelid FROM rel, pg_index" \
	"  WHERE indrelid = rel.oid UNION SELECT reltoastrelid FROM rel"           \
	"  UNION SELECT indexrelid FROM rel, pg_index"                             \
	"  WHERE indrelid = reltoastrelid UNION SELECT oid FROM seqs),"            \
	" things AS (SELECT 'pg_class'::regclass AS class, oid FROM rels"          \
	"  UNION SELECT 'pg_type'::regclass, t.oid FROM rel, pg_type t"            \
	"   WHERE typrelid = rel.oid"                                              \
	"  UNION SELECT 'pg_type'::regclass, typarray FROM rel, pg_type"           \
	"   WHERE typrelid = rel.oid"                                              \
	"  UNION SELECT 'pg_attrdef'::regclass, d.oid FROM rel, pg_attrdef d"      \
	"   WHERE adrelid = rel.oid"                                               \
	"  UNION SELECT 'pg_constraint'::regclass, k.oid FROM rel,"                \
	"   pg_constraint k WHERE rel.oid IN (conrelid, confrelid)"                \
	"  UNION SELECT 'pg_trigger'::regclass, t.oid FROM rel, pg_trigger t"      \
	"   WHERE tgrelid = rel.oid"                                               \
	"  UNION SELECT 'pg_policy'::regclass, p.oid FROM rel, pg_policy p"        \
	"   WHERE polrelid = rel.oid"                                              \
	"  UNION SELECT 'pg_rewrite'::regclass, r.oid FROM rel, pg_rewrite r"      \
	"   WHERE ev_class = rel.oid"                                              \
	"  UNION SELECT 'pg_statistic_ext'::regclass, s.oid FROM rel,"             \
	"   pg_statistic_ext s WHERE stxrelid = rel.oid) "

static const char *const shape_sql[] = {
	/* relations: the table, indexes, TOAST table and its index, sequences */
	"SELECT concat_ws(' ', 'relation', relname, to_jsonb(c) -"
	" '{oid,relname,relnamespace,reltype,reloftype,relowner,relam,relfilenode,"
	"reltablespace,relpages,reltuples,relallvisible,relallfrozen,"
	"reltoastrelid,relhasindex,relhasrules,relhastriggers,relhassubclass,"
	"relfrozenxid,relminmxid,relnatts,relpartbound,reloptions}'::text[],"
	" 'options', (SELECT array_agg(o ORDER BY o) FROM unnest(reloptions) o),"
	" 'namespace', relnamespace::regnamespace,"
	" 'bound', pg_get_expr(relpartbound, c.oid),"
	" 'type', CASE reltype WHEN 0 THEN '-' ELSE reltype::regtype::text END,"
	" 'owner', relowner::regrole, 'am', amname, 'space', spcname,"
	" 'has toast', reltoastrelid <> 0, 'comment',"
	" obj_description(c.oid, 'pg_class'))"
	" FROM rels JOIN pg_class c USING (oid)"
	" LEFT JOIN pg_am a ON a.oid = relam"
	" LEFT JOIN pg_tablespace s ON s.oid = reltablespace",

	/* a fast default is how rows are stored: VACUUM FULL writes it out */
	"SELECT concat_ws(' ', 'column', relname, attname, to_jsonb(a) -"
	" '{attrelid,attname,atttypid,attcollation,attcacheoff,attoptions,"
	"atthasmissing,attmissingval}'::text[],"
	" 'type', format_type(atttypid, atttypmod), 'collation', attcollation,"
	" 'options', regexp_replace(attoptions::text, 'pg_attver=[0-9]+',"
	" 'version'), 'default', pg_get_expr(adbin, adrelid), 'comment',"
	" col_description(attrelid, attnum))"
	" FROM rels JOIN pg_class c USING (oid) JOIN pg_attribute a"
	" ON attrelid = c.oid AND attnum > 0 LEFT JOIN pg_attrdef"
	" ON adrelid = attrelid AND adnum = attnum"
	" WHERE NOT attisdropped OR attnum <= (SELECT m.relnatts FROM pg_class m"
	"  WHERE m.relnamespace = c.relnamespace"
	"  AND m.relname = regexp_replace(c.relname, '^item', 'model'))",

	"SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), to_jsonb(x) -"
	" '{indexrelid,indrelid,indexprs,indpred,indcheckxmin}'::text[])"
	" FROM rel JOIN pg_index x ON indrelid = rel.oid",

	"SELECT concat_ws(' ', 'constraint', conname, to_jsonb(k) -"
	" '{oid,connamespace,conrelid,contypid,conindid,conparentid,confrelid,"
	"conbin}'::text[], pg_get_constraintdef(k.oid), 'on', conrelid::regclass,"
	" 'refers to', confrelid::regclass, 'index', conindid::regclass, 'parent',"
	" (SELECT p.conname FROM pg_constraint p WHERE p.oid = k.conparentid),"
	" 'comment', obj_description(k.oid, 'pg_constraint'))"
	" FROM rel JOIN pg_constraint k ON rel.oid IN (conrelid, confrelid)",

	/* those of foreign keys are named by their OID */
	"SELECT concat_ws(' ', 'trigger', CASE WHEN tgisinternal THEN 'of '"
	" || coalesce(conname, '?') ELSE tgname END, to_jsonb(t) -"
	" '{oid,tgrelid,tgparentid,tgname,tgfoid,tgconstrrelid,tgconstrindid,"
	"tgconstraint,tgqual,tgargs}'::text[], tgfoid::regproc, 'from',"
	" tgconstrrelid::regclass, 'index', tgconstrindid::regclass,"
	" CASE WHEN NOT tgisinternal THEN pg_get_triggerdef(t.oid) END,"
	" 'has parent', tgparentid <> 0, 'comment',"
	" obj_description(t.oid, 'pg_trigger'))"
	" FROM rel JOIN pg_trigger t ON tgrelid = rel.oid"
	" LEFT JOIN pg_constraint k ON k.oid = tgconstraint",

	"SELECT concat_ws(' ', 'policy', to_jsonb(p) -"
	" '{oid,polrelid,polqual,polwithcheck}'::text[],"
	" pg_get_expr(polqual, polrelid), 'check',"
	" pg_get_expr(polwithcheck, polrelid), 'comment',"
	" obj_description(p.oid, 'pg_policy'))"
	" FROM rel JOIN pg_policy p ON polrelid = rel.oid",

	"SELECT concat_ws(' ', 'rule', pg_get_ruledef(r.oid), ev_enabled, 'comment',"
	" obj_description(r.oid, 'pg_rewrite'))"
	" FROM rel JOIN pg_rewrite r ON ev_class = rel.oid",

	"SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(s.oid),"
	" to_jsonb(s) - '{oid,stxrelid,stxnamespace,stxowner,stxexprs}'::text[],"
	" stxnamespace::regnamespace, 'owner', stxowner::regrole, 'comment',"
	" obj_description(s.oid, 'pg_statistic_ext'))"
	" FROM rel JOIN pg_statistic_ext s ON stxrelid = rel.oid",

	"SELECT concat_ws(' ', 'sequence', seqrelid::regclass, to_jsonb(s) -"
	" '{seqrelid,seqtypid}'::text[], seqtypid::regtype)"
	" FROM seqs JOIN pg_sequence s ON seqrelid = oid",

	"SELECT concat_ws(' ', 'type', typname, to_jsonb(t) -"
	" '{oid,typname,typnamespace,typowner,typrelid,typelem,typarray}'::text[],"
	" typowner::regrole, 'of', typrelid::regclass, typelem::regtype,"
	" typarray::regtype) FROM things JOIN pg_type t USING (oid)"
	" WHERE class = 'pg_type'::regclass",

	"SELECT concat_ws(' ', 'inherits', inhrelid::regclass, inhparent::regclass,"
	" inhseqno, inhdetachpending) FROM rels JOIN pg_inherits ON inhrelid = oid",

	"SELECT concat_ws(' ', 'partitioned', pg_get_partkeydef(partrelid),"
	" to_jsonb(p) - '{partrelid,partdefid,partexprs}'::text[],"
	" 'default', partdefid::regclass)"
	" FROM rel JOIN pg_partitioned_table p ON partrelid = rel.oid",

	/* dependencies; only the migrated table has views and publications */
	"SELECT concat_ws(' ', 'dependency', pg_describe_object(classid, objid,"
	" objsubid), 'on', pg_describe_object(refclassid, refobjid, refobjsubid),"
	" deptype, count(*)) FROM pg_depend WHERE"
	" ((classid, objid) IN (SELECT class, oid FROM things) OR"
	" (refclassid, refobjid) IN (SELECT class, oid FROM things))"
	" AND classid NOT IN ('pg_publication_rel'::regclass)"
	" AND NOT (classid = 'pg_rewrite'::regclass AND objid IN"
	" (SELECT oid FROM pg_rewrite WHERE rulename = '_RETURN'))"
	" GROUP BY classid, objid, objsubid, refclassid, refobjid, refobjsubid,"
	" deptype",

	"SELECT concat_ws(' ', 'role', pg_describe_object(classid, objid, objsubid),"
	" refobjid::regrole, deptype) FROM pg_shdepend JOIN things"
	" ON class = classid AND oid = objid"
	" WHERE dbid = (SELECT oid FROM pg_database"
	" WHERE datname = current_database())"
	" AND refclassid = 'pg_authid'::regclass",

	"SELECT concat_ws(' ', 'label', pg_describe_object(classoid, objoid,"
	" objsubid), provider, label) FROM pg_seclabel JOIN things"
	" ON class = classoid AND oid = objoid",

	"SELECT concat_ws(' ', 'initial privileges', pg_describe_object(classoid,"
	" objoid, objsubid), initprivs) FROM pg_init_privs JOIN things"
	" ON class = classoid AND oid = objoid",
};

#define SHAPE_COUNT ((int) (sizeof(shape_sql) / sizeof(shape_sql[0])))

/*
 * What a table looks like, one object per line, as a string to be freed.
 *
 * The partition is the rest of its name, or empty for the table itself.
 */
char *
shape_of(PGconn *conn, const char *table, const char *partition)
{
	StrBuf name = {0};
	StrBuf sql = {0};
	StrBuf lines = {0};
	PGresult *res;

	sb_add(&name, "%s%s", table, partition);
	for (int i = 0; i < SHAPE_COUNT; i++)
	{
		sb_reset(&sql);
		zoo_expand(&sql, OBJECTS, name.data);
		sb_add(&sql,
			   "SELECT regexp_replace(replace(line, '%s', 'TABLE'),"
			   " '_[0-9]{4,}', '_OID', 'g') FROM (%s) x(line)"
			   " WHERE line IS NOT NULL ORDER BY 1",
			   table, shape_sql[i]);
		res = query_or_die(conn, sql.data);
		for (int row = 0; row < PQntuples(res); row++)
			sb_add(&lines, "%s%s", lines.len > 0 ? "\n" : "",
				   PQgetvalue(res, row, 0));
		PQclear(res);
	}
	sb_free(&name);
	sb_free(&sql);
	return lines.data;
}
