--
-- A column that is kept in step with another one while it is filled, and after:
-- what each kind of write does, with whose rights, and what is refused.
--
SET client_min_messages TO warning;
CREATE SCHEMA mirror;
SET search_path TO mirror;

CREATE FUNCTION try(command text, OUT code text, OUT message text,
	OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END $$;

-- Both directions, existing rows filled
CREATE TABLE t (id int PRIMARY KEY, cents int, price numeric, note text);
INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;
SELECT refit.mirror_column('t', 'cents', 'price', 'cents / 100.0', '(price * 100)::int',
	name => 'mirror: price') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT kind, strategy, state, rows, definition FROM refit.migrations WHERE id = :id;
SELECT kind, phase, message FROM refit.events
	WHERE migration_id = :id AND kind IN ('state', 'phase', 'plan');
SELECT relation, source_column, target_column, expression, reverse_expression,
	trigger, enabled, migration_id = :id AS mine, state FROM refit.mirrors;
SELECT count(*), count(*) FILTER (WHERE price = cents / 100.0) AS in_step FROM t;

-- INSERT: the source, the target, neither, both in step, both not, a target that
-- knows more than its source
INSERT INTO t (id, cents) VALUES (2001, 150);
INSERT INTO t (id, price) VALUES (2002, 1.75);
INSERT INTO t (id) VALUES (2003);
INSERT INTO t VALUES (2004, 150, 1.50), (2005, 150, 9.99), (2006, 150, 1.499);
SELECT id, cents, round(price, 3) AS price FROM t WHERE id > 2000 ORDER BY id;

-- UPDATE: the same, and neither
UPDATE t SET cents = 500 WHERE id = 1;
UPDATE t SET price = 6.66 WHERE id = 2;
UPDATE t SET note = 'neither' WHERE id = 3;
UPDATE t SET cents = 300, price = 3.00 WHERE id = 4;
UPDATE t SET cents = 300, price = 9.99 WHERE id = 5;
UPDATE t SET cents = 300, price = 3.001 WHERE id = 6;
UPDATE t SET price = NULL WHERE id = 7;
UPDATE t SET cents = NULL WHERE id = 8;
SELECT id, cents, round(price, 3) AS price FROM t WHERE id <= 8 ORDER BY id;

-- A row that the backfill did not find, as if its key had gone past it, is filled
-- by any UPDATE; a target that knows more is left alone
ALTER TABLE t DISABLE TRIGGER USER;
UPDATE t SET price = NULL WHERE id IN (20, 21);
UPDATE t SET price = 0.2201 WHERE id = 22;
ALTER TABLE t ENABLE ALWAYS TRIGGER "~refit_mirror_price";
UPDATE t SET id = -id WHERE id IN (20, 22);
SELECT id, cents, round(price, 4) AS price FROM t WHERE id IN (-20, 21, -22) ORDER BY id;

-- Other ways to write
INSERT INTO t (id, cents) VALUES (1, 700) ON CONFLICT (id) DO UPDATE SET cents = excluded.cents;
INSERT INTO t (id, cents) VALUES (2, 700) ON CONFLICT (id) DO UPDATE SET price = excluded.price;
MERGE INTO t USING (VALUES (3, 8.88), (3001, 8.88)) AS s(id, price) ON t.id = s.id
	WHEN MATCHED THEN UPDATE SET price = s.price
	WHEN NOT MATCHED THEN INSERT (id, price) VALUES (s.id, s.price);
COPY t (id, cents) FROM stdin;
3002	111
\.
BEGIN;
SET LOCAL session_replication_role TO replica;
INSERT INTO t (id, cents) VALUES (3003, 222);
COMMIT;
SELECT id, cents, round(price, 3) AS price FROM t
	WHERE id <= 3 OR id > 3000 ORDER BY id;

-- Behind the triggers that set the source
CREATE FUNCTION round_cents() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN NEW.cents := round(NEW.cents, -2); RETURN NEW; END';
CREATE TRIGGER zz_round BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION round_cents();
INSERT INTO t (id, cents) VALUES (4001, 1234);
SELECT id, cents, round(price, 3) AS price FROM t WHERE id = 4001;
DROP TRIGGER zz_round ON t;

-- Submitted again: the same migration; something else under the name: an error
SELECT refit.mirror_column('t', 'cents', 'price', 'cents / 100.0', '(price * 100)::int',
	name => 'mirror: price') = :id AS same;
SELECT code, message, hint FROM try($$SELECT refit.mirror_column('t', 'cents', 'price',
	'cents / 10.0', name => 'mirror: price')$$);
-- The same without a name: rows are filled once more, the trigger stays
SELECT oid AS trigger FROM pg_trigger WHERE tgrelid = 't'::regclass \gset
SELECT refit.mirror_column('t', 'cents', 'price', 'cents / 100.0', '(price * 100)::int') AS again \gset
SELECT refit.wait(:again, '60s');
SELECT oid = :trigger AS same FROM pg_trigger WHERE tgrelid = 't'::regclass;

-- Renames are followed; what the mirror needs cannot be dropped
ALTER TABLE t RENAME cents TO "Cents";
ALTER TABLE t RENAME TO "T";
UPDATE "T" SET "Cents" = 42 WHERE id = 10;
SELECT "Cents", round(price, 3) AS price FROM "T" WHERE id = 10;
SELECT relation, source_column, expression FROM refit.mirrors;
ALTER TABLE "T" RENAME TO t;
ALTER TABLE t RENAME "Cents" TO cents;
SELECT * FROM try('ALTER TABLE t DROP COLUMN cents');
SELECT * FROM try('ALTER TABLE t ALTER price TYPE float8');

-- Online changes of the table: of another column, and of the pair
SELECT refit.alter_table('t', 'ALTER id TYPE bigint, ADD COLUMN more int') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE t SET cents = 77 WHERE id = 11;
SELECT cents, round(price, 3) AS price FROM t WHERE id = 11;
SELECT * FROM try($$SELECT refit.alter_table('t', 'ALTER cents TYPE bigint')$$);

-- Taken away: once, and again under its name
SELECT refit.unmirror_column('t', 'price', name => 'unmirror: price') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT kind, strategy, state FROM refit.migrations WHERE id = :id;
SELECT refit.unmirror_column('t', 'price', name => 'unmirror: price') = :id AS same;
SELECT * FROM try($$SELECT refit.unmirror_column('t', 'price')$$);
SELECT count(*) FROM refit.mirrors;
UPDATE t SET cents = 1 WHERE id = 11;
SELECT cents, round(price, 3) AS price FROM t WHERE id = 11;

-- Mirrored anew: every row is looked at again
SELECT refit.mirror_column('t', 'cents', 'price', 'cents / 100.0', '(price * 100)::int') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT cents, round(price, 3) AS price FROM t WHERE id = 11;

-- One way: the target is put back.  Defaults: a value that is the default's has
-- not been given; one that is another each time has.
CREATE TABLE d (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id8 bigint,
	status text NOT NULL DEFAULT 'new', code int DEFAULT 0);
INSERT INTO d (status) VALUES ('new'), ('old');
SELECT refit.mirror_column('d', 'id', 'id8') AS a,
	refit.mirror_column('d', 'status', 'code', 'CASE status WHEN ''new'' THEN 0 ELSE 1 END',
	'CASE code WHEN 0 THEN ''new'' ELSE ''old'' END') AS b \gset
SELECT refit.wait(:a, '60s'), refit.wait(:b, '60s');
INSERT INTO d (code) VALUES (1);
INSERT INTO d (status) VALUES ('old');
INSERT INTO d DEFAULT VALUES;
UPDATE d SET id8 = 99 WHERE id = 1;
SELECT * FROM d ORDER BY id;
SELECT relation, source_column, expression, reverse_expression FROM refit.mirrors
	WHERE relation = 'd'::regclass ORDER BY 2;

-- A row that the expression fails on: the backfill names it, other columns of it
-- can be written, the trigger stays, and a retry goes on
CREATE TABLE poison (id int PRIMARY KEY, s text, n int, note text);
INSERT INTO poison VALUES (1, '1'), (2, 'two'), (3, '3');
SELECT refit.mirror_column('poison', 's', 'n', 's::int') AS id \gset
SELECT code, detail FROM try('SELECT refit.wait(' || :id || ', ''60s'')');
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT relation, target_column, state FROM refit.mirrors WHERE relation = 'poison'::regclass;
UPDATE poison SET note = 'still there' WHERE id = 2;
INSERT INTO poison VALUES (4, '4');
SELECT * FROM try('UPDATE poison SET s = ''five'' WHERE id = 1');
UPDATE poison SET s = '2' WHERE id = 2;
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
SELECT * FROM poison ORDER BY id;

-- A partition tree, with columns in another order below, and a partition that comes
CREATE TABLE p (id int, a int, b bigint) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
CREATE TABLE p2 (b bigint, gone int, a int, id int);
ALTER TABLE p2 DROP COLUMN gone;
ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (100) TO (200);
INSERT INTO p SELECT g, g FROM generate_series(0, 199) g;
SELECT refit.mirror_column('p', 'a', 'b', 'a + 1', 'b - 1') AS id \gset
SELECT refit.wait(:id, '60s');
CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (200) TO (300);
INSERT INTO p VALUES (250, 5);
INSERT INTO p2 (id, b) VALUES (199, 5);
UPDATE p SET id = 150, b = 1000 WHERE id = 50;
SELECT tableoid::regclass, a, b FROM p WHERE id IN (150, 199, 250) ORDER BY id, a;
SELECT count(*) FILTER (WHERE b IS DISTINCT FROM a + 1) AS out_of_step FROM p;
SELECT relation FROM refit.mirrors WHERE relation::text LIKE 'p_' OR relation = 'p'::regclass;

-- What the expressions may do: they run as the table's owner
CREATE ROLE regress_mirror_owner;
CREATE ROLE regress_mirror_writer;
GRANT USAGE, CREATE ON SCHEMA mirror TO regress_mirror_owner;
GRANT USAGE ON SCHEMA mirror TO regress_mirror_writer;
SET ROLE regress_mirror_owner;
CREATE FUNCTION who(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
	$$BEGIN RETURN current_user || ' ' || current_setting('search_path'); END$$;
REVOKE EXECUTE ON FUNCTION who(int) FROM PUBLIC;
CREATE TABLE r (id int PRIMARY KEY, a int, b text);
GRANT SELECT, INSERT, UPDATE, TRIGGER ON r TO regress_mirror_writer;
INSERT INTO r VALUES (1, 1);
SELECT refit.mirror_column('r', 'a', 'b', 'who(a)') AS id \gset
SELECT refit.wait(:id, '60s');
RESET ROLE;
INSERT INTO r VALUES (2, 2);
SET ROLE regress_mirror_writer;
INSERT INTO r VALUES (3, 3);
SELECT * FROM r ORDER BY id;
-- a trigger of one's own making would run with the owner's rights
SELECT code, message FROM try($$CREATE TRIGGER mine BEFORE INSERT ON r FOR EACH ROW
	WHEN (true OR refit._mirror_rule(new.a, new.b, 'x')) EXECUTE FUNCTION refit._mirror()$$);
SELECT code, message FROM try($$SELECT refit.mirror_column('r', 'a', 'b')$$);
SELECT code, message FROM try($$SELECT refit.unmirror_column('r', 'b')$$);
RESET ROLE;

-- What is refused
CREATE TABLE e (id int PRIMARY KEY, a int, b int, c int, s text,
	g int GENERATED ALWAYS AS (a + 1) STORED, i int GENERATED ALWAYS AS IDENTITY);
CREATE TABLE ep (k int, a int) PARTITION BY LIST (k);
SELECT c.*, t.code, t.message, t.detail, t.hint FROM (VALUES
	(1, $$'e', 'nosuch', 'b'$$), (2, $$'e', 'a', 'nosuch'$$), (3, $$'e', 'a', 'a'$$),
	(4, $$'e', 'ctid', 'b'$$), (5, $$'e', 'g', 'b'$$), (6, $$'e', 'a', 'g'$$),
	(7, $$'e', 'a', 'i'$$), (8, $$'e', 'i', 'a', NULL, 'a'$$),
	(9, $$'e', 'a', 'b', 'a +'$$), (10, $$'e', 'a', 'b', 'a, c'$$),
	(11, $$'e', 'a', 'b', 'a FROM e'$$), (12, $$'e', 'a', 'b', 'a; SELECT 1'$$),
	(13, $$'e', 'a', 'b', 'a + c'$$), (14, $$'e', 'a', 'b', '1'$$),
	(15, $$'e', 'a', 'b', 'a + random()'$$), (16, $$'e', 'a', 's', 'to_timestamp(a)::text'$$),
	(17, $$'e', 's', 'b', 's::numeric::text'$$), (18, $$'e', 's', 'b'$$), (19, $$'e', 'a', 'b', 'sum(a)'$$),
	(20, $$'e', 'a', 'b', '(SELECT a)'$$), (21, $$'e', 'a', 'b', NULL, 'a'$$),
	(22, $$NULL, 'a', 'b'$$), (23, $$'e', NULL, 'b'$$),
	(25, $$'ep', 'a', 'k'$$), (26, $$'ep', 'k', 'a', NULL, 'a'$$),
	(27, $$'p1', 'a', 'b'$$), (28, $$'t', 'cents', 'note', 'cents::text'$$),
	(29, $$'pg_class', 'relname', 'reltype'$$)) AS c(n, arguments),
	try('SELECT refit.mirror_column(' || c.arguments || ')') t ORDER BY n;
SELECT code, message FROM try($$SELECT refit.mirror_column('e', 'a', 'b', options => '{"nosuch": 1}')$$);
SELECT * FROM try('SELECT refit._mirror_rule(1, 2, 3)');
CREATE TRIGGER no_rule BEFORE INSERT ON e FOR EACH ROW EXECUTE FUNCTION refit._mirror();
SELECT code, message, hint FROM try('INSERT INTO e (id) VALUES (1)');
DROP TRIGGER no_rule ON e;

-- A second mirror of a pair, queued before the first one is made
BEGIN;
SELECT refit.mirror_column('e', 'a', 'b') AS a, refit.mirror_column('e', 'b', 'c') AS b \gset
COMMIT;
SELECT refit.wait(:a, '60s');
SELECT code, detail FROM try('SELECT refit.wait(' || :b || ', ''60s'')');
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :b;

-- DROP EXTENSION does not take mirrors along unasked
SELECT code, message, detail ~ 'trigger ~refit_mirror_b on table e depends on function refit._mirror' AS named
	FROM try('DROP EXTENSION pg_refit');

DROP SCHEMA mirror CASCADE;
DROP ROLE regress_mirror_owner;
DROP ROLE regress_mirror_writer;
