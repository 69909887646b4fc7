--
-- Out-of-line values, keys of every kind, unusual names, and tables that are
-- empty or hold nothing but dead rows.
--
SET client_min_messages TO warning;
CREATE SCHEMA toast;
SET search_path TO toast;
CREATE FUNCTION content(relation regclass, OUT content text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT concat(count(*), '' '', md5(string_agg(x::text, ''|'' ORDER BY x::text COLLATE "C"))) FROM %s x',
		relation) INTO content;
END $$;

-- values inline, compressed, out of line, out of line and compressed
CREATE TABLE big (id int PRIMARY KEY, kind text, p text, e text, c text COMPRESSION pglz);
ALTER TABLE big ALTER e SET STORAGE EXTERNAL, ALTER p SET STORAGE MAIN;
INSERT INTO big SELECT i, i % 4, repeat('p', i % 100),
	CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN 'short' ELSE repeat(md5(i::text), i * 3) END,
	CASE i % 4 WHEN 1 THEN NULL WHEN 2 THEN 'short' ELSE repeat(md5(i::text) || i, i * 30) END
	FROM generate_series(1, 200) i;
SELECT content('big') AS before \gset
SELECT refit.alter_table('big', 'ALTER id TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
-- rows that change meanwhile, their out-of-line values touched and not touched
UPDATE big SET kind = kind WHERE id % 5 = 0;
UPDATE big SET e = repeat('new', 5000) WHERE id = 3;
UPDATE big SET e = NULL WHERE id = 7;
DELETE FROM big WHERE id = 11;
INSERT INTO big VALUES (1000, 9, '', repeat(md5('1000'), 1000), '');
SELECT content('big') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('big') = :'before' AS same;
SELECT sum(length(e)), sum(length(c)) FROM big;
SELECT DISTINCT pg_column_compression(c) FROM big ORDER BY 1;
SELECT relname ~ '^pg_toast_\d+$' AS toast, relname = 'pg_toast_' || 'big'::regclass::oid AS named,
	relrewrite FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'big'::regclass);
UPDATE big SET e = repeat(md5(id::text), 2000) WHERE id < 20;
VACUUM FULL big;
SELECT refit.alter_table('big', 'ALTER e TYPE bytea USING convert_to(e, ''UTF8''),
	ALTER c TYPE jsonb USING to_jsonb(c)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT sum(length(e)), sum(length(c #>> '{}')) FROM big;
-- a table that gets out-of-line values by the change, and one that had them
CREATE TABLE small (id int PRIMARY KEY, n int);
INSERT INTO small SELECT i, i FROM generate_series(1, 10) i;
SELECT refit.alter_table('small', 'ALTER n TYPE text USING repeat(md5(n::text), 1000)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT sum(length(n)) FROM small;
SELECT reltoastrelid <> 0 AS toasted FROM pg_class WHERE oid = 'small'::regclass;
SELECT refit.alter_table('small', 'ALTER n TYPE int USING length(n)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT sum(n) FROM small;
SELECT refit.alter_table('small', 'ADD COLUMN t text DEFAULT repeat(random()::text, 3000)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT bool_and(length(t) > 20000) AS long FROM small;

-- Keys
CREATE TABLE by_text (k text PRIMARY KEY, n int);
INSERT INTO by_text SELECT 'key ' || i, i FROM generate_series(1, 300) i;
INSERT INTO by_text VALUES ('', 0), ('''quoted'' "k"', -1), (E'\\x', -2), (E'line\nbreak', -3), ('ключ', -4);
CREATE TABLE by_two (a int, b text COLLATE "C", c date, n int, PRIMARY KEY (b, a, c));
INSERT INTO by_two SELECT i % 7, i, date '2024-01-01' + i, i FROM generate_series(1, 300) i;
CREATE TABLE by_uuid (k uuid PRIMARY KEY, n int);
INSERT INTO by_uuid SELECT md5(i::text)::uuid, i FROM generate_series(1, 300) i;
CREATE TABLE by_index (k numeric(10,2) NOT NULL, n int);
CREATE UNIQUE INDEX by_index_k ON by_index (k DESC) INCLUDE (n);
INSERT INTO by_index SELECT i / 4.0, i FROM generate_series(1, 300) i;
CREATE TYPE pair AS (x int, y text);
CREATE TABLE by_pair (k pair PRIMARY KEY, n int);
INSERT INTO by_pair SELECT (i, 'y' || i)::pair, i FROM generate_series(1, 300) i;
CREATE TYPE mood AS ENUM ('bad', 'good', 'fine');
CREATE DOMAIN code AS char(5);
CREATE TABLE by_domain (k code, m mood, n int, PRIMARY KEY (k, m));
INSERT INTO by_domain SELECT i, m, i FROM generate_series(1, 100) i, unnest(enum_range(NULL::mood)) m;
CREATE TABLE by_collated (k text COLLATE "POSIX" PRIMARY KEY, n int);
INSERT INTO by_collated SELECT chr(64 + i % 26) || i, i FROM generate_series(1, 100) i;
-- one after another: while it waits, rows are changed, deleted, given another key
SELECT refit.alter_table('by_text', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_text SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_text WHERE n % 5 = 0;
UPDATE by_text SET k = k || ' moved' WHERE n % 7 = 0;
SELECT content('by_text') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_text') = :'before' AS same;
SELECT refit.alter_table('by_two', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_two SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_two WHERE n % 5 = 0;
UPDATE by_two SET a = a + 1 WHERE n % 7 = 0;
SELECT content('by_two') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_two') = :'before' AS same;
SELECT refit.alter_table('by_uuid', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_uuid SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_uuid WHERE n % 5 = 0;
SELECT content('by_uuid') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_uuid') = :'before' AS same;
SELECT refit.alter_table('by_index', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_index SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_index WHERE n % 5 = 0;
SELECT content('by_index') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_index') = :'before' AS same;
SELECT refit.alter_table('by_pair', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_pair SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_pair WHERE n % 5 = 0;
UPDATE by_pair SET k.x = (k).x + 10000 WHERE n % 7 = 0;
SELECT content('by_pair') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_pair') = :'before' AS same;
SELECT refit.alter_table('by_domain', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_domain SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_domain WHERE n % 5 = 0;
SELECT content('by_domain') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_domain') = :'before' AS same;
SELECT refit.alter_table('by_collated', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE by_collated SET n = n + 1000 WHERE n % 3 = 0;
DELETE FROM by_collated WHERE n % 5 = 0;
SELECT content('by_collated') AS before \gset
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT content('by_collated') = :'before' AS same;

-- Names: quotes, capitals, other scripts, as long as they can be
CREATE SCHEMA "toast ""q"" Ü";
CREATE TABLE "toast ""q"" Ü"."t'able ""x"" %s $1 \ é" (
	"Id ""1""" int CONSTRAINT "p'k" PRIMARY KEY, "select" int CHECK ("select" > 0), "ключ" text UNIQUE);
INSERT INTO "toast ""q"" Ü"."t'able ""x"" %s $1 \ é" SELECT i, i, i FROM generate_series(1, 50) i;
CREATE VIEW "toast ""q"" Ü"."v ""x""" AS SELECT "Id ""1""" AS "i d" FROM "toast ""q"" Ü"."t'able ""x"" %s $1 \ é";
SELECT refit.alter_table('"toast ""q"" Ü"."t''able ""x"" %s $1 \ é"',
	'ALTER "Id ""1""" TYPE bigint, ALTER "select" SET NOT NULL', 'toast: "q" ''x'' é') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT name, relation, state FROM refit.migrations WHERE id = :id;
SELECT count(*), sum("Id ""1"""), sum("select") FROM "toast ""q"" Ü"."t'able ""x"" %s $1 \ é";
SELECT pg_typeof("i d"), count(*) FROM "toast ""q"" Ü"."v ""x""" GROUP BY 1;
CREATE TABLE a_name_that_is_as_long_as_a_name_may_be_in_postgresql_63_bytes_ (
	a_column_that_is_as_long_as_a_name_may_be_in_postgresql_63_byte int PRIMARY KEY, n int);
CREATE INDEX an_index_that_is_as_long_as_a_name_may_be_in_postgresql_63_byte
	ON a_name_that_is_as_long_as_a_name_may_be_in_postgresql_63_bytes_ (n);
INSERT INTO a_name_that_is_as_long_as_a_name_may_be_in_postgresql_63_bytes_ VALUES (1, 1), (2, 2);
SELECT refit.alter_table('a_name_that_is_as_long_as_a_name_may_be_in_postgresql_63_bytes_',
	'ALTER a_column_that_is_as_long_as_a_name_may_be_in_postgresql_63_byte TYPE bigint,
	ALTER n SET NOT NULL, ADD UNIQUE (n)') AS id \gset
SELECT refit.wait(:id, '60s');
\d a_name_that_is_as_long_as_a_name_may_be_in_postgresql_63_bytes_

-- No rows; only dead rows; no columns but the key
CREATE TABLE empty (id int PRIMARY KEY, s text);
SELECT refit.alter_table('empty', 'ALTER id TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT rows, state FROM refit.migrations WHERE id = :id;
INSERT INTO empty VALUES (3000000000, repeat(md5('x'), 1000));
CREATE TABLE dead (id int PRIMARY KEY, s text) WITH (autovacuum_enabled = off);
INSERT INTO dead SELECT i, repeat('dead', 1000) FROM generate_series(1, 1000) i;
DELETE FROM dead;
SELECT refit.alter_table('dead', 'ALTER id TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT rows, state FROM refit.migrations WHERE id = :id;
SELECT count(*), pg_relation_size('dead') FROM dead;
INSERT INTO dead VALUES (1, 'alive');
SELECT * FROM dead;
CREATE TABLE "only" (id int PRIMARY KEY);
INSERT INTO "only" SELECT generate_series(1, 10);
SELECT refit.alter_table('"only"', 'ALTER id TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT sum(id) FROM "only";
-- rows that came by COPY with FREEZE, and rows locked or updated by nobody in the end
BEGIN;
CREATE TABLE frozen (id int PRIMARY KEY, n int);
COPY frozen FROM STDIN (FREEZE);
1	1
2	2
3	3
\.
COMMIT;
BEGIN;
SELECT id FROM frozen WHERE id = 1 FOR UPDATE;
COMMIT;
BEGIN;
UPDATE frozen SET n = 0;
INSERT INTO frozen VALUES (4, 4);
ROLLBACK;
SELECT refit.alter_table('frozen', 'ALTER n TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT * FROM frozen ORDER BY id;

-- A catch-up step that empties the logs keeps no lock on their TOAST tables: one
-- that works a key out of line, then one that finds nothing and empties the log
CREATE FUNCTION claim_paused(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..3000 LOOP
		IF (SELECT state FROM refit.migrations m WHERE m.id = claim_paused.id) = 'paused'
			AND refit._claim(id) THEN
			RETURN true;
		END IF;
		PERFORM pg_sleep(0.02);
	END LOOP;
	RETURN false;
END $$;
CREATE TABLE locked (k text PRIMARY KEY, n int);
ALTER TABLE locked ALTER k SET STORAGE EXTERNAL;
INSERT INTO locked VALUES ('a', 1);
SELECT refit.alter_table('locked', 'ALTER n TYPE bigint', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT refit.pause(:id) IN ('ready', 'paused') AS asked;
SELECT refit.wait(:id, '60s');
INSERT INTO locked SELECT string_agg(md5(i::text), ''), 2 FROM generate_series(1, 75) i;
SELECT reltoastrelid AS toast FROM pg_class
	WHERE oid = (SELECT log0 FROM refit.rewrite WHERE id = :id) \gset
SELECT pg_relation_size(:toast) > 0 AS out_of_line;
SELECT claim_paused(:id), refit.resume(:id);
SELECT refit._step(:id) >= 0 AS worked;
SELECT refit._step(:id) >= 0 AS worked;
BEGIN;
SELECT refit._step(:id) >= 0 AS worked;
SELECT pg_relation_size(:toast);
SELECT mode FROM pg_locks WHERE locktype = 'relation' AND pid = pg_backend_pid()
	AND (relation = :toast OR relation IN (SELECT indexrelid FROM pg_index WHERE indrelid = :toast));
COMMIT;
SELECT refit._release(:id);
SELECT refit.cutover(:id) AS state;
SELECT refit.wait(:id, '60s');
SELECT length(k), n FROM locked ORDER BY n;

SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';
DROP SCHEMA "toast ""q"" Ü" CASCADE;
DROP SCHEMA toast CASCADE;
