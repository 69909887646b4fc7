-- refit.rebuild_index: the index keeps its OID, name, constraint and dependencies,
-- and gets new storage; refit.drop_index.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_refit;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE SCHEMA rebuild_index;
SET search_path = rebuild_index, public;

-- what an error says
CREATE FUNCTION try(command text, OUT code text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := regexp_replace(message, 'migration \d+', 'migration N');
	detail := regexp_replace(detail, 'migration \d+', 'migration N');
END $$;

CREATE TABLE parent (
	id int PRIMARY KEY, code text, during int4range, n int,
	CONSTRAINT code_key UNIQUE (code) DEFERRABLE INITIALLY DEFERRED,
	EXCLUDE USING gist (during WITH &&));
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
INSERT INTO parent SELECT i, 'c' || i, int4range(10 * i, 10 * i + 5), i % 10 FROM generate_series(1, 5000) i;
INSERT INTO child SELECT i, i FROM generate_series(1, 500) i;
CREATE INDEX parent_part ON parent (n) INCLUDE (code) WITH (fillfactor = 60) WHERE n < 5;
COMMENT ON INDEX parent_part IS 'some of them';
ALTER TABLE parent CLUSTER ON parent_pkey;

ALTER TABLE parent REPLICA IDENTITY USING INDEX parent_pkey;
CREATE INDEX parent_expr ON parent (lower(code));
ALTER INDEX parent_expr ALTER COLUMN 1 SET STATISTICS 500;
ANALYZE parent;
UPDATE parent SET code = code || 'x' WHERE id % 2 = 0;
DELETE FROM parent WHERE id > 4500;

-- everything about the indexes but where they are stored
CREATE VIEW described AS
SELECT c.oid, relname, reloptions, relispartition, pg_get_indexdef(c.oid) AS def,
	indisunique, indisprimary, indisexclusion, indimmediate, indisclustered,
	indisvalid, indisready, indisreplident, obj_description(c.oid, 'pg_class') AS comment,
	(SELECT array_agg(conname ORDER BY conname) FROM pg_constraint WHERE conindid = c.oid) AS constraints,
	(SELECT count(*) FROM pg_depend WHERE objid = c.oid OR refobjid = c.oid) AS dependencies,
	(SELECT count(*) FROM pg_statistic WHERE starelid = c.oid) AS statistics
FROM pg_class c JOIN pg_index ON indexrelid = c.oid
WHERE relnamespace = 'rebuild_index'::regnamespace;
CREATE TABLE before AS SELECT * FROM described WHERE relname <> 'none';
CREATE TABLE stored AS SELECT oid, relname, pg_relation_filenode(oid) AS node,
	pg_relation_size(oid) AS size FROM pg_class
	WHERE relkind = 'i' AND relnamespace = 'rebuild_index'::regnamespace;

SELECT refit.rebuild_index('parent_pkey', options => '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT refit.rebuild_index('code_key', options => '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT refit.rebuild_index('parent_during_excl') AS id \gset
SELECT refit.wait(:id);
SELECT refit.rebuild_index('parent_part', options => '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT refit.rebuild_index('parent_expr', method => 'incremental', name => 'again') AS id \gset
SELECT refit.wait(:id);

TABLE before EXCEPT TABLE described;
SELECT * FROM described WHERE relname NOT IN (SELECT relname FROM before) AND relname !~ '^tree';
SELECT relname, node <> pg_relation_filenode(oid) AS moved, size >= pg_relation_size(oid) AS not_larger
	FROM stored ORDER BY relname;
SELECT bt_index_check(i, true) FROM unnest('{parent_pkey,code_key,parent_part,parent_expr}'::regclass[]) i;

-- they hold as before
INSERT INTO parent VALUES (7, 'new');
INSERT INTO parent VALUES (9001, 'c1');
INSERT INTO parent VALUES (9001, 'new', '[15,16]');
INSERT INTO child VALUES (900, 4800);
DELETE FROM parent WHERE id = 3;
BEGIN;
UPDATE parent SET code = 'c3' WHERE id = 1;
UPDATE parent SET code = 'c1' WHERE id = 3;
COMMIT;
SET enable_seqscan = off;
SELECT count(*) FROM parent WHERE during && int4range(100, 200);
RESET enable_seqscan;

-- a partitioned index: those of its partitions
CREATE TABLE tree (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (500);
CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (500) TO (1000);
INSERT INTO tree SELECT i, 'x' FROM generate_series(0, 999) i;
CREATE TABLE stored_tree AS SELECT oid, relname, pg_relation_filenode(oid) AS node FROM pg_class
	WHERE relkind = 'i' AND relname ~ '^tree_' AND relnamespace = 'rebuild_index'::regnamespace;
SELECT refit.rebuild_index('tree_pkey') AS id \gset
SELECT refit.wait(:id);
SELECT relname, node <> pg_relation_filenode(oid) AS moved FROM stored_tree ORDER BY relname;
SELECT bt_index_check(oid, true) FROM stored_tree;

-- a key that is not unique any more, as a changed collation leaves it, is found
CREATE TABLE broken (a int, b text);
CREATE UNIQUE INDEX broken_a ON broken (a);
INSERT INTO broken VALUES (1, 'one');
UPDATE pg_index SET indisready = false WHERE indexrelid = 'broken_a'::regclass;
INSERT INTO broken VALUES (1, 'another');
UPDATE pg_index SET indisready = true WHERE indexrelid = 'broken_a'::regclass;
SELECT refit.rebuild_index('broken_a') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ')');
SELECT error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT relname FROM pg_class WHERE relname ~ '^refit_[0-9]';

-- what is submitted while the copy is being built, and is invalid, has its turn then
CREATE FUNCTION gated(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(4711);
	RETURN n;
END $$;
CREATE TABLE busy AS SELECT i AS id, i AS n FROM generate_series(1, 100) i;
ALTER TABLE busy ADD PRIMARY KEY (id);
CREATE INDEX busy_n ON busy (gated(id));
SELECT pg_advisory_lock(4711);
SELECT refit.rebuild_index('busy_n', method => 'incremental') AS first \gset
DO $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN EXISTS (SELECT FROM pg_index WHERE indrelid = 'busy'::regclass AND NOT indisvalid);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT count(*) FROM pg_index WHERE indrelid = 'busy'::regclass AND NOT indisvalid;
SELECT refit.repack('busy') AS second \gset
SELECT refit.alter_table('busy', 'ALTER n TYPE bigint') AS third \gset
SELECT kind, state FROM refit.migrations WHERE id IN (:second, :third) ORDER BY id;
SELECT pg_advisory_unlock(4711);
SELECT refit.wait(:first), refit.wait(:second), refit.wait(:third);
SELECT bt_index_check('busy_n', true);

-- drop_index
SELECT refit.drop_index('parent_expr') AS id \gset
SELECT refit.wait(:id);
SELECT to_regclass('parent_expr');
SELECT kind, strategy, state, definition FROM refit.migrations WHERE id = :id;
CREATE INDEX tree_t ON tree (t);
SELECT refit.drop_index('tree_t') AS id \gset
SELECT refit.wait(:id);
SELECT relname FROM pg_class WHERE relname ~ '_t_idx$' AND relnamespace = 'rebuild_index'::regnamespace;

-- what is refused
SELECT * FROM try($$SELECT refit.rebuild_index(NULL)$$);
SELECT * FROM try($$SELECT refit.rebuild_index('parent')$$);
SELECT * FROM try($$SELECT refit.rebuild_index(1::regclass)$$);
SELECT * FROM try($$SELECT refit.rebuild_index('pg_class_oid_index')$$);
SELECT * FROM try($$SELECT refit.rebuild_index('parent_during_excl', options => '{"check": true}')$$);
SELECT * FROM try($$SELECT refit.drop_index('parent_pkey')$$);
SELECT * FROM try($$SELECT refit.drop_index('tree_1_pkey')$$);
SELECT * FROM try($$SELECT refit.drop_index('parent')$$);
CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2);
\set VERBOSITY terse
CREATE UNIQUE INDEX CONCURRENTLY bad ON twice (a);
\set VERBOSITY default
SELECT * FROM try($$SELECT refit.rebuild_index('bad')$$);

SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';
SET client_min_messages = error;
DROP SCHEMA rebuild_index CASCADE;
