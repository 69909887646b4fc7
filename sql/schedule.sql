--
-- Operations that recur: when, in which hours, as whom; never twice at once;
-- refused and failed runs; and what cannot be scheduled.
--
SET client_min_messages TO warning;
CREATE SCHEMA schedule;
SET search_path TO schedule;

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

CREATE FUNCTION try(command text, OUT code text, OUT message text,
	OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE command;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
END $$;

-- an hour that is now, or one that is not; the text of a time_window
CREATE FUNCTION hour(is_now boolean) RETURNS text LANGUAGE sql AS $$
	SELECT to_char(t - interval '1 hour', 'HH24:MI') || '-' || to_char(t + interval '1 hour', 'HH24:MI')
	FROM (SELECT clock_timestamp() + CASE WHEN is_now THEN interval '0' ELSE interval '12 hours' END) AS x(t) $$;

CREATE FUNCTION schedule(name text, OUT every text, OUT kind text, OUT relation regclass,
	OUT last_state text, OUT last_error text, OUT has_run boolean, OUT is_due boolean)
LANGUAGE sql AS $$ SELECT every, kind, relation, last_state, last_error,
	last_run IS NOT NULL, next_run <= clock_timestamp() FROM refit.schedules s WHERE s.name = $1 $$;

--
-- When
--
SET TimeZone TO 'Europe/Berlin';
SET DateStyle TO ISO;
SELECT every, after, refit._next_run(every, after) FROM (VALUES
	('1 day', '2026-03-28 12:00'::timestamptz), -- clocks go forward in the night
	('24 hours', '2026-03-28 12:00'),
	('1 mon', '2026-01-31 12:00'),
	('90 seconds', '2026-01-31 12:00'),
	('* * * * *', '2026-01-01 12:00:30'),
	('*/15 * * * *', '2026-01-01 12:45'),
	('7 3 * * *', '2026-01-01 03:06:59'),
	('7 3 * * *', '2026-01-01 03:07'),
	('5,35 8-17/3 * * *', '2026-01-01 11:35'),
	('0 22 * * mon-fri', '2026-01-02 22:00'), -- a Friday
	('0 22 * * 7', '2026-01-02 22:00'),
	('0 0 13 * fri', '2026-01-01 00:00'), -- either
	('0 0 */10 * fri', '2026-01-03 00:00'), -- both
	('0 0 29 feb *', '2026-01-01 00:00'),
	('0 12 1 JAN,jul *', '2026-01-01 12:00'),
	('30/10 5 * * *', '2026-01-01 05:30'),
	('@hourly', '2026-01-01 12:00'), ('@daily', '2026-01-01 12:00'),
	('@weekly', '2026-01-01 12:00'), ('@monthly', '2026-01-01 12:00'),
	('@Yearly', '2026-01-01 12:00'),
	('30 2 * * *', '2026-03-28 12:00'), -- a time that is not there that night
	('30 2 * * *', '2026-03-29 03:30'),
	('30 2 * * *', '2026-10-24 12:00'), -- one that comes twice
	('30 2 * * *', '2026-10-25 02:30+01'),
	('*/30 * * * *', '2026-10-25 02:30+02'), -- every half hour, whatever it is called
	('*/30 * * * *', '2026-03-29 01:30')) AS v(every, after);
SELECT every, t.* FROM (VALUES (''), ('soon'), ('0 seconds'), ('-1 day'), ('0.5 seconds'),
	('60 * * * *'), ('* 24 * * *'), ('* * 0 * *'), ('* * * 13 *'), ('* * * * 8'),
	('* * * * funday'), ('5-1 * * * *'), ('*/0 * * * *'), ('1, * * * *'),
	('0 0 31 feb *'), ('* * * *'), ('* * * * * *'), ('@never')) AS v(every),
	try(format('SELECT refit._next_run(%L, now())', every)) t;
RESET TimeZone;
RESET DateStyle;

--
-- Runs
--
CREATE TABLE log (id int PRIMARY KEY, at timestamptz, n int);
INSERT INTO log SELECT g, now() - g * interval '1 hour', 0 FROM generate_series(1, 1000) g;
CREATE TABLE archive (id int);

SELECT refit.schedule('keep', '1 hour', 'purge', 'log',
	'{"where_clause": "at < now() - interval ''10 hours''"}', '{"chunk_time": "1s"}') > now() AS later;
SELECT * FROM schedule('keep');
SELECT every, time_zone = current_setting('TimeZone') AS zone, kind, relation, arguments,
	options, time_window, at_window_end, scheduled_by = current_user AS mine, active,
	next_run BETWEEN now() AND now() + interval '1 hour' AS next,
	last_run, last_state, last_migration, last_error FROM refit.schedules;
-- the same again changes nothing; a first run at once
SELECT next_run FROM refit.schedules \gset
SELECT refit.schedule('keep', '1 hour', 'purge', 'log',
	'{"where_clause": "at < now() - interval ''10 hours''"}') = :'next_run' AS same;
SELECT refit.schedule('keep', '1 hour', 'purge', 'log',
	'{"where_clause": "at < now() - interval ''10 hours''"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'completed' FROM refit.schedules)$$);
SELECT last_migration AS id, last_run FROM refit.schedules \gset
SELECT name ~ '^schedule/keep/20\d\d-\d\d-\d\d \d\d:\d\d:\d\d' AS named, kind, relation, definition, state, rows,
	submitted_by = current_user AS mine, options FROM refit.migrations WHERE id = :id;
SELECT kind, message, detail FROM refit.events WHERE migration_id = :id AND kind = 'schedule';
-- the next one, an hour after it was due; nothing is due
SELECT next_run > now() + interval '59 minutes' AS next FROM refit.schedules;
SELECT * FROM schedule('keep');
SELECT refit.unschedule('keep');
SELECT count(*) FROM refit.schedules;

-- Every kind
SELECT refit.schedule('backfill', '1 day', 'backfill', 'log',
	'{"set_clause": "n = 1", "where_clause": "n = 0"}', first_run => now()) = now() AS now,
	refit.schedule('batched', '@daily', 'batched', 'log',
	'{"statement": "INSERT INTO archive SELECT id FROM log WHERE id BETWEEN $1 AND $2"}', first_run => now()) = now() AS now,
	refit.schedule('repack', '1 mon', 'repack', 'log', '{"order_by": "id"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT count(*) = 3 FROM refit.schedules WHERE last_state = 'completed')$$);
SELECT name, kind, last_state FROM refit.schedules;
SELECT count(*) FILTER (WHERE n = 1), (SELECT count(*) FROM archive) FROM log;
SELECT refit.unschedule(name) FROM refit.schedules;

-- Again and again, each from its own start
SELECT refit.schedule('again', '1 second', 'batched', 'log',
	'{"statement": "INSERT INTO archive SELECT id FROM log WHERE id BETWEEN $1 AND $2"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT count(*) >= 2 FROM refit.migrations WHERE name LIKE 'schedule/again/%' AND state = 'completed')$$);

-- Never twice at once: while one stands still, what is due is left out
SELECT refit.throttle(1);
SELECT until($$EXISTS (SELECT FROM refit.events WHERE message = 'not begun again: it is not over yet')$$);
SELECT count(*) FROM refit.migrations WHERE name LIKE 'schedule/again/%' AND state <> 'completed';
SELECT refit.unschedule('again');
SELECT refit.throttle(0);
-- the run under way is left alone
SELECT until($$(SELECT count(*) = 0 FROM refit.progress)$$);
SELECT DISTINCT state FROM refit.migrations WHERE name LIKE 'schedule/again/%';

--
-- Windows
--
-- Outside: what is due waits, while another one, looked at after it, runs
SELECT refit.schedule('a', '1 day', 'purge', 'log', '{"where_clause": "false"}',
		time_window => hour(false), first_run => now()) = now() AS now,
	refit.schedule('b', '1 day', 'purge', 'log', '{"where_clause": "false"}',
		time_window => hour(true), first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'completed' FROM refit.schedules WHERE name = 'b')$$);
SELECT has_run, is_due FROM schedule('a');
-- it opens: the run begins
SELECT refit.schedule('a', '1 day', 'purge', 'log', '{"where_clause": "false"}', time_window => hour(true)) <= now() AS due;
SELECT until($$(SELECT last_state = 'completed' FROM refit.schedules WHERE name = 'a')$$);
SELECT refit.unschedule(name) FROM refit.schedules;

-- It ends while one runs: paused, and resumed when it opens
SELECT refit.throttle(1);
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "id % 2 = 0"}',
	time_window => hour(true), first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'running' FROM refit.schedules)$$);
SELECT last_migration AS id FROM refit.schedules \gset
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "id % 2 = 0"}', time_window => hour(false)) > now() AS later;
SELECT until($$(SELECT last_state = 'paused' FROM refit.schedules)$$);
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "id % 2 = 0"}', time_window => hour(true)) > now() AS later;
SELECT until($$(SELECT last_state = 'running' FROM refit.schedules)$$);
SELECT last_migration = :id AS same FROM refit.schedules;
SELECT message FROM refit.events WHERE migration_id = :id AND kind = 'schedule' ORDER BY at;
-- paused by a person it stays so
SELECT state FROM refit.pause(:id) AS state;
SELECT until('(SELECT state = ''paused'' FROM refit.migrations WHERE id = ' || :id || ')');
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "id % 2 = 0"}', time_window => hour(true), at_window_end => 'finish') > now() AS later;
SELECT refit.schedule('x', '1 day', 'purge', 'archive', '{"where_clause": "false"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT has_run FROM schedule('x'))$$);
SELECT last_state FROM refit.schedules WHERE name = 'w';
SELECT refit.resume(:id);
-- left to finish
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "id % 2 = 0"}', time_window => hour(false), at_window_end => 'finish') > now() AS later;
SELECT refit.throttle(0);
SELECT until($$(SELECT last_state = 'completed' FROM refit.schedules WHERE name = 'w')$$);
SELECT refit.unschedule(name) FROM refit.schedules;

-- Cancelled
SELECT refit.throttle(1);
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "true"}',
	time_window => hour(true), at_window_end => 'cancel', first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'running' FROM refit.schedules)$$);
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "true"}', time_window => hour(false), at_window_end => 'cancel') > now() AS later;
SELECT until($$(SELECT last_state = 'cancelled' FROM refit.schedules)$$);
-- one that waits for its window is cancelled by unschedule
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "true"}', time_window => hour(true), first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'running' FROM refit.schedules)$$);
SELECT refit.schedule('w', '1 day', 'purge', 'log', '{"where_clause": "true"}', time_window => hour(false)) > now() AS later;
SELECT until($$(SELECT last_state = 'paused' FROM refit.schedules)$$);
SELECT last_migration AS id FROM refit.schedules \gset
SELECT refit.unschedule('w');
SELECT refit.throttle(0);
SELECT until($$(SELECT count(*) = 0 FROM refit.progress)$$);
SELECT state FROM refit.migrations WHERE id = :id;

--
-- Runs that cannot be
--
-- failed: it is shown, and the next one goes on
CREATE TABLE f (id int PRIMARY KEY, d int);
INSERT INTO f VALUES (1, 1), (2, 0);
SELECT refit.schedule('f', '1 day', 'purge', 'f', '{"where_clause": "1 / d > 5"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'failed' FROM refit.schedules)$$);
SELECT * FROM schedule('f');
UPDATE f SET d = 1;
SELECT refit.schedule('f', '1 day', 'purge', 'f', '{"where_clause": "1 / d > 5"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'completed' FROM refit.schedules)$$);
-- refused
ALTER TABLE f RENAME d TO e;
BEGIN;
UPDATE refit.schedule SET next_run = now();
SELECT refit._tick();
COMMIT;
SELECT until($$(SELECT last_state = 'refused' FROM refit.schedules)$$);
SELECT * FROM schedule('f');
SELECT message, detail FROM refit.events WHERE kind = 'schedule' AND migration_id IS NULL;
DROP TABLE f;
BEGIN;
UPDATE refit.schedule SET next_run = now();
SELECT refit._tick();
COMMIT;
SELECT until($$(SELECT last_error LIKE '%does not exist' AND last_error !~ 'column' FROM refit.schedules)$$);
SELECT regexp_replace(last_error, 'OID \d+', 'OID N') FROM refit.schedules;
SELECT refit.unschedule('f');

-- As whom: whoever made it, who must own the table at each run
CREATE ROLE regress_schedule_owner;
CREATE ROLE regress_schedule_other;
GRANT USAGE, CREATE ON SCHEMA schedule TO regress_schedule_owner;
GRANT USAGE ON SCHEMA schedule TO regress_schedule_other;
SET ROLE regress_schedule_owner;
CREATE TABLE o (id int PRIMARY KEY, who text);
INSERT INTO o VALUES (1);
SELECT refit.schedule('o', '1 day', 'backfill', 'o', '{"set_clause": "who = current_user"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT last_state = 'completed' FROM refit.schedules)$$);
SELECT * FROM o;
SELECT submitted_by FROM refit.migrations WHERE name LIKE 'schedule/o/%';
SET ROLE regress_schedule_other;
SELECT name, arguments, last_error, last_state FROM refit.schedules;
SELECT * FROM try($$SELECT refit.schedule('mine', '1 day', 'purge', 'o', '{"where_clause": "true"}')$$);
SELECT * FROM try($$SELECT refit.schedule('o', '1 day', 'purge', 'o', '{"where_clause": "true"}')$$);
SELECT * FROM try($$SELECT refit.unschedule('o')$$);
SELECT code, message FROM try($$SELECT refit._tick()$$);
RESET ROLE;
ALTER TABLE o OWNER TO regress_schedule_other;
BEGIN;
UPDATE refit.schedule SET next_run = now();
SELECT refit._tick();
COMMIT;
SELECT until($$(SELECT last_state = 'refused' FROM refit.schedules)$$);
SELECT last_error FROM refit.schedules;
-- who owns the table may end it
SET ROLE regress_schedule_other;
SELECT refit.unschedule('o');
RESET ROLE;

-- A copy of the row on another server does nothing until it is scheduled there
SELECT refit.schedule('copy', '1 day', 'purge', 'log', '{"where_clause": "false"}') > now() AS later;
BEGIN;
UPDATE refit.schedule SET home = 'elsewhere', next_run = '2020-01-01';
SELECT refit._tick();
SELECT refit.schedule('here', '1 day', 'purge', 'log', '{"where_clause": "false"}', first_run => now()) = now() AS now;
COMMIT;
SELECT until($$(SELECT has_run FROM schedule('here'))$$);
SELECT name, active, next_run IS NOT NULL AS next, last_run IS NOT NULL AS has_run FROM refit.schedules;
SELECT refit.schedule('copy', '1 day', 'purge', 'log', '{"where_clause": "false"}') > now() AS later;
SELECT name, active, next_run > now() AS next FROM refit.schedules;
SELECT refit.unschedule(name) FROM refit.schedules;

-- an index is built anew; it stays the same object
CREATE INDEX log_again ON log (id);
SELECT pg_relation_filenode('log_again') AS node, 'log_again'::regclass::oid AS oid \gset
SELECT refit.schedule('index', '1 mon', 'rebuild_index', 'log_again', '{"method": "incremental"}', first_run => now()) = now() AS now;
SELECT until($$(SELECT last_migration IS NOT NULL FROM refit.schedules)$$);
-- a build waits for whoever has a snapshot, but not for who waits for it
SELECT refit.wait((SELECT last_migration FROM refit.schedules), '60s');
SELECT 'log_again'::regclass::oid = :oid AS same, pg_relation_filenode('log_again') <> :node AS anew,
	indisvalid FROM pg_index WHERE indexrelid = 'log_again'::regclass;
SELECT refit.unschedule('index');
DROP INDEX log_again;

--
-- What is refused
--
CREATE VIEW v AS SELECT * FROM log;
SELECT c.*, t.* FROM (VALUES
	(1, $$NULL, '1 day', 'purge', 'log'$$), (2, $$'', '1 day', 'purge', 'log'$$),
	(3, $$repeat('x', 65), '1 day', 'purge', 'log'$$), (4, $$'n', NULL, 'purge', 'log'$$),
	(5, $$'n', '1 day', NULL, 'log'$$), (6, $$'n', '1 day', 'purge', NULL$$),
	(7, $$'n', '1 day', 'alter_table', 'log'$$), (8, $$'n', 'x', 'purge', 'log'$$),
	(9, $$'n', '1 day', 'purge', 'log'$$), (10, $$'n', '1 day', 'purge', 'log', '[]'$$),
	(11, $$'n', '1 day', 'purge', 'log', '{"set_clause": "n = 1"}'$$),
	(12, $$'n', '1 day', 'purge', 'log', '{"where_clause": 1}'$$),
	(13, $$'n', '1 day', 'purge', 'log', '{"where_clause": "nosuch"}'$$),
	(14, $$'n', '1 day', 'purge', 'log', '{"where_clause": "random() < 1"}'$$),
	(15, $$'n', '1 day', 'purge', 'v', '{"where_clause": "true"}'$$),
	(16, $$'n', '1 day', 'repack', 'log', time_window => '25:00-26:00'$$),
	(17, $$'n', '1 day', 'repack', 'log', time_window => '22:00'$$),
	(18, $$'n', '1 day', 'repack', 'log', time_window => '22:00-22:00'$$),
	(19, $$'n', '1 day', 'repack', 'log', time_window => 'sat 24:00-06:00'$$),
	(20, $$'n', '1 day', 'repack', 'log', time_window => 'someday 01:00-06:00'$$),
	(21, $$'n', '1 day', 'repack', 'log', at_window_end => 'explode'$$))
	AS c(n, arguments), try('SELECT refit.schedule(' || c.arguments || ')') t ORDER BY n;
SELECT code, message FROM try($$SELECT refit.schedule('n', '1 day', 'purge', 'log', '{"where_clause": "true"}', '{"nosuch": 1}')$$);
SELECT * FROM try($$SELECT refit.unschedule('nosuch')$$);
SELECT * FROM try($$SELECT refit.unschedule(NULL)$$);
-- nothing of all this was left
SELECT count(*) FROM refit.schedules;
SELECT count(*) FROM refit.migrations WHERE name = 'schedule/n';

DROP SCHEMA schedule CASCADE;
DROP ROLE regress_schedule_owner;
DROP ROLE regress_schedule_other;
