-- What tour.sql does not come to: passes over rows, indexes, mirrors, statements,
-- constraints, trees, and the way back.  For servers that are very slow, too.
\set ON_ERROR_STOP on
\set QUIET on
\pset format unaligned
\pset tuples_only on

CREATE EXTENSION IF NOT EXISTS pg_refit;
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE SCHEMA rest;
SET search_path = rest, public, pg_catalog;
CREATE FUNCTION long_text(seed int) RETURNS text
IMMUTABLE STRICT LANGUAGE sql AS
$$SELECT string_agg(md5((seed + g)::text), '') FROM generate_series(1, 75) g$$;
CREATE TABLE parent (code int PRIMARY KEY);
INSERT INTO parent SELECT g FROM generate_series(0, 9) g;
CREATE TABLE t (id int PRIMARY KEY, k text COLLATE "C", n int, code int, wide text,
	words text[], at int4range);
INSERT INTO t SELECT g, md5(g::text), g, g % 10, CASE WHEN g % 20 = 0 THEN long_text(g) END,
	ARRAY['a' || g % 7, 'b' || g % 11], int4range(g, g + 1) FROM generate_series(1, 400) g;
ANALYZE t;

-- passes over rows: by two processes, with a row that fails, by key and by position
SELECT refit.backfill('t', 'n = t.n + 1', 'code > 2', options => '{"workers": 2}') AS id \gset
SELECT refit.wait(:id);
SELECT refit.backfill('t', 'n = 1 / (n - 100) * 0 + n + 1',
	options => '{"on_error": "skip", "max_skipped": 3}') AS id \gset
SELECT refit.wait(:id);
SELECT refit.purge('t', 'id > 380') AS id \gset
SELECT refit.wait(:id);
CREATE TABLE heap (n int, v text);
INSERT INTO heap SELECT g, g FROM generate_series(1, 200) g;
SELECT refit.backfill('heap', 'v = n || ''x''') AS id \gset
SELECT refit.wait(:id);
SELECT refit.batched('t', 'INSERT INTO heap SELECT id, k FROM t WHERE id BETWEEN $1 AND $2') AS id \gset
SELECT refit.wait(:id);
DO $$
BEGIN
	ASSERT (SELECT count(*) = 380 AND count(*) FILTER (WHERE n = id + 1 + (code > 2)::int) = 378 FROM t);
	ASSERT (SELECT count(*) = 580 AND count(*) FILTER (WHERE v LIKE '%x') = 200 FROM heap);
END $$;

-- indexes in chunks, by each access method, and rebuilt; one that cannot be unique
SELECT refit.create_index('CREATE INDEX i_' || i || ' ON t USING ' || what, method => 'incremental')
FROM (VALUES (1, 'btree (k, id) INCLUDE (n)'), (2, 'btree (lower(k)) WHERE code > 2'),
	(3, 'hash (k)'), (4, 'gin (words)'), (5, 'gist (at, code)'), (6, 'brin (n)'),
	(7, 'spgist (at)')) v (i, what);
INSERT INTO t SELECT g, md5(g::text), g, 3, NULL, '{}', 'empty' FROM generate_series(401, 420) g;
UPDATE t SET k = k || 'x' WHERE id % 9 = 0;
DELETE FROM t WHERE id % 17 = 0;
SELECT refit.wait(max(id)) FROM refit.migrations;
SELECT refit.rebuild_index('i_1', method => 'incremental') AS id \gset
SELECT refit.wait(:id);
CREATE PROCEDURE must_fail(id bigint, code text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM refit.wait(id);
	RAISE EXCEPTION 'migration % has not failed', id;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	ASSERT code = (SELECT error_code FROM refit.migrations m WHERE m.id = must_fail.id),
		(SELECT error_message FROM refit.migrations m WHERE m.id = must_fail.id);
END $$;
SELECT refit.create_index('CREATE UNIQUE INDEX u ON t (code)', method => 'incremental') AS id \gset
CALL must_fail(:id, '23505');
SELECT refit.create_index('CREATE INDEX c ON t (code)', method => 'concurrently') AS id \gset
SELECT refit.wait(:id);
SELECT refit.drop_index('c') AS id \gset
SELECT refit.wait(:id);
DO $$
BEGIN
	ASSERT (SELECT count(*) = 8 AND bool_and(indisvalid) FROM pg_index WHERE indrelid = 't'::regclass);
END $$;

-- a column that is kept in step, both ways
ALTER TABLE t ADD COLUMN big bigint;
SELECT refit.mirror_column('t', 'n', 'big', 'n * 10::bigint', '(big / 10)::int') AS id \gset
UPDATE t SET n = 5 WHERE id = 5;
SELECT refit.wait(:id);
UPDATE t SET big = 60 WHERE id = 6;
INSERT INTO t (id, n) VALUES (1000, 7);
DO $$
BEGIN
	ASSERT (SELECT bool_and(big IS NOT DISTINCT FROM n * 10) FROM t);
	ASSERT (SELECT n = 6 FROM t WHERE id = 6);
END $$;
SELECT refit.unmirror_column('t', 'big') AS id \gset
SELECT refit.wait(:id);

-- statements, and constraints that are validated in chunks
SELECT refit.ddl('ALTER TABLE t ADD COLUMN extra int', name => 'rest: extra') AS id \gset
SELECT refit.wait(:id);
SELECT refit.ddl('CREATE INDEX CONCURRENTLY d ON t (extra)') AS id \gset
SELECT refit.wait(:id);
ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (code) REFERENCES parent NOT VALID,
	ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
SELECT refit.validate_constraint('t', 'f') AS id \gset
SELECT refit.wait(:id);
SELECT refit.validate_constraint('t', 'positive') AS id \gset
SELECT refit.wait(:id);
SELECT refit.schedule('tidy', '1 day', 'purge', 't', '{"where_clause": "id > 500"}');
SELECT refit.wait(max(id)) FROM refit.migrations;
SELECT refit.unschedule('tidy');
SELECT refit.require_all('rest:');
SELECT count(*) FROM refit.signals;
SELECT count(*) FROM refit.events;
SELECT count(*) FROM refit.leftovers();

-- there and back, with changes on the way
CREATE TABLE oracle AS SELECT * FROM t;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint, DROP COLUMN wide, ADD COLUMN z int DEFAULT 3',
	revertible => '1 hour') AS id \gset
SELECT refit.wait(:id);
UPDATE t SET n = n + 1, k = long_text(id) WHERE id % 5 = 0;
DELETE FROM t WHERE id % 7 = 0;
INSERT INTO t (id, n) VALUES (2000, 1);
UPDATE oracle SET n = n + 1, k = long_text(id) WHERE id % 5 = 0;
DELETE FROM oracle WHERE id % 7 = 0;
INSERT INTO oracle (id, n) VALUES (2000, 1);
SELECT refit.revert(:id);
SELECT refit.wait(:id);
DO $$
BEGIN
	ASSERT NOT EXISTS (TABLE t EXCEPT TABLE oracle), 'rows too many';
	ASSERT NOT EXISTS (TABLE oracle EXCEPT TABLE t), 'rows are missing';
END $$;

-- a partition tree, copied by two processes, there and back; one of heirs
CREATE TABLE tree (id int, n int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE tree_0 PARTITION OF tree FOR VALUES FROM (MINVALUE) TO (100);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (100) TO (200);
CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (200) TO (MAXVALUE);
INSERT INTO tree SELECT g, g, long_text(g) FROM generate_series(1, 300) g;
SELECT refit.alter_table('tree', 'ALTER n TYPE bigint', revertible => '1 hour',
	options => '{"workers": 2, "chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id);
UPDATE tree SET id = id + 1000 WHERE id BETWEEN 1 AND 40;
SELECT refit.revert(:id);
SELECT refit.wait(:id);
SELECT refit.repack('tree') AS id \gset
SELECT refit.wait(:id);
SELECT refit.backfill('tree', 'n = 0', options => '{"workers": 2}') AS id \gset
SELECT refit.wait(:id);
CREATE TABLE heir () INHERITS (t);
INSERT INTO heir (id, n) SELECT g, g FROM generate_series(3000, 3100) g;
ALTER TABLE heir ADD PRIMARY KEY (id);
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', options => '{"workers": 2}') AS id \gset
SELECT refit.wait(:id);
SELECT refit.alter_table('t', 'ALTER n TYPE numeric, DROP COLUMN words', revertible => '1 hour') AS id \gset
SELECT refit.wait(:id);
UPDATE t SET n = n + 1 WHERE id > 3050;
SELECT refit.revert(:id);
SELECT refit.wait(:id);
DO $$
BEGIN
	ASSERT (SELECT count(*) = 300 AND sum(n) = 0 FROM tree);
	ASSERT (SELECT count(*) = 2 FROM pg_attribute WHERE attname = 'n' AND atttypid = 'int8'::regtype
		AND attrelid IN ('t'::regclass, 'heir'::regclass));
	ASSERT NOT EXISTS (SELECT FROM pg_namespace WHERE nspname ~ '^refit_'), 'work schemas are left';
	ASSERT NOT EXISTS (SELECT FROM refit.progress), 'a migration is left';
END $$;
SET client_min_messages = warning;
DROP SCHEMA rest CASCADE;
DROP EXTENSION pg_refit;
\echo rest: done
