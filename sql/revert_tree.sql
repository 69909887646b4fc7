--
-- Revert windows of partition trees
--
SET client_min_messages TO warning;
CREATE SCHEMA revert_tree;
SET search_path TO revert_tree;

CREATE FUNCTION until(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	result boolean;
	give_up timestamptz := clock_timestamp() + '60s';
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO result;
		EXIT WHEN result OR clock_timestamp() > give_up;
		PERFORM pg_sleep(0.02);
	END LOOP;
	RETURN result;
END $$;

-- Whether the way back is free, once it is as expected, and what is said of it.
CREATE FUNCTION barred(mid bigint, expected boolean, why text, OUT code text, OUT message text,
	OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	IF NOT revert_tree.until(format('message LIKE %L FROM refit.progress WHERE id = %s',
		CASE WHEN expected THEN 'cannot be reverted now: ' || why || '%' ELSE 'the old rows are kept%' END, mid))
	THEN
		RAISE 'it is not so';
	END IF;
	IF expected THEN
		PERFORM refit.revert(mid);
	END IF;
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := replace(message, mid::text, 'N');
	hint := replace(hint, mid::text, 'N');
END $$;

-- Lists, with ranges below one, a default, and a partition that has its columns
-- in another order, and a default, a check, indexes and comments of its own.
CREATE TABLE shop (id int PRIMARY KEY);
INSERT INTO shop SELECT g FROM generate_series(1, 20) g;
CREATE TABLE sale (id int NOT NULL, region int NOT NULL, shop int CONSTRAINT in_shop REFERENCES shop,
	qty int NOT NULL DEFAULT 1, note text, spare text DEFAULT 's', odd serial,
	PRIMARY KEY (id, region), CONSTRAINT positive CHECK (qty > 0)
) PARTITION BY LIST (region);
CREATE TABLE sale_1 PARTITION OF sale FOR VALUES IN (1);
CREATE TABLE sale_2 PARTITION OF sale FOR VALUES IN (2, 3) PARTITION BY RANGE (id);
CREATE TABLE sale_2_low PARTITION OF sale_2 FOR VALUES FROM (MINVALUE) TO (500);
CREATE TABLE sale_2_high PARTITION OF sale_2 FOR VALUES FROM (500) TO (MAXVALUE);
CREATE TABLE sale_rest PARTITION OF sale DEFAULT;
CREATE TABLE sale_4 (junk int, note text, qty int NOT NULL DEFAULT 2, region int NOT NULL,
	junk2 text, id int NOT NULL, shop int, spare text, odd int NOT NULL,
	CONSTRAINT positive CHECK (qty > 0), CONSTRAINT its_own CHECK (note <> 'bad' AND spare <> 'bad'));
ALTER TABLE sale_4 DROP COLUMN junk, DROP COLUMN junk2;
CREATE UNIQUE INDEX same_as_key ON sale_4 (id, region);
CREATE INDEX backwards ON sale_4 (shop DESC NULLS LAST);
CREATE INDEX on_spare ON sale_4 (spare) WHERE qty > 2;
COMMENT ON INDEX on_spare IS 'of one partition';
COMMENT ON COLUMN sale_4.spare IS 'there too';
COMMENT ON CONSTRAINT its_own ON sale_4 IS 'its own';
ALTER TABLE sale_4 ADD UNIQUE (spare, id);
ALTER TABLE sale ATTACH PARTITION sale_4 FOR VALUES IN (4);
ALTER INDEX sale_1_pkey RENAME TO "a name; of its own";
CREATE INDEX ON sale (shop);
CREATE INDEX sale_spare ON sale (spare);
CREATE INDEX ON sale (qty, lower(note)) WHERE qty > 1;
CREATE INDEX below ON sale_2 (spare, qty);
COMMENT ON COLUMN sale.spare IS 'to spare';
CREATE ROLE regress_refit_reader;
GRANT SELECT (spare, id) ON sale TO regress_refit_reader;
GRANT UPDATE (spare) ON sale_1 TO regress_refit_reader;
INSERT INTO sale (id, region, shop, qty, note, spare)
	SELECT g, g % 6 + 1, g % 20 + 1, g % 5 + 1, repeat('n', g % 3) || g, 'spare ' || g
	FROM generate_series(1, 1500) g;
CREATE TABLE bill (id int, region int, FOREIGN KEY (id, region) REFERENCES sale);
INSERT INTO bill SELECT id, region FROM sale WHERE id < 400 AND region IN (1, 3);
CREATE VIEW on_root AS SELECT id, qty FROM sale WHERE qty > 2;
CREATE VIEW on_leaf AS SELECT max(qty) AS most FROM sale_1;
ANALYZE sale;

-- What the catalogs say of the tree, all of it.
CREATE FUNCTION definition() RETURNS SETOF text
LANGUAGE sql SET search_path = pg_catalog AS $$
	SELECT c.oid::regclass || ' ' || x.t FROM pg_partition_tree('revert_tree.sale') t
	JOIN pg_class c ON c.oid = t.relid
	CROSS JOIN LATERAL (
		SELECT concat_ws(' ', 'column', attnum, attname, format_type(atttypid, atttypmod), attnotnull,
			pg_get_expr(adbin, adrelid), attislocal, attinhcount, attacl, attstorage,
			col_description(attrelid, attnum))
		FROM pg_attribute a LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
		WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
		UNION ALL SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), indisvalid, indisprimary,
			obj_description(indexrelid), (SELECT 'below ' || i.inhparent::regclass FROM pg_inherits i
				WHERE i.inhrelid = indexrelid))
		FROM pg_index WHERE indrelid = c.oid
		-- 18: ALTER TYPE makes NOT NULL anew, and hands the parent's name down
		UNION ALL SELECT concat_ws(' ', 'constraint', CASE WHEN contype <> 'n' OR coninhcount = 0
				THEN conname END, pg_get_constraintdef(oid), conislocal,
			coninhcount, convalidated, conparentid <> 0, obj_description(oid))
		FROM pg_constraint WHERE conrelid = c.oid
		UNION ALL SELECT concat_ws(' ', 'referenced by', conrelid::regclass, pg_get_constraintdef(oid),
			convalidated, conparentid <> 0)
		FROM pg_constraint WHERE confrelid = c.oid
		UNION ALL SELECT 'view ' || pg_get_viewdef('revert_tree.on_root'::regclass)
		UNION ALL SELECT concat_ws(' ', 'statistics', staattnum, stainherit)
		FROM pg_statistic WHERE starelid = c.oid
		) AS x(t) $$;
CREATE TABLE defined AS SELECT d FROM definition() d;
CREATE TABLE oracle AS SELECT tableoid::regclass::text AS part, * FROM sale;
CREATE FUNCTION differences() RETURNS SETOF text LANGUAGE sql AS $$
	(SELECT 'new: ' || d FROM revert_tree.definition() d EXCEPT ALL SELECT 'new: ' || d FROM revert_tree.defined)
	UNION ALL
	(SELECT 'gone: ' || d FROM revert_tree.defined EXCEPT ALL SELECT 'gone: ' || d FROM revert_tree.definition() d)
	UNION ALL
	(SELECT 'row: ' || x FROM (SELECT tableoid::regclass::text, s.* FROM revert_tree.sale s
		EXCEPT ALL TABLE revert_tree.oracle) x)
	UNION ALL
	(SELECT 'no row: ' || x FROM (TABLE revert_tree.oracle
		EXCEPT ALL SELECT tableoid::regclass::text, s.* FROM revert_tree.sale s) x)
$$;

-- What can be reverted, and what cannot.  As backwards, which takes the place of
-- sale (shop) in its partition, is not what PostgreSQL makes for that.
SELECT action, reason FROM unnest(ARRAY['ALTER qty TYPE bigint', 'DROP COLUMN spare',
	'DROP COLUMN note', 'ADD COLUMN x uuid DEFAULT gen_random_uuid()', 'DROP CONSTRAINT positive',
	'DROP CONSTRAINT in_shop']) action,
	refit.plan('sale', action || ', ADD UNIQUE (qty, id, region)') WHERE phase = 'window';
CREATE TABLE self (id int PRIMARY KEY, up int CONSTRAINT upwards REFERENCES self) PARTITION BY LIST (id);
CREATE TABLE self_1 PARTITION OF self FOR VALUES IN (1);
CREATE TABLE none (id int PRIMARY KEY, n int) PARTITION BY LIST (id);
CREATE TABLE lone (id int PRIMARY KEY, n int, s int) PARTITION BY LIST (id);
CREATE TABLE lone_1 PARTITION OF lone FOR VALUES IN (1);
CREATE SEQUENCE counter OWNED BY lone_1.s;
CREATE STATISTICS on_part ON n, s FROM lone_1;
SELECT t, action, reason FROM (VALUES ('sale', 'DROP COLUMN odd'), ('sale', 'DROP COLUMN shop'), ('self', 'DROP COLUMN up'),
	('self', 'DROP CONSTRAINT upwards, ADD UNIQUE (up, id)'), ('self', 'ALTER up TYPE bigint USING up * random()'),
	('none', 'ALTER n TYPE bigint, ADD UNIQUE (id, n)'), ('lone', 'DROP COLUMN s'), ('lone', 'DROP COLUMN n')
	) AS v(t, action), LATERAL (SELECT max(reason) FROM refit.plan(t::regclass, action || ', ADD COLUMN x int DEFAULT random()')
	WHERE phase = 'window') AS p(reason);
\set VERBOSITY sqlstate
SELECT refit.alter_table('none', 'ALTER n TYPE bigint', revertible => '1 day');
SELECT refit.alter_table('self', 'DROP COLUMN up', revertible => '1 day');
-- PostgreSQL retypes no column that a table is partitioned by
SELECT refit.alter_table('sale', 'ALTER region TYPE bigint', revertible => '1 day');
\set VERBOSITY default
DROP TABLE self, none, lone;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- There
SELECT refit.alter_table('sale', 'ALTER qty TYPE bigint, ALTER note TYPE varchar(50), DROP COLUMN spare,
	ADD COLUMN extra int NOT NULL DEFAULT 5, DROP CONSTRAINT positive, DROP CONSTRAINT in_shop,
	ALTER qty SET DEFAULT 9, ADD UNIQUE (extra, id, region), ALTER shop SET NOT NULL',
	revertible => '1 day') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy, error_message, verified_rows FROM refit.migrations WHERE id = :id;
SELECT attname, atttypid::regtype, attnotnull, count(*) FROM pg_attribute
	WHERE attrelid IN (SELECT relid FROM pg_partition_tree('sale')) AND attname IN ('qty', 'note', 'spare', 'extra', 'shop')
	GROUP BY 1, 2, 3 ORDER BY 1;

-- Rows are changed, in partitions and between them; one that was given another key
-- counts as new, and so does one that has moved
BEGIN;
UPDATE sale SET note = 'changed' WHERE id % 50 = 0;
UPDATE oracle SET note = 'changed' WHERE id % 50 = 0;
DELETE FROM sale WHERE id % 70 = 1 AND id > 400;
DELETE FROM oracle WHERE id % 70 = 1 AND id > 400;
UPDATE sale SET region = region % 6 + 1 WHERE id BETWEEN 600 AND 610;
UPDATE sale SET id = id - 200 WHERE id BETWEEN 625 AND 630 AND region IN (2, 3); -- and is not there yet
INSERT INTO sale (id, region, shop, odd) VALUES (5000, 2, 1, 1), (5001, 4, 2, 1), (5002, 9, 3, 1);
COMMIT;
DELETE FROM oracle o WHERE NOT EXISTS (SELECT FROM sale s WHERE (s.id, s.region) = (o.id, o.region));
INSERT INTO oracle SELECT tableoid::regclass, id, region, shop, qty, note, NULL, odd FROM sale s
	WHERE NOT EXISTS (SELECT FROM oracle o WHERE (s.id, s.region) = (o.id, o.region));

-- What bars the way back, and goes again: a row, by the key; a partition more; one less
UPDATE sale SET qty = 5000000000 WHERE id = 8;
SELECT * FROM barred(:id, true, '%');
UPDATE sale SET qty = 4 WHERE id = 8;
SELECT * FROM barred(:id, false, '');
CREATE TABLE sale_more PARTITION OF sale FOR VALUES IN (77);
SELECT * FROM barred(:id, true, 'the partitions of');
ALTER TABLE sale DETACH PARTITION sale_more;
SELECT * FROM barred(:id, false, '');
ALTER TABLE sale DETACH PARTITION sale_rest;
SELECT detail FROM barred(:id, true, 'the partitions of');
UPDATE sale_rest SET note = 'apart' WHERE id = 10;
UPDATE oracle SET note = 'apart' WHERE id = 10;
ALTER TABLE sale ATTACH PARTITION sale_rest DEFAULT;
SELECT * FROM barred(:id, false, '');
-- a foreign key that comes back, on the way
UPDATE sale SET shop = 99 WHERE id = 9;
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT until(format('error_code IS NOT NULL AND state = ''revertible'' FROM refit.migrations WHERE id = %s', :id));
SELECT error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
UPDATE sale SET shop = 10 WHERE id = 9;
SELECT * FROM barred(:id, false, '');

-- And back
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT * FROM differences();
SELECT pg_typeof(qty) FROM on_root LIMIT 1;
\set VERBOSITY sqlstate
INSERT INTO sale (id, region, shop) VALUES (-1, 1, 99);
INSERT INTO sale (id, region, qty) VALUES (-1, 1, -1);
INSERT INTO sale (id, region, spare) VALUES (-1, 4, 'bad');
INSERT INTO bill VALUES (-1, 1);
DELETE FROM sale WHERE id = (SELECT min(id) FROM bill);
\set VERBOSITY default
INSERT INTO sale (id, region) VALUES (-1, 4), (-1, 1);
SELECT qty, spare FROM sale WHERE id = -1 ORDER BY region;
DELETE FROM sale WHERE id = -1;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- Emptied in the window: a leaf, and then all of it
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
TRUNCATE bill, sale_1;
DELETE FROM oracle WHERE part = 'sale_1';
INSERT INTO sale (id, region, shop, qty, odd) VALUES (7000, 1, 1, 1, 1);
INSERT INTO oracle VALUES ('sale_1', 7000, 1, 1, 1, NULL, NULL, 1);
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT * FROM differences();
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
TRUNCATE sale, oracle, bill;
INSERT INTO sale (id, region, shop, qty, odd) VALUES (7000, 2, 1, 1, 1), (7001, 4, 1, 1, 1);
INSERT INTO oracle VALUES ('sale_2_high', 7000, 2, 1, 1, NULL, NULL, 1), ('sale_4', 7001, 4, 1, 1, NULL, NULL, 1);
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT * FROM differences();

-- A part that is altered in the window bars the way back for good
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
CREATE INDEX more ON sale_2_low (note);
SELECT detail, hint FROM barred(:id, true, '%');
SELECT refit.finish(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT count(*) FROM refit.rewrite;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- The window can end whatever has become of the tree
SELECT refit.alter_table('sale', 'ALTER qty TYPE int', revertible => '1 day') AS id \gset
SELECT refit.wait(:id, '60s');
DROP TABLE bill, sale_2_low;
ALTER TABLE sale DETACH PARTITION sale_4;
CREATE TABLE sale_more_2 PARTITION OF sale FOR VALUES IN (78);
SELECT code FROM barred(:id, true, 'the partitions of');
SELECT refit.finish(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname ~ 'refit';
SELECT count(*) FROM refit.rewrite;
-- as by its time
SELECT refit.alter_table('sale', 'ALTER qty TYPE bigint', revertible => '1 second') AS id \gset
SELECT until(format('state = ''completed'' FROM refit.migrations WHERE id = %s', :id));
SELECT finished_at >= revertible_until AS by_time FROM refit.migrations WHERE id = :id;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';
DROP SCHEMA revert_tree CASCADE;
DROP ROLE regress_refit_reader;
