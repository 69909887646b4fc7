--
-- What is refused, and what fails later: SQLSTATE, message and hint of each.
-- Nothing is left of a migration that has failed.
--
CREATE SCHEMA errors;
SET client_min_messages TO warning;
SET search_path TO errors;

-- waits and says how it ended; ids are taken out of the messages
CREATE FUNCTION outcome(id bigint, OUT state text, OUT error_code text,
	OUT error_message text, OUT error_detail text)
LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		state := refit.wait(id, '60s');
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		state := 'failed';
	END;
	SELECT m.error_code, m.error_message, m.error_detail
		INTO error_code, error_message, error_detail
		FROM refit.migrations m WHERE m.id = outcome.id;
END $$;

CREATE FUNCTION try(command text, OUT result text, OUT code text,
	OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command INTO result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := regexp_replace(message, 'migration \d+', 'migration N');
	detail := regexp_replace(detail, 'migration \d+', 'migration N');
END $$;

-- what migrations of this schema's tables have left
CREATE FUNCTION left_behind() RETURNS TABLE (kind text, name text)
LANGUAGE sql AS $$
	SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname ~ '^refit_'
	UNION ALL SELECT 'trigger', tgname::text FROM pg_trigger t
		JOIN pg_class c ON c.oid = tgrelid
		WHERE relnamespace = 'errors'::regnamespace AND NOT tgisinternal
		AND tgname ~* 'refit'
	UNION ALL SELECT 'constraint', conname::text FROM pg_constraint
		WHERE connamespace = 'errors'::regnamespace AND conname ~ '^refit_'
$$;

-- Relations that are no ordinary tables
CREATE TEMPORARY TABLE scratch (id int PRIMARY KEY);
SELECT refit.alter_table('scratch', 'ALTER id TYPE bigint');
\echo :SQLSTATE
CREATE FOREIGN DATA WRAPPER refit_errors_fdw;
CREATE SERVER refit_errors_server FOREIGN DATA WRAPPER refit_errors_fdw;
CREATE FOREIGN TABLE remote (id int) SERVER refit_errors_server;
SELECT refit.alter_table('remote', 'ALTER id TYPE bigint');
\echo :SQLSTATE
SELECT refit.alter_table('pg_catalog.pg_class', 'ALTER relname TYPE text');
\echo :SQLSTATE
SELECT refit.alter_table('refit.migration', 'ADD COLUMN mine int');
\echo :SQLSTATE
CREATE TABLE t (id int PRIMARY KEY, n int, s text);
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 100) i;
CREATE VIEW v AS SELECT s FROM t;
SELECT refit.alter_table('v', 'ALTER s TYPE varchar');
\echo :SQLSTATE
CREATE MATERIALIZED VIEW mv AS SELECT s FROM v;
SELECT refit.alter_table('mv', 'ALTER s TYPE varchar');
\echo :SQLSTATE
SELECT refit.alter_table('t_pkey', 'ALTER id TYPE bigint');
\echo :SQLSTATE
CREATE SEQUENCE q;
SELECT refit.alter_table('q', 'ALTER id TYPE bigint');
\echo :SQLSTATE
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
SELECT refit.alter_table('parts', 'ALTER id TYPE bigint');
\echo :SQLSTATE
SELECT refit.alter_table('parts_1', 'ADD COLUMN n int');
\echo :SQLSTATE
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE TYPE shape AS (id int, s text);
CREATE TABLE typed OF shape (PRIMARY KEY (id));
SELECT refit.alter_table('typed', 'ALTER s SET NOT NULL');
\echo :SQLSTATE
SELECT refit.alter_table('nowhere', 'ADD COLUMN n int');
\echo :SQLSTATE
SELECT refit.alter_table(NULL, 'ADD COLUMN n int');
\echo :SQLSTATE
SELECT refit.repack('v');
\echo :SQLSTATE

-- No key; a key that is partial, deferrable or nullable does not count
CREATE TABLE keyless (id int, n int);
SELECT refit.alter_table('keyless', 'ALTER n TYPE bigint');
\echo :SQLSTATE
SELECT refit.repack('keyless');
\echo :SQLSTATE
CREATE UNIQUE INDEX ON keyless (n);
SELECT refit.repack('keyless');
\echo :SQLSTATE
ALTER TABLE keyless ALTER id SET NOT NULL;
CREATE UNIQUE INDEX ON keyless (id) WHERE id > 0;
SELECT refit.repack('keyless');
\echo :SQLSTATE
ALTER TABLE keyless ADD UNIQUE (id) DEFERRABLE;
SELECT refit.repack('keyless');
\echo :SQLSTATE
-- where no row is rewritten none is needed
SELECT refit.alter_table('keyless', 'ALTER n SET DEFAULT 1') AS id \gset
SELECT * FROM outcome(:id);
-- the only key is dropped, or depends on something else
SELECT refit.alter_table('t', 'DROP COLUMN id, ALTER n TYPE bigint');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint USING id + n');
\echo :SQLSTATE
-- it cannot be cast back
SELECT refit.alter_table('t', 'ALTER id TYPE uuid USING md5(id::text)::uuid');
\echo :SQLSTATE

-- An index that is not valid
CREATE TABLE torn (id int PRIMARY KEY, n int);
INSERT INTO torn VALUES (1, 1), (2, 1);
CREATE UNIQUE INDEX CONCURRENTLY torn_n ON torn (n);
SELECT refit.alter_table('torn', 'ALTER id TYPE bigint');
\echo :SQLSTATE
SELECT refit.repack('torn');
\echo :SQLSTATE

-- Not the owner
CREATE ROLE regress_refit_stranger;
GRANT USAGE ON SCHEMA errors TO regress_refit_stranger;
GRANT SELECT ON t TO regress_refit_stranger;
SET ROLE regress_refit_stranger;
SELECT refit.alter_table('t', 'ALTER id TYPE bigint');
\echo :SQLSTATE
SELECT refit.repack('t');
\echo :SQLSTATE
SELECT * FROM refit.plan('t', 'ALTER id TYPE bigint');
\echo :SQLSTATE
RESET ROLE;

-- Actions that are none
SELECT refit.alter_table('t', NULL);
\echo :SQLSTATE
SELECT refit.alter_table('t', '');
\echo :SQLSTATE
SELECT refit.alter_table('t', E' \n');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER COLUMN id TYPE bigint; DROP TABLE t');
\echo :SQLSTATE
SELECT state, count(*) FROM refit.migrations
	WHERE relation = 'errors.t' GROUP BY 1;
-- the position is that in the text of actions, not in this statement's
SELECT * FROM try($$SELECT refit.alter_table('t', 'ALTER COLUMN id TIPE bigint')$$);
SELECT * FROM try($$SELECT refit.alter_table('t', 'ALTER COLUMN id TYPE bigint USING (')$$);
SELECT * FROM try($$SELECT refit.alter_table('t', ', ADD COLUMN n int')$$);
SELECT refit.alter_table('t', 'ALTER nothing TYPE bigint');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE nothing');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER s TYPE int');
\echo :SQLSTATE
SELECT * FROM try($$SELECT refit.alter_table('t', 'ALTER s TYPE int USING nothing(s)')$$);
SELECT refit.alter_table('t', 'ADD COLUMN s int');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'DROP COLUMN nothing');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'DROP CONSTRAINT nothing');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ADD CHECK (n)');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ADD FOREIGN KEY (n) REFERENCES nothing (id)');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'SET (nothing = 1)');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'SET TABLESPACE nothing');
\echo :SQLSTATE

-- Actions that are not a change of the table's rows or columns
SELECT refit.alter_table('t', 'RENAME TO u');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'RENAME COLUMN n TO m');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'SET SCHEMA public');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'OWNER TO regress_refit_stranger');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ATTACH PARTITION parts_1 DEFAULT');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'INHERIT parent');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ENABLE ROW LEVEL SECURITY');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'DISABLE TRIGGER ALL');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint, REPLICA IDENTITY FULL');
\echo :SQLSTATE

-- Other arguments
SELECT refit.alter_table('t', 'ALTER id TYPE bigint', options => '{"speed": 1}');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint',
	options => '{"chunk_time": "soon"}');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint',
	options => '{"chunk_time": -1}');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint',
	options => '{"chunk_time": null}');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint',
	options => '{"maintenance_work_mem": "much"}');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint',
	options => '{"parallel_workers": "many"}');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint', options => '[]');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint', cutover => 'never');
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint', cutover => NULL);
\echo :SQLSTATE
SELECT refit.alter_table('t', 'ALTER id TYPE bigint', verify => 'maybe');
\echo :SQLSTATE

-- Users of the column that cannot be carried over
SELECT refit.alter_table('t', 'ALTER s TYPE varchar');
\echo :SQLSTATE
DROP MATERIALIZED VIEW mv;
CREATE VIEW w AS SELECT s FROM v;
CREATE MATERIALIZED VIEW mv AS SELECT s FROM w;
SELECT refit.alter_table('t', 'ALTER s TYPE varchar');
\echo :SQLSTATE
DROP MATERIALIZED VIEW mv;
CREATE POLICY own_rows ON t USING (n > 0);
SELECT refit.alter_table('t', 'ALTER n TYPE bigint');
\echo :SQLSTATE
DROP POLICY own_rows ON t;
CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql
	AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER some_rows BEFORE UPDATE ON t FOR EACH ROW WHEN (OLD.n > 0)
	EXECUTE FUNCTION nop();
SELECT refit.alter_table('t', 'ALTER n TYPE bigint');
\echo :SQLSTATE
DROP TRIGGER some_rows ON t;
CREATE TRIGGER some_column BEFORE UPDATE OF n ON t FOR EACH ROW
	EXECUTE FUNCTION nop();
SELECT refit.alter_table('t', 'ALTER n TYPE bigint');
\echo :SQLSTATE
DROP TRIGGER some_column ON t;
CREATE FUNCTION highest() RETURNS int LANGUAGE sql
	BEGIN ATOMIC SELECT max(n) FROM t; END;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint');
\echo :SQLSTATE
DROP FUNCTION highest();
CREATE TABLE holder (id int PRIMARY KEY, old t);
SELECT refit.alter_table('t', 'ALTER n TYPE bigint');
\echo :SQLSTATE
DROP TABLE holder;
SELECT code, message, detail FROM try($$SELECT refit.alter_table('t', 'DROP COLUMN s')$$);
SELECT code, message, detail FROM try($$SELECT refit.alter_table('t',
	'DROP COLUMN s RESTRICT, ALTER id TYPE bigint')$$);
-- Nothing of all this has been entered, nothing has been touched
SELECT definition, state FROM refit.migrations WHERE relation = 'errors.t';
SELECT * FROM left_behind();

-- Rows that the new definition does not take: found out while copying
CREATE TABLE words (id int PRIMARY KEY, s text);
INSERT INTO words SELECT i, i::text FROM generate_series(1, 100) i;
UPDATE words SET s = 'forty-two' WHERE id = 42;
SELECT refit.alter_table('words', 'ALTER s TYPE int USING s::int') AS id \gset
SELECT * FROM outcome(:id);
SELECT format_type(atttypid, atttypmod) FROM pg_attribute
	WHERE attrelid = 'words'::regclass AND attname = 's';
SELECT count(*), min(s), max(s) FROM words;
SELECT * FROM left_behind();
-- the key of a row in a table with another name, kind of key, and expression
CREATE TABLE "Odd words" ("the key" text, "2nd" uuid, n int,
	PRIMARY KEY ("the key", "2nd"));
INSERT INTO "Odd words" VALUES
	('a', '00000000-0000-0000-0000-000000000001', 1),
	('b''s', '00000000-0000-0000-0000-000000000002', 0);
SELECT refit.alter_table('"Odd words"', 'ALTER n TYPE numeric USING 1 / n')
	AS id \gset
SELECT * FROM outcome(:id);
-- a value out of range, a value too long
SELECT refit.alter_table('words', 'ALTER s TYPE varchar(5)') AS id \gset
SELECT * FROM outcome(:id);
CREATE TABLE large (id bigint PRIMARY KEY);
INSERT INTO large VALUES (1), (3000000000);
SELECT refit.alter_table('large', 'ALTER id TYPE int') AS id \gset
SELECT * FROM outcome(:id);
-- a new default that fails
SELECT refit.alter_table('words', 'ADD COLUMN d int DEFAULT (1 / (random() * 0)::int)')
	AS id \gset
SELECT * FROM outcome(:id);
-- constraints that come with the rewrite
SELECT refit.alter_table('words',
	'ALTER id TYPE bigint, ADD CHECK (length(s) < 5)') AS id \gset
SELECT * FROM outcome(:id);
INSERT INTO words VALUES (101);
SELECT refit.alter_table('words', 'ALTER id TYPE bigint, ALTER s SET NOT NULL')
	AS id \gset
SELECT * FROM outcome(:id);
SELECT refit.alter_table('words', 'ADD COLUMN e text NOT NULL') AS id \gset
SELECT * FROM outcome(:id);
SELECT * FROM left_behind();
\d words

-- Constraints on their own: rows are checked in place
SELECT refit.alter_table('words', 'ADD CONSTRAINT brief CHECK (length(s) < 5)')
	AS id \gset
SELECT state, error_code, error_message FROM outcome(:id);
ALTER TABLE words DROP CONSTRAINT IF EXISTS brief;
SELECT refit.alter_table('words', 'ALTER s SET NOT NULL') AS id \gset
SELECT state FROM outcome(:id);
SELECT * FROM left_behind();
CREATE TABLE known (id int PRIMARY KEY);
INSERT INTO known SELECT generate_series(1, 100);
SELECT refit.alter_table('words',
	'ADD CONSTRAINT words_known FOREIGN KEY (id) REFERENCES known') AS id \gset
SELECT state, error_code, error_message FROM outcome(:id);
ALTER TABLE words DROP CONSTRAINT IF EXISTS words_known;
SELECT * FROM left_behind();
INSERT INTO words VALUES (102, '7');

-- UNIQUE: both rows are there, so the build of the index fails
SELECT refit.alter_table('words', 'ADD CONSTRAINT words_s_key UNIQUE (s)')
	AS id \gset
SELECT * FROM outcome(:id);
CREATE TABLE pairs (id int PRIMARY KEY, a int);
INSERT INTO pairs VALUES (1, 10), (2, 11);
SELECT refit.alter_table('pairs', 'ALTER id TYPE int USING id / 3') AS id \gset
SELECT * FROM outcome(:id);
SELECT * FROM left_behind();
SELECT * FROM pairs ORDER BY id;

-- Names
CREATE TABLE named (id int PRIMARY KEY, n int);
SELECT refit.alter_table('named', 'ALTER n SET DEFAULT 1', 'errors: a name') AS id \gset
SELECT state FROM outcome(:id);
SELECT refit.alter_table('named', 'ALTER n SET DEFAULT 1', 'errors: a name') = :id
	AS same;
SELECT * FROM try($$SELECT refit.alter_table('errors.named',
	'ALTER n SET DEFAULT 2', 'errors: a name')$$);
SELECT * FROM try($$SELECT refit.alter_table('errors.words',
	'ALTER n SET DEFAULT 1', 'errors: a name')$$);
SELECT * FROM try($$SELECT refit.repack('errors.named',
	name => 'errors: a name')$$);

-- Control of what does not exist
SELECT refit.pause(0);
\echo :SQLSTATE
SELECT refit.resume(0);
\echo :SQLSTATE
SELECT refit.cancel(0);
\echo :SQLSTATE
SELECT refit.retry(0);
\echo :SQLSTATE
SELECT refit.cutover(0);
\echo :SQLSTATE
SELECT refit.set_option(0, 'chunk_time', '1s');
\echo :SQLSTATE
SELECT refit.throttle(0.5, id => 9000000000);
\echo :SQLSTATE
SELECT refit.wait(0);
\echo :SQLSTATE
\set SHOW_CONTEXT never
CALL refit.run(0);
\echo :SQLSTATE
SELECT refit.require('errors: no such name');
\echo :SQLSTATE

-- Control of what is over
SELECT code, message, hint FROM try(format('SELECT refit.pause(%s)', :id));
SELECT code, message, hint FROM try(format('SELECT refit.resume(%s)', :id));
SELECT code, message, hint FROM try(format('SELECT refit.cancel(%s)', :id));
SELECT code, message, hint FROM try(format('SELECT refit.retry(%s)', :id));
SELECT code, message, hint FROM try(format('SELECT refit.cutover(%s)', :id));
SELECT * FROM try('SELECT refit.require(''errors: a name'')');

-- Control by somebody else
SET ROLE regress_refit_stranger;
SELECT * FROM try(format('SELECT refit.pause(%s)', :id));
SELECT * FROM try(format('SELECT refit.resume(%s)', :id));
SELECT * FROM try(format('SELECT refit.cancel(%s)', :id));
SELECT * FROM try(format('SELECT refit.retry(%s)', :id));
SELECT * FROM try(format('SELECT refit.cutover(%s)', :id));
SELECT * FROM try(format('SELECT refit.set_option(%s, ''chunk_time'', ''1s'')', :id));
SELECT * FROM try(format('SELECT refit.throttle(0.5, id => %s)', :id));
SELECT * FROM try(format('SELECT refit._step(%s)', :id));
SELECT * FROM try(format('SELECT refit._claim(%s)', :id));
SELECT * FROM try(format('SELECT refit._failed(%s, ''XX000'', '''', '''', '''', '''')', :id));
SELECT refit.throttle(0.5);
\echo :SQLSTATE
SELECT * FROM refit.migration;
\echo :SQLSTATE
UPDATE refit.migration SET state = 'completed';
\echo :SQLSTATE
RESET ROLE;

-- Arguments of control functions
SELECT refit.throttle(1.5);
\echo :SQLSTATE
SELECT refit.throttle(-0.1);
\echo :SQLSTATE
SELECT refit.throttle('NaN');
\echo :SQLSTATE
SELECT refit.throttle(NULL);
\echo :SQLSTATE
SELECT refit.set_option(:id, 'speed', '1');
\echo :SQLSTATE
SELECT refit.set_option(:id, 'chunk_time', 'soon');
\echo :SQLSTATE
SELECT refit.set_option(:id, NULL, '1');
\echo :SQLSTATE
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT refit.wait(:id);
\echo :SQLSTATE
ROLLBACK;

-- What is not completed does not let a later step through
BEGIN;
SELECT refit.alter_table('named', 'ALTER n TYPE bigint', 'errors: held') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SELECT code, message, detail, regexp_replace(hint, '\d+', 'N') AS hint FROM try('SELECT refit.require(''errors: held'')');
SELECT refit.cancel(:id);
SELECT * FROM outcome(:id);
SELECT code, message, detail, regexp_replace(hint, '\d+', 'N') AS hint FROM try('SELECT refit.require(''errors: held'')');
SELECT * FROM left_behind();

DROP SERVER refit_errors_server CASCADE;
DROP FOREIGN DATA WRAPPER refit_errors_fdw;
DROP SCHEMA errors CASCADE;
DROP ROLE regress_refit_stranger;
