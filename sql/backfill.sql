--
-- Backfill: by keys of every kind, by positions, over trees; what is written and
-- what is left alone; rows that fail; what changes under it; what is refused.
--
SET client_min_messages TO warning;
CREATE SCHEMA backfill;
SET search_path TO backfill;

-- Submits, waits for the end, tells how it went: state, rows written, error.
CREATE FUNCTION run(call text, OUT state text, OUT rows bigint, OUT code text,
	OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
DECLARE
	m refit.migrations;
BEGIN
	EXECUTE 'SELECT ' || call INTO m.id;
	PERFORM set_config('backfill.id', m.id::text, false);
END $$;

-- One call submits, another waits: the work begins when the first is committed.
CREATE FUNCTION last_id() RETURNS bigint LANGUAGE sql
	RETURN current_setting('backfill.id')::bigint;

CREATE FUNCTION result(OUT state text, OUT rows bigint, OUT code text,
	OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM refit.wait(last_id(), '60s');
	EXCEPTION WHEN raise_exception OR OTHERS THEN
		NULL;
	END;
	SELECT m.state, m.rows, error_code, error_message, error_detail,
		regexp_replace(error_hint, '\d+', 'N')
		INTO state, rows, code, message, detail, hint
		FROM refit.migrations m WHERE id = last_id();
END $$;
