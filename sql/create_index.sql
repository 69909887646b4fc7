-- refit.create_index: every access method, unique, partial, expressions, INCLUDE,
-- collations and operator classes, partition trees; what is refused, what fails,
-- and that nothing is left then.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_refit;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE SCHEMA create_index;
SET search_path = create_index, public;

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

CREATE TABLE orders (
	id int PRIMARY KEY, customer int, note text, place point, tags int[],
	gone int, price numeric);
ALTER TABLE orders DROP COLUMN gone;
INSERT INTO orders SELECT i, i % 100, 'Note ' || i % 7, point(i % 50, i % 30),
	ARRAY[i % 10, i % 3], i / 8.0 FROM generate_series(1, 4000) i;
UPDATE orders SET customer = customer + 1 WHERE id % 5 = 0;
DELETE FROM orders WHERE id % 11 = 0;

-- builds one and waits for it
CREATE FUNCTION build(definition text, options jsonb DEFAULT '{}') RETURNS bigint
LANGUAGE sql AS $$
	SELECT refit.create_index(definition, method => 'incremental', options => options) $$;

-- every access method
SELECT build('CREATE INDEX o_btree ON orders (customer)', '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX o_hash ON orders USING hash (customer)') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX o_gist ON orders USING gist (place)') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX o_spgist ON orders USING spgist (place)') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX o_gin ON orders USING gin (tags) WITH (fastupdate = off)') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX o_brin ON orders USING brin (id) WITH (pages_per_range = 2)') AS id \gset
SELECT refit.wait(:id);

-- and every kind of definition
SELECT build('CREATE UNIQUE INDEX o_unique ON orders (customer, id)', '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX o_all ON orders (lower(note) COLLATE "C" text_pattern_ops DESC NULLS LAST, (customer % 10)) INCLUDE (id) WITH (fillfactor = 70) WHERE customer > 20',
	'{"check": "on", "maintenance_work_mem": "1MB", "chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX ON orders (price)') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE UNIQUE INDEX o_nulls ON orders (nullif(id, id)) NULLS DISTINCT', '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT indexdef FROM pg_indexes WHERE schemaname = 'create_index' ORDER BY indexname;

-- each finds what the table has
CREATE FUNCTION finds(query text) RETURNS TABLE (by_index bigint, by_table bigint)
LANGUAGE plpgsql AS $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY '{seqscan,indexscan,indexonlyscan,bitmapscan}'::text[] LOOP
		PERFORM set_config('enable_' || name, (name <> 'seqscan')::text, true);
	END LOOP;
	EXECUTE 'SELECT count(*) FROM ' || query INTO by_index;
	FOREACH name IN ARRAY '{seqscan,indexscan,indexonlyscan,bitmapscan}'::text[] LOOP
		PERFORM set_config('enable_' || name, (name = 'seqscan')::text, true);
	END LOOP;
	EXECUTE 'SELECT count(*) FROM ' || query INTO by_table;
	RETURN NEXT;
END $$;
SELECT * FROM finds($$orders WHERE customer = 51$$);
SELECT * FROM finds($$orders WHERE place <@ box '((0,0),(25,25))'$$);
SELECT * FROM finds($$orders WHERE tags @> '{2}'$$);
SELECT * FROM finds($$orders WHERE id BETWEEN 1000 AND 1500$$);
SELECT * FROM finds($$orders WHERE lower(note) = 'note 3' AND customer > 20$$);

-- what is in the row afterwards
SELECT kind, strategy, state, rows, bytes > 0 AS bytes, definition FROM refit.migrations
	WHERE definition ~ 'o_btree';
SELECT phase, message FROM refit.events e JOIN refit.migrations m ON m.id = e.migration_id
	WHERE m.definition ~ 'o_btree' ORDER BY at;

-- a partition tree: leaves of other column orders, one that has the index already
CREATE TABLE tree (id int, k int, t text) PARTITION BY RANGE (id);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (1000);
CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (1000) TO (2000) PARTITION BY LIST (k);
CREATE TABLE tree_2a PARTITION OF tree_2 FOR VALUES IN (0, 1, 2);
CREATE TABLE tree_2b PARTITION OF tree_2 DEFAULT;
CREATE TABLE tree_3 (t text, gone int, k int, id int);
ALTER TABLE tree_3 DROP COLUMN gone;
ALTER TABLE tree ATTACH PARTITION tree_3 FOR VALUES FROM (2000) TO (3000);
INSERT INTO tree SELECT i, i % 7, 'x' FROM generate_series(0, 2999) i;
CREATE INDEX mine ON tree_1 (k, id);
SELECT build('CREATE INDEX tree_k ON tree (k, id)', '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE UNIQUE INDEX tree_u ON tree_2 (k, id)') AS id \gset
SELECT refit.wait(:id);
SELECT i.indrelid::regclass, i.indexrelid::regclass, inhparent::regclass, indisvalid, indisready
	FROM pg_index i LEFT JOIN pg_inherits ON inhrelid = indexrelid
	WHERE i.indrelid::regclass::text ~ '^tree' ORDER BY i.indrelid::regclass::text, i.indexrelid::regclass::text;
SELECT * FROM finds('tree WHERE k = 3 AND id > 10');

-- a table without rows, and one that is not logged
CREATE TABLE empty (a int);
SELECT build('CREATE INDEX empty_a ON empty (a)', '{"check": true}') AS id \gset
SELECT refit.wait(:id);
INSERT INTO empty VALUES (1);
SELECT * FROM finds('empty WHERE a = 1');
CREATE UNLOGGED TABLE fast AS SELECT i AS a, point(i, i) AS p FROM generate_series(1, 500) i;
SELECT build('CREATE INDEX fast_a ON fast (a)', '{"check": true}') AS id \gset
SELECT refit.wait(:id);
SELECT build('CREATE INDEX fast_p ON fast USING gist (p)') AS id \gset
SELECT refit.wait(:id);
SELECT * FROM finds('fast WHERE a BETWEEN 5 AND 9');

-- what fails, and leaves nothing
SELECT build('CREATE UNIQUE INDEX o_twice ON orders (customer)') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ')');
SELECT state, error_code, error_message, error_detail ~ '^Key \(customer\)=\(\d+\) is the key of two rows: \(id\)=\(\d+\) and \(id\)=\(\d+\)\.$' AS both,
	error_hint FROM refit.migrations WHERE id = :id;
SELECT build('CREATE INDEX o_zero ON orders ((1 / (id - 7)))') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ')');
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid;
SELECT count(*) FROM refit.index_build;
UPDATE orders SET id = 8000 WHERE id = 7;
SELECT refit.retry(:id);
SELECT refit.wait(:id);

-- cancelled, paused
SELECT refit.throttle(1) IS NOT NULL AS held;
SELECT refit.create_index('CREATE INDEX o_held ON orders (id)', 'held', 'incremental') AS id \gset
SELECT refit.create_index('CREATE INDEX o_held ON orders (id)', 'held', 'incremental') = :id AS same;
SELECT refit.pause(:id) IN ('queued', 'running', 'paused') AS paused;
SELECT refit.throttle(0) IS NOT NULL AS held;
SELECT refit.resume(:id) IN ('queued', 'running', 'completed') AS goes_on;
SELECT refit.wait(:id);
SELECT refit.drop_index('o_held') AS id \gset
SELECT refit.wait(:id);
SELECT to_regclass('o_held');

-- what is refused
SELECT * FROM try($$SELECT refit.create_index(NULL)$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX CONCURRENTLY ON orders (id)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX IF NOT EXISTS o_x ON orders (id)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON ONLY tree (id)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders (id); DROP TABLE orders')$$);
SELECT * FROM try($$SELECT refit.create_index('DROP TABLE orders')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders (nothing)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders (id) WHERE random() > 0.5')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders USING hash (id, customer)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON nothing (id)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_btree ON orders (id)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders (id)', 'held')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE UNIQUE INDEX o_x ON tree (k)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders (id)', method => 'fast')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders USING gin (tags)', options => '{"check": true}')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON orders (id)', options => '{"check": 3}')$$);
CREATE VIEW v AS SELECT 1 AS a;
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON v (a)')$$);
CREATE TEMP TABLE temporary (a int);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON temporary (a)')$$);
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON refit.migration (kind)')$$);
-- an invalid index of that name
CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2);
\set VERBOSITY terse
CREATE UNIQUE INDEX CONCURRENTLY o_bad ON twice (a);
\set VERBOSITY default
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_bad ON orders (customer)')$$);
SELECT refit.drop_index('o_bad') AS id \gset
SELECT refit.wait(:id);
-- somebody else's table
CREATE ROLE create_index_other;
GRANT USAGE ON SCHEMA create_index TO create_index_other;
SET ROLE create_index_other;
SELECT * FROM try($$SELECT refit.create_index('CREATE INDEX o_x ON create_index.orders (id)')$$);
SELECT * FROM try($$SELECT refit.drop_index('create_index.o_btree')$$);
RESET ROLE;
REVOKE USAGE ON SCHEMA create_index FROM create_index_other;
DROP ROLE create_index_other;

SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';
SET client_min_messages = error;
DROP SCHEMA create_index CASCADE;
