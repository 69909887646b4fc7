--
-- Purge: what is deleted and by which index, foreign keys, triggers, trees, rows
-- that cannot be deleted; what is refused.  What it has in common with a backfill is
-- in backfill.sql.
--
SET client_min_messages TO warning;
CREATE SCHEMA purge;
SET search_path TO purge;

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

CREATE FUNCTION route(id bigint) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT message FROM refit.events
		WHERE migration_id = id AND kind = 'plan' ORDER BY at
$$;

CREATE TABLE log (id bigint PRIMARY KEY, at timestamptz NOT NULL, level text);
INSERT INTO log SELECT i, '2020-01-01 00:00Z'::timestamptz + i * '1 hour'::interval,
	CASE WHEN i % 10 = 0 THEN 'error' ELSE 'info' END FROM generate_series(1, 5000) i;
CREATE INDEX log_at ON log (at);
VACUUM ANALYZE log;
-- the index on the time, and not where that would be most of the table
SELECT refit.purge('log', 'at < ''2020-01-15 00:00Z'' AND level <> ''error''') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT level, count(*), min(id) FROM log GROUP BY 1 ORDER BY 1;
SELECT refit.purge('log', 'log.at > ''2020-01-15 00:00Z'' AND level = ''info''', name => 'purge: info') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT level, count(*), min(id) FROM log GROUP BY 1 ORDER BY 1;
SELECT kind, relation, definition, strategy FROM refit.migrations WHERE id = :id;
-- again: nothing
SELECT refit.purge('log', 'log.at > ''2020-01-15 00:00Z'' AND level = ''info''') AS id \gset
SELECT * FROM ended(:id);
-- what another table says; all of it; of nothing
CREATE TABLE gone AS SELECT i AS id FROM generate_series(1, 1000) i;
SELECT refit.purge('log', 'EXISTS (SELECT FROM gone g WHERE g.id = log.id)') AS id \gset
SELECT * FROM ended(:id);
SELECT count(*), min(id) FROM log;
SELECT refit.purge('log', 'true') AS id \gset
SELECT * FROM ended(:id);
SELECT count(*) FROM log;
SELECT refit.purge('log', 'true') AS id \gset
SELECT * FROM ended(:id);

-- Without a key
CREATE TABLE heap (n int);
INSERT INTO heap SELECT i FROM generate_series(1, 3000) i;
SELECT refit.purge('heap', 'n % 3 = 0') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT count(*) FROM heap;

-- Foreign keys and triggers are obeyed
CREATE TABLE customers (id int PRIMARY KEY);
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers ON DELETE CASCADE);
CREATE TABLE bills (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE trace (id int);
INSERT INTO customers SELECT i FROM generate_series(1, 2000) i;
INSERT INTO orders SELECT i, 1 + i % 2000 FROM generate_series(1, 4000) i;
INSERT INTO bills VALUES (1, 700), (2, 1400);
CREATE INDEX ON orders (customer);
CREATE FUNCTION trace() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO purge.trace VALUES (OLD.id); RETURN OLD; END $$;
CREATE TRIGGER trace AFTER DELETE ON customers FOR EACH ROW EXECUTE FUNCTION trace();
SELECT refit.purge('customers', 'id % 2 = 0') AS id \gset
SELECT * FROM ended(:id);
SELECT kind, detail->>'key' AS key, detail->>'sqlstate' AS code FROM refit.events
	WHERE migration_id = :id AND kind IN ('row', 'skipped');
SELECT refit.set_option(:id, 'on_error', 'skip');
SELECT refit.retry(:id);
SELECT * FROM ended(:id);
SELECT kind, detail->>'key' AS key, detail->>'sqlstate' AS code FROM refit.events
	WHERE migration_id = :id AND kind IN ('row', 'skipped') ORDER BY at;
SELECT (SELECT count(*) FROM customers) AS customers, (SELECT count(*) FROM orders) AS orders,
	(SELECT count(DISTINCT id) FROM trace) AS traced;

-- A partition tree
CREATE TABLE tree (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (500);
CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (500) TO (1000);
INSERT INTO tree SELECT i, i FROM generate_series(0, 999) i;
SELECT refit.purge('tree', 'n % 2 = 0') AS id \gset
SELECT * FROM ended(:id);
SELECT tableoid::regclass, count(*) FROM tree GROUP BY 1 ORDER BY 1;

-- Refused
SELECT refit.purge('log', NULL);
\echo :SQLSTATE
SELECT refit.purge('log', 'level = ');
\echo :SQLSTATE
SELECT refit.purge('log', 'none < 1');
\echo :SQLSTATE
SELECT refit.purge('log', 'true; DELETE FROM gone');
\echo :SQLSTATE
SELECT refit.purge('log', 'clock_timestamp() > at');
\echo :SQLSTATE
CREATE VIEW v AS SELECT * FROM log;
SELECT refit.purge('v', 'true');
\echo :SQLSTATE
CREATE ROLE refit_purge_stranger;
GRANT USAGE ON SCHEMA purge TO refit_purge_stranger;
GRANT DELETE ON log TO refit_purge_stranger;
SET ROLE refit_purge_stranger;
SELECT refit.purge('log', 'true');
\echo :SQLSTATE
RESET ROLE;

DROP SCHEMA purge CASCADE;
DROP ROLE refit_purge_stranger;
