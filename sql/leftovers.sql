--
-- refit.leftovers and refit.clean_leftovers: what is ours and over is removed,
-- nothing else is touched.
--
SET client_min_messages TO warning;
CREATE SCHEMA leftovers;
SET search_path TO leftovers;

-- without the numbers of migrations
CREATE FUNCTION shown(text) RETURNS text LANGUAGE sql
RETURN regexp_replace($1, '(refit_|capture_)\d+', '\1N');
CREATE FUNCTION listed(OUT kind text, OUT object text, OUT relation text,
	OUT made_by text, OUT what_to_do text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT kind, leftovers.shown(object), relation, made_by, what_to_do
	FROM refit.leftovers() WHERE relation IS NULL OR relation ~ '^leftovers\.'
$$;
CREATE FUNCTION cleaned(OUT kind text, OUT object text, OUT relation text,
	OUT result text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT kind, leftovers.shown(object), relation, result FROM refit.clean_leftovers()
$$;

CREATE TABLE t (id int PRIMARY KEY, n int, _pgroll_new_n bigint);
CREATE TABLE other (id int PRIMARY KEY, n int);
INSERT INTO t SELECT i, i FROM generate_series(1, 100) i;

-- an unfinished migration, with its schema and triggers
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', 'leftovers: t', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '20s');
SELECT count(*) FROM pg_namespace WHERE nspname = 'refit_' || :id;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass AND tgfoid = 'refit._capture'::regproc;
SELECT * FROM refit.leftovers() WHERE migration_id = :id;
SELECT * FROM cleaned();
SELECT refit.cancel(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '20s');
SELECT * FROM refit.leftovers() WHERE migration_id = :id;

-- the same, when nobody cleans it up: as if its row had been lost
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', 'leftovers: lost', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '20s');
SELECT refit.pause(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '20s');
UPDATE refit.migration SET state = 'failed', phase = NULL WHERE id = :id;
DELETE FROM refit.rewrite WHERE id = :id;
-- a proof of NOT NULL, and an index of a command
ALTER TABLE t ADD CONSTRAINT refit_0_not_null CHECK (n IS NOT NULL) NOT VALID;
\set ECHO none
SELECT format('ALTER TABLE t RENAME CONSTRAINT refit_0_not_null TO refit_%s_2_not_null', :id) \gexec
\set ECHO all
CREATE INDEX half ON t (n);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'half'::regclass;
INSERT INTO refit.command (id, relids, name, targets, known)
	VALUES (:id, ARRAY['t'::regclass], 'half', '{}', '{}');
-- of other tools, and of users
CREATE INDEX other_n_ccnew ON other (n);
CREATE INDEX other_n ON other (n);
UPDATE pg_index SET indisvalid = false
	WHERE indexrelid IN ('other_n_ccnew'::regclass, 'other_n'::regclass);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TRIGGER repack_trigger AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER _pgroll_trigger_other_n AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE SCHEMA refit_1000000;
ALTER TABLE other ADD CONSTRAINT refit_1_2_not_null CHECK (n IS NOT NULL) NOT VALID;

-- who has worked them is gone
DO $$ BEGIN
	FOR i IN 1 .. 2000 LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'pg_refit worker');
		PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
	END LOOP;
END $$;

-- who owns nothing sees nothing
CREATE ROLE leftovers_other;
GRANT USAGE ON SCHEMA leftovers TO leftovers_other;
SET ROLE leftovers_other;
SELECT * FROM listed();
SELECT * FROM cleaned();
RESET ROLE;

SELECT * FROM listed();
SELECT * FROM cleaned();
SELECT * FROM listed();
SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass;
SELECT conname FROM pg_constraint WHERE conrelid = 't'::regclass AND contype = 'c';
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- in use: said, and left alone
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', 'leftovers: used', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '20s');
SELECT refit.pause(:id) IS NOT NULL AS asked;
SELECT refit.wait(:id, '20s');
UPDATE refit.migration SET state = 'failed', phase = NULL WHERE id = :id;
BEGIN;
SELECT count(*) FROM t;
PREPARE TRANSACTION 'leftovers: reader';
SET refit.lock_timeout = '10ms';
SELECT * FROM cleaned();
COMMIT PREPARED 'leftovers: reader';
SELECT * FROM cleaned();
DELETE FROM refit.rewrite WHERE id = :id;

DROP SCHEMA refit_1000000;
DROP OWNED BY leftovers_other;
DROP ROLE leftovers_other;
DROP SCHEMA leftovers CASCADE;
