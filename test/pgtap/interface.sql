-- The SQL interface: functions, views, settings, rights, extension config.
\set QUIET 1
\pset format unaligned
\pset tuples_only true
\pset pager off
BEGIN;
SELECT no_plan();

SELECT has_extension('pg_refit');
SELECT has_schema('refit');

-- functions: names and types of arguments with their defaults, and the result
CREATE FUNCTION pg_temp.signature(name text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_get_function_arguments(p.oid) || ' -> ' || coalesce(pg_get_function_result(p.oid), 'procedure')
	FROM pg_proc p WHERE pronamespace = 'refit'::regnamespace AND proname = name
$$;
SELECT is(pg_temp.signature(name), signature, 'refit.' || name) FROM (VALUES
	('alter_table', 'relation regclass, actions text, name text DEFAULT NULL::text, cutover text DEFAULT ''auto''::text, revertible interval DEFAULT NULL::interval, verify text DEFAULT ''full''::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('create_index', 'definition text, name text DEFAULT NULL::text, method text DEFAULT ''auto''::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('rebuild_index', 'index regclass, name text DEFAULT NULL::text, method text DEFAULT ''auto''::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('drop_index', 'index regclass, name text DEFAULT NULL::text -> bigint'),
	('repack', 'relation regclass, order_by text DEFAULT NULL::text, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('mirror_column', 'relation regclass, source_column name, target_column name, expression text DEFAULT NULL::text, reverse_expression text DEFAULT NULL::text, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('unmirror_column', 'relation regclass, target_column name, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('schedule', 'name text, every text, kind text, relation regclass, arguments jsonb DEFAULT ''{}''::jsonb, options jsonb DEFAULT ''{}''::jsonb, time_window text DEFAULT NULL::text, at_window_end text DEFAULT ''pause''::text, first_run timestamp with time zone DEFAULT NULL::timestamp with time zone -> timestamp with time zone'),
	('unschedule', 'name text -> void'),
	('validate_constraint', 'relation regclass, constraint_name name, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('backfill', 'relation regclass, set_clause text, where_clause text DEFAULT NULL::text, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('purge', 'relation regclass, where_clause text, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('batched', 'relation regclass, statement text, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('ddl', 'statement text, name text DEFAULT NULL::text, options jsonb DEFAULT ''{}''::jsonb -> bigint'),
	('leftovers', 'OUT kind text, OUT object text, OUT relation text, OUT migration_id bigint, OUT made_by text, OUT what_to_do text -> SETOF record'),
	('clean_leftovers', 'OUT kind text, OUT object text, OUT relation text, OUT migration_id bigint, OUT made_by text, OUT result text -> SETOF record'),
	('pause', 'id bigint -> text'),
	('revert', 'id bigint -> text'),
	('finish', 'id bigint -> text'),
	('resume', 'id bigint -> text'),
	('cancel', 'id bigint -> text'),
	('retry', 'id bigint -> text'),
	('cutover', 'id bigint -> text'),
	('set_option', 'id bigint, option text, value text -> text'),
	('throttle', 'ratio double precision, expires interval DEFAULT ''01:00:00''::interval, id bigint DEFAULT NULL::bigint -> text'),
	('wait', 'id bigint, timeout interval DEFAULT NULL::interval -> text'),
	('require', 'name text -> text'),
	('require_all', 'prefix text -> bigint')) AS f (name, signature);
SELECT is(prokind::text, 'p', 'refit.run is a procedure') FROM pg_proc
	WHERE pronamespace = 'refit'::regnamespace AND proname = 'run';
SELECT ok(proretset, 'refit.plan returns rows') FROM pg_proc
	WHERE pronamespace = 'refit'::regnamespace AND proname = 'plan';

-- everybody may execute what is public, nobody the trigger function
SELECT ok(has_function_privilege('public', p.oid, 'EXECUTE'), 'public may execute ' || p.oid::regprocedure)
	FROM pg_proc p WHERE pronamespace = 'refit'::regnamespace AND proname !~ '^_';
SELECT ok(NOT has_function_privilege('public', 'refit._capture()', 'EXECUTE'), 'the capture function is not public');
SELECT ok(NOT has_function_privilege('public', 'refit._mirror()', 'EXECUTE'), 'nor is that of mirrors');
SELECT ok(NOT has_function_privilege('public', 'refit._tick()', 'EXECUTE'), 'nor the tick of pg_cron');
SELECT is(count(*), 0::bigint, 'no function of ours is SECURITY DEFINER') FROM pg_proc
	WHERE pronamespace = 'refit'::regnamespace AND prosecdef;

-- views: the columns that must be there, and who may read them
SELECT views_are('refit', '{events,lock_attempts,migrations,mirrors,progress,schedules,signals}'::name[]);
SELECT has_column('refit', 'progress', c::name, 'refit.progress.' || c) FROM unnest(string_to_array(
	'id name kind relation strategy state phase percent bar rows_done rows_total bytes_done bytes_total rows_per_second eta pending_changes throttled_by waiting_for worker_pid started_at phase_started_at message', ' ')) c;
SELECT has_column('refit', 'migrations', c::name, 'refit.migrations.' || c) FROM unnest(string_to_array(
	'id name kind relation definition strategy state submitted_by created_at started_at finished_at rows bytes cutover_lock_ms cutover_attempts verified_rows discrepancies error_code error_message error_detail revertible_until', ' ')) c;
SELECT has_column('refit', 'events', c::name, 'refit.events.' || c)
	FROM unnest(string_to_array('at migration_id kind phase message detail', ' ')) c;
SELECT has_column('refit', 'lock_attempts', c::name, 'refit.lock_attempts.' || c)
	FROM unnest(string_to_array('at migration_id phase granted waited_ms queued_ms locks blocked_by queued_behind_us', ' ')) c;
SELECT has_column('refit', 'signals', c::name, 'refit.signals.' || c)
	FROM unnest(string_to_array('signal value soft_limit hard_limit unit state reason', ' ')) c;
SELECT has_column('refit', 'mirrors', c::name, 'refit.mirrors.' || c) FROM unnest(string_to_array(
	'relation source_column target_column expression reverse_expression trigger enabled migration_id state', ' ')) c;
SELECT has_column('refit', 'schedules', c::name, 'refit.schedules.' || c) FROM unnest(string_to_array(
	'name every time_zone kind relation arguments options time_window at_window_end scheduled_by active next_run last_run last_state last_migration last_error', ' ')) c;
SELECT results_eq('SELECT signal FROM refit.signals', $$VALUES ('active_backends'), ('archive_backlog'),
	('checkpoint_pressure'), ('dead_rows'), ('free_disk'), ('lock_waiters'), ('manual'), ('oldest_xmin'),
	('replica_lag'), ('signal_function'), ('slot_retention'), ('vacuum'), ('wal_rate')$$, 'the signals');
SET refit.min_free_disk = 20;
SELECT results_eq($$SELECT signal, value > 0 AND value <= 100, soft_limit, hard_limit, unit,
	state = CASE WHEN value <= 20 THEN 'stop' WHEN value < 24 THEN 'slow' ELSE 'ok' END,
	reason ~ '^(tablespace ".*"|pg_wal) has .* free of ' FROM refit.signals WHERE signal = 'free_disk'$$,
	$$VALUES ('free_disk', true, 24::float8, 20::float8, 'percent', true, true)$$, 'the signal free_disk');
SET refit.min_free_disk = 0;
SELECT results_eq($$SELECT value > 0, soft_limit, hard_limit, state FROM refit.signals WHERE signal = 'free_disk'$$,
	$$VALUES (true, 0::float8, 0::float8, 'ok')$$, 'the signal free_disk can be switched off');
RESET refit.min_free_disk;
SELECT col_type_is('refit', 'progress', 'bar', 'text', 'the bar is text');
SELECT col_type_is('refit', 'events', 'detail', 'jsonb', 'the detail of an event is jsonb');
SELECT ok(has_table_privilege('public', c.oid, 'SELECT'), 'public may read ' || c.oid::regclass)
	FROM pg_class c WHERE relnamespace = 'refit'::regnamespace AND relkind = 'v';
SELECT ok(NOT has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE'),
	'public has no right on ' || c.oid::regclass)
	FROM pg_class c WHERE relnamespace = 'refit'::regnamespace AND relkind IN ('r', 'v')
	AND (relkind = 'r');
SELECT ok(NOT has_sequence_privilege('public', 'refit.migration_id_seq', 'USAGE, UPDATE'), 'nor on the sequence');
SELECT ok(has_schema_privilege('public', 'refit', 'USAGE') AND NOT has_schema_privilege('public', 'refit', 'CREATE'),
	'public may use the schema, not create in it');
SELECT is(count(*), 0::bigint, 'every table is logged') FROM pg_class
	WHERE relnamespace = 'refit'::regnamespace AND relkind = 'r' AND relpersistence <> 'p';

-- the states
SELECT ok(pg_get_constraintdef(oid) ~ state, 'state ' || state)
	FROM pg_constraint, unnest('{queued,running,paused,ready,revertible,completed,cancelled,failed,reverted}'::text[]) state
	WHERE conrelid = 'refit.migration'::regclass AND conname = 'migration_state_check';

-- settings
SELECT is((SELECT concat_ws(' ', boot_val, unit, vartype) FROM pg_settings WHERE name = 'refit.' || s), v, 'refit.' || s)
	FROM (VALUES ('max_workers', '2 integer'), ('chunk_time', '500 ms integer'), ('lock_timeout', '100 ms integer'),
		('revert_window', '0 s integer'), ('max_replica_lag', '5000 ms integer'), ('max_active_backends', '0 integer'),
		('signal_function', ' string'), ('unknown_signal', 'continue enum'), ('history_retention', '7776000 s integer')) AS x (s, v);
SELECT is((SELECT concat_ws(' ', boot_val, vartype) FROM pg_settings WHERE name = 'refit.' || s), v, 'refit.' || s)
	FROM (VALUES ('max_wal_rate', '0 integer'), ('min_free_disk', '10 integer')) AS x (s, v);
SELECT is(count(*), 0::bigint, 'every setting says what it is') FROM pg_settings
	WHERE name ~ '^refit\.' AND coalesce(short_desc, '') = '';
SELECT throws_ok('SET refit.no_such_setting = 1', '42602', NULL, 'the prefix is reserved');
SELECT throws_ok('SET refit.chunk_time = 0', '22023', NULL, 'no chunk without time');
SELECT throws_ok('SET refit.lock_timeout = 0', '22023', NULL, 'no endless wait for a lock');

-- the history goes with a dump, work under way does not
SELECT set_eq('SELECT relnamespace::regnamespace || ''.'' || relname FROM pg_extension, pg_class c WHERE c.oid = ANY (extconfig) AND extname = ''pg_refit''',
	'{refit.migration,refit.event,refit.migration_id_seq,refit.schedule}'::text[], 'what a dump carries');
SELECT ok(NOT extrelocatable, 'not relocatable') FROM pg_extension WHERE extname = 'pg_refit';
SELECT is(extnamespace, 'pg_catalog'::regnamespace::oid, 'no schema that can be dropped holds it') FROM pg_extension WHERE extname = 'pg_refit';

-- sql functions cannot be led astray by a search_path
SELECT ok(proconfig::text ~ 'search_path' OR prosqlbody IS NOT NULL, p.oid::regprocedure || ' has a fixed search_path')
	FROM pg_proc p JOIN pg_language l ON l.oid = prolang
	WHERE pronamespace = 'refit'::regnamespace AND lanname = 'sql';

SELECT * FROM finish();
ROLLBACK;
