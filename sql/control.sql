--
-- Control: pause, resume, cancel, retry, options, throttle, wait, the manual
-- cutover, the queue, the foreground; and what the views show to whom.
--
SET client_min_messages TO warning;
CREATE SCHEMA control;
SET search_path TO control;

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
	message := regexp_replace(message, 'migration \d+', 'migration N');
	detail := regexp_replace(detail, 'migration \d+', 'migration N');
END $$;

CREATE FUNCTION left_behind() RETURNS TABLE (kind text, name text)
LANGUAGE sql AS $$
	SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname ~ '^refit_'
	UNION ALL SELECT 'trigger', tgname::text FROM pg_trigger t
		JOIN pg_class c ON c.oid = tgrelid
		WHERE relnamespace = 'control'::regnamespace AND NOT tgisinternal
$$;

CREATE TABLE t (id int PRIMARY KEY, n int, s text);
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 100) i;

-- Submitted and rolled back: nothing
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', 'control: rolled back') AS id \gset
ROLLBACK;
SELECT count(*) FROM refit.migrations WHERE id = :id;

-- Pause in the transaction that submits: not even started
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', 'control: first') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SELECT refit.pause(:id);
SELECT refit.wait(:id);
SELECT name, kind, relation, strategy, state, phase, percent, bar, rows_done,
	pending_changes, throttled_by, waiting_for, worker_pid, started_at
	FROM refit.progress WHERE id = :id;
SELECT name, kind, relation, definition, strategy, state, started_at,
	finished_at, cutover_attempts, error_code, revertible_until
	FROM refit.migrations WHERE id = :id;
SELECT created_at <= clock_timestamp() AS created, submitted_by = current_user AS mine
	FROM refit.migrations WHERE id = :id;
SELECT refit.resume(:id);
SELECT refit.wait(:id, '60s');
SELECT count(*) FROM refit.progress WHERE id = :id;
SELECT strategy, state, rows, bytes > 0 AS bytes, cutover_attempts > 0 AS tried,
	cutover_lock_ms > 0 AS lock_ms, started_at <= finished_at AS in_order,
	error_code FROM refit.migrations WHERE id = :id;
SELECT kind, phase, message FROM refit.events
	WHERE migration_id = :id AND kind IN ('state', 'phase', 'plan');
SELECT refit.require('control: first');

-- Cancel: before the start, and with everything made
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE numeric') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SELECT refit.cancel(:id);
SELECT refit.wait(:id, '60s');
SELECT refit.cancel(:id);
SELECT refit.alter_table('t', 'ALTER n TYPE numeric', cutover => 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT kind FROM left_behind() GROUP BY 1 ORDER BY 1;
SELECT refit.cancel(:id) IN ('ready', 'running', 'queued', 'cancelled') AS asked;
SELECT until(format('(SELECT state = ''cancelled'' FROM refit.migrations WHERE id = %s)', :id));
SELECT refit.wait(:id, '60s');
SELECT * FROM left_behind();
SELECT format_type(atttypid, NULL) FROM pg_attribute
	WHERE attrelid = 't'::regclass AND attname = 'n';
-- and again from the beginning
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
SELECT refit.cancel(:id) IN ('ready', 'running', 'queued', 'cancelled') AS asked;
SELECT until(format('(SELECT state = ''cancelled'' FROM refit.migrations WHERE id = %s)', :id));

-- Manual cutover: rows written while it waits are there afterwards
SELECT refit.alter_table('t', 'ALTER n TYPE numeric', 'control: manual', 'manual') AS id \gset
SELECT refit.wait(:id, '60s');
SELECT state, phase, message FROM refit.progress WHERE id = :id;
INSERT INTO t VALUES (101, 101, 'new');
UPDATE t SET s = 'changed' WHERE id = 1;
UPDATE t SET id = 200 WHERE id = 2;
DELETE FROM t WHERE id = 3;
SELECT format_type(atttypid, NULL) FROM pg_attribute
	WHERE attrelid = 't'::regclass AND attname = 'n';
-- it can be paused there, and goes back to where it was
SELECT refit.pause(:id) IN ('ready', 'paused') AS asked;
SELECT until(format('(SELECT state = ''paused'' FROM refit.migrations WHERE id = %s)', :id));
INSERT INTO t VALUES (102, 102, 'newer');
SELECT refit.resume(:id);
SELECT until(format('(SELECT state = ''ready'' FROM refit.migrations WHERE id = %s)', :id));
SELECT code, message, detail FROM try('SELECT refit.require(''control: manual'')');
SELECT refit.cutover(:id);
SELECT refit.wait(:id, '60s');
SELECT format_type(atttypid, NULL) FROM pg_attribute
	WHERE attrelid = 't'::regclass AND attname = 'n';
SELECT count(*), sum(id), sum(n) FROM t;
SELECT id, s FROM t WHERE id IN (1, 2, 3, 101, 102, 200) ORDER BY id;
SELECT refit.require('control: manual');
SELECT * FROM try(format('SELECT refit.cutover(%s)', :id));
-- it may be asked for beforehand
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE int', cutover => 'manual') AS id \gset
SELECT refit.cutover(:id);
COMMIT;
SELECT until(format('(SELECT state = ''completed'' FROM refit.migrations WHERE id = %s)', :id));
-- an automatic one needs no leave
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SELECT * FROM try(format('SELECT refit.cutover(%s)', :id));

-- Two of one table: in the order of their ids
SELECT refit.alter_table('t', 'ALTER n SET DEFAULT 42') AS second \gset
SELECT CASE id WHEN :id THEN 'first' ELSE 'second' END AS which, state, phase
	FROM refit.progress WHERE relation = 'control.t' ORDER BY id;
SELECT refit.wait(:second, '300ms');
SELECT refit.resume(:id);
SELECT refit.wait(:second, '60s');
SELECT refit.wait(:id, '60s');
SELECT f.finished_at <= s.started_at AS in_order
	FROM refit.migrations f, refit.migrations s WHERE f.id = :id AND s.id = :second;
-- cancelling the first lets the second go
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE int') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SELECT refit.alter_table('t', 'ALTER n DROP DEFAULT') AS second \gset
SELECT refit.cancel(:id);
SELECT refit.wait(:second, '60s');

-- A name stands for one definition
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE int', 'control: twice') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SET client_min_messages TO notice;
SELECT refit.alter_table('t', 'ALTER n TYPE int', 'control: twice') = :id AS same;
SET client_min_messages TO warning;
SELECT state FROM refit.migrations WHERE id = :id;
SELECT code, message FROM try($$SELECT refit.alter_table('control.t',
	'ALTER n TYPE smallint', 'control: twice')$$);
SELECT refit.cancel(:id);
SELECT refit.alter_table('t', 'ALTER n TYPE int', 'control: twice') = :id AS same;
SELECT state FROM refit.migrations WHERE id = :id;
-- names differ in case; one name serves one table only
SELECT code, message FROM try($$SELECT refit.alter_table('control.t',
	'ALTER n SET STATISTICS 7', 'Control: Twice')$$);
SELECT refit.wait(id, '60s') FROM refit.migrations WHERE name = 'Control: Twice';

-- Failed, put right, tried again
UPDATE t SET s = 'x' WHERE id = 50;
UPDATE t SET s = id WHERE s <> 'x';
SELECT refit.alter_table('t', 'ALTER s TYPE int USING s::int') AS id \gset
SELECT code, message, detail, hint FROM try(format('SELECT refit.wait(%s, ''60s'')', :id));
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
UPDATE t SET s = '50' WHERE s = 'x';
SELECT refit.retry(:id);
SELECT refit.wait(:id, '60s');
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT sum(s) FROM t;

-- Options: given, changed, taken off
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', options =>
	'{"chunk_time": "20ms", "maintenance_work_mem": "8MB", "parallel_workers": 0}') AS id \gset
SELECT refit.pause(:id);
SELECT refit.set_option(:id, 'chunk_time', '50ms');
SELECT refit.set_option(:id, 'max_replica_lag', '1s');
SELECT refit.set_option(:id, 'maintenance_work_mem', NULL);
COMMIT;
SELECT options FROM refit.migrations WHERE id = :id;

-- Throttle: stands still, says why, goes on
SELECT refit.throttle(1, '1 hour', :id);
SELECT refit.resume(:id);
SELECT until(format('(SELECT throttled_by IS NOT NULL FROM refit.progress WHERE id = %s)', :id));
SELECT state, strategy, rows_done, throttled_by FROM refit.progress WHERE id = :id;
SELECT refit.wait(:id, '300ms');
-- pause and resume take effect while it stands still
SELECT refit.pause(:id) IN ('running', 'paused') AS asked;
SELECT refit.wait(:id, '60s');
SELECT refit.resume(:id);
SELECT refit.throttle(0, '1 hour', :id);
SELECT refit.wait(:id, '60s');
-- it ends by itself
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE int') AS id \gset
SELECT refit.throttle(1, '300 ms', :id);
COMMIT;
SELECT refit.wait(:id, '60s');
-- all of them
SELECT refit.throttle(1);
SELECT refit.alter_table('t', 'ALTER n TYPE bigint') AS id \gset
SELECT refit.wait(:id, '300ms');
SELECT refit.throttle(0);
SELECT refit.wait(:id, '60s');

-- The definition means what it meant to who wrote it
CREATE SCHEMA control_hidden;
CREATE FUNCTION control_hidden.half(n bigint) RETURNS numeric LANGUAGE sql
	IMMUTABLE AS 'SELECT n / 2.0';
SET search_path TO control_hidden, control;
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE numeric USING half(n)') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SET search_path TO control;
SELECT refit.alter_table('t', 'ALTER n TYPE numeric USING half(n)');
\echo :SQLSTATE
SELECT sum(n) / 2 AS half FROM t \gset
SELECT refit.resume(:id);
SELECT refit.wait(:id, '60s');
SELECT sum(n) = :half AS halved FROM t;

-- In the caller's session.  No worker takes part while there may be none.
ALTER SYSTEM SET refit.max_workers = 0;
SELECT pg_reload_conf();
\c -
SET client_min_messages TO warning;
SET search_path TO control;
LISTEN refit;
\o | sed -n 's/^Asynchronous notification "\(.*\)" with payload "\(.*\)" received.*/\1 \2/; s/"id": [0-9]*/"id": N/p'
SELECT refit.alter_table('t', 'ALTER n TYPE bigint', 'control: "foreground"') AS id \gset
CALL refit.run(:id);
SELECT;
\o
UNLISTEN refit;
SELECT state, strategy FROM refit.migrations WHERE id = :id;
-- what is over stays as it is
CALL refit.run(:id);
SELECT state, finished_at IS NOT NULL AS finished FROM refit.migrations WHERE id = :id;
SELECT count(*) = 1 AS once FROM refit.events WHERE migration_id = :id AND message ~ 'plan begins';
-- a manual cutover that is let happen beforehand
SELECT refit.alter_table('t', 'ALTER n TYPE int', cutover => 'manual') AS id \gset
SELECT refit.cutover(:id);
CALL refit.run(:id);
SELECT state FROM refit.migrations WHERE id = :id;
-- an error is recorded, and told by wait
SELECT refit.alter_table('t', 'ALTER n TYPE int USING 1 / (n - n)') AS id \gset
CALL refit.run(:id);
SELECT state, error_code, error_message FROM refit.migrations WHERE id = :id;
SELECT code, message, detail FROM try(format('SELECT refit.wait(%s)', :id));
-- what is paused is not started, and what was not started is cancelled at once
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint') AS id \gset
SELECT refit.pause(:id);
COMMIT;
CALL refit.run(:id);
SELECT state FROM refit.progress WHERE id = :id;
SELECT refit.cancel(:id);
SELECT * FROM left_behind();
-- cancelled by another session while its process, which has stopped work, is leaving
BEGIN;
SELECT refit.alter_table('t', 'ALTER n TYPE bigint') AS id \gset
SELECT refit.pause(:id);
COMMIT;
SELECT refit._claim(:id);
\setenv ID :id
\setenv DATABASE :DBNAME
\! psql -XAt -d "$DATABASE" -c "SELECT refit.cancel($ID)"
SELECT refit._release(:id);
CALL refit.run(:id);
SELECT state FROM refit.migrations WHERE id = :id;
ALTER SYSTEM RESET refit.max_workers;
SELECT pg_reload_conf();
\c -
SET client_min_messages TO warning;
SET search_path TO control;

-- What others see
CREATE ROLE regress_refit_owner;
CREATE ROLE regress_refit_onlooker;
CREATE ROLE regress_refit_monitor IN ROLE pg_read_all_stats;
CREATE ROLE regress_refit_member IN ROLE regress_refit_owner;
GRANT ALL ON SCHEMA control TO regress_refit_owner;
GRANT USAGE ON SCHEMA control TO PUBLIC;
SET ROLE regress_refit_owner;
CREATE TABLE secret (id int PRIMARY KEY, n int);
INSERT INTO secret VALUES (1, 0);
SELECT refit.alter_table('secret', 'ALTER n TYPE numeric USING 1 / n',
	'control: secret') AS id \gset
SELECT code, message, detail FROM try(format('SELECT refit.wait(%s, ''60s'')', :id));
SELECT definition, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SET ROLE regress_refit_onlooker;
SELECT definition, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT name, relation, state, strategy, submitted_by FROM refit.migrations WHERE id = :id;
SELECT count(*) > 0 AS events, count(message), count(detail) FROM refit.events WHERE migration_id = :id;
SELECT code, message, coalesce(detail, '') ~ 'zero|key' AS told FROM try(format('SELECT refit.wait(%s, ''60s'')', :id));
SELECT * FROM try(format('SELECT refit.retry(%s)', :id));
SET ROLE regress_refit_monitor;
SELECT definition, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT * FROM try(format('SELECT refit.retry(%s)', :id));
SET ROLE regress_refit_member;
SELECT definition, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
BEGIN;
SELECT refit.retry(:id);
-- a process that has just failed it may still be about to leave
SELECT refit.pause(:id) IN ('queued', 'paused') AS asked;
COMMIT;
SELECT until(format('(SELECT state = ''paused'' FROM refit.migrations WHERE id = %s)', :id));
SELECT refit.cancel(:id) IN ('paused', 'queued', 'cancelled') AS asked;
SELECT until(format('(SELECT state = ''cancelled'' FROM refit.migrations WHERE id = %s)', :id));
RESET ROLE;

DROP SCHEMA control CASCADE;
DROP SCHEMA control_hidden CASCADE;
DROP ROLE regress_refit_member, regress_refit_owner, regress_refit_onlooker, regress_refit_monitor;
