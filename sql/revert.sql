--
-- Revert windows: what plan() says, what is refused, the states.
--
SET client_min_messages TO warning;
CREATE SCHEMA reverts;
SET search_path TO reverts;

CREATE FUNCTION try(command text, OUT code text, OUT message text,
	OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := regexp_replace(message, 'migration \d+', 'migration N');
END $$;

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

CREATE TABLE other (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, n int, s text, q serial,
	i int GENERATED ALWAYS AS IDENTITY, c int CHECK (c > 0),
	g int GENERATED ALWAYS AS (n + 1) STORED,
	f int CONSTRAINT refers REFERENCES other DEFERRABLE, p int);
CREATE STATISTICS st ON n, s FROM t;
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 100) i;
CREATE UNLOGGED TABLE u (id int PRIMARY KEY, n int);

-- What can be reverted
SELECT action, reason FROM unnest(ARRAY['ALTER c TYPE bigint',
	'ALTER s TYPE varchar(20)', 'DROP COLUMN g', 'ADD COLUMN x uuid DEFAULT gen_random_uuid()',
	'DROP CONSTRAINT t_c_check', 'DROP CONSTRAINT refers', 'SET (fillfactor = 50), ALTER q TYPE bigint']) action,
	refit.plan('t', action || ', ADD UNIQUE (n)') WHERE phase = 'window';

-- What cannot: plan() says so, and it is refused
SELECT action, reason FROM unnest(ARRAY['DROP COLUMN n CASCADE', 'DROP COLUMN q', 'DROP COLUMN s',
	'ALTER c TYPE bigint USING (c * random())::bigint', 'DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (q)',
	'ALTER i DROP IDENTITY', 'ALTER g DROP EXPRESSION',
	'ALTER p TYPE point USING point(p, p)', 'ALTER id TYPE int USING id * 10',
	'ALTER id TYPE text']) action,
	refit.plan('t', action || ', ADD UNIQUE (c)') WHERE phase = 'window';
SELECT t.* FROM unnest(ARRAY['DROP COLUMN g CASCADE', 'DROP COLUMN q', 'DROP COLUMN s',
	'ALTER c TYPE bigint USING (c * random())::bigint', 'DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (q)',
	'ALTER g DROP EXPRESSION', 'SET UNLOGGED', 'ALTER CONSTRAINT refers NOT DEFERRABLE']) action,
	try(format('SELECT refit.alter_table(''t'', %L, revertible => ''1 day'')', action)) t;
SELECT * FROM try('SELECT refit.alter_table(''u'', ''ALTER n TYPE bigint'', revertible => ''1 day'')');
SELECT * FROM try('SELECT refit.alter_table(''t'', ''ALTER n TYPE bigint'', revertible => ''-1 day'')');
SELECT count(*) FROM refit.migrations WHERE relation LIKE 'reverts.%';
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';

-- Out of a window
SELECT refit.alter_table('t', 'ALTER n TYPE bigint USING n * 10, DROP g', revertible => '0') AS id \gset
SELECT code, message, hint FROM try(format('SELECT refit.revert(%s)', :id));
SELECT code, message, hint FROM try(format('SELECT refit.finish(%s)', :id));
SELECT refit.wait(:id, '60s');
SELECT state, revertible_until FROM refit.migrations WHERE id = :id;
SELECT * FROM try(format('SELECT refit.revert(%s)', :id));
SELECT * FROM try('SELECT refit.revert(0)');

-- In a window
SELECT refit.alter_table('t', 'ALTER n TYPE text, ADD COLUMN x int DEFAULT 7', 'reverts: n to text',
	revertible => '1 day') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT state, phase, percent, message FROM refit.progress WHERE id = :id;
SELECT verified_rows, discrepancies, revertible_until > now() AS is_open FROM refit.migrations WHERE id = :id;
SELECT * FROM try(format('SELECT refit.cancel(%s)', :id));
SELECT code, message FROM try(format('SELECT refit.retry(%s)', :id));
SELECT code, message FROM try(format('SELECT refit.cutover(%s)', :id));
UPDATE t SET n = 'word' WHERE id = 7;
SELECT until(format('message LIKE ''cannot%%'' FROM refit.progress WHERE id = %s', :id));
SELECT message FROM refit.progress WHERE id = :id;
SELECT * FROM try(format('SELECT refit.revert(%s)', :id));
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
UPDATE t SET n = '70' WHERE id = 7;
SELECT until(format('message LIKE ''the old%%'' FROM refit.progress WHERE id = %s', :id));
SELECT error_code, error_message FROM refit.migrations WHERE id = :id;
CREATE ROLE regress_refit_stranger;
GRANT USAGE ON SCHEMA reverts TO regress_refit_stranger;
SET ROLE regress_refit_stranger;
SELECT * FROM try(format('SELECT refit.revert(%s)', :id));
SELECT code, message FROM try(format('SELECT refit.finish(%s)', :id));
RESET ROLE;
REVOKE USAGE ON SCHEMA reverts FROM regress_refit_stranger;
DROP ROLE regress_refit_stranger;
SELECT refit.revert(:id) IN ('revertible', 'running') AS asked;
SELECT refit.wait(:id, '60s');
SELECT n, pg_typeof(n) FROM t WHERE id = 7;
SELECT column_name FROM information_schema.columns WHERE table_schema = 'reverts' AND table_name = 't' ORDER BY 1;
SELECT message FROM refit.events WHERE migration_id = :id AND kind = 'phase' ORDER BY at;
SELECT code, message, regexp_replace(hint, '\d+', 'N') AS hint FROM try('SELECT refit.require(''reverts: n to text'')');
SELECT code, message FROM try(format('SELECT refit.revert(%s)', :id));

-- Again, and kept
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
SELECT refit.finish(:id) IN ('revertible', 'running') AS asked;
SELECT refit.wait(:id, '60s');
SELECT refit.require('reverts: n to text');
SELECT n, x, pg_typeof(n) FROM t WHERE id = 7;
SELECT nspname FROM pg_namespace WHERE nspname ~ '^refit_';
DROP SCHEMA reverts CASCADE;
