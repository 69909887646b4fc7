-- Catch-up: more pending changes than a batch takes, and TRUNCATE among them.
SET client_min_messages TO warning;

CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE EXTENSION IF NOT EXISTS pageinspect;
CREATE SCHEMA catchup;
SET search_path TO catchup, public;

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

CREATE TABLE many (id int PRIMARY KEY, n int NOT NULL, note text);
INSERT INTO many SELECT i, 0, 'row ' || i FROM generate_series(1, 20000) i;

-- the worker has looked through its log before, and stays
SELECT refit.alter_table('many', 'ALTER n TYPE bigint', cutover => 'manual',
	verify => 'off') AS id \gset
SELECT refit.wait(:id, '60s');

-- twice as many entries as rows, in one transaction
BEGIN;
UPDATE many SET n = id;
UPDATE many SET n = n + 1 WHERE id % 2 = 0;
UPDATE many SET id = id + 100000 WHERE id % 100 = 0;
DELETE FROM many WHERE id % 7 = 0;
COMMIT;

-- the mark of a TRUNCATE stands behind more keys than a batch takes
BEGIN;
UPDATE many SET n = n + 1;
TRUNCATE many;
INSERT INTO many SELECT i, -i, 'again ' || i FROM generate_series(1, 12000) i;
COMMIT;
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT count(*), min(id), max(id), sum(n), count(DISTINCT note),
	pg_typeof(min(n)) FROM many;

-- one that is rolled back leaves the rows, and what is written after it counts
SELECT refit.alter_table('many', 'ALTER n TYPE int', cutover => 'manual',
	verify => 'off') AS id \gset
SELECT refit.wait(:id, '60s');
BEGIN;
UPDATE many SET n = 1;
SAVEPOINT before;
TRUNCATE many;
INSERT INTO many VALUES (0, 0, 'gone');
ROLLBACK TO before;
UPDATE many SET n = 2 WHERE id > 6000;
COMMIT;
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT n, count(*), min(id), max(id), pg_typeof(n) FROM many
	GROUP BY n ORDER BY n;

-- What has not changed is left alone; what no index has is updated in place.
CREATE TABLE renewed (id int PRIMARY KEY, a int UNIQUE, included int, chosen int,
	computed int, free text, wide text, gone int, made int
	GENERATED ALWAYS AS (computed * 2) STORED, n int, place int NOT NULL DEFAULT 0)
	WITH (fillfactor = 40);
ALTER TABLE renewed ALTER wide SET STORAGE EXTERNAL, DROP gone;
CREATE INDEX ON renewed (a) INCLUDE (included);
CREATE INDEX ON renewed (id) WHERE chosen > 0;
CREATE INDEX ON renewed ((computed + 1));
CREATE INDEX ON renewed USING brin (place) WITH (pages_per_range = 1);
INSERT INTO renewed (id, a, included, chosen, computed, free, wide, n)
	SELECT i, i, 0, 0, i, 'free', repeat(i::text, 3000), i
	FROM generate_series(1, 120) i;
SELECT refit.alter_table('renewed', 'ALTER n TYPE bigint, ADD added int DEFAULT 5',
	cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT format('refit_%s.renewed', :id) AS twin,
	(SELECT c.reltoastrelid::regclass FROM pg_class c
		WHERE c.oid = to_regclass(format('refit_%s.renewed', :id))) AS toast \gset
CREATE TABLE before AS SELECT id, ctid AS tid FROM :twin;
CREATE TABLE values_before AS SELECT DISTINCT chunk_id FROM :toast;
CREATE TABLE changes (first int, what text);
INSERT INTO changes VALUES (1, 'nothing'), (11, 'no index'), (21, 'out of line'),
	(31, 'INCLUDE'), (41, 'predicate'), (51, 'expression'), (61, 'retyped'),
	(71, 'deleted'), (81, 'deleted, inserted'), (91, 'twice'), (101, 'clean');
UPDATE renewed SET a = a WHERE id BETWEEN 1 AND 10;
UPDATE renewed SET free = nullif('new', free) WHERE id BETWEEN 11 AND 20;
UPDATE renewed SET wide = repeat('x', length(wide)) WHERE id BETWEEN 21 AND 30;
UPDATE renewed SET included = 1 WHERE id BETWEEN 31 AND 40;
UPDATE renewed SET chosen = 1 WHERE id BETWEEN 41 AND 50;
UPDATE renewed SET computed = -id WHERE id BETWEEN 51 AND 60;
UPDATE renewed SET n = -id WHERE id BETWEEN 61 AND 70;
DELETE FROM renewed WHERE id BETWEEN 71 AND 80;
WITH d AS (DELETE FROM renewed WHERE id BETWEEN 81 AND 90 RETURNING *)
	INSERT INTO renewed (id, a, included, chosen, computed, free, wide, n)
	SELECT id, a, included, chosen, computed, free, wide, n FROM d;
UPDATE renewed SET free = 'once' WHERE id BETWEEN 91 AND 100;
CALL wait_applied(:id);
UPDATE renewed SET free = NULL WHERE id BETWEEN 91 AND 100;
CALL wait_applied(:id);
SELECT what, count(t.id), bool_and(t.ctid = tid) AS stays,
	bool_and(t_infomask2 & 32768 <> 0) AS hot
	FROM changes JOIN before b ON b.id BETWEEN first AND first + 9
	LEFT JOIN :twin t USING (id)
	LEFT JOIN LATERAL heap_page_items(get_raw_page(:'twin',
		(t.ctid::text::point)[0]::int)) p ON lp = (t.ctid::text::point)[1]
	GROUP BY first, what ORDER BY first;
SELECT count(DISTINCT chunk_id) AS written_out_of_line FROM :toast
	WHERE chunk_id NOT IN (TABLE values_before);
UPDATE renewed SET place = 1 WHERE id > 110; -- HOT from 16 on
CALL wait_applied(:id);
SELECT count(*) FROM (SELECT id, a, included, chosen, computed, free, wide, made, n,
	place FROM renewed EXCEPT ALL SELECT id, a, included, chosen, computed, free, wide,
	made, n, place FROM :twin) d;
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT count(*), count(free), sum(included), sum(chosen), sum(computed), sum(made),
	sum(n), sum(added), count(*) FILTER (WHERE wide = repeat(id::text, 3000))
	FROM renewed;
SELECT count(*), count(DISTINCT bt_index_check(indexrelid, true)::text)
	FROM pg_index JOIN pg_class c ON c.oid = indexrelid
	WHERE indrelid = 'renewed'::regclass AND relam <> 3580;
SET enable_seqscan = off;
SELECT count(*) FROM renewed WHERE place = 1;
RESET enable_seqscan;

DROP SCHEMA catchup CASCADE;
