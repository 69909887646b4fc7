--
-- Through int -> bigint everything around the table stays the object it was.
--
SET client_min_messages TO warning;
CREATE SCHEMA identity_of_objects;
SET search_path TO identity_of_objects;
CREATE ROLE regress_refit_reader;
CREATE ROLE regress_refit_writer;
GRANT USAGE ON SCHEMA identity_of_objects TO regress_refit_reader, regress_refit_writer;

CREATE TABLE region (id int PRIMARY KEY, name text);
INSERT INTO region SELECT i, 'region ' || i FROM generate_series(1, 5) i;
CREATE TABLE t (id serial PRIMARY KEY, region int NOT NULL REFERENCES region,
	a int, b int, s text UNIQUE);
INSERT INTO t (region, a, b, s) SELECT i % 5 + 1, i % 10, i % 20, 's' || i
	FROM generate_series(1, 1000) i;
CREATE INDEX t_a ON t (a) WHERE b > 3;
CREATE INDEX t_b ON t (b, a);
CREATE TABLE line (id int PRIMARY KEY, s text REFERENCES t (s), t int REFERENCES t);
INSERT INTO line SELECT i, 's' || i, i FROM generate_series(1, 100) i;
CREATE STATISTICS t_stat ON a, b FROM t;
ANALYZE t;
ALTER TABLE t ALTER a SET STATISTICS 300;
ALTER TABLE t CLUSTER ON t_b;
ALTER TABLE t REPLICA IDENTITY USING INDEX t_pkey;
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON t FOR SELECT TO regress_refit_reader USING (region < 3);
CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN IF TG_OP = ''DELETE'' THEN RETURN OLD; END IF; RETURN NEW; END';
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION nop();
CREATE TRIGGER zz_after AFTER DELETE ON t REFERENCING OLD TABLE AS o FOR EACH STATEMENT EXECUTE FUNCTION nop();
ALTER TABLE t DISABLE TRIGGER zz_after;
CREATE RULE no_nothing AS ON UPDATE TO t WHERE (OLD.s = 'fixed') DO INSTEAD NOTHING;
CREATE PUBLICATION regress_refit_pub FOR TABLE t;
GRANT SELECT ON t TO regress_refit_reader;
GRANT INSERT (region, a), UPDATE (a) ON t TO regress_refit_writer WITH GRANT OPTION;
COMMENT ON TABLE t IS 'the table';
COMMENT ON COLUMN t.id IS 'its key';
COMMENT ON CONSTRAINT t_pkey ON t IS 'the constraint';
COMMENT ON INDEX t_a IS 'an index';
COMMENT ON SEQUENCE t_id_seq IS 'the sequence';
-- views on the column that changes, views on views, and one that is not concerned
CREATE VIEW v WITH (security_barrier) AS SELECT id, s, id + 1 AS next FROM t WHERE a > 0;
CREATE VIEW w AS SELECT v.id, v.next, r.name FROM v JOIN region r ON r.id = v.id % 5 + 1;
CREATE VIEW x WITH (check_option = local) AS SELECT id, region, a, b, s FROM t WHERE b > 3;
CREATE VIEW unconcerned AS SELECT a, b FROM t;
ALTER VIEW v ALTER COLUMN s SET DEFAULT 'from the view';
CREATE TRIGGER instead INSTEAD OF INSERT ON w FOR EACH ROW EXECUTE FUNCTION nop();
GRANT SELECT ON v, w TO regress_refit_reader;
GRANT SELECT (id) ON x TO regress_refit_writer;
ALTER VIEW w OWNER TO regress_refit_writer;
COMMENT ON VIEW v IS 'a view';
COMMENT ON COLUMN w.name IS 'of a view';

CREATE FUNCTION objects() RETURNS TABLE (what text, oid oid, detail text)
LANGUAGE sql AS $$
	SELECT 'relation ' || relname, c.oid, concat_ws(' ', relkind, relowner::regrole,
		relacl, reloptions, obj_description(c.oid, 'pg_class'), relreplident,
		relrowsecurity, relhasrules, relhastriggers, reltype)
	FROM pg_class c WHERE relnamespace = 'identity_of_objects'::regnamespace
	UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname, attrelid,
		concat_ws(' ', attnum, attnotnull, attacl, attstattarget, attstorage,
		col_description(attrelid, attnum))
	FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
	WHERE relnamespace = 'identity_of_objects'::regnamespace AND attnum > 0
		AND relkind IN ('r', 'v')
	UNION ALL SELECT 'constraint ' || conname, c.oid, concat_ws(' ', convalidated,
		pg_get_constraintdef(c.oid), obj_description(c.oid, 'pg_constraint'))
	FROM pg_constraint c WHERE contype <> 'n' AND connamespace = 'identity_of_objects'::regnamespace
	UNION ALL SELECT 'policy ' || polname, oid, pg_get_expr(polqual, polrelid) FROM pg_policy
	WHERE polrelid = 'identity_of_objects.t'::regclass
	UNION ALL SELECT 'trigger ' || tgname, oid, concat_ws(' ', tgenabled, pg_get_triggerdef(oid))
	FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN
		(SELECT oid FROM pg_class WHERE relnamespace = 'identity_of_objects'::regnamespace)
	UNION ALL SELECT 'rule ' || rulename, oid, NULL FROM pg_rewrite
	WHERE ev_class = 'identity_of_objects.t'::regclass
	UNION ALL SELECT 'publication', oid, prqual::text FROM pg_publication_rel
	WHERE prrelid = 'identity_of_objects.t'::regclass
	UNION ALL SELECT 'statistics ' || stxname, oid, pg_get_statisticsobjdef(oid)
	FROM pg_statistic_ext WHERE stxrelid = 'identity_of_objects.t'::regclass
	UNION ALL SELECT 'index ' || indexrelid::regclass, indexrelid, concat_ws(' ',
		indisclustered, indisreplident, indisvalid, indisprimary, pg_get_indexdef(indexrelid))
	FROM pg_index WHERE indrelid = 'identity_of_objects.t'::regclass
	UNION ALL SELECT 'view ' || relname, oid, pg_get_viewdef(oid) FROM pg_class
	WHERE relnamespace = 'identity_of_objects'::regnamespace AND relkind = 'v'
	UNION ALL SELECT 'default ' || adrelid::regclass || '.' || adnum, adrelid,
		pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_class c ON c.oid = adrelid
	WHERE relnamespace = 'identity_of_objects'::regnamespace
$$;
CREATE TABLE public.refit_objects_before AS SELECT * FROM objects();
SELECT count(*) > 50 AS many FROM public.refit_objects_before;

-- A change of rows without another definition: nothing at all differs
SELECT refit.repack('t') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT * FROM (SELECT 'before', * FROM (TABLE public.refit_objects_before EXCEPT SELECT * FROM objects()) b
	UNION ALL SELECT 'after', * FROM (SELECT * FROM objects() EXCEPT TABLE public.refit_objects_before) a) d
	WHERE what <> 'relation refit_objects_before' ORDER BY 2, 1;

-- int -> bigint
SELECT refit.alter_table('t', 'ALTER id TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
-- PostgreSQL makes the indexes and constraints of a retyped column anew
SELECT what, b.oid = a.oid AS same_oid, b.detail = a.detail AS same_detail
	FROM public.refit_objects_before b FULL JOIN objects() a USING (what)
	WHERE (b.oid <> a.oid OR b.detail IS DISTINCT FROM a.detail)
	ORDER BY what COLLATE "C";
SELECT seqtypid::regtype, seqmax FROM pg_sequence WHERE seqrelid = 't_id_seq'::regclass;
SELECT pg_get_serial_sequence('t', 'id');
INSERT INTO t (region, a) VALUES (1, 1) RETURNING id;
SELECT setval('t_id_seq', 3000000000);
INSERT INTO t (region, a) VALUES (1, 1) RETURNING id;
\d t
\d v
\d w
\d x

-- they do what they did
SET ROLE regress_refit_reader;
SELECT count(*) FROM t;
SELECT count(*) FROM v;
SELECT b FROM x;
SET ROLE regress_refit_writer;
SELECT count(id) FROM x;
SELECT count(*) FROM t;
RESET ROLE;
INSERT INTO x VALUES (10000, 1, 1, 1, 'low');
INSERT INTO w (id) VALUES (3);
DELETE FROM t WHERE s = 's1';
DELETE FROM region WHERE id = 1;
SELECT stxname, n_distinct IS NOT NULL AS built FROM pg_stats_ext e
	JOIN pg_statistic_ext ON stxname = statistics_name WHERE tablename = 't';
SELECT attname, n_distinct FROM pg_stats WHERE tablename = 't'
	AND schemaname = 'identity_of_objects' AND attname IN ('a', 'b', 'region') ORDER BY 1;

DROP PUBLICATION regress_refit_pub;
DROP TABLE public.refit_objects_before;
DROP SCHEMA identity_of_objects CASCADE;
DROP ROLE regress_refit_reader, regress_refit_writer;
