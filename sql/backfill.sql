--
-- Backfill: by keys of every kind, by positions, over trees; what is written and
-- what is left alone; rows that fail; what changes under it; what is refused.
--
SET client_min_messages TO warning;
CREATE SCHEMA backfill;
SET search_path TO backfill;

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

-- How it went over the table.
CREATE FUNCTION route(id bigint) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT message FROM refit.events
		WHERE migration_id = id AND kind IN ('plan', 'partition') ORDER BY at
$$;

CREATE FUNCTION named(id bigint, OUT kind text, OUT key text, OUT code text,
	OUT message text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT kind, detail->>'key', detail->>'sqlstate', detail->>'message'
		FROM refit.events WHERE migration_id = id AND kind IN ('row', 'skipped')
		ORDER BY at
$$;

--
-- Keys
--

CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, v text);
INSERT INTO t SELECT i FROM generate_series(1, 5000) i;
ANALYZE t;
SELECT refit.backfill('t', 'n = n + 1, v = ''row '' || t.id', name => 'backfill: first') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT count(*), sum(n), count(*) FILTER (WHERE v = 'row ' || id) AS texts FROM t;
SELECT kind, relation, definition, strategy FROM refit.migrations WHERE id = :id;
SELECT count(*) AS left_over FROM refit.pass WHERE id = :id;
-- submitted again under its name: the same, and not done again
SELECT refit.backfill('t', 'n = n + 1, v = ''row '' || t.id', name => 'backfill: first') = :id AS same;
\set VERBOSITY terse
SELECT refit.backfill('t', 'n = 0', name => 'backfill: first');
\set VERBOSITY default
\echo :SQLSTATE
SELECT sum(n) FROM t;

-- Rows that hold their values are not written; a where clause
SELECT refit.backfill('t', 'v = ''row '' || id') AS id \gset
SELECT * FROM ended(:id);
SELECT refit.backfill('t', 'n = 7', 'id % 10 = 0') AS id \gset
SELECT * FROM ended(:id);
SELECT n, count(*) FROM t GROUP BY n ORDER BY n;
-- equal, and not the same to the byte: written
CREATE TABLE scale (id int PRIMARY KEY, x numeric);
INSERT INTO scale VALUES (1, 1.0), (2, 1.00), (3, NULL);
SELECT refit.backfill('scale', 'x = 1.00') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM scale ORDER BY id;
-- from a subselect, a list, DEFAULT, a volatile function
CREATE TABLE items (t bigint, price int);
INSERT INTO items SELECT i % 100, i FROM generate_series(1, 1000) i;
ALTER TABLE t ADD COLUMN a int, ADD COLUMN b int DEFAULT 5;
SELECT refit.backfill('t', 'a = (SELECT sum(price) FROM items WHERE items.t = t.id)', 'id <= 200') AS id \gset
SELECT * FROM ended(:id);
SELECT count(*) FROM t WHERE id <= 200
	AND a IS DISTINCT FROM (SELECT sum(price) FROM items WHERE items.t = t.id);
SELECT refit.backfill('t', '(a, n) = (SELECT 1, id % 3), b = DEFAULT, v = random()::text') AS id \gset
SELECT * FROM ended(:id);
SELECT sum(a), sum(n), min(b), max(b), count(DISTINCT v) > 4000 AS random FROM t;

-- Composite keys, of types that are not ordered by bytes; mixed case, quotes
CREATE TABLE "Odd ""names" ("Group" varchar(10) COLLATE "und-x-icu" NOT NULL, "x y" numeric NOT NULL,
	at timestamptz NOT NULL, "select" int, PRIMARY KEY ("Group", at, "x y"));
INSERT INTO "Odd ""names" SELECT chr(65 + i % 7) || chr(97 + i % 11), i / 7.0,
	'2020-01-01 00:00+00'::timestamptz + i * '1.5 s'::interval, 0 FROM generate_series(1, 3000) i;
SET TimeZone TO 'Asia/Kathmandu';
SET DateStyle TO 'German';
SELECT refit.backfill('"Odd ""names"', '"select" = "Odd ""names"."select" + 1',
	options => '{"chunk_time": "5ms"}') AS id \gset
RESET TimeZone;
RESET DateStyle;
SELECT * FROM ended(:id);
SELECT "select", count(*) FROM "Odd ""names" GROUP BY 1;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN short AS text CHECK (length(value) < 40);
CREATE TABLE kinds (u uuid NOT NULL UNIQUE, m mood NOT NULL, d short NOT NULL, b bytea NOT NULL,
	f float8 NOT NULL, n int NOT NULL DEFAULT 0, UNIQUE (m, d, b, f));
INSERT INTO kinds SELECT md5(i::text)::uuid, (ARRAY['sad', 'ok', 'happy'])[1 + i % 3]::mood, md5(i::text),
	decode(md5(i::text), 'hex'), CASE i % 100 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE i / 3.0 END
	FROM generate_series(1, 2000) i;
SELECT refit.backfill('kinds', 'n = n + 1', options => '{"chunk_time": "5ms"}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
ALTER TABLE kinds DROP CONSTRAINT kinds_u_key;
SELECT refit.backfill('kinds', 'n = n + 1', options => '{"chunk_time": "5ms"}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT n, count(*) FROM kinds GROUP BY n;

-- The index that serves the where clause, unless it finds most of the table
CREATE TABLE jobs (id int PRIMARY KEY, status text NOT NULL, at date NOT NULL, n int NOT NULL DEFAULT 0);
INSERT INTO jobs SELECT i, CASE WHEN i % 50 = 0 THEN 'new' ELSE 'done' END,
	date '2020-01-01' + i / 10 FROM generate_series(1, 5000) i;
CREATE INDEX jobs_new ON jobs (id) WHERE status = 'new';
CREATE INDEX jobs_at ON jobs (at);
CREATE INDEX jobs_status ON jobs (status, id);
VACUUM ANALYZE jobs;
SELECT refit.backfill('jobs', 'n = n + 1', 'status = ''new'' AND n = 0') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT refit.backfill('jobs', 'n = n + 1', 'at < ''2020-02-01''::date') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT refit.backfill('jobs', 'n = n + 1', 'at > ''2020-02-01''::date') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT status, n, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1, 2;
-- not one that is written
DROP INDEX jobs_new;
SELECT refit.backfill('jobs', 'status = ''old''', 'status IN (''new'', ''newer'')') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
-- where and set name things of the submitter's search_path
CREATE SCHEMA backfill_2;
CREATE FUNCTION backfill_2.upper(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'mine';
CREATE FUNCTION is_old(text) RETURNS boolean IMMUTABLE LANGUAGE sql RETURN $1 = 'old';
SET search_path TO backfill_2, pg_catalog, backfill;
SELECT refit.backfill('jobs', 'status = upper(status)', 'is_old(status) AND at < ''2020-03-01''::date') AS id \gset
SET search_path TO backfill;
SELECT * FROM ended(:id);
SELECT status, count(*) FROM jobs GROUP BY 1 ORDER BY 1;

-- No key: an index with few rows to a key, or positions
CREATE TABLE heap (k int NOT NULL, n int, m int);
INSERT INTO heap SELECT i / 20, i, 0 FROM generate_series(1, 3000) i;
ANALYZE heap;
SELECT refit.backfill('heap', 'n = n + 1');
\echo :SQLSTATE
SELECT refit.backfill('heap', 'm = (SELECT max(n) FROM heap h WHERE h.m = 0)');
\echo :SQLSTATE
SELECT refit.backfill('heap', 'm = n * 2', 'n % 3 = 0') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT count(*) FROM heap WHERE m = n * 2;
CREATE INDEX ON heap (k);
SELECT refit.backfill('heap', 'n = n + 1') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT sum(n - 1) = sum(m) FILTER (WHERE m > 0) / 2 + sum(n - 1) FILTER (WHERE m = 0) AS once FROM heap;

--
-- Trees
--

CREATE TABLE tree (id int, region text, n int NOT NULL DEFAULT 0, g int GENERATED ALWAYS AS (n * 2) STORED,
	PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE tree_eu PARTITION OF tree FOR VALUES IN ('eu');
CREATE TABLE tree_us PARTITION OF tree FOR VALUES IN ('us') PARTITION BY RANGE (id);
CREATE TABLE tree_us_1 PARTITION OF tree_us FOR VALUES FROM (0) TO (1000);
CREATE TABLE tree_us_2 (n int NOT NULL DEFAULT 0, gone int, g int GENERATED ALWAYS AS (n * 2) STORED, region text NOT NULL, id int NOT NULL);
ALTER TABLE tree_us_2 DROP COLUMN gone;
ALTER TABLE tree_us ATTACH PARTITION tree_us_2 FOR VALUES FROM (1000) TO (2000);
INSERT INTO tree SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END FROM generate_series(1, 1999) i;
SELECT refit.backfill('tree', 'n = tree.n + 1', 'tree.region <> ''asia''') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT tableoid::regclass, count(*), sum(n), sum(g) FROM tree GROUP BY 1 ORDER BY 1;
SELECT refit.backfill('tree', 'region = ''us''');
\echo :SQLSTATE
SELECT refit.backfill('tree_eu', 'n = n + 1') AS id \gset
SELECT * FROM ended(:id);

-- Inheritance
CREATE TABLE parent (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
CREATE TABLE child (more int, PRIMARY KEY (id)) INHERITS (parent);
INSERT INTO parent SELECT i FROM generate_series(1, 100) i;
INSERT INTO child SELECT i FROM generate_series(51, 150) i;
SELECT refit.backfill('parent', 'n = n + 1') AS id \gset
SELECT * FROM ended(:id);
SELECT tableoid::regclass, n, count(*) FROM parent GROUP BY 1, 2 ORDER BY 1;

-- Several processes; where there are no statistics, one
SELECT refit.backfill('t', 'b = b + 1', options => '{"workers": 3}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT min(b), max(b) FROM t;
SELECT refit.backfill('kinds', 'n = n + 1', options => '{"workers": "2"}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);

--
-- What is done to the table in the middle.  This session is the worker: a step is
-- one batch of a hundred rows.
--

CREATE FUNCTION begin_by_hand(call text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	EXECUTE 'SELECT ' || call INTO id;
	PERFORM refit._claim(id), refit.set_option(id, 'chunk_time', '1ms');
	RETURN id;
END $$;
-- plans, and does one batch
CREATE PROCEDURE one_batch(id bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM refit._step(id);
	COMMIT;
	PERFORM refit._step(id);
END $$;
CREATE FUNCTION go_on(id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM refit._release(id), refit.set_option(id, 'chunk_time', '200ms');
END $$;
CREATE FUNCTION gone_over(id bigint) RETURNS SETOF bigint LANGUAGE sql AS
	'SELECT scanned FROM refit.pass WHERE id = $1 AND scanned > 0';

-- its partitions: one is detached, one dropped, one added
SELECT begin_by_hand($$refit.backfill('tree', 'n = tree.n + 1')$$) AS id \gset
CALL one_batch(:id);
SELECT number, relid::regclass, touched > 0 AS begun, done FROM refit.pass WHERE id = :id ORDER BY 1;
ALTER TABLE tree DETACH PARTITION tree_eu;
DROP TABLE tree_us_1;
CREATE TABLE tree_asia PARTITION OF tree FOR VALUES IN ('asia');
INSERT INTO tree VALUES (1, 'asia');
SELECT go_on(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
SELECT regexp_replace(route, '\d+ rows', 'N rows') FROM route(:id);
SELECT tableoid::regclass, n, count(*) FROM tree GROUP BY 1, 2 ORDER BY 1;
SELECT n, count(*) BETWEEN 1 AND 998 AS some FROM tree_eu GROUP BY 1 ORDER BY 1;

-- its columns; its index is rebuilt, which makes another one
SELECT begin_by_hand($$refit.backfill('t', 'n = 1')$$) AS id \gset
CALL one_batch(:id);
SELECT gone_over BETWEEN 100 AND 4000 AS some FROM gone_over(:id);
ALTER TABLE t ADD COLUMN more int DEFAULT 3, DROP COLUMN a, ALTER v TYPE varchar(200), ADD UNIQUE (v, id);
REINDEX TABLE CONCURRENTLY t;
VACUUM FULL t;
SELECT go_on(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
SELECT n, count(*) FROM t GROUP BY n;

-- the column that is written is gone
SELECT begin_by_hand($$refit.backfill('t', 'more = id')$$) AS id \gset
CALL one_batch(:id);
ALTER TABLE t DROP COLUMN more;
SELECT go_on(:id);
SELECT state, code, message, detail, hint FROM ended(:id);

-- the index is gone: goes on with another one on the same column, once there is one
SELECT begin_by_hand($$refit.backfill('t', 'n = n + 1')$$) AS id \gset
CALL one_batch(:id);
ALTER TABLE t DROP CONSTRAINT t_pkey;
SELECT go_on(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
CREATE UNIQUE INDEX t_other ON t (id) INCLUDE (v);
SELECT refit.retry(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
SELECT regexp_replace(route, '\d+ rows', 'N rows') FROM route(:id);
SELECT n, count(*) FROM t GROUP BY n;
-- not where its order is another one
CREATE TABLE words (w text PRIMARY KEY, n int NOT NULL DEFAULT 0);
INSERT INTO words SELECT md5(i::text) FROM generate_series(1, 1000) i;
SELECT begin_by_hand($$refit.backfill('words', 'n = n + 1')$$) AS id \gset
CALL one_batch(:id);
ALTER TABLE words ALTER w TYPE text COLLATE "und-x-icu";
SELECT go_on(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
SELECT n, count(*) BETWEEN 1 AND 999 AS some FROM words GROUP BY n ORDER BY n;

-- TRUNCATE; new storage while going by positions
SELECT begin_by_hand($$refit.backfill('jobs', 'n = n + 1')$$) AS id \gset
CALL one_batch(:id);
TRUNCATE jobs;
SELECT go_on(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
DROP INDEX heap_k_idx;
SELECT begin_by_hand($$refit.backfill('heap', 'm = -n')$$) AS id \gset
CALL one_batch(:id);
DELETE FROM heap WHERE m < 0;
VACUUM FULL heap;
SELECT go_on(:id);
SELECT state FROM ended(:id);
SELECT count(*) > 0 AS some, count(*) FILTER (WHERE m <> -n) AS missed FROM heap;
-- and where rows move to a place that was passed
UPDATE heap SET m = 0;
VACUUM heap;
SELECT begin_by_hand($$refit.backfill('heap', 'm = -n')$$) AS id \gset
CALL one_batch(:id);
UPDATE heap SET m = 0;
SELECT go_on(:id);
SELECT state FROM ended(:id);
SELECT count(*) FILTER (WHERE m <> -n) AS missed FROM heap;

-- cancelled, and taken up again: goes on where it was
SELECT begin_by_hand($$refit.backfill('t', 'n = n + 1')$$) AS id \gset
CALL one_batch(:id);
SELECT refit._release(:id);
SELECT refit.cancel(:id) \g /dev/null
SELECT state, code, message, detail, hint FROM ended(:id);
SELECT n, count(*) BETWEEN 1 AND 4999 AS some FROM t GROUP BY n ORDER BY n;
SELECT refit.retry(:id);
SELECT state, code, message, detail, hint FROM ended(:id);
SELECT regexp_replace(route, '\d+ rows', 'N rows') FROM route(:id);
SELECT n, count(*) FROM t GROUP BY n;
-- but not where the cursor is not known, as in a copy of the history
SELECT begin_by_hand($$refit.backfill('t', 'n = n + 1')$$) AS id \gset
CALL one_batch(:id);
SELECT refit._release(:id);
SELECT refit.cancel(:id) \g /dev/null
SELECT state, code, message, detail, hint FROM ended(:id);
DELETE FROM refit.pass WHERE id = :id;
SELECT refit.retry(:id);
SELECT state, code, regexp_replace(message, '\d+', 'N') AS message, detail, hint FROM ended(:id);

-- the table itself is gone
CREATE TABLE goes (id int PRIMARY KEY, n int);
INSERT INTO goes SELECT i FROM generate_series(1, 1000) i;
SELECT begin_by_hand($$refit.backfill('goes', 'n = 1')$$) AS id \gset
CALL one_batch(:id);
SELECT refit._release(:id);
DROP TABLE goes;
SELECT refit.set_option(:id, 'chunk_time', '10ms') \g /dev/null
SELECT state, code, message, hint FROM ended(:id);

--
-- Rows that fail
--

CREATE TABLE p (id int PRIMARY KEY, s text NOT NULL, n int CHECK (n <> -777));
INSERT INTO p SELECT i, CASE WHEN i IN (1234, 1235, 2999) THEN 'x' ELSE i::text END FROM generate_series(1, 3000) i;
SELECT refit.backfill('p', 'n = s::int') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM named(:id);
SELECT max(id) FROM p WHERE n IS NOT NULL;
UPDATE p SET s = '1' WHERE s = 'x' AND id <> 2999;
SELECT refit.retry(:id);
SELECT * FROM ended(:id);
SELECT refit.set_option(:id, 'on_error', 'skip');
SELECT refit.retry(:id);
SELECT * FROM ended(:id);
SELECT * FROM named(:id);
SELECT id FROM p WHERE n IS NULL ORDER BY id;
-- no more than max_skipped
UPDATE p SET s = 'y' WHERE id IN (5, 50, 500);
SELECT refit.backfill('p', 'n = s::int', options => '{"on_error": "skip", "max_skipped": 2}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM named(:id);
-- among rows with the same key; constraints that are checked late
ALTER TABLE p ADD COLUMN grp int NOT NULL DEFAULT 0;
CREATE INDEX ON p (grp);
UPDATE p SET grp = id / 40, s = id::text, n = 0;
CREATE TABLE q (id int PRIMARY KEY);
INSERT INTO q SELECT i FROM generate_series(0, 3000) i;
DELETE FROM q WHERE id IN (100, 101);
ALTER TABLE p ADD FOREIGN KEY (n) REFERENCES q DEFERRABLE INITIALLY DEFERRED;
ANALYZE p;
SELECT refit.backfill('p', 'n = s::int', 'grp < 10', options => '{"on_error": "skip"}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM route(:id);
SELECT * FROM named(:id);
SELECT count(*) FILTER (WHERE n = id), count(*) FILTER (WHERE n <> id) FROM p WHERE grp < 10;
CLUSTER p USING p_pkey; -- rows with the same key are gone over as they stand
SELECT refit.backfill('p', 'n = s::int + 1', 'grp < 10') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM named(:id);
SELECT count(*) FROM p WHERE n = id + 1 AND grp >= 2;
-- without a key: by position
CREATE TABLE no_key AS SELECT id, CASE WHEN id = 500 THEN 'x' ELSE id::text END AS s, 0 AS n FROM p;
SELECT refit.backfill('no_key', 'n = s::int', options => '{"on_error": "skip"}') AS id \gset
SELECT state FROM ended(:id);
SELECT DISTINCT key ~ '^\(ctid\)=\(\(\d+,\d+\)\)$' AS by_position, code, message FROM named(:id);
SELECT id FROM no_key WHERE n = 0;
-- raised by the user's code: tried again before the search
CREATE FUNCTION picky(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF id = 10 THEN
		RAISE 'not ten' USING HINT = 'ask another one';
	END IF;
	RETURN id;
END $$;
CREATE TABLE few AS SELECT i AS id, 0 AS n FROM generate_series(1, 20) i;
ALTER TABLE few ADD PRIMARY KEY (id);
SELECT refit.backfill('few', 'n = picky(id)', options => '{"on_error": "skip"}') AS id \gset
SELECT * FROM ended(:id);
SELECT * FROM named(:id);

--
-- Triggers and row-level security: as in an UPDATE by the owner
--

CREATE ROLE refit_backfill_owner;
GRANT USAGE, CREATE ON SCHEMA backfill TO refit_backfill_owner;
CREATE TABLE guarded (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, who text);
INSERT INTO guarded SELECT i FROM generate_series(1, 1000) i;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.who := current_user; RETURN NEW; END $$;
CREATE TRIGGER note BEFORE UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION note();
CREATE POLICY half ON guarded USING (id % 2 = 0);
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, OWNER TO refit_backfill_owner;
SELECT refit.backfill('guarded', 'n = n + 1') AS id \gset
SELECT * FROM ended(:id);
SELECT id % 2 AS odd, n, who, count(*) FROM guarded GROUP BY 1, 2, 3 ORDER BY 1;
SELECT refit.backfill('guarded', 'n = n + 1, who = NULL', options => '{"fire_triggers": false}') AS id \gset
SELECT * FROM ended(:id);
SELECT id % 2 AS odd, n, who, count(*) FROM guarded GROUP BY 1, 2, 3 ORDER BY 1;
SET ROLE refit_backfill_owner;
SELECT refit.backfill('guarded', 'n = n + 1', options => '{"fire_triggers": false}');
\echo :SQLSTATE
SELECT refit.backfill('guarded', 'n = n + 1') AS id \gset
SELECT refit.set_option(:id, 'fire_triggers', 'off');
\echo :SQLSTATE
SELECT state, rows FROM ended(:id);
SELECT refit.backfill('t', 'n = 1');
\echo :SQLSTATE
RESET ROLE;

--
-- Refused
--

SELECT refit.backfill('t', NULL);
\echo :SQLSTATE
SELECT refit.backfill(NULL, 'n = 1');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = ');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1 WHERE id = 1');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1; DROP TABLE t');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = x.y FROM x');
\echo :SQLSTATE
SELECT refit.backfill('t', 'none = 1');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = none');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = ''x''');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = sum(id)');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = $1');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', 'n = 1 AND');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', 'true) OR (true');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', 'id = 1 ORDER BY id');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', 'none = 1');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', 'n');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', 'random() < 0.5');
\echo :SQLSTATE
SELECT refit.backfill('t', 'id = id + 1');
\echo :SQLSTATE
SELECT refit.backfill('tree', 'g = 1');
\echo :SQLSTATE
ALTER TABLE tree ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, OWNER TO refit_backfill_owner;
SELECT refit.backfill('tree', 'n = 1');
\echo :SQLSTATE
ALTER TABLE tree_asia OWNER TO refit_backfill_owner;
ALTER TABLE tree_us OWNER TO refit_backfill_owner;
ALTER TABLE tree_us_2 OWNER TO refit_backfill_owner;
SELECT refit.backfill('tree', 'n = 1');
\echo :SQLSTATE
CREATE VIEW v AS SELECT * FROM t;
SELECT refit.backfill('v', 'n = 1');
\echo :SQLSTATE
CREATE MATERIALIZED VIEW mv AS SELECT * FROM t;
SELECT refit.backfill('mv', 'n = 1');
\echo :SQLSTATE
CREATE FOREIGN DATA WRAPPER refit_backfill_fdw;
CREATE SERVER refit_backfill_server FOREIGN DATA WRAPPER refit_backfill_fdw;
CREATE FOREIGN TABLE remote (id int NOT NULL, n int NOT NULL) SERVER refit_backfill_server;
SELECT refit.backfill('remote', 'n = 1');
\echo :SQLSTATE
ALTER TABLE remote INHERIT parent;
SELECT refit.backfill('parent', 'n = 1');
\echo :SQLSTATE
CREATE TEMPORARY TABLE scratch (id int PRIMARY KEY, n int);
SELECT refit.backfill('scratch', 'n = 1');
\echo :SQLSTATE
SELECT refit.backfill('pg_class', 'relpages = 1');
\echo :SQLSTATE
SELECT refit.backfill('refit.migration', 'name = NULL');
\echo :SQLSTATE
SELECT refit.backfill('t_other', 'n = 1');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', options => '{"on_error": "ignore"}');
\echo :SQLSTATE
SELECT refit.backfill('t', 'n = 1', options => '{"max_dead_ratio": 2}');
\echo :SQLSTATE
\set VERBOSITY terse
SELECT refit.backfill('t', 'n = 1', options => '{"worker": 2}');
\set VERBOSITY default
\echo :SQLSTATE

-- The clauses know the table by the name that it had when they were written
BEGIN;
CREATE TABLE before (id int PRIMARY KEY, n int);
INSERT INTO before VALUES (1, 1), (2, 1), (3, 1);
SELECT refit.backfill('before', 'n = before.n + 1', 'before.id > 1') AS id \gset
ALTER TABLE before RENAME TO after;
COMMIT;
SELECT * FROM ended(:id);
SELECT * FROM after ORDER BY id;

DROP SCHEMA backfill, backfill_2 CASCADE;
DROP FOREIGN DATA WRAPPER refit_backfill_fdw CASCADE;
DROP OWNED BY refit_backfill_owner;
DROP ROLE refit_backfill_owner;
