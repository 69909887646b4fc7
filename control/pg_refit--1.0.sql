/* control/pg_refit--1.0.sql: what CREATE EXTENSION pg_refit makes */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION pg_refit" to load this file. \quit

-- Made here and not by the control file, so that DROP EXTENSION drops it.
CREATE SCHEMA refit;
GRANT USAGE ON SCHEMA refit TO PUBLIC;

--
-- State of record.  Only the library writes these tables; people read the
-- views further down.
--

CREATE SEQUENCE refit.migration_id_seq;

CREATE TABLE refit.migration (
	id bigint PRIMARY KEY DEFAULT pg_catalog.nextval('refit.migration_id_seq'),
	name text UNIQUE,
	kind text NOT NULL,
	relid oid NOT NULL,
	relation text NOT NULL,
	definition text NOT NULL,
	object oid NOT NULL DEFAULT 0,	-- the index that it is about
	method text,			-- of an index
	set_clause text,		-- of a pass over rows
	where_clause text,
	strategy text,
	state text NOT NULL DEFAULT 'queued' CHECK (state IN (
		'queued', 'running', 'paused', 'ready', 'revertible',
		'completed', 'cancelled', 'failed', 'reverted')),
	phase text,
	goal text CHECK (goal IN ('cancelled', 'failed', 'reverted')),
	request text CHECK (request IN ('pause', 'cancel', 'cutover', 'revert',
		'finish')),
	cutover text NOT NULL DEFAULT 'auto' CHECK (cutover IN ('auto', 'manual')),
	verify text NOT NULL DEFAULT 'full'
		CHECK (verify IN ('full', 'sample', 'off')),
	revertible interval,
	options jsonb NOT NULL DEFAULT '{}',
	search_path text NOT NULL,
	settings jsonb NOT NULL DEFAULT '{}',	-- that values are read and written by
	home text NOT NULL,		-- server and database that it belongs to
	submitted_by text NOT NULL DEFAULT SESSION_USER,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	started_at timestamptz,
	finished_at timestamptz,
	phase_started_at timestamptz,
	rows bigint,
	bytes bigint,
	cutover_lock_ms float8,
	cutover_attempts integer NOT NULL DEFAULT 0,
	verified_rows bigint,
	discrepancies bigint,
	error_code text,
	error_message text,
	error_detail text,
	error_hint text,
	error_context text,
	revertible_until timestamptz
);

-- for the queue; a finished migration leaves it
CREATE INDEX migration_unfinished ON refit.migration (relid, id)
	WHERE state IN ('queued', 'running', 'paused', 'ready', 'revertible');

ALTER SEQUENCE refit.migration_id_seq OWNED BY refit.migration.id;

-- Written with every chunk, and by nobody but the one who works the migration:
-- no column but the key is indexed, so that each write is a HOT update.
CREATE TABLE refit.migration_progress (
	id bigint PRIMARY KEY,
	worker_pid integer,
	leaf oid,				-- the partition at work; NULL: the table itself
	cursor bigint NOT NULL DEFAULT 0,
	cursor_end bigint NOT NULL DEFAULT 0,
	rows_done bigint NOT NULL DEFAULT 0,
	rows_total bigint NOT NULL DEFAULT 0,
	bytes_done bigint NOT NULL DEFAULT 0,
	bytes_total bigint NOT NULL DEFAULT 0,
	pending bigint NOT NULL DEFAULT 0,
	rate float8 NOT NULL DEFAULT 0,
	budget_ms integer NOT NULL DEFAULT 0,
	errors integer NOT NULL DEFAULT 0,
	deaths integer NOT NULL DEFAULT 0,
	stands_still boolean NOT NULL DEFAULT false,
	throttled_by text,
	waiting_for text,
	message text,
	updated_at timestamptz
) WITH (fillfactor = 25);

-- What a rewrite works with, from phase prepare until it is cleaned up: a row
-- for each table with rows, numbered from 1, and for each partitioned table above
-- them one with number 0, which has only a twin.
CREATE TABLE refit.rewrite (
	id bigint NOT NULL,
	relid oid NOT NULL,
	relation text NOT NULL,
	number integer NOT NULL,
	twin oid NOT NULL,
	blank oid NOT NULL DEFAULT 0,
	key_index oid NOT NULL DEFAULT 0,
	trigger oid NOT NULL DEFAULT 0,
	trigger_xmin bigint NOT NULL DEFAULT 0,
	log0 oid NOT NULL DEFAULT 0,
	log1 oid NOT NULL DEFAULT 0,
	filenode oid NOT NULL DEFAULT 0,
	source_blocks bigint NOT NULL DEFAULT 0,
	copied_blocks bigint NOT NULL DEFAULT 0,
	copied_rows bigint NOT NULL DEFAULT 0,
	twin_blocks bigint NOT NULL DEFAULT 0,
	toast_blocks bigint NOT NULL DEFAULT 0,
	helper integer,
	fingerprint text NOT NULL,
	baseline text,
	reversed boolean NOT NULL DEFAULT false,
	inverse text,
	back_log0 oid NOT NULL DEFAULT 0,
	back_log1 oid NOT NULL DEFAULT 0,
	back_suspects oid NOT NULL DEFAULT 0,
	suspects oid NOT NULL DEFAULT 0,
	verify text NOT NULL DEFAULT 'walking'
		CHECK (verify IN ('walking', 'suspect', 'passed', 'failed')),
	verify_filenode oid NOT NULL DEFAULT 0,
	verify_source bigint NOT NULL DEFAULT 0,
	verify_twin bigint NOT NULL DEFAULT 0,
	verify_rows bigint NOT NULL DEFAULT 0,
	verify_skipped bigint NOT NULL DEFAULT 0,
	verify_walks integer NOT NULL DEFAULT 0,
	verified bigint NOT NULL DEFAULT 0,
	discrepancies bigint NOT NULL DEFAULT 0,
	finding text,
	PRIMARY KEY (id, relid)
) WITH (fillfactor = 25);

-- Bytes that a rewrite was estimated to write, by tablespace; 0: pg_wal.
CREATE TABLE refit.space (
	id bigint NOT NULL,
	place oid NOT NULL,
	bytes bigint NOT NULL,
	PRIMARY KEY (id, place)
);

-- Constraints that a migration has made NOT VALID and must validate.
CREATE TABLE refit.owed (
	id bigint NOT NULL,
	relid oid NOT NULL,
	conname name NOT NULL,
	conoid oid NOT NULL DEFAULT 0,	-- once it was looked at
	added boolean NOT NULL DEFAULT false, -- by the migration itself
	depth integer NOT NULL DEFAULT 0,	-- below the table of the migration
	filenode oid NOT NULL DEFAULT 0,	-- the storage that is being checked
	since bigint NOT NULL DEFAULT 0,	-- rows of older xids were there before
	done boolean NOT NULL DEFAULT false,
	PRIMARY KEY (id, relid, conname)
);

-- The parts of a pass over rows, each a range of keys with its cursor; see
-- src/rows/part.h.  They outlive a failed migration, for a retry to go on from.
CREATE TABLE refit.pass (
	id bigint NOT NULL,
	number integer NOT NULL,
	relid oid NOT NULL,
	key_index oid NOT NULL,	-- 0: by positions
	key text,				-- its columns, types, collations
	by_where boolean NOT NULL,
	low text[],
	high text[],
	filenode oid NOT NULL DEFAULT 0,	-- that positions are in
	round integer NOT NULL DEFAULT 1,
	helper integer,			-- process that works it beside the leader
	next_position bigint NOT NULL DEFAULT 0,
	position_end bigint NOT NULL DEFAULT 0,
	batch bigint NOT NULL DEFAULT 0,
	batch_limit bigint NOT NULL DEFAULT 0,
	suspects bigint NOT NULL DEFAULT 0,
	errors integer NOT NULL DEFAULT 0,
	poison boolean NOT NULL DEFAULT false,
	total bigint NOT NULL DEFAULT 0,
	scanned bigint NOT NULL DEFAULT 0,
	touched bigint NOT NULL DEFAULT 0,
	skipped bigint NOT NULL DEFAULT 0,
	done boolean NOT NULL DEFAULT false,
	PRIMARY KEY (id, number)
) WITH (fillfactor = 25);

-- The indexes that a migration builds beside the application, one for each table
-- of a partition tree, parents before their partitions; see src/index/row.h.
CREATE TABLE refit.index_build (
	id bigint NOT NULL,
	number integer NOT NULL,
	relid oid NOT NULL,
	is_leaf boolean NOT NULL,	-- has rows
	parent oid NOT NULL,		-- the index above it, or 0
	target oid NOT NULL,		-- the index whose storage it is to become, or 0
	index oid NOT NULL DEFAULT 0,
	state text NOT NULL DEFAULT 'planned'
		CHECK (state IN ('planned', 'inserting', 'settling', 'built')),
	baseline text,
	begin_lsn pg_lsn,
	begin_xid bigint NOT NULL DEFAULT 0,
	filenode oid NOT NULL DEFAULT 0,
	blocks bigint NOT NULL DEFAULT 0,
	next_block bigint NOT NULL DEFAULT 0,
	reach bigint NOT NULL DEFAULT 0,
	looking_to bigint NOT NULL DEFAULT 0,
	worker text NOT NULL DEFAULT '',
	entries bigint NOT NULL DEFAULT 0,
	waits text,					-- transactions that began before its last chunk
	PRIMARY KEY (id, number)
) WITH (fillfactor = 25);

-- Blocks that must be looked at once more before the index is complete.
CREATE TABLE refit.index_doubt (
	id bigint NOT NULL,
	number integer NOT NULL,
	chunk bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
	blocks bigint[] NOT NULL,
	PRIMARY KEY (id, number, chunk)
);

CREATE TABLE refit.event (
	at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	migration_id bigint,
	kind text NOT NULL,
	phase text,
	message text NOT NULL,
	detail jsonb
);

CREATE INDEX event_migration ON refit.event (migration_id, at);
CREATE INDEX event_at ON refit.event (at); -- what is too old

-- Tries for locks that others might queue behind: the last 1000 of a migration.
CREATE TABLE refit.lock_attempt (
	at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	migration_id bigint NOT NULL,
	phase text,
	granted boolean NOT NULL,
	waited_ms float8 NOT NULL,
	queued_ms float8 NOT NULL,
	locks jsonb NOT NULL,
	blocked_by jsonb,
	behind jsonb
);

CREATE INDEX lock_attempt_migration ON refit.lock_attempt (migration_id, at);

-- What a command that PostgreSQL runs in transactions of its own works on, to
-- find out later what became of it; see src/ddl/command.h.
CREATE TABLE refit.command (
	id bigint PRIMARY KEY,
	relids oid[] NOT NULL,		-- tables, the first of them the statement's
	name name,					-- of the index that it makes
	targets oid[] NOT NULL,		-- what will be gone when it is done
	known oid[] NOT NULL,		-- indexes that were there before
	pending_at timestamptz		-- since when a partition is half detached
);

-- What refit.throttle() set; migration_id 0 stands for every migration.
CREATE TABLE refit.hold (
	migration_id bigint PRIMARY KEY,
	ratio float8 NOT NULL CHECK (ratio >= 0 AND ratio <= 1),
	expires_at timestamptz NOT NULL
);

-- Operations that recur.  A copy of a row elsewhere is not heeded, see home.
CREATE TABLE refit.schedule (
	name text PRIMARY KEY,
	relid regclass NOT NULL,
	kind text NOT NULL,
	arguments jsonb NOT NULL,
	options jsonb NOT NULL,
	every text NOT NULL,
	time_window text,
	at_window_end text NOT NULL
		CHECK (at_window_end IN ('pause', 'cancel', 'finish')),
	search_path text NOT NULL,
	settings jsonb NOT NULL,	-- of the session that made it
	home text NOT NULL,
	scheduled_by text NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	next_run timestamptz NOT NULL,
	last_run timestamptz,
	last_migration bigint,
	last_error text,
	waits boolean NOT NULL DEFAULT false	-- paused by the end of the window
);

-- The server and database this is.  A copy of a row elsewhere, by a subscription
-- or a restore, is never worked.
CREATE FUNCTION refit._home()
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT system_identifier || '/' || d.oid
	FROM pg_control_system(), pg_database d WHERE datname = current_database());

-- The session's settings that change what a value is converted to.
CREATE FUNCTION refit._settings()
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT jsonb_object_agg(name, setting) FROM pg_settings
	WHERE name IN ('TimeZone', 'DateStyle', 'IntervalStyle', 'bytea_output',
		'extra_float_digits', 'lc_monetary', 'lc_numeric', 'lc_time',
		'default_text_search_config', 'xmlbinary', 'xmloption'));

-- Would migrations of these two tables touch the same rows: is one the other,
-- or in its partition tree?
CREATE FUNCTION refit._overlap(a oid, b oid)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN a = b OR a IN (SELECT relid FROM pg_partition_ancestors(b))
	OR b IN (SELECT relid FROM pg_partition_ancestors(a))
	-- plain tables that have a table below them in common
	OR EXISTS (WITH RECURSIVE below(top, relid) AS (
			SELECT oid, oid FROM pg_class WHERE oid IN (a, b) AND relkind = 'r'
				AND EXISTS (SELECT FROM pg_class
					WHERE oid IN (a, b) AND relkind = 'r' AND relhassubclass)
			UNION SELECT top, inhrelid FROM below JOIN pg_inherits ON inhparent = relid)
		SELECT FROM below x JOIN below y USING (relid) WHERE x.top < y.top);

-- Logical decoding passes over relations that have relrewrite set.  A subscriber
-- must never get these rows: they speak of oids and files of this server.
UPDATE pg_catalog.pg_class c SET relrewrite = c.oid
FROM pg_catalog.pg_class t
WHERE t.relnamespace = 'refit'::regnamespace AND t.relkind = 'r'
	AND c.oid IN (t.oid, t.reltoastrelid);

-- The history goes with a dump.  Work under way does not: it belongs to the
-- storage of this server and cannot go on in a copy of its tables.
SELECT pg_catalog.pg_extension_config_dump('refit.migration',
	'WHERE state IN (''completed'', ''cancelled'', ''failed'', ''reverted'')');
SELECT pg_catalog.pg_extension_config_dump('refit.event',
	'WHERE migration_id IN (SELECT id FROM refit.migration WHERE state IN (''completed'', ''cancelled'', ''failed'', ''reverted''))');
SELECT pg_catalog.pg_extension_config_dump('refit.migration_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('refit.schedule', '');

--
-- Submitting work
--

CREATE FUNCTION refit.alter_table(relation regclass, actions text,
	name text DEFAULT NULL, cutover text DEFAULT 'auto',
	revertible interval DEFAULT NULL, verify text DEFAULT 'full',
	options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_alter_table';

CREATE FUNCTION refit.repack(relation regclass, order_by text DEFAULT NULL,
	name text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_repack';

CREATE FUNCTION refit.backfill(relation regclass, set_clause text,
	where_clause text DEFAULT NULL, name text DEFAULT NULL,
	options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_backfill';

CREATE FUNCTION refit.purge(relation regclass, where_clause text,
	name text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_purge';

CREATE FUNCTION refit.batched(relation regclass, statement text,
	name text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_batched';

CREATE FUNCTION refit.create_index(definition text, name text DEFAULT NULL,
	method text DEFAULT 'auto', options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_create_index';

CREATE FUNCTION refit.rebuild_index(index regclass, name text DEFAULT NULL,
	method text DEFAULT 'auto', options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_rebuild_index';

CREATE FUNCTION refit.drop_index(index regclass, name text DEFAULT NULL)
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_drop_index';

CREATE FUNCTION refit.mirror_column(relation regclass, source_column name,
	target_column name, expression text DEFAULT NULL,
	reverse_expression text DEFAULT NULL, name text DEFAULT NULL,
	options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_mirror_column';

CREATE FUNCTION refit.unmirror_column(relation regclass, target_column name,
	name text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_unmirror_column';

CREATE FUNCTION refit.schedule(name text, every text, kind text,
	relation regclass, arguments jsonb DEFAULT '{}', options jsonb DEFAULT '{}',
	time_window text DEFAULT NULL, at_window_end text DEFAULT 'pause',
	first_run timestamptz DEFAULT NULL)
RETURNS timestamptz LANGUAGE C AS 'MODULE_PATHNAME', 'refit_schedule';

CREATE FUNCTION refit.unschedule(name text)
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'refit_unschedule';

-- What pg_cron calls every minute, where it is the clock.
CREATE FUNCTION refit._tick()
RETURNS void LANGUAGE C AS 'MODULE_PATHNAME', 'refit_tick';

CREATE FUNCTION refit._next_run(every text, after timestamptz)
RETURNS timestamptz LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_next_run';

CREATE FUNCTION refit.validate_constraint(relation regclass,
	constraint_name name, name text DEFAULT NULL, options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_validate_constraint';

CREATE FUNCTION refit.ddl(statement text, name text DEFAULT NULL,
	options jsonb DEFAULT '{}')
RETURNS bigint LANGUAGE C AS 'MODULE_PATHNAME', 'refit_ddl';

CREATE FUNCTION refit.plan(relation regclass, actions text,
	OUT step integer, OUT phase text, OUT what text, OUT lock text,
	OUT reason text, OUT bytes bigint, OUT estimated_duration interval)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_plan';

--
-- Control
--

CREATE FUNCTION refit.pause(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_pause';

CREATE FUNCTION refit.resume(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_resume';

CREATE FUNCTION refit.cancel(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_cancel';

CREATE FUNCTION refit.retry(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_retry';

CREATE FUNCTION refit.cutover(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_cutover';

CREATE FUNCTION refit.revert(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_revert';

CREATE FUNCTION refit.finish(id bigint)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_finish';

CREATE FUNCTION refit.set_option(id bigint, option text, value text)
RETURNS text LANGUAGE C AS 'MODULE_PATHNAME', 'refit_set_option';

CREATE FUNCTION refit.throttle(ratio float8, expires interval DEFAULT '1 hour',
	id bigint DEFAULT NULL)
RETURNS text LANGUAGE C AS 'MODULE_PATHNAME', 'refit_throttle';

CREATE FUNCTION refit.wait(id bigint, timeout interval DEFAULT NULL)
RETURNS text LANGUAGE C AS 'MODULE_PATHNAME', 'refit_wait';

CREATE FUNCTION refit.require(name text)
RETURNS text LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_require';

CREATE FUNCTION refit.require_all(prefix text)
RETURNS bigint LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_require_all';

-- What migrations that are over, and other tools, have left behind; and removing
-- what is ours.
CREATE FUNCTION refit.leftovers(OUT kind text, OUT object text,
	OUT relation text, OUT migration_id bigint, OUT made_by text,
	OUT what_to_do text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'refit_leftovers';

CREATE FUNCTION refit.clean_leftovers(OUT kind text, OUT object text,
	OUT relation text, OUT migration_id bigint, OUT made_by text,
	OUT result text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'refit_clean_leftovers';

-- One step of a migration in the caller's transaction: what refit.run() and
-- nobody else calls.  Returns how long to rest in milliseconds, or -1 when
-- there is nothing more to do for this session.
CREATE FUNCTION refit._step(id bigint)
RETURNS integer LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_step';

-- Records a step's error, in a transaction after the one that failed.
CREATE FUNCTION refit._failed(id bigint, code text, message text, detail text,
	hint text, context text)
RETURNS integer LANGUAGE C AS 'MODULE_PATHNAME', 'refit_step_failed';

-- Takes or gives back the session's claim on a migration.
CREATE FUNCTION refit._claim(id bigint)
RETURNS boolean LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_claim';

CREATE FUNCTION refit._release(id bigint)
RETURNS void LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_release';

-- No SET clause here: a procedure with one cannot commit.  Hence every name
-- is qualified, operators too.
CREATE PROCEDURE refit.run(id bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
	rest integer;
	code text;
	message text;
	detail text;
	hint text;
	context text;
BEGIN
	COMMIT; -- fails here, before there is anything to give back, in a block
	IF NOT refit._claim(id) THEN
		RAISE object_in_use USING
			MESSAGE = pg_catalog.format('migration %s is being worked by another session', id),
			HINT = 'Watch it in refit.progress, or wait for it with refit.wait().';
	END IF;
	COMMIT;
	LOOP
		BEGIN
			rest := refit._step(id);
		EXCEPTION
			WHEN query_canceled OR admin_shutdown THEN
				PERFORM refit._release(id);
				RAISE;
			WHEN OTHERS OR assert_failure THEN -- OTHERS leaves that one out
				GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE,
					message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
					hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
				rest := refit._failed(id, code, message, detail, hint, context);
		END;
		COMMIT;
		EXIT WHEN rest OPERATOR(pg_catalog.<) 0;
		BEGIN
			PERFORM pg_catalog.pg_sleep(
				rest OPERATOR(pg_catalog./) 1000.0::float8);
		EXCEPTION
			WHEN query_canceled THEN
				PERFORM refit._release(id);
				RAISE;
		END;
		COMMIT;
	END LOOP;
	PERFORM refit._release(id);
END
$$;

CREATE FUNCTION refit._capture()
RETURNS trigger LANGUAGE C AS 'MODULE_PATHNAME', 'refit_capture';

-- The trigger of a mirrored column, and what carries its rule in the WHEN clause:
-- see src/rows/mirror_rule.h.
CREATE FUNCTION refit._mirror()
RETURNS trigger LANGUAGE C AS 'MODULE_PATHNAME', 'refit_mirror';

CREATE FUNCTION refit._mirror_rule(source "any", target "any", expression "any")
RETURNS boolean LANGUAGE C AS 'MODULE_PATHNAME', 'refit_mirror_rule';

CREATE FUNCTION refit._mirror_rule(source "any", target "any", expression "any",
	reverse_expression "any")
RETURNS boolean LANGUAGE C AS 'MODULE_PATHNAME', 'refit_mirror_rule';

--
-- Looking
--

-- May the caller see what the owner of a table wrote?
CREATE FUNCTION refit._may_see(relid oid, submitted_by text)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(
	pg_has_role('pg_read_all_stats', 'USAGE')
	OR (SELECT pg_has_role(c.relowner, 'USAGE')
		FROM pg_catalog.pg_class c WHERE c.oid = relid)
	OR current_user = submitted_by, false);

-- Sessions in JSON without the queries that the caller would not see in
-- pg_stat_activity.
CREATE FUNCTION refit._hide(sessions jsonb)
RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT jsonb_agg(CASE
		WHEN coalesce(pg_has_role('pg_read_all_stats', 'USAGE')
			OR pg_has_role((s ->> 'usesysid')::oid, 'USAGE'), false)
		THEN s ELSE s - 'query' END - 'usesysid')
	FROM jsonb_array_elements(sessions) s);

-- What PostgreSQL tells of the command that a migration's worker runs.
CREATE FUNCTION refit._command(id bigint, OUT phase text,
	OUT rows_done bigint, OUT rows_total bigint, OUT bytes_done bigint,
	OUT bytes_total bigint, OUT waiting_for text)
RETURNS record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_command_progress';

CREATE FUNCTION refit._bar(percent float8)
RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN '[' || rpad(repeat('#', floor(percent / 5)::integer), 20, '.') || '] '
	|| lpad(floor(percent)::text, 3) || ' %';

-- How far a migration is, all phases together: the share of the whole that the
-- phases before this one usually take, and this one's part of its own share.
CREATE FUNCTION refit._percent(strategy text, phase text, done float8,
	total float8)
RETURNS float8 LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT s.begins + (s.ends - s.begins)
		* CASE WHEN total > 0 THEN least(done / total, 1) ELSE 0 END
	FROM (VALUES (NULL, 'plan', 0, 0), ('rewrite', 'prepare', 0, 1),
		('rewrite', 'capture', 1, 2), ('rewrite', 'copy', 2, 45),
		('rewrite', 'order', 45, 69), ('rewrite', 'index', 45, 70),
		('rewrite', 'analyze', 70, 71), ('rewrite', 'catchup', 71, 72),
		('rewrite', 'verify', 72, 92), ('rewrite', 'cutover', 92, 93),
		('rewrite', 'validate', 93, 99),
		('validate', 'alter', 0, 5), ('validate', 'validate', 5, 99),
		('check', 'validate', 0, 99),
		('mirror', 'install', 0, 1), ('mirror', 'divide', 1, 1),
		('mirror', 'batches', 1, 99), ('unmirror', 'detach', 0, 99),
		('instant', 'alter', 0, 99), ('ddl', 'ddl', 0, 99),
		('command', 'command', 0, 99),
		('concurrently', 'concurrently', 0, 99), ('batches', 'batches', 0, 99),
		('incremental', 'begin', 0, 1), ('incremental', 'insert', 1, 95),
		('incremental', 'publish', 95, 99), ('drop', 'drop', 0, 99),
		(NULL, 'settle', 99, 99),
		(NULL, 'window', 99, 99), (NULL, 'recheck', 10, 90),
		(NULL, 'references', 90, 90), (NULL, 'revert', 90, 99), (NULL, 'cleanup', 99, 100)) AS s(strategy, phase, begins, ends)
	WHERE s.phase = _percent.phase
		AND coalesce(s.strategy = _percent.strategy, true)
	LIMIT 1);

CREATE VIEW refit.progress AS
SELECT m.id, m.name, m.kind, nullif(m.relation, '') AS relation, m.strategy, m.state, m.phase,
	pg_catalog.round(f.percent::numeric, 1) AS percent,
	refit._bar(f.percent) AS bar,
	coalesce(c.rows_done, p.rows_done) AS rows_done,
	coalesce(c.rows_total, p.rows_total) AS rows_total,
	coalesce(c.bytes_done, p.bytes_done) AS bytes_done,
	coalesce(c.bytes_total, p.bytes_total) AS bytes_total,
	pg_catalog.round(p.rate)::bigint AS rows_per_second,
	CASE WHEN m.state = 'running' AND p.rate > 0
			AND p.rows_total > p.rows_done
		THEN pg_catalog.date_trunc('second', pg_catalog.clock_timestamp()
			+ pg_catalog.make_interval(secs =>
				(p.rows_total - p.rows_done) / p.rate))
		END AS eta,
	p.pending AS pending_changes,
	p.throttled_by,
	CASE WHEN refit._may_see(m.relid, m.submitted_by)
			THEN coalesce(p.waiting_for, c.waiting_for)
		WHEN coalesce(p.waiting_for, c.waiting_for) IS NOT NULL THEN 'a lock'
		END AS waiting_for,
	p.worker_pid, m.started_at, m.phase_started_at,
	CASE WHEN refit._may_see(m.relid, m.submitted_by)
		THEN coalesce(c.phase, p.message) END AS message
FROM refit.migration m
	LEFT JOIN refit.migration_progress p USING (id)
	LEFT JOIN LATERAL refit._command(m.id) AS c
		ON m.strategy IN ('command', 'concurrently') AND m.state = 'running'
	CROSS JOIN LATERAL (SELECT coalesce(refit._percent(m.strategy, m.phase,
		CASE WHEN m.state = 'ready' THEN 1
			ELSE coalesce(c.bytes_done, p.rows_done) END,
		CASE WHEN m.state = 'ready' THEN 1
			ELSE coalesce(c.bytes_total, p.rows_total) END),
		0)::float8) AS f(percent)
WHERE m.state IN ('queued', 'running', 'paused', 'ready', 'revertible')
ORDER BY m.id;

CREATE VIEW refit.migrations AS
SELECT m.id, m.name, m.kind, nullif(m.relation, '') AS relation,
	CASE WHEN s.may THEN m.definition END AS definition,
	m.strategy, m.state, m.submitted_by, m.created_at, m.started_at,
	m.finished_at, m.rows, m.bytes, m.cutover_lock_ms, m.cutover_attempts,
	m.verified_rows, m.discrepancies, m.error_code,
	CASE WHEN s.may THEN m.error_message END AS error_message,
	CASE WHEN s.may THEN m.error_detail END AS error_detail,
	CASE WHEN s.may THEN m.error_hint END AS error_hint,
	m.revertible_until, m.options
FROM refit.migration m
	CROSS JOIN LATERAL (SELECT refit._may_see(m.relid, m.submitted_by)) AS s(may)
ORDER BY m.id;

CREATE VIEW refit.events AS
SELECT e.at, e.migration_id, e.kind, e.phase,
	CASE WHEN s.may THEN e.message END AS message,
	CASE WHEN s.may THEN e.detail END AS detail
FROM refit.event e
	LEFT JOIN refit.migration m ON m.id = e.migration_id
	CROSS JOIN LATERAL (SELECT refit._may_see(m.relid, m.submitted_by)) AS s(may)
ORDER BY e.at;

CREATE FUNCTION refit._mirrors(relation regclass, OUT trigger text,
	OUT source_column text, OUT target_column text, OUT expression text,
	OUT reverse_expression text, OUT enabled boolean)
RETURNS SETOF record LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'refit_mirrors';

-- The trigger is the record.  One that a partition has of its parent is left out.
CREATE VIEW refit.mirrors AS
SELECT t.tgrelid::regclass AS relation, r.source_column, r.target_column,
	r.expression, r.reverse_expression, r.trigger, r.enabled,
	b.id AS migration_id, b.state
FROM pg_catalog.pg_trigger t
	CROSS JOIN LATERAL refit._mirrors(t.tgrelid) AS r
	LEFT JOIN LATERAL (SELECT m.id, m.state FROM refit.migration m
		WHERE m.relid = t.tgrelid AND m.kind = 'mirror_column'
			AND CASE WHEN m.kind = 'mirror_column'
				THEN m.definition::pg_catalog.jsonb ->> 'target' END
				= r.target_column
		ORDER BY m.id DESC LIMIT 1) AS b ON true
WHERE t.tgfoid = 'refit._mirror()'::regprocedure AND t.tgparentid = 0
	AND r.trigger = t.tgname;

CREATE VIEW refit.schedules AS
SELECT s.name, s.every, s.settings ->> 'TimeZone' AS time_zone, s.kind,
	s.relid AS relation,
	CASE WHEN v.may THEN s.arguments END AS arguments, s.options,
	s.time_window, s.at_window_end, s.scheduled_by,
	s.home = refit._home() AS active,
	CASE WHEN s.home = refit._home() THEN s.next_run END AS next_run,
	s.last_run,
	CASE WHEN s.last_error IS NOT NULL THEN 'refused' ELSE m.state END
		AS last_state,
	s.last_migration,
	CASE WHEN v.may THEN coalesce(s.last_error,
		m.error_code || ': ' || m.error_message) END AS last_error
FROM refit.schedule s
	LEFT JOIN refit.migration m ON m.id = s.last_migration
	CROSS JOIN LATERAL (SELECT refit._may_see(s.relid, s.scheduled_by)) AS v(may)
ORDER BY s.name;

CREATE VIEW refit.lock_attempts AS
SELECT a.at, a.migration_id, a.phase, a.granted, a.waited_ms, a.queued_ms,
	CASE WHEN s.may THEN a.locks END AS locks,
	CASE WHEN s.may THEN refit._hide(a.blocked_by) END AS blocked_by,
	CASE WHEN s.may THEN refit._hide(a.behind) END AS queued_behind_us
FROM refit.lock_attempt a
	LEFT JOIN refit.migration m ON m.id = a.migration_id
	CROSS JOIN LATERAL (SELECT refit._may_see(m.relid, m.submitted_by)) AS s(may)
ORDER BY a.at;

CREATE FUNCTION refit._signals(OUT signal text, OUT value float8,
	OUT soft_limit float8, OUT hard_limit float8, OUT unit text,
	OUT state text, OUT reason text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'refit_signals';

CREATE VIEW refit.signals AS SELECT * FROM refit._signals();

GRANT SELECT ON refit.progress, refit.migrations, refit.events, refit.signals,
	refit.mirrors, refit.schedules, refit.lock_attempts TO PUBLIC;
REVOKE EXECUTE ON FUNCTION refit._capture(), refit._mirror(), refit._tick()
	FROM PUBLIC;
