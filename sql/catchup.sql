-- Catch-up: more pending changes than a batch takes, and TRUNCATE among them.
SET client_min_messages TO warning;

CREATE SCHEMA catchup;
SET search_path TO catchup;
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

DROP SCHEMA catchup CASCADE;
