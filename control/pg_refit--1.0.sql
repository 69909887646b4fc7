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
	added boolean NOT NULL DEFAULT false, -- by the migration itself
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

CREATE TABLE refit.event (
	at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	migration_id bigint,
	kind text NOT NULL,
	phase text,
	message text NOT NULL,
	detail jsonb
);

CREATE INDEX event_migration ON refit.event (migration_id, at);

-- What refit.throttle() set; migration_id 0 stands for every migration.
CREATE TABLE refit.hold (
	migration_id bigint PRIMARY KEY,
	ratio float8 NOT NULL CHECK (ratio >= 0 AND ratio <= 1),
	expires_at timestamptz NOT NULL
);

-- The server and database this is.  A copy of a row elsewhere, by a subscription
-- or a restore, is never worked.
CREATE FUNCTION refit._home()
RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (SELECT system_identifier || '/' || d.oid
	FROM pg_control_system(), pg_database d WHERE datname = current_database());

-- Would migrations of these two tables touch the same rows: is one the other,
-- or in its partition tree?
CREATE FUNCTION refit._overlap(a oid, b oid)
RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN a = b OR a IN (SELECT relid FROM pg_partition_ancestors(b))
	OR b IN (SELECT relid FROM pg_partition_ancestors(a));

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
		('instant', 'alter', 0, 99), ('batches', 'batches', 0, 99),
		(NULL, 'settle', 99, 99),
		(NULL, 'window', 99, 99), (NULL, 'recheck', 10, 90),
		(NULL, 'references', 90, 90), (NULL, 'revert', 90, 99), (NULL, 'cleanup', 99, 100)) AS s(strategy, phase, begins, ends)
	WHERE s.phase = _percent.phase
		AND coalesce(s.strategy = _percent.strategy, true)
	LIMIT 1);

CREATE VIEW refit.progress AS
SELECT m.id, m.name, m.kind, m.relation, m.strategy, m.state, m.phase,
	pg_catalog.round(f.percent::numeric, 1) AS percent,
	refit._bar(f.percent) AS bar,
	p.rows_done, p.rows_total, p.bytes_done, p.bytes_total,
	pg_catalog.round(p.rate)::bigint AS rows_per_second,
	CASE WHEN m.state = 'running' AND p.rate > 0
			AND p.rows_total > p.rows_done
		THEN pg_catalog.date_trunc('second', pg_catalog.clock_timestamp()
			+ pg_catalog.make_interval(secs =>
				(p.rows_total - p.rows_done) / p.rate))
		END AS eta,
	p.pending AS pending_changes,
	p.throttled_by,
	CASE WHEN refit._may_see(m.relid, m.submitted_by) THEN p.waiting_for
		WHEN p.waiting_for IS NOT NULL THEN 'a lock' END AS waiting_for,
	p.worker_pid, m.started_at, m.phase_started_at,
	CASE WHEN refit._may_see(m.relid, m.submitted_by) THEN p.message END AS message
FROM refit.migration m
	LEFT JOIN refit.migration_progress p USING (id)
	CROSS JOIN LATERAL (SELECT coalesce(refit._percent(m.strategy, m.phase,
		CASE WHEN m.state = 'ready' THEN 1 ELSE p.rows_done END,
		CASE WHEN m.state = 'ready' THEN 1 ELSE p.rows_total END),
		0)::float8) AS f(percent)
WHERE m.state IN ('queued', 'running', 'paused', 'ready', 'revertible')
ORDER BY m.id;

CREATE VIEW refit.migrations AS
SELECT m.id, m.name, m.kind, m.relation,
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

CREATE FUNCTION refit._signals(OUT signal text, OUT value float8,
	OUT soft_limit float8, OUT hard_limit float8, OUT unit text,
	OUT state text, OUT reason text)
RETURNS SETOF record LANGUAGE C AS 'MODULE_PATHNAME', 'refit_signals';

CREATE VIEW refit.signals AS SELECT * FROM refit._signals();

GRANT SELECT ON refit.progress, refit.migrations, refit.events, refit.signals
	TO PUBLIC;
REVOKE EXECUTE ON FUNCTION refit._capture() FROM PUBLIC;
