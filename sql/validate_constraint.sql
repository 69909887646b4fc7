--
-- refit.validate_constraint: CHECK, foreign keys, NOT NULL (18), in chunks.
--
SET client_min_messages TO warning;
CREATE SCHEMA validating;
SET search_path TO validating;

-- How a submission ended, in a line.
CREATE FUNCTION outcome(id bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
BEGIN
	BEGIN
		PERFORM refit.wait(id, '60s');
	EXCEPTION WHEN object_not_in_prerequisite_state THEN
		NULL;
	END;
	SELECT * INTO r FROM refit.migrations m WHERE m.id = outcome.id;
	RETURN concat_ws(' | ', r.kind, r.strategy, r.state, r.error_code,
		r.error_message, r.error_detail, r.error_hint);
END
$$;
CREATE FUNCTION refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''));
END
$$;
CREATE VIEW valid AS
	SELECT conrelid::regclass AS relation, conname, convalidated AS valid
	FROM pg_constraint WHERE connamespace = 'validating'::regnamespace
		AND contype IN ('c', 'f')
	ORDER BY conrelid::regclass::text COLLATE "C", conname COLLATE "C";

CREATE TABLE customer (id int PRIMARY KEY, code text NOT NULL UNIQUE);
INSERT INTO customer SELECT i, 'c' || i FROM generate_series(1, 100) i;
CREATE TABLE orders (id int PRIMARY KEY, customer int, qty int);
INSERT INTO orders SELECT i, i % 100 + 1, i % 10 FROM generate_series(1, 3000) i;

-- CHECK
ALTER TABLE orders ADD CONSTRAINT positive CHECK (qty >= 0) NOT VALID;
SELECT refit.validate_constraint('orders', 'positive') AS id \gset
SELECT outcome(:id);
SELECT * FROM valid WHERE conname = 'positive';
-- valid already: completed at once
SET client_min_messages TO notice;
SELECT refit.validate_constraint('orders', 'positive') AS id \gset
SET client_min_messages TO warning;
SELECT outcome(:id);
-- a violated one names the first row; the constraint stays as it was
ALTER TABLE orders ADD CONSTRAINT small CHECK (qty < 9) NOT VALID;
SELECT refit.validate_constraint('orders', 'small', name => 'small') AS id \gset
SELECT outcome(:id);
SELECT * FROM valid WHERE conname = 'small';
UPDATE orders SET qty = 0 WHERE qty = 9;
SELECT id, refit.retry(id) FROM refit.migrations WHERE name = 'small' \gset
SELECT outcome(:id);
-- NULL satisfies it
UPDATE orders SET qty = NULL WHERE id = 7;
ALTER TABLE orders ADD CONSTRAINT tiny CHECK (qty < 20) NOT VALID;
SELECT refit.validate_constraint('orders', 'tiny', options => '{"chunk_time": "1ms"}') AS id \gset
SELECT outcome(:id);

-- FOREIGN KEY
ALTER TABLE orders ADD CONSTRAINT "to customer" FOREIGN KEY (customer) REFERENCES customer
	ON DELETE CASCADE NOT VALID;
SELECT refit.validate_constraint('orders', 'to customer') AS id \gset
SELECT outcome(:id);
SELECT * FROM valid WHERE conname = 'to customer';
CREATE TABLE stray (a int, b text, n int NOT NULL, UNIQUE (b, a), UNIQUE (n));
INSERT INTO stray VALUES (1, 'x', 1), (101, 'it''s', 2), (NULL, 'y', 3);
ALTER TABLE stray ADD FOREIGN KEY (a) REFERENCES customer NOT VALID;
SELECT refit.validate_constraint('stray', 'stray_a_fkey') AS id \gset
SELECT outcome(:id);
-- no key but a place
ALTER TABLE stray DROP CONSTRAINT stray_n_key;
SELECT refit.validate_constraint('stray', 'stray_a_fkey') AS id \gset
SELECT outcome(:id);

-- MATCH FULL, several columns in another order, other types and collations
CREATE TABLE target (c text COLLATE "C", a bigint, b numeric, UNIQUE (a, b, c));
INSERT INTO target VALUES ('one', 1, 1.0), ('two', 2, 2.0);
CREATE TABLE source (id int PRIMARY KEY, b int, c text COLLATE "POSIX", a int);
INSERT INTO source VALUES (1, 1, 'one', 1), (2, 2, 'two', 2), (3, NULL, NULL, NULL);
ALTER TABLE source ADD CONSTRAINT full_match FOREIGN KEY (c, b, a) REFERENCES target (c, b, a)
	MATCH FULL NOT VALID;
SELECT refit.validate_constraint('source', 'full_match') AS id \gset
SELECT outcome(:id);
ALTER TABLE source DROP CONSTRAINT full_match;
INSERT INTO source VALUES (5, NULL, 'one', 1);
ALTER TABLE source ADD CONSTRAINT simple_match FOREIGN KEY (c, b, a) REFERENCES target (c, b, a) NOT VALID,
	ADD CONSTRAINT full_match FOREIGN KEY (c, b, a) REFERENCES target (c, b, a)
	MATCH FULL NOT VALID;
SELECT refit.validate_constraint('source', 'simple_match') AS id \gset
SELECT outcome(:id);
SELECT refit.validate_constraint('source', 'full_match') AS id \gset
SELECT outcome(:id);

-- to itself, deferred
CREATE TABLE node (id int PRIMARY KEY, parent int);
INSERT INTO node SELECT i, nullif(i / 2, 0) FROM generate_series(1, 1000) i;
ALTER TABLE node ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES node
	DEFERRABLE INITIALLY DEFERRED NOT VALID;
SELECT refit.validate_constraint('node', 'up') AS id \gset
SELECT outcome(:id);
ALTER TABLE node DROP CONSTRAINT up;
UPDATE node SET parent = 5000 WHERE id = 77;
ALTER TABLE node ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES node NOT VALID;
SELECT refit.validate_constraint('node', 'up') AS id \gset
SELECT outcome(:id);

-- to a partitioned table: PostgreSQL's rows for its partitions follow
CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
INSERT INTO part SELECT generate_series(0, 19);
CREATE TABLE to_part (id int PRIMARY KEY, p int);
INSERT INTO to_part SELECT i, i FROM generate_series(0, 19) i;
ALTER TABLE to_part ADD FOREIGN KEY (p) REFERENCES part NOT VALID;
SELECT refit.validate_constraint('to_part', 'to_part_p_fkey') AS id \gset
SELECT outcome(:id);
SELECT count(*) > 0 AS any, bool_and(convalidated) AS all_valid FROM pg_constraint
	WHERE conrelid = 'to_part'::regclass AND contype = 'f';
SELECT left(refused('INSERT INTO to_part VALUES (99, 20)'), 5);
SELECT left(refused('DELETE FROM part WHERE id = 3'), 5);

-- partition trees: each leaf is checked
CREATE TABLE sale (id int, day int, qty int) PARTITION BY LIST (day);
CREATE TABLE sale_1 PARTITION OF sale FOR VALUES IN (1);
CREATE TABLE sale_23 PARTITION OF sale FOR VALUES IN (2, 3) PARTITION BY LIST (day);
CREATE TABLE sale_2 PARTITION OF sale_23 FOR VALUES IN (2);
CREATE TABLE sale_3 (qty int, id int, day int);
ALTER TABLE sale_23 ATTACH PARTITION sale_3 FOR VALUES IN (3);
INSERT INTO sale SELECT i, i % 3 + 1, i FROM generate_series(1, 300) i;
ALTER TABLE sale ADD CONSTRAINT qty_ok CHECK (qty > 3) NOT VALID;
SELECT refit.validate_constraint('sale', 'qty_ok') AS id \gset
SELECT outcome(:id);
UPDATE sale SET qty = 10 WHERE qty <= 3;
SELECT refit.validate_constraint('sale', 'qty_ok') AS id \gset
SELECT outcome(:id);
SELECT * FROM valid WHERE conname = 'qty_ok';
-- one partition's
ALTER TABLE sale_1 ADD CONSTRAINT mine CHECK (id > 0) NOT VALID;
SELECT refit.validate_constraint('sale_1', 'mine') AS id \gset
SELECT outcome(:id);

-- inheritance: children first, but for NO INHERIT; a child with two parents
CREATE TABLE base (id int, n int);
CREATE TABLE other_base (n int);
CREATE TABLE child () INHERITS (base);
CREATE TABLE grandchild (note text) INHERITS (child, other_base);
INSERT INTO base SELECT i, 1 FROM generate_series(1, 10) i;
INSERT INTO child SELECT i, 2 FROM generate_series(1, 10) i;
INSERT INTO grandchild SELECT i, 3 FROM generate_series(1, 10) i;
ALTER TABLE base ADD CONSTRAINT n_ok CHECK (n < 3) NOT VALID;
ALTER TABLE base ADD CONSTRAINT n_mine CHECK (n < 2) NO INHERIT NOT VALID;
SELECT refit.validate_constraint('base', 'n_mine') AS id \gset
SELECT outcome(:id);
SELECT refit.validate_constraint('base', 'n_ok') AS id \gset
SELECT outcome(:id);
SELECT * FROM valid WHERE conname IN ('n_ok', 'n_mine');
UPDATE grandchild SET n = 2;
SELECT refit.validate_constraint('base', 'n_ok') AS id \gset
SELECT outcome(:id);
SELECT * FROM valid WHERE conname IN ('n_ok', 'n_mine');

-- row security hides nothing; the owner need not be a superuser
CREATE ROLE regress_validate_owner;
CREATE ROLE regress_validate_other;
GRANT ALL ON SCHEMA validating TO regress_validate_owner, regress_validate_other;
CREATE TABLE secret (id int PRIMARY KEY, n int);
INSERT INTO secret VALUES (1, 1), (2, -2);
ALTER TABLE secret OWNER TO regress_validate_owner;
ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON secret USING (false);
ALTER TABLE secret ADD CONSTRAINT n_positive CHECK (n > 0) NOT VALID;
SET ROLE regress_validate_owner;
SELECT refit.validate_constraint('secret', 'n_positive') AS id \gset
RESET ROLE;
SELECT outcome(:id);

-- a foreign key between tables of two owners, neither of whom may read the other's
CREATE TABLE theirs (id int PRIMARY KEY);
INSERT INTO theirs SELECT generate_series(1, 10);
ALTER TABLE theirs OWNER TO regress_validate_other;
CREATE TABLE ours (id int PRIMARY KEY, t int);
INSERT INTO ours SELECT i, i FROM generate_series(1, 10) i;
GRANT REFERENCES ON theirs TO regress_validate_owner;
ALTER TABLE ours OWNER TO regress_validate_owner;
SET ROLE regress_validate_owner;
ALTER TABLE ours ADD CONSTRAINT cross_owner FOREIGN KEY (t) REFERENCES theirs NOT VALID;
SELECT refit.validate_constraint('ours', 'cross_owner') AS id \gset
RESET ROLE;
SELECT outcome(:id);
ALTER TABLE ours DROP CONSTRAINT cross_owner;
UPDATE ours SET t = 11 WHERE id = 5;
ALTER TABLE ours ADD CONSTRAINT cross_owner FOREIGN KEY (t) REFERENCES theirs NOT VALID;
SELECT refit.validate_constraint('ours', 'cross_owner') AS id \gset
SELECT outcome(:id);

-- what is refused
SET ROLE regress_validate_other;
SELECT refused($$SELECT refit.validate_constraint('ours', 'cross_owner')$$);
RESET ROLE;
SELECT refused($$SELECT refit.validate_constraint('orders', 'nothing')$$);
SELECT refused($$SELECT refit.validate_constraint('orders', 'orders_pkey')$$);
SELECT refused($$SELECT refit.validate_constraint('stray', 'stray_b_a_key')$$);
CREATE TABLE span (r int4range, EXCLUDE USING gist (r WITH &&));
SELECT refused($$SELECT refit.validate_constraint('span', 'span_r_excl')$$);
SELECT refused($$SELECT refit.validate_constraint('orders', NULL)$$);
SELECT refused($$SELECT refit.validate_constraint(NULL, 'small')$$);
SELECT refused($$SELECT refit.validate_constraint('valid', 'small')$$);
SELECT refused($$SELECT refit.validate_constraint('pg_class', 'small')$$);
SELECT left(refused($$SELECT refit.validate_constraint('orders', 'small', options => '{"speed": "1"}')$$), 30);

-- dropped or renamed before its turn: the worker stands still meanwhile
SELECT refit.throttle(1, '1 minute');
ALTER TABLE orders ADD CONSTRAINT gone CHECK (id > 0) NOT VALID;
SELECT refit.validate_constraint('orders', 'gone') AS id \gset
ALTER TABLE orders DROP CONSTRAINT gone;
SELECT refit.throttle(0);
SELECT outcome(:id);

-- the same name again
ALTER TABLE orders ADD CONSTRAINT again CHECK (id > 0) NOT VALID;
SELECT refit.validate_constraint('orders', 'again', name => 'once') AS id \gset
SELECT refit.validate_constraint('orders', 'again', name => 'once') = :id AS same;
SELECT refused($$SELECT refit.validate_constraint('orders', 'small', name => 'once')$$)
	LIKE '42710 | a migration named "once" exists already and does something else | %' AS differs;
SELECT outcome(:id);

SET client_min_messages TO error;
DROP SCHEMA validating CASCADE;
DROP ROLE regress_validate_owner, regress_validate_other;
