--
-- Constraints: added, dropped, validated, kept.
--
SET client_min_messages TO warning;
CREATE SCHEMA constraints;
SET search_path TO constraints;

CREATE TABLE customer (id int PRIMARY KEY, parent int, code text NOT NULL);
INSERT INTO customer SELECT i, nullif(i / 2, 0), 'c' || i FROM generate_series(1, 200) i;
CREATE TABLE orders (
	id int PRIMARY KEY,
	customer int NOT NULL,
	qty int,
	during tsrange
);
INSERT INTO orders SELECT i, i % 200 + 1, i % 10,
	tsrange(timestamp '2024-01-01' + make_interval(hours => i),
		timestamp '2024-01-01' + make_interval(hours => i + 1))
	FROM generate_series(1, 1000) i;

CREATE VIEW cons AS
	SELECT conrelid::regclass AS relation, conname, contype, convalidated AS valid,
		condeferrable AS postponable, condeferred AS deferred,
		pg_get_constraintdef(oid) AS definition
	FROM pg_constraint WHERE connamespace = 'constraints'::regnamespace
		AND contype <> 'n' -- rows of 18 and later
	ORDER BY conrelid::regclass::text COLLATE "C", conname COLLATE "C";

-- CHECK: rows are checked in place
SELECT refit.alter_table('orders', 'ADD CHECK (qty >= 0)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT refit.alter_table('orders', 'ADD CONSTRAINT few CHECK (qty < 100),
	ADD CHECK (id > 0 AND customer > 0)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT * FROM cons WHERE relation = 'orders'::regclass;
INSERT INTO orders VALUES (0, 1, 1);
INSERT INTO orders VALUES (2000, 1, -1);
-- a null satisfies it
INSERT INTO orders VALUES (1001, 1, NULL);
SELECT refit.alter_table('orders', 'ADD CONSTRAINT not_fifty CHECK (qty <> 50)') AS id \gset
SELECT refit.wait(:id, '60s');
DELETE FROM orders WHERE id = 1001;

-- NOT VALID, and VALIDATE later
SELECT refit.alter_table('orders', 'ADD CONSTRAINT low CHECK (qty < 5) NOT VALID') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT conname, valid FROM cons WHERE conname = 'low';
ALTER TABLE orders DROP CONSTRAINT low;
-- beside another that is checked
SELECT refit.alter_table('orders', 'ADD COLUMN extra int, ADD CONSTRAINT low CHECK (qty < 5 OR extra = 1)
	NOT VALID, ADD CONSTRAINT high CHECK (qty < 5000)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname, valid FROM cons WHERE conname IN ('low', 'high') ORDER BY conname;
ALTER TABLE orders DROP COLUMN extra, DROP CONSTRAINT high;
-- FOREIGN KEY, to another table and to the table itself
SELECT refit.alter_table('orders', 'ADD FOREIGN KEY (customer) REFERENCES customer
	ON DELETE CASCADE') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT refit.alter_table('customer', 'ADD CONSTRAINT parent_fk FOREIGN KEY (parent)
	REFERENCES customer ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT * FROM cons WHERE contype = 'f';
INSERT INTO orders VALUES (2000, 1000);

-- UNIQUE
SELECT refit.alter_table('customer', 'ADD UNIQUE (code)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT refit.alter_table('orders', 'ADD CONSTRAINT one_an_hour UNIQUE (customer, during)
	INCLUDE (qty) DEFERRABLE INITIALLY DEFERRED') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT * FROM cons WHERE contype = 'u';
BEGIN;
INSERT INTO orders SELECT 2000, customer, qty, during FROM orders WHERE id = 1;
COMMIT;
INSERT INTO customer VALUES (0, NULL, 'c1');
-- names that are taken
SELECT refit.alter_table('customer', 'ADD UNIQUE (code)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname FROM cons WHERE relation = 'customer'::regclass AND contype = 'u';
SELECT refit.alter_table('customer', 'ADD CONSTRAINT customer_code_key UNIQUE (id, code)');
\echo :SQLSTATE
SELECT refit.alter_table('customer', 'DROP CONSTRAINT customer_code_key1') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;

-- EXCLUDE
SELECT refit.alter_table('orders', 'ADD CONSTRAINT no_overlap EXCLUDE USING gist (during WITH &&)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
INSERT INTO orders VALUES (2000, 1, 1, tsrange('2024-01-01 01:30', '2024-01-01 01:40'));
\d orders

-- USING INDEX
CREATE UNIQUE INDEX by_parent ON customer (id, parent);
SELECT refit.alter_table('customer', 'ADD CONSTRAINT renamed_index UNIQUE USING INDEX by_parent') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
CREATE UNIQUE INDEX by_code ON customer (code);
SELECT refit.alter_table('customer', 'ADD UNIQUE USING INDEX by_code,
	ALTER parent TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
\d customer

-- Retyped columns under foreign keys in both directions
SELECT refit.alter_table('customer', 'ALTER id TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT refit.alter_table('orders', 'ALTER customer TYPE bigint') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname, valid, definition FROM cons WHERE contype = 'f';
SELECT count(*) FROM orders WHERE customer = 7;
BEGIN;
DELETE FROM customer WHERE id = 7;
SELECT count(*) FROM orders WHERE customer = 7;
COMMIT;
SELECT id, parent FROM customer WHERE id IN (14, 15, 16) ORDER BY id;
INSERT INTO orders VALUES (2000, 7);
INSERT INTO customer VALUES (500, 7, 'c500');
-- their triggers are the usual ones
SELECT tgrelid::regclass, tgtype, count(*) FROM pg_trigger
	WHERE tgconstraint IN (SELECT oid FROM pg_constraint
		WHERE connamespace = 'constraints'::regnamespace AND contype = 'f')
	GROUP BY 1, 2 ORDER BY 1, 2;

-- PRIMARY KEY: another column, another name
SELECT refit.alter_table('orders', 'DROP CONSTRAINT orders_pkey,
	ADD COLUMN uid bigint GENERATED ALWAYS AS IDENTITY,
	ADD CONSTRAINT orders_uid PRIMARY KEY (uid)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT count(*), count(DISTINCT uid), min(uid), max(uid) FROM orders;
\d orders
CREATE TABLE bare (id int NOT NULL UNIQUE, n int);
INSERT INTO bare VALUES (1, 1), (2, 2);
SELECT refit.alter_table('bare', 'ADD PRIMARY KEY (n)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
\d bare

-- ALTER CONSTRAINT
SELECT refit.alter_table('orders', 'ALTER CONSTRAINT orders_customer_fkey DEFERRABLE') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT conname, postponable, valid FROM cons WHERE conname = 'orders_customer_fkey';

-- A composite foreign key, MATCH FULL, added in one list with other actions
CREATE TABLE item (a int, b text, n int, PRIMARY KEY (a, b));
INSERT INTO item SELECT i, 'b' || i, i FROM generate_series(1, 50) i;
CREATE TABLE part (id int PRIMARY KEY, a int, b text);
INSERT INTO part SELECT i, i, 'b' || i FROM generate_series(1, 50) i;
INSERT INTO part VALUES (100, NULL, NULL);
SELECT refit.alter_table('part', 'ALTER id TYPE bigint,
	ADD CONSTRAINT whole FOREIGN KEY (a, b) REFERENCES item MATCH FULL,
	ADD CONSTRAINT mine CHECK (id < 1000), ADD UNIQUE (a)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT * FROM cons WHERE relation = 'part'::regclass;
INSERT INTO part VALUES (101, 99, NULL);
SELECT refit.alter_table('item', 'ALTER a TYPE bigint, ALTER b TYPE varchar') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname, valid FROM cons WHERE conname = 'whole';
DELETE FROM item WHERE a = 1;

-- NOT VALID constraints stay NOT VALID through a rewrite; DROP FOREIGN KEY
ALTER TABLE part ADD CONSTRAINT later CHECK (a <> 3) NOT VALID;
ALTER TABLE part ADD CONSTRAINT later_fk FOREIGN KEY (id) REFERENCES bare (id) NOT VALID;
SELECT refit.repack('part') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname, valid FROM cons WHERE relation = 'part'::regclass;
SELECT refit.alter_table('part', 'DROP CONSTRAINT whole, DROP CONSTRAINT later_fk,
	ALTER b TYPE varchar(10)') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy FROM refit.migrations WHERE id = :id;
SELECT conname, valid FROM cons WHERE relation = 'part'::regclass;

-- A foreign key between columns of two collations compares with that of the
-- referenced one
CREATE TABLE land (name text COLLATE "C" PRIMARY KEY);
CREATE TABLE town (id int PRIMARY KEY, land text COLLATE "C" REFERENCES land);
INSERT INTO land VALUES ('a');
INSERT INTO town VALUES (1, 'a'), (2, NULL);
SELECT refit.alter_table('land', 'ALTER name TYPE text COLLATE "POSIX"') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname, valid FROM cons WHERE relation = 'town'::regclass;
INSERT INTO town VALUES (3, 'b');
\echo :SQLSTATE

-- A foreign key that refers to a partitioned table
CREATE TABLE whole (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (0) TO (100);
INSERT INTO whole SELECT generate_series(1, 50);
CREATE TABLE refers (id int PRIMARY KEY, w int);
INSERT INTO refers SELECT g, g FROM generate_series(1, 50) g;
SELECT refit.alter_table('refers', 'ADD CONSTRAINT to_whole FOREIGN KEY (w) REFERENCES whole') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT conname, valid FROM cons WHERE relation = 'refers'::regclass AND conname = 'to_whole';

-- Nothing is owed, nothing is left
SELECT count(*) FROM refit.owed;
SELECT relation, conname FROM cons WHERE conname ~ 'refit' OR NOT valid;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

DROP SCHEMA constraints CASCADE;
