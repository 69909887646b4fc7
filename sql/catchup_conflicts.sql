-- Catch-up: rows that other keys will take away, in the way of a batch that does not
-- take all.
SET client_min_messages TO warning;

CREATE SCHEMA conflicts;
SET search_path TO conflicts, public;

-- until catch-up has applied everything that is committed
CREATE PROCEDURE wait_applied(id bigint) LANGUAGE plpgsql AS $$
DECLARE
	since timestamptz := clock_timestamp();
	n bigint;
BEGIN
	LOOP
		EXECUTE (SELECT string_agg(format('SELECT count(*) FROM %s', c.oid::regclass),
			' UNION ALL ') FROM pg_class c
			WHERE c.relnamespace = ('refit_' || id)::regnamespace
			AND c.relname ~ '^\$log' AND c.relkind = 'r')
			|| ' ORDER BY 1 DESC LIMIT 1' INTO n;
		EXIT WHEN n = 0;
		IF clock_timestamp() > since + interval '60 s' THEN
			RAISE 'waited in vain';
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;

-- values are exchanged, taken over from deleted rows, and shifted
CREATE TABLE taken (id int PRIMARY KEY, a int UNIQUE,
	b int UNIQUE DEFERRABLE INITIALLY DEFERRED, c int4range,
	d int, n int, EXCLUDE USING gist (c WITH &&));
CREATE UNIQUE INDEX ON taken (d) WHERE n > 0;
INSERT INTO taken SELECT i, i, i, int4range(i * 10, i * 10 + 5), i, 1
	FROM generate_series(1, 4000) i;
SELECT refit.alter_table('taken', 'ALTER n TYPE bigint', cutover => 'manual',
	options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT format('refit_%s.taken', :id) AS twin \gset
BEGIN;
UPDATE taken SET a = -a, c = int4range(-upper(c), -lower(c)), d = -d;
UPDATE taken SET a = 4001 + a, b = b % 4000 + 1, d = 4001 + d,
	c = int4range(40010 + lower(c), 40010 + upper(c));
COMMIT;
CALL wait_applied(:id);
SELECT count(*) FROM (TABLE taken EXCEPT TABLE :twin) d;
BEGIN;
CREATE TEMP TABLE old ON COMMIT DROP AS SELECT * FROM taken WHERE id % 4 = 0;
DELETE FROM taken WHERE id % 4 = 0;
UPDATE taken t SET a = o.a, d = o.d, c = o.c FROM old o WHERE t.id = o.id - 1;
INSERT INTO taken SELECT -id, 4001 - id + 1, b, int4range(lower(c) + 10,
	upper(c) + 10), 4001 - id + 1, 1 FROM old;
COMMIT;
CALL wait_applied(:id);
SELECT count(*) FROM (TABLE taken EXCEPT TABLE :twin) d;
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT count(*), sum(id), sum(a), sum(b), sum(lower(c)), sum(d), pg_typeof(min(n))
	FROM taken;

-- One that is really there is an error: a constraint that is added, values that
-- become equal
CREATE FUNCTION outcome(id bigint) RETURNS TABLE (code text, message text,
	detail text) LANGUAGE plpgsql AS $$
DECLARE
	since timestamptz := clock_timestamp();
BEGIN
	WHILE NOT EXISTS (SELECT FROM refit.migrations m WHERE m.id = outcome.id
		AND state = 'failed') AND clock_timestamp() < since + interval '60 s' LOOP
		PERFORM pg_sleep(0.02);
	END LOOP;
	RETURN QUERY SELECT error_code, error_message, error_detail
		FROM refit.migrations m WHERE m.id = outcome.id;
END $$;
CREATE TABLE twice (id int PRIMARY KEY, a int, b int UNIQUE, c int4range, n int);
INSERT INTO twice SELECT i, i, i * 2, int4range(i * 10, i * 10 + 5), 0
	FROM generate_series(1, 3000) i;
SELECT refit.alter_table('twice', 'ALTER n TYPE bigint, ADD UNIQUE (a)',
	cutover => 'manual', options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE twice SET a = CASE id WHEN 2500 THEN 5 ELSE -a END WHERE id > 5;
SELECT * FROM outcome(:id);
SELECT refit.alter_table('twice', 'ALTER b TYPE bigint USING b / 2',
	cutover => 'manual', options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE twice SET b = CASE id WHEN 2500 THEN 11 ELSE -b END WHERE id > 5;
SELECT * FROM outcome(:id);
SELECT refit.alter_table('twice', 'ALTER n TYPE bigint,'
	' ADD CONSTRAINT apart EXCLUDE USING gist (c WITH &&)',
	cutover => 'manual', options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE twice SET c = CASE id WHEN 2500 THEN int4range(51, 52)
	ELSE int4range(-upper(c), -lower(c)) END WHERE id > 5;
SELECT * FROM outcome(:id);

-- Old rows of a revert window keep what only they have, also if they make way.
CREATE TABLE kept (id int PRIMARY KEY, a int UNIQUE, only_here text, n int);
INSERT INTO kept SELECT i, i, 'value ' || i, 0 FROM generate_series(1, 3000) i;
SELECT refit.alter_table('kept', 'DROP only_here, ALTER n TYPE bigint',
	revertible => '1h', options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.wait(:id, '60s');
BEGIN;
UPDATE kept SET a = -a;
UPDATE kept SET a = 3001 + a;
INSERT INTO kept SELECT -i, -i, 0 FROM generate_series(1, 100) i;
COMMIT;
CALL wait_applied(:id);
BEGIN;
UPDATE kept SET a = a + 10000 WHERE id BETWEEN 1 AND 100;
UPDATE kept SET a = a + 3001 WHERE id < 0;
UPDATE kept SET a = a - 13001 WHERE id BETWEEN 1 AND 100;
COMMIT;
CALL wait_applied(:id);
SELECT refit.revert(:id);
SELECT refit.wait(:id, '60s');
SELECT count(*), count(only_here), count(*) FILTER (WHERE only_here = 'value ' || id),
	sum(a), count(DISTINCT a), pg_typeof(min(n)) FROM kept;

DROP SCHEMA conflicts CASCADE;
