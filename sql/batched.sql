--
-- Batched: a statement of the user's own, run with the first and the last key of
-- each batch.  What it has in common with a backfill is in backfill.sql.
--
SET client_min_messages TO warning;
CREATE SCHEMA batched;
SET search_path TO batched;

-- Waits for the end of a migration and tells how it went.
CREATE FUNCTION ended(id bigint, OUT state text, OUT rows bigint, OUT code text,
	OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
DECLARE
	give_up timestamptz := clock_timestamp() + '60s';
BEGIN
	LOOP
		SELECT m.state, m.rows, m.error_code, m.error_message, m.error_detail,
			regexp_replace(m.error_hint, '\d+', 'N')
			INTO state, rows, code, message, detail, hint
			FROM refit.migrations m WHERE m.id = ended.id;
		EXIT WHEN state IN ('completed', 'failed', 'cancelled', 'paused')
			OR clock_timestamp() > give_up;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

CREATE TABLE orders (id bigint PRIMARY KEY, total numeric, at date NOT NULL);
INSERT INTO orders SELECT i, i / 7.0, date '2020-01-01' + i / 10 FROM generate_series(1, 5000) i;
ANALYZE orders;

-- Copy; archive and delete at once; only rows that are still there
CREATE TABLE copy (LIKE orders INCLUDING ALL);
SELECT refit.batched('orders', 'INSERT INTO copy SELECT * FROM orders WHERE id BETWEEN $1 AND $2') AS id \gset
SELECT * FROM ended(:id);
SELECT count(*) FROM (TABLE copy EXCEPT TABLE orders) x;
SELECT message FROM refit.events WHERE migration_id = :id AND kind = 'plan';
SELECT kind, definition FROM refit.migrations WHERE id = :id;
CREATE TABLE archive (LIKE orders);
SELECT refit.batched('orders', 'WITH old AS (DELETE FROM orders WHERE id BETWEEN $1 AND $2
	AND at < ''2020-06-01'' RETURNING *) INSERT INTO archive SELECT * FROM old') AS id \gset
SELECT * FROM ended(:id);
SELECT (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM archive) AS archive;
-- MERGE; SELECT of a function; by several processes
SELECT refit.batched('orders', 'MERGE INTO copy c USING (SELECT * FROM orders WHERE id BETWEEN $1 AND $2) o
	ON c.id = o.id WHEN MATCHED THEN UPDATE SET total = -o.total', options => '{"workers": 2}') AS id \gset
SELECT * FROM ended(:id);
SELECT count(*) FROM copy WHERE total < 0;
CREATE TABLE calls (low bigint, high bigint);
CREATE FUNCTION note(low bigint, high bigint) RETURNS void LANGUAGE sql AS
	'INSERT INTO batched.calls VALUES ($1, $2)';
SELECT refit.batched('orders', 'SELECT note($1, $2)') AS id \gset
SELECT state, rows > 0 AS called FROM ended(:id);
-- each key is in one batch
SELECT count(*) AS keys, count(DISTINCT o.id) AS once FROM calls JOIN orders o ON id BETWEEN low AND high;

-- A composite key, over a partition tree, which is one table here
CREATE TABLE tree (region text, id int, n int NOT NULL DEFAULT 0, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE tree_eu PARTITION OF tree FOR VALUES IN ('eu');
CREATE TABLE tree_us PARTITION OF tree FOR VALUES IN ('us');
INSERT INTO tree SELECT CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, i FROM generate_series(1, 1000) i;
SELECT refit.batched('tree', 'UPDATE tree SET n = n + 1 WHERE (region, id) >= ($1, $2) AND (region, id) <= ($3, $4)') AS id \gset
SELECT * FROM ended(:id);
SELECT region, n, count(*) FROM tree GROUP BY 1, 2 ORDER BY 1;

-- A statement that fails for one key
CREATE TABLE texts (id int PRIMARY KEY, s text);
INSERT INTO texts SELECT i, CASE WHEN i = 777 THEN 'x' ELSE i::text END FROM generate_series(1, 1000) i;
CREATE TABLE numbers (id int, n int);
SELECT refit.batched('texts', 'INSERT INTO numbers SELECT id, s::int FROM texts WHERE id BETWEEN $1 AND $2') AS id \gset
SELECT * FROM ended(:id);
SELECT count(*), max(id) FROM numbers;
SELECT refit.set_option(:id, 'on_error', 'skip') AS was;
SELECT refit.retry(:id);
SELECT * FROM ended(:id);
SELECT count(*), count(DISTINCT id) FROM numbers;
SELECT kind, detail->>'key' AS key, detail->>'sqlstate' AS code, detail->>'statement' AS statement
	FROM refit.events WHERE migration_id = :id AND kind IN ('row', 'skipped') ORDER BY at;

-- Refused
SELECT refit.batched('orders', NULL);
\echo :SQLSTATE
SELECT refit.batched('orders', 'INSERT INTO copy SELECT * FROM orders');
\echo :SQLSTATE
SELECT refit.batched('orders', 'INSERT INTO copy SELECT * FROM orders WHERE id > $1');
\echo :SQLSTATE
SELECT refit.batched('orders', 'DELETE FROM orders WHERE id BETWEEN $1 AND $3');
\echo :SQLSTATE
SELECT refit.batched('orders', 'DELETE FROM orders WHERE id BETWEEN $1 AND $2; SELECT 1');
\echo :SQLSTATE
SELECT refit.batched('orders', 'VACUUM orders');
\echo :SQLSTATE
SELECT refit.batched('orders', 'DELETE FROM orders WHERE id BETWIXT $1 AND $2');
\echo :SQLSTATE
SELECT refit.batched('orders', 'DELETE FROM nowhere WHERE id BETWEEN $1 AND $2');
\echo :SQLSTATE
SELECT refit.batched('tree', 'UPDATE tree SET n = 0 WHERE id BETWEEN $1 AND $2');
\echo :SQLSTATE
SELECT refit.batched('numbers', 'DELETE FROM numbers WHERE id BETWEEN $1 AND $2');
\echo :SQLSTATE

DROP SCHEMA batched CASCADE;
