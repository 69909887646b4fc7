--
-- The governor: its signals, a function of the user's own, unknown ones, options
-- of pace and time; gates for deploy scripts; how long the history is kept.
--
SET client_min_messages TO warning;
CREATE SCHEMA governor;
SET search_path TO governor;

-- waits until a condition holds, for a minute at most
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

-- ids and times are taken out of the messages
CREATE FUNCTION try(command text, OUT result text, OUT code text,
	OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command INTO result;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := regexp_replace(message, 'migration \d+', 'migration N');
	detail := regexp_replace(detail, '\d{4}-[-0-9]+ [:.+0-9]+', 'TIME', 'g');
	hint := regexp_replace(hint, '\(\d+\)', '(N)');
END $$;

-- sets something for the workers that start from now on
CREATE PROCEDURE for_workers(setting text, value text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('ALTER DATABASE %I SET %s TO %L', current_database(), setting, value);
END $$;

CREATE TABLE t (id int PRIMARY KEY, n int);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i;
ANALYZE t;

-- What is read
SELECT signal, soft_limit, hard_limit, unit FROM refit.signals
	WHERE signal NOT IN ('active_backends', 'free_disk');
SELECT hard_limit = 2 * soft_limit FROM refit.signals WHERE signal = 'active_backends';
SET refit.max_active_backends = 10;
SET refit.max_wal_rate = '10MB';
SET refit.max_replica_lag = '1s';
SELECT signal, soft_limit, hard_limit FROM refit.signals
	WHERE signal IN ('active_backends', 'wal_rate', 'replica_lag');
RESET refit.max_active_backends;
RESET refit.max_wal_rate;
RESET refit.max_replica_lag;
SELECT count(*) FROM refit.signals WHERE state NOT IN ('ok', 'slow', 'stop');

-- A function of the user's own; seen by whoever looks, with his rights
CREATE TABLE load (load float8, reason text);
CREATE FUNCTION load(OUT load float8, OUT reason text) RETURNS SETOF record
LANGUAGE sql AS $$ SELECT load, reason || ', for ' || current_user FROM governor.load $$;
CREATE FUNCTION slow_load(OUT load float8, OUT reason text)
LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); load := 0; END $$;
CREATE FUNCTION wrong_load() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION seen(OUT value float8, OUT state text, OUT reason text)
LANGUAGE sql AS $$
	SELECT value, state, replace(reason, current_user, 'me') FROM refit.signals
	WHERE signal = 'signal_function' $$;
SELECT * FROM seen();
SET refit.signal_function = 'governor.load';
SELECT * FROM seen();	-- no row
INSERT INTO load VALUES (0.4, 'calm');
SELECT * FROM seen();
UPDATE load SET load = 0.75, reason = 'busy';
SELECT * FROM seen();
UPDATE load SET load = 1, reason = NULL;
SELECT * FROM seen();
UPDATE load SET load = NULL, reason = 'broken';
SELECT * FROM seen();
UPDATE load SET load = 'NaN';
SELECT * FROM seen();
UPDATE load SET load = 'Infinity';
SELECT * FROM seen();
SET refit.signal_function = 'governor.no_such_function';
SELECT * FROM seen();
SET refit.signal_function = 'load';		-- not in pg_catalog
SELECT * FROM seen();
SET refit.signal_function = 'governor."lo';
SELECT * FROM seen();
SET refit.signal_function = 'governor.wrong_load';
SELECT * FROM seen();
SET refit.signal_function = 'governor.slow_load';	-- longer than a second
SELECT * FROM seen();
RESET refit.signal_function;
CREATE ROLE refit_governor_reader;
SET ROLE refit_governor_reader;
SET refit.signal_function = 'governor.load';
SELECT signal, state, reason FROM refit.signals WHERE signal = 'signal_function';
RESET ROLE;

-- It stops a migration, is named, and lets it go.  The worker runs it as the owner
-- of the table.
CREATE ROLE refit_governor_owner;
GRANT USAGE ON SCHEMA governor TO refit_governor_owner;
GRANT SELECT ON load TO refit_governor_owner;
CREATE TABLE owned (id int PRIMARY KEY, n int);
INSERT INTO owned SELECT i, 0 FROM generate_series(1, 100) i;
ALTER TABLE owned OWNER TO refit_governor_owner;
UPDATE load SET load = 1.5, reason = 'very busy';
CALL for_workers('refit.signal_function', 'governor.load');
SELECT refit.backfill('owned', 'n = 1', name => 'governor: signal function') AS id \gset
SELECT until(format($$EXISTS (SELECT FROM refit.progress
	WHERE id = %s AND throttled_by ~ '^signal_function')$$, :id));
SELECT state, throttled_by FROM refit.progress WHERE id = :id;
SELECT message, detail FROM refit.events WHERE migration_id = :id AND kind = 'governor';
UPDATE load SET load = 0, reason = 'calm';
SELECT refit.wait(:id, '60s');
SELECT count(*) FROM owned WHERE n = 1;
-- what he may not do is unknown; by default that harms nothing
REVOKE SELECT ON load FROM refit_governor_owner;
SELECT refit.backfill('owned', 'n = 2') AS id \gset
SELECT refit.wait(:id, '60s');
-- and can be made to stop
CALL for_workers('refit.unknown_signal', 'stop');
SELECT refit.backfill('owned', 'n = 3') AS id \gset
SELECT until(format($$EXISTS (SELECT FROM refit.progress
	WHERE id = %s AND throttled_by ~ '^signal_function')$$, :id));
SELECT state, throttled_by FROM refit.progress WHERE id = :id;
SELECT message FROM refit.events WHERE migration_id = :id AND kind = 'governor';
GRANT SELECT ON load TO refit_governor_owner;
SELECT refit.wait(:id, '60s');
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I RESET refit.unknown_signal', current_database());
	EXECUTE format('ALTER DATABASE %I RESET refit.signal_function', current_database());
END $$;

-- Options of pace and time: what is refused
SELECT o AS options, message, hint FROM unnest(ARRAY['{"max_wal_rate": "fast"}',
	'{"max_wal_rate": 0}', '{"max_dead_ratio": 0}', '{"max_dead_ratio": 1.1}',
	'{"max_dead_ratio": "some"}', '{"deadline": "soon"}', '{"deadline": "0"}',
	'{"deadline": "-1h"}', '{"cutover_window": "night"}',
	'{"cutover_window": "22:00"}', '{"cutover_window": "22:00-22:00"}',
	'{"cutover_window": "22:00-25:00"}', '{"cutover_window": "22:60-23:00"}',
	'{"cutover_window": "22:00-23:00 UTC"}', '{"lock_timeout": "0"}']) o,
	try(format('SELECT refit.backfill(''t'', ''n = 1'', options => %L)', o))
	WHERE code = '22023';
SELECT code, message ~ '^120000 ms is outside the valid range for parameter "refit.lock_timeout"' AS message
	FROM try($$SELECT refit.backfill('t', 'n = 1', options => '{"lock_timeout": "2min"}')$$);

-- A deadline that has passed
SELECT refit.alter_table('t', 'ADD COLUMN late int', 'governor: late',
	options => '{"deadline": "2020-01-01 12:00+00"}') AS id \gset
SELECT until(format($$(SELECT state = 'failed' FROM refit.migrations WHERE id = %s)$$, :id));
SELECT error_code, replace(error_message, :'id', 'N') AS message,
	error_detail = 'The deadline was ' || timestamptz '2020-01-01 12:00+00' || '.' AS detail
	FROM refit.migrations WHERE id = :id;
SELECT count(*) FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'late';
SELECT refit.set_option(:id, 'deadline', NULL);
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
-- while it waits for somebody, in the time zone of who submitted it
SET TimeZone = 'Asia/Tokyo';
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', cutover => 'manual',
	options => jsonb_build_object('deadline',
	to_char(clock_timestamp() + '1 hour', 'YYYY-MM-DD HH24:MI:SS'))) AS id \gset
RESET TimeZone;
SELECT refit.wait(:id, '60s');
SELECT refit.set_option(:id, 'deadline', '1ms');	-- since it was submitted
SELECT until(format($$(SELECT state = 'failed' FROM refit.migrations WHERE id = %s)$$, :id));
SELECT format_type(atttypid, NULL) FROM pg_attribute
	WHERE attrelid = 't'::regclass AND attname = 'n';

-- A window for the cutover that is open later, and then now
SELECT to_char(here + interval '2 hours', 'HH24:MI-')
	|| to_char(here + interval '3 hours', 'HH24:MI') AS later,
	to_char(here - interval '2 hours', 'HH24:MI-')
	|| to_char(here + interval '2 hours', 'HH24:MI') AS now
	FROM (SELECT clock_timestamp() AT TIME ZONE 'Asia/Tokyo') AS h (here) \gset
SET TimeZone = 'Asia/Tokyo';
SELECT refit.alter_table('t', 'ALTER n TYPE bigint',
	options => jsonb_build_object('cutover_window', :'later')) AS rewrite \gset
CREATE TABLE u (id int PRIMARY KEY);
SELECT refit.alter_table('u', 'ADD COLUMN n int',
	options => jsonb_build_object('cutover_window', :'later')) AS instant \gset
RESET TimeZone;
SELECT until(format($$(SELECT count(*) = 2 FROM refit.progress
	WHERE id IN (%s, %s) AND message ~ '^waiting for the cutover window')$$, :rewrite, :instant));
SELECT state, phase, replace(message, :'later', 'LATER') AS message FROM refit.progress
	WHERE id IN (:rewrite, :instant) ORDER BY id;
INSERT INTO t VALUES (1001, 1);
SELECT until(format('(SELECT pending_changes = 0 FROM refit.progress WHERE id = %s)', :rewrite));
SELECT refit.set_option(:rewrite, 'cutover_window', :'now');
SELECT refit.set_option(:instant, 'cutover_window', :'now');
SELECT refit.wait(:rewrite, '60s'), refit.wait(:instant, '60s');
SELECT format_type(atttypid, NULL) FROM pg_attribute
	WHERE attrelid = 't'::regclass AND attname = 'n';

-- Gates
SELECT code, message, hint FROM try('SELECT refit.require(''governor: no such'')');
SELECT code, message, hint FROM try('SELECT refit.require_all(''governor: no such'')');
SELECT refit.require('governor: signal function');
BEGIN;
SELECT refit.backfill('t', 'n = n + 1', name => 'governor gate: one') AS one \gset
SELECT refit.pause(:one);
SELECT refit.backfill('u', 'n = id', name => 'governor gate: two') AS two \gset
SELECT refit.throttle(1, id => :two);
COMMIT;
SELECT until(format('(SELECT throttled_by IS NOT NULL FROM refit.progress WHERE id = %s)', :two));
SELECT code, message, detail, hint FROM try('SELECT refit.require(''governor gate: one'')');
SELECT code, message, detail, hint FROM try('SELECT refit.require_all(''governor gate'')');
SELECT refit.cancel(:one);
SELECT code, message, detail, hint FROM try('SELECT refit.require(''governor gate: one'')');
SELECT code, message, detail, hint FROM try('SELECT refit.require_all(''governor gate'')');
SELECT refit.throttle(0, id => :two);
SELECT refit.wait(:two, '60s');
SELECT refit.retry(:one);
SELECT refit.wait(:one, '60s');
SELECT refit.require_all('governor gate');
SELECT refit.require_all(NULL);
-- when it will be done
INSERT INTO u SELECT i, 0 FROM generate_series(1, 20000) i;
ANALYZE u;
BEGIN;
SELECT refit.backfill('u', 'n = n + 1', name => 'governor: slow',
	options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.throttle(0.95, id => :id);
COMMIT;
SELECT until(format('(SELECT eta IS NOT NULL FROM refit.progress WHERE id = %s)', :id));
SELECT code, regexp_replace(regexp_replace(detail, '[0-9.]+ %', 'N %'), 'end at .*', 'end at TIME') AS detail
	FROM try('SELECT refit.require(''governor: slow'')');
SELECT refit.throttle(0, id => :id);
SELECT refit.wait(:id, '60s');
DELETE FROM u;

-- History.  What is old goes, but not what a gate may ask for.
SELECT refit.backfill('u', 'n = 1', name => 'governor: old') AS old \gset
SELECT refit.wait(:old, '60s');
SELECT refit.backfill('u', 'n = 2') AS nameless \gset
SELECT refit.wait(:nameless, '60s');
BEGIN;
SELECT refit.backfill('u', 'n = 3', name => 'governor: old, cancelled') AS cancelled \gset
SELECT refit.cancel(:cancelled);
SELECT refit.backfill('u', 'n = 4', name => 'governor: old, paused') AS paused \gset
SELECT refit.pause(:paused);
COMMIT;
UPDATE refit.migration SET finished_at = finished_at - interval '100 days'
	WHERE id IN (:old, :nameless, :cancelled);
UPDATE refit.event SET at = at - interval '100 days'
	WHERE migration_id IN (:old, :nameless, :cancelled, :paused);
SELECT refit.backfill('u', 'n = 5', name => 'governor: new') AS new \gset
SELECT refit.resume(:paused);
SELECT refit.wait(:new, '60s'), refit.wait(:paused, '60s');
SELECT until(format('NOT EXISTS (SELECT FROM refit.migration WHERE id = %s)', :nameless));
SELECT id = :old AS old, id = :new AS new, id = :paused AS paused, name,
	(SELECT count(*) > 0 FROM refit.events WHERE migration_id = id) AS has_events
	FROM refit.migrations WHERE id IN (:old, :nameless, :cancelled, :paused, :new) ORDER BY id;
SELECT count(*) FROM refit.event WHERE migration_id IN (:nameless, :cancelled);
SELECT count(*) FROM refit.migration_progress WHERE id IN (:nameless, :cancelled);
SELECT refit.require('governor: old');
SELECT code, message FROM try('SELECT refit.require(''governor: old, cancelled'')');
-- the same deploy again
SELECT refit.backfill('u', 'n = 1', name => 'governor: old') = :old AS same;
-- kept for ever, by all that begin now
SELECT until('NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN (''pg_refit worker'', ''pg_refit scan''))');
CALL for_workers('refit.history_retention', '-1');
SELECT refit.backfill('u', 'n = 6') AS id \gset
SELECT refit.wait(:id, '60s');
UPDATE refit.migration SET finished_at = finished_at - interval '100 days' WHERE id = :id;
SELECT refit.backfill('u', 'n = 7') AS next \gset
SELECT refit.wait(:next, '60s');
SELECT until('NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type IN (''pg_refit worker'', ''pg_refit scan''))');
SELECT count(*) FROM refit.migrations WHERE id = :id;
DO $$ BEGIN
	EXECUTE format('ALTER DATABASE %I RESET refit.history_retention', current_database());
END $$;

DROP SCHEMA governor CASCADE;
DROP ROLE refit_governor_reader;
DROP ROLE refit_governor_owner;
