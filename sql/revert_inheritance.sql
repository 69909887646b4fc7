--
-- Revert windows of inheritance trees
--
SET client_min_messages TO warning;
CREATE SCHEMA revert_heirs;
CREATE SCHEMA revert_heirs_other;
SET search_path TO revert_heirs, revert_heirs_other;

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
	IF NOT revert_heirs.until(format('message LIKE %L FROM refit.progress WHERE id = %s',
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

-- Each table has rows, a key and things of its own.  leg, in another schema, has
-- its columns in another order and some of them for itself too, so that it keeps
-- what is dropped above; both_sides comes from the top on two ways, and last_one has
-- a parent from outside.  There are no primary keys below, and NOT NULL has one
-- name: else 18 does not alter types.
CREATE TABLE shop (id int PRIMARY KEY);
INSERT INTO shop SELECT g FROM generate_series(1, 20) g;
CREATE TABLE base (
	id int CONSTRAINT id_there NOT NULL, kind int CONSTRAINT kind_there NOT NULL DEFAULT 1, qty int DEFAULT 1,
	note text, spare text DEFAULT 's', shop int CONSTRAINT in_shop REFERENCES shop,
	twice int GENERATED ALWAYS AS (kind * 2) STORED, UNIQUE (id),
	CONSTRAINT positive CHECK (qty > 0), CONSTRAINT of_spare CHECK (spare <> 'bad'),
	CONSTRAINT mine CHECK (id < 100000) NO INHERIT
);
CREATE INDEX base_spare ON base (spare);
CREATE TABLE arm (own int, CONSTRAINT its_own CHECK (own < 1000), UNIQUE (id)) INHERITS (base);
ALTER TABLE arm ALTER qty SET DEFAULT 3, ALTER spare SET DEFAULT 'of the arm';
CREATE INDEX arm_spare ON arm (spare DESC) WHERE own > 2;
COMMENT ON INDEX arm_spare IS 'of one child';
ALTER TABLE arm ADD CONSTRAINT in_shop FOREIGN KEY (shop) REFERENCES shop,
	ADD CONSTRAINT arm_words UNIQUE (spare, id);
CREATE TABLE revert_heirs_other.leg (
	junk int, note text, qty int DEFAULT 2, kind int CONSTRAINT kind_there NOT NULL DEFAULT 3, junk2 text,
	id int CONSTRAINT id_there NOT NULL UNIQUE, shop int, spare text, twice int GENERATED ALWAYS AS (kind * 2) STORED,
	extra int NOT NULL DEFAULT 8, CONSTRAINT positive CHECK (qty > 0), CONSTRAINT of_spare CHECK (spare <> 'bad')
);
ALTER TABLE leg DROP COLUMN junk, DROP COLUMN junk2;
ALTER TABLE leg INHERIT base;
CREATE TABLE both_sides (kind int DEFAULT 4, qty int DEFAULT 5, spare text DEFAULT 'both', UNIQUE (id)) INHERITS (arm, leg);
CREATE TABLE stranger (spare text, odd int);
CREATE TABLE last_one (more text, UNIQUE (id)) INHERITS (both_sides, stranger);
ALTER TABLE last_one ALTER note SET STATISTICS 40, ALTER note SET STORAGE EXTERNAL;
COMMENT ON COLUMN base.spare IS 'to spare';
COMMENT ON COLUMN last_one.spare IS 'there too';
CREATE ROLE regress_refit_heirs;
GRANT SELECT (spare, id) ON base TO regress_refit_heirs;
GRANT UPDATE (spare) ON both_sides TO regress_refit_heirs;
INSERT INTO base (id, kind, qty, note, spare, shop) SELECT g, g % 3, g % 5 + 1, repeat('b', g % 4) || g, 'b' || g, g % 20 + 1
	FROM generate_series(1, 300) g;
INSERT INTO arm (id, kind, qty, note, own, shop) SELECT g, g % 3, g % 5 + 1, 'arm' || g, g % 20 + 1, g % 20 + 1
	FROM generate_series(1000, 1900) g;
INSERT INTO leg (id, kind, qty, note, spare) SELECT g, g % 3, g % 5 + 1, 'leg' || g, 'l' || g FROM generate_series(2000, 2500) g;
INSERT INTO both_sides (id, kind, own, extra) SELECT g, g % 3, g % 20 + 1, g FROM generate_series(3000, 3400) g;
INSERT INTO last_one (id, qty, spare, more) SELECT g, g % 5 + 1, 'z' || g, 'more' || g FROM generate_series(4000, 4200) g;
CREATE VIEW on_base AS SELECT id, qty FROM base WHERE qty > 2;
CREATE VIEW on_leg AS SELECT max(qty) AS most FROM leg;
ANALYZE base, arm, leg, both_sides, last_one;

-- What the catalogs say of the tables, all of it.
CREATE FUNCTION definition() RETURNS SETOF text
LANGUAGE sql SET search_path = pg_catalog AS $$
	SELECT c.oid::regclass || ' ' || x.t FROM pg_class c
	CROSS JOIN LATERAL (
		SELECT concat_ws(' ', 'column', attnum, attname, format_type(atttypid, atttypmod), attnotnull,
			pg_get_expr(adbin, adrelid), attislocal, attinhcount, attacl, attstorage, attstattarget,
			col_description(attrelid, attnum))
		FROM pg_attribute a LEFT JOIN pg_attrdef d ON adrelid = attrelid AND adnum = attnum
		WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
		UNION ALL SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), indisvalid, indisprimary,
			obj_description(indexrelid))
		FROM pg_index WHERE indrelid = c.oid
		UNION ALL SELECT concat_ws(' ', 'constraint', conname, pg_get_constraintdef(oid), conislocal,
			coninhcount, convalidated, obj_description(oid))
		FROM pg_constraint WHERE conrelid = c.oid
		UNION ALL SELECT concat_ws(' ', 'parent', inhparent::regclass, inhseqno) FROM pg_inherits WHERE inhrelid = c.oid
		UNION ALL SELECT 'view ' || pg_get_viewdef(v)
		FROM unnest(ARRAY['revert_heirs.on_base', 'revert_heirs.on_leg']::regclass[]) v
		UNION ALL SELECT concat_ws(' ', 'statistics', staattnum, stainherit)
		FROM pg_statistic WHERE starelid = c.oid
		) AS x(t)
	WHERE c.relname IN ('base', 'arm', 'leg', 'both_sides', 'last_one') AND c.relnamespace::regnamespace::text ~ '^revert_heirs' $$;
CREATE FUNCTION members() RETURNS TABLE (part text, id int, rest text) LANGUAGE sql AS $$
	SELECT 'base', b.id, b::text FROM ONLY revert_heirs.base b UNION ALL
	SELECT 'arm', b.id, b::text FROM ONLY revert_heirs.arm b UNION ALL
	SELECT 'leg', b.id, b::text FROM ONLY revert_heirs_other.leg b UNION ALL
	SELECT 'both_sides', b.id, b::text FROM ONLY revert_heirs.both_sides b UNION ALL
	SELECT 'last_one', b.id, b::text FROM ONLY revert_heirs.last_one b
$$;
CREATE TABLE defined AS SELECT d FROM definition() d;
CREATE TABLE oracle AS SELECT * FROM members();
CREATE FUNCTION differences() RETURNS SETOF text LANGUAGE sql AS $$
	(SELECT 'new: ' || d FROM revert_heirs.definition() d EXCEPT ALL SELECT 'new: ' || d FROM revert_heirs.defined)
	UNION ALL
	(SELECT 'gone: ' || d FROM revert_heirs.defined EXCEPT ALL SELECT 'gone: ' || d FROM revert_heirs.definition() d)
	UNION ALL
	(SELECT 'row: ' || x FROM (SELECT * FROM revert_heirs.members() EXCEPT ALL TABLE revert_heirs.oracle) x)
	UNION ALL
	(SELECT 'no row: ' || x FROM (TABLE revert_heirs.oracle EXCEPT ALL SELECT * FROM revert_heirs.members()) x)
$$;

-- What can be reverted, and what cannot: PostgreSQL leaves the constraint that leg has from
-- above, and would count it twice when that comes again
SELECT action, reason FROM unnest(ARRAY['ALTER qty TYPE bigint', 'DROP COLUMN spare', 'DROP COLUMN note',
	'ADD COLUMN x uuid DEFAULT gen_random_uuid()', 'DROP CONSTRAINT positive', 'DROP CONSTRAINT in_shop', 'ADD COLUMN own int',
	'ALTER kind DROP NOT NULL', 'ALTER kind SET DEFAULT 6', 'SET (fillfactor = 70)']) action,
	refit.plan('base', action || ', ADD UNIQUE (qty, id)') WHERE phase = 'window';
SELECT action, reason FROM unnest(ARRAY['ALTER own TYPE bigint', 'DROP COLUMN own']) action,
	refit.plan('arm', action || ', ADD UNIQUE (note, id)') WHERE phase = 'window';
ALTER TABLE base DROP CONSTRAINT of_spare;
ALTER TABLE leg DROP CONSTRAINT of_spare;
TRUNCATE defined;
INSERT INTO defined SELECT definition();
-- what goes refers to another table of the tree, or to its own
ALTER TABLE arm ADD COLUMN up int CONSTRAINT upwards REFERENCES base (id), ADD COLUMN peer int CONSTRAINT beside REFERENCES arm (id);
SELECT action, reason FROM unnest(ARRAY['DROP COLUMN up', 'DROP COLUMN peer', 'DROP CONSTRAINT upwards']) action,
	refit.plan('arm', action || ', ADD UNIQUE (note, id)') WHERE phase = 'window';
ALTER TABLE arm DROP COLUMN up, DROP COLUMN peer;
TRUNCATE defined;
INSERT INTO defined SELECT definition();
-- every table needs a key, also one that the actions leave as it is
CREATE TABLE keyless () INHERITS (leg);
SELECT reason FROM refit.plan('base', 'ADD UNIQUE (qty, id)') WHERE phase = 'window';
\set VERBOSITY sqlstate
SELECT refit.alter_table('base', 'ADD UNIQUE (qty, id)', revertible => '1 day');
\set VERBOSITY default
DROP TABLE keyless;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- There
SELECT refit.alter_table('base', 'ALTER qty TYPE bigint, ALTER note TYPE varchar(50), DROP COLUMN spare,
	ADD COLUMN more_still int NOT NULL DEFAULT 5, ADD COLUMN own int, DROP CONSTRAINT positive, DROP CONSTRAINT in_shop,
	ALTER qty SET DEFAULT 9, ADD CONSTRAINT small CHECK (qty < 10000000000), ADD UNIQUE (more_still, id),
	ALTER kind DROP NOT NULL',
	revertible => '1 day') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT strategy, error_message, verified_rows FROM refit.migrations WHERE id = :id;
SELECT attname, atttypid::regtype, attnotnull, count(*) FROM pg_attribute
	WHERE attrelid IN ('base'::regclass, 'arm'::regclass, 'leg'::regclass, 'both_sides'::regclass, 'last_one'::regclass)
	AND attname IN ('qty', 'note', 'spare', 'more_still', 'own')
	GROUP BY 1, 2, 3 ORDER BY 1;

-- Rows are changed, through the parent and in the children; one that was given
-- another key counts as new
UPDATE base SET note = 'changed' WHERE id % 50 = 0;
UPDATE base SET qty = 7 WHERE id % 60 = 0;
DELETE FROM base WHERE id % 70 = 1 AND id > 100;
UPDATE leg SET id = id + 10000 WHERE id BETWEEN 2100 AND 2110;
UPDATE leg SET spare = 'kept' WHERE id = 2200;
INSERT INTO base (id, shop, kind) VALUES (5000, 2, NULL), (5003, 4, 5);
DELETE FROM base WHERE kind IS NULL;
INSERT INTO arm (id, shop, own) VALUES (5001, 3, 4);
INSERT INTO last_one (id, kind, spare) VALUES (5002, 6, 'last');
CREATE TABLE rows_there AS
	SELECT 'base' AS part, id, kind, qty, note, shop FROM ONLY base UNION ALL SELECT 'arm', id, kind, qty, note, shop FROM ONLY arm
	UNION ALL SELECT 'leg', id, kind, qty, note, shop FROM ONLY leg UNION ALL SELECT 'both_sides', id, kind, qty, note, shop FROM ONLY both_sides
	UNION ALL SELECT 'last_one', id, kind, qty, note, shop FROM ONLY last_one;

-- What bars the way back, and goes again: a row; a child more
UPDATE arm SET qty = 5000000000 WHERE id = 1008;
SELECT * FROM barred(:id, true, '%');
UPDATE arm SET qty = 4 WHERE id = 1008;
SELECT * FROM barred(:id, false, '');
CREATE TABLE late (UNIQUE (id)) INHERITS (leg);
SELECT * FROM barred(:id, true, 'the children of');
DROP TABLE late;
SELECT * FROM barred(:id, false, '');
-- a row without what was NOT NULL (18 leaves leg its own NOT NULL), and a foreign key that comes back, on the way
UPDATE arm SET kind = NULL WHERE id = 1005;
SELECT code, detail FROM barred(:id, true, '%');
UPDATE arm SET kind = 1005 % 3 WHERE id = 1005;
SELECT * FROM barred(:id, false, '');
UPDATE ONLY base SET shop = 99 WHERE id = 9;
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT until(format('error_code IS NOT NULL AND state = ''revertible'' FROM refit.migrations WHERE id = %s', :id));
SELECT error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
UPDATE ONLY base SET shop = 10 WHERE id = 9;
SELECT * FROM barred(:id, false, '');

-- And back: rows are what they were there, and have what they had before
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
CREATE VIEW rows_here AS
	SELECT 'base' AS part, id, kind, qty, note, shop FROM ONLY base UNION ALL SELECT 'arm', id, kind, qty, note, shop FROM ONLY arm
	UNION ALL SELECT 'leg', id, kind, qty, note, shop FROM ONLY leg UNION ALL SELECT 'both_sides', id, kind, qty, note, shop FROM ONLY both_sides
	UNION ALL SELECT 'last_one', id, kind, qty, note, shop FROM ONLY last_one;
SELECT count(*) FROM (TABLE rows_here EXCEPT ALL TABLE rows_there) x;
SELECT count(*) FROM (TABLE rows_there EXCEPT ALL TABLE rows_here) x;
SELECT d FROM differences() d WHERE d !~ 'row: ';
SELECT o.part, count(*) FROM oracle o JOIN members() m USING (part, id)
	WHERE m.rest <> o.rest AND id % 50 <> 0 AND id % 60 <> 0 GROUP BY 1;
SELECT id, kind, qty, spare FROM base WHERE id IN (7, 1007, 2200, 3007, 4007, 5001, 5002, 5003, 12105) ORDER BY id;
SELECT pg_typeof(qty) FROM on_base LIMIT 1;
\set VERBOSITY sqlstate
INSERT INTO base (id, shop) VALUES (-1, 99);
INSERT INTO arm (id, qty) VALUES (-1, -1);
INSERT INTO last_one (id, kind) VALUES (-1, NULL);
\set VERBOSITY default
INSERT INTO arm (id) VALUES (-1);
INSERT INTO both_sides (id) VALUES (-2);
SELECT kind, qty, spare FROM base WHERE id < 0 ORDER BY id;
DELETE FROM base WHERE id < 0;
-- PostgreSQL counts parents as if nothing had been: a column goes where it comes from above only
BEGIN;
ALTER TABLE base DROP COLUMN spare;
SELECT attrelid::regclass FROM pg_attribute WHERE attname = 'spare' AND attrelid::regclass::text ~ '(base|arm|leg|both_sides|last_one)$' ORDER BY attrelid::regclass::text COLLATE "C";
ROLLBACK;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- Emptied in the window, and back again
UPDATE base SET note = 'x';
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
TRUNCATE ONLY leg;
TRUNCATE last_one;
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT d FROM differences() d WHERE d !~ 'row: ';
SELECT part, count(*), min(rest) IS NULL AS empty FROM members() GROUP BY 1 ORDER BY 1;

-- A table in the middle, without its parents
SELECT refit.alter_table('arm', 'ALTER own TYPE bigint, ADD COLUMN its int DEFAULT 3', revertible => '1 day') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT refit.revert(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT d FROM differences() d WHERE d !~ 'row: ';

-- One that leaves in the window bars the way back for good: when it comes again, PostgreSQL
-- calls its columns its own too; the window's end does not mind
SELECT refit.alter_table('base', 'ALTER qty TYPE bigint', revertible => '1 day') AS id \gset
SELECT refit.wait(:id, '60s');
ALTER TABLE last_one NO INHERIT both_sides;
SELECT detail FROM barred(:id, true, 'the children of');
ALTER TABLE last_one INHERIT both_sides;
SELECT until(format('message !~ ''has gone'' FROM refit.progress WHERE id = %s', :id));
SELECT detail, hint FROM barred(:id, true, '%');
DROP VIEW rows_here;
DROP TABLE last_one;
ALTER TABLE leg NO INHERIT base;
SELECT refit.finish(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '60s');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname ~ 'refit';
SELECT count(*) FROM refit.rewrite;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';
DROP SCHEMA revert_heirs, revert_heirs_other CASCADE;
DROP ROLE regress_refit_heirs;
