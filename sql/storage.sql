--
-- Where and how rows are stored: tablespace, access method, persistence,
-- storage parameters; and repack.
--
SET client_min_messages TO warning;
CREATE SCHEMA storage;
SET search_path TO storage;
SET allow_in_place_tablespaces TO on;
CREATE TABLESPACE regress_refit_space LOCATION '';
CREATE ACCESS METHOD regress_refit_heap TYPE TABLE HANDLER heap_tableam_handler;

CREATE TABLE t (id int PRIMARY KEY, n int, s text);
CREATE INDEX t_n ON t (n);
ALTER TABLE t ALTER s SET STORAGE EXTERNAL;
INSERT INTO t SELECT i, i, repeat(i::text, 2000) FROM generate_series(1, 200) i;
CREATE FUNCTION content() RETURNS text LANGUAGE sql AS
	$$ SELECT md5(string_agg(x::text, '|' ORDER BY id)) FROM storage.t x $$;
SELECT content() AS before \gset
CREATE VIEW look AS
	SELECT c.relname, ts.spcname, am.amname, c.relpersistence, c.reloptions
	FROM pg_class c LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
		LEFT JOIN pg_am am ON am.oid = c.relam
	WHERE c.oid = 't'::regclass OR c.oid IN
		(SELECT indexrelid FROM pg_index WHERE indrelid = 't'::regclass)
	UNION ALL SELECT 'toast', ts.spcname, am.amname, c.relpersistence, c.reloptions
	FROM pg_class c LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
		LEFT JOIN pg_am am ON am.oid = c.relam
	WHERE c.oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 't'::regclass)
	ORDER BY 1;
SELECT * FROM look;

-- SET TABLESPACE: the table and its out-of-line values, not its indexes
SELECT refit.alter_table('t', 'SET TABLESPACE regress_refit_space') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT relname, spcname FROM look;
SELECT content() = :'before' AS same;
SELECT pg_relation_filepath('t') ~ 'pg_tblspc' AS moved;
INSERT INTO t VALUES (1000, 1000, repeat('x', 3000));
DELETE FROM t WHERE id = 1000;
SELECT refit.alter_table('t', 'SET TABLESPACE pg_default, ALTER n TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, spcname FROM look;
SELECT content() = :'before' AS same;

-- SET UNLOGGED and SET LOGGED
SELECT refit.alter_table('t', 'SET UNLOGGED') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT relname, relpersistence FROM look;
SELECT content() = :'before' AS same;
-- the rest works on an unlogged table too
SELECT refit.alter_table('t', 'ALTER n TYPE int') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, relpersistence FROM look;
SELECT content() = :'before' AS same;
SELECT refit.alter_table('t', 'SET LOGGED') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT relname, relpersistence FROM look;
SELECT content() = :'before' AS same;

-- SET ACCESS METHOD
SELECT refit.alter_table('t', 'SET ACCESS METHOD regress_refit_heap') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT relname, amname FROM look;
SELECT content() = :'before' AS same;
SELECT refit.alter_table('t', 'SET ACCESS METHOD heap') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, amname FROM look;

-- Storage parameters
SELECT refit.alter_table('t', 'SET (fillfactor = 50, autovacuum_vacuum_threshold = 7,
	toast.autovacuum_vacuum_threshold = 8)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT relname, reloptions FROM look;
SELECT pg_relation_size('t') AS full \gset
SELECT refit.repack('t') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, reloptions FROM look;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, reloptions FROM look;
SELECT refit.alter_table('t', 'RESET (fillfactor, autovacuum_vacuum_threshold,
	toast.autovacuum_vacuum_threshold)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, reloptions FROM look;
ALTER INDEX t_n SET (fillfactor = 60);
ALTER INDEX t_n SET TABLESPACE regress_refit_space;
SELECT refit.repack('t') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT relname, spcname, reloptions FROM look WHERE relname = 't_n';
SELECT content() = :'before' AS same;

-- Repack: a bloated table gets smaller, its rows are the same
INSERT INTO t SELECT i, i, repeat('bloat', 1000) FROM generate_series(1000, 5000) i;
SELECT pg_relation_size('t') AS heap, pg_relation_size('t_pkey') AS index,
	pg_relation_size(reltoastrelid) AS toast FROM pg_class WHERE oid = 't'::regclass \gset
DELETE FROM t WHERE id >= 1000;
SELECT refit.repack('t', name => 'storage: repack') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT kind, strategy, state, rows FROM refit.migrations WHERE id = :id;
SELECT pg_relation_size('t') < :heap AS heap, pg_relation_size('t_pkey') < :index AS index,
	pg_relation_size(reltoastrelid) < :toast AS toast FROM pg_class WHERE oid = 't'::regclass;
SELECT content() = :'before' AS same;
\d t
-- all frozen and visible at once
SELECT relfrozenxid::text::bigint > 0 AS frozen, relallvisible > 0 AS visible,
	reltuples FROM pg_class WHERE oid = 't'::regclass;
EXPLAIN (COSTS OFF) SELECT * FROM t WHERE id = 7;
-- in an order: n falls through the whole table
SELECT refit.repack('t', 'n DESC, id') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT count(*) FILTER (WHERE n > before) AS out_of_order, count(*)
	FROM (SELECT n, lag(n) OVER (ORDER BY ctid) AS before FROM t) AS x;
-- no row is short of a column any more
ALTER TABLE t ADD COLUMN late int DEFAULT 7;
SELECT refit.repack('t') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT atthasmissing, (SELECT count(*) FROM t WHERE late = 7)
	FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'late';
-- that VACUUM FULL does the same meanwhile is no change of the definition
ALTER TABLE t ADD COLUMN later int DEFAULT 8;
SELECT refit.alter_table('t', 'ALTER n TYPE int', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
VACUUM FULL t;
SELECT refit.cutover(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT count(*) FROM t WHERE later = 8;
SELECT refit.repack('t', 'n) WHERE (true');
\echo :SQLSTATE
SELECT refit.repack('t', 'no_such_column');
\echo :SQLSTATE
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

DROP SCHEMA storage CASCADE;
DROP ACCESS METHOD regress_refit_heap;
DROP TABLESPACE regress_refit_space;
