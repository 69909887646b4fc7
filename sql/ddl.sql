--
-- refit.ddl: one statement under the polite lock; commands that run in
-- transactions of their own; what is refused; tries for locks.
--
SET client_min_messages TO warning;
CREATE SCHEMA ddl;
SET search_path TO ddl;

-- submits, waits, and says how it ended
CREATE FUNCTION outcome(id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' | ', strategy, state, error_code, error_message,
		error_detail, error_hint) FROM refit.migrations m WHERE m.id = $1
$$;

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

CREATE TABLE t (id int PRIMARY KEY, k int, s text, d int);
INSERT INTO t SELECT i, i % 10, 'row ' || i, greatest(i, 2) FROM generate_series(1, 100) i;

--
-- Statements that run in a transaction
--
SELECT refit.ddl('ALTER TABLE t ADD COLUMN n int DEFAULT 5', 'ddl: column') AS id \gset
SELECT refit.wait(:id, '20s');
SELECT kind, relation, definition, strategy, state FROM refit.migrations WHERE id = :id;
SELECT sum(n) FROM t;

-- the same name again: the same migration, though it could not be run again
SELECT refit.ddl('ALTER TABLE t ADD COLUMN n int DEFAULT 5', 'ddl: column') = :id AS same;
SELECT * FROM try($$SELECT refit.ddl('ALTER TABLE t ADD COLUMN m int', 'ddl: column')$$);

-- about no relation: one after the other, in order of id
SELECT refit.ddl('CREATE TYPE mood AS ENUM (''glad'')') AS type,
	refit.ddl('ALTER TYPE mood ADD VALUE ''sad''') AS value,
	refit.ddl('CREATE TABLE feeling (id int PRIMARY KEY, t int REFERENCES t, mood mood)') AS id \gset
SELECT refit.wait(:id, '20s');
SELECT outcome(:type), outcome(:value), outcome(:id);
SELECT relation IS NULL AS no_relation FROM refit.migrations WHERE id = :id;
SELECT enum_range(NULL::mood);

-- each kind of statement, on names of the submitter's search_path
CREATE TABLE parent (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE part PARTITION OF parent FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE loose (LIKE parent);
CREATE VIEW v AS SELECT 1 AS one;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM t;
CREATE INDEX t_k ON t (k);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;
CREATE TABLE statement (number serial, text text);
INSERT INTO statement (text) VALUES
	('ALTER TABLE feeling RENAME COLUMN mood TO temper'),
	('ALTER TABLE feeling RENAME TO sentiment'),
	('ALTER INDEX t_k RENAME TO t_by_k'),
	('ALTER INDEX t_by_k SET (fillfactor = 70)'),
	('CREATE OR REPLACE VIEW v AS SELECT 1 AS one, 2 AS two'),
	('ALTER VIEW v ALTER COLUMN one SET DEFAULT 3'),
	('COMMENT ON TABLE t IS ''a table'''),
	('GRANT SELECT ON t TO PUBLIC'),
	('CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION nothing()'),
	('DROP TRIGGER g ON t'),
	('CREATE POLICY p ON t USING (true)'),
	('ALTER POLICY p ON t USING (id > 0)'),
	('DROP POLICY p ON t'),
	('CREATE RULE r AS ON DELETE TO v DO INSTEAD NOTHING'),
	('ALTER TABLE parent ATTACH PARTITION loose FOR VALUES FROM (''2027-01-01'') TO (''2028-01-01'')'),
	('ALTER TABLE parent DETACH PARTITION loose'),
	('CREATE TABLE more PARTITION OF parent FOR VALUES FROM (''2028-01-01'') TO (''2029-01-01'')'),
	('ALTER TABLE parent ADD COLUMN extra int'),
	('CREATE INDEX parent_at ON parent (at)'),
	('DROP INDEX parent_at'),
	('CREATE STATISTICS st ON id, k FROM t'),
	('ALTER TABLE sentiment ADD FOREIGN KEY (id) REFERENCES t'),
	('ALTER TABLE sentiment DROP COLUMN t'),
	('REFRESH MATERIALIZED VIEW mv'),
	('CREATE TABLE copy AS SELECT * FROM t'),
	('TRUNCATE copy'),
	('CREATE SCHEMA ddl_elsewhere'),
	('ALTER TABLE copy SET SCHEMA ddl_elsewhere'),
	('DROP TABLE ddl_elsewhere.copy, more'),
	('DROP TABLE IF EXISTS no_such_table'),
	('DROP SCHEMA ddl_elsewhere');
\pset tuples_only on
\o /dev/null
SELECT format('SELECT refit.ddl(%L, %L)', text, 'ddl: ' || number),
	format('SELECT refit.wait(id) FROM refit.migrations WHERE name = %L', 'ddl: ' || number)
	FROM statement ORDER BY number \gexec
\o
\pset tuples_only off
SELECT m.relation, m.state, m.error_message, s.text FROM statement s
	JOIN refit.migrations m ON m.name = 'ddl: ' || number ORDER BY number;
SELECT obj_description('t'::regclass), has_table_privilege('public', 't', 'SELECT'), count(*)
	FROM pg_inherits WHERE inhparent = 'parent'::regclass;

-- an error of the statement ends it at once
SELECT refit.ddl('ALTER TABLE t ADD COLUMN n int') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')');
SELECT outcome(:id);
SELECT refit.ddl('CREATE UNIQUE INDEX u ON t (d)') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')');
SELECT outcome(:id);

-- a statement that takes long under its locks is undone
CREATE FUNCTION slow(int) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.1); RETURN true; END $$;
SELECT refit.ddl('ALTER TABLE t ADD CHECK (slow(id))', options => '{"statement_timeout": "300ms"}') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')');
SELECT outcome(:id);

--
-- Commands in transactions of their own
--
SELECT refit.ddl('CREATE INDEX CONCURRENTLY t_s ON t (s)') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT refit.ddl('CREATE INDEX CONCURRENTLY IF NOT EXISTS t_s ON t (s)') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT 't_s'::regclass::oid AS before \gset
SELECT refit.ddl('REINDEX INDEX CONCURRENTLY t_s') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT 't_s'::regclass <> :before AS another;
SELECT refit.ddl('REINDEX TABLE CONCURRENTLY t') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT refit.ddl('VACUUM (ANALYZE) t') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT relpages > 0 AS vacuumed FROM pg_class WHERE oid = 't'::regclass;
SELECT refit.ddl('ANALYZE t (k)') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT refit.ddl('DROP INDEX CONCURRENTLY t_s') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT refit.ddl('ALTER TABLE parent DETACH PARTITION part CONCURRENTLY') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT count(*) FROM pg_inherits WHERE inhparent = 'parent'::regclass;

-- a unique index over duplicates fails, and nothing is left of it
SELECT refit.ddl('CREATE UNIQUE INDEX CONCURRENTLY t_u ON t (d)') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')') \g (format=unaligned tuples_only=on)
SELECT strategy, state, error_code, error_message FROM refit.migrations WHERE id = :id;
SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 't'::regclass ORDER BY 1;
SELECT message FROM refit.events WHERE migration_id = :id AND kind = 'index';

-- a name that is taken, by an index that is not valid too
SELECT * FROM try($$SELECT refit.ddl('CREATE INDEX CONCURRENTLY t_by_k ON t (k)')$$);
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_by_k'::regclass;
SELECT * FROM try($$SELECT refit.ddl('CREATE INDEX CONCURRENTLY IF NOT EXISTS t_by_k ON t (k)')$$);
UPDATE pg_index SET indisvalid = true WHERE indexrelid = 't_by_k'::regclass;
SELECT * FROM try($$SELECT refit.ddl('CREATE INDEX CONCURRENTLY ON t (k)')$$);

-- in the caller's session: such a command is left to a worker
ALTER SYSTEM SET refit.max_workers = 0;
SELECT pg_reload_conf();
\c -
SET client_min_messages TO warning;
SET search_path TO ddl;
SELECT refit.ddl('ALTER TABLE t ADD COLUMN o int') AS id \gset
CALL refit.run(:id);
SELECT refit.ddl('CREATE INDEX CONCURRENTLY t_o ON t (o)') AS next \gset
CALL refit.run(:next);
SELECT outcome(:id), outcome(:next);
ALTER SYSTEM RESET refit.max_workers;
SELECT pg_reload_conf();
SELECT refit.wait(:next, '20s'), outcome(:id), outcome(:next);

--
-- Tries for locks: a prepared transaction is in the way
--
BEGIN;
SELECT count(*) FROM t;
PREPARE TRANSACTION 'ddl: reader';
SELECT refit.ddl('ALTER TABLE t ADD COLUMN p int', options =>
	'{"max_attempts": 2, "lock_timeout": "10ms"}') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')');
SELECT state, error_code, error_message, error_detail FROM refit.migrations WHERE id = :id;
SELECT phase, granted, waited_ms > 0 AS waited, queued_ms, locks, queued_behind_us,
	b ->> 'prepared' AS prepared, b ->> 'mode' AS mode, b ->> 'relation' AS relation
	FROM refit.lock_attempts, jsonb_array_elements(blocked_by) b
	WHERE migration_id = :id ORDER BY at;
SELECT refit.ddl('ALTER TABLE t ADD COLUMN p int', options => '{"deadline": "100ms"}') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')');
SELECT state, error_code, error_message FROM refit.migrations WHERE id = :id;
SELECT refit.retry(:id);
SELECT refit.set_option(:id, 'deadline', NULL) IN ('queued', 'running') AS goes_on;
COMMIT PREPARED 'ddl: reader';
SELECT refit.wait(:id, '20s'), outcome(:id);
SELECT granted FROM refit.lock_attempts WHERE migration_id = :id ORDER BY at DESC LIMIT 1;

--
-- Rights: the submitter's, and no more
--
CREATE ROLE ddl_owner;
CREATE ROLE ddl_other;
GRANT USAGE, CREATE ON SCHEMA ddl TO ddl_owner, ddl_other;
CREATE TABLE owned (id int PRIMARY KEY);
ALTER TABLE owned OWNER TO ddl_owner;
SET ROLE ddl_other;
SELECT * FROM try($$SELECT refit.ddl('ALTER TABLE owned ADD COLUMN x int')$$);
SELECT * FROM try($$SELECT refit.ddl('DROP TABLE t')$$);
SELECT * FROM try($$SELECT refit.ddl('TRUNCATE owned')$$);
SELECT * FROM try($$SELECT refit.ddl('CREATE INDEX CONCURRENTLY i ON owned (id)')$$);
SELECT * FROM try($$SELECT refit.ddl('CREATE TRIGGER g AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION nothing()')$$);
SELECT refit.ddl('CREATE TABLE mine (id int)') AS id \gset
SELECT refit.wait(:id, '20s');
SELECT tableowner FROM pg_tables WHERE schemaname = 'ddl' AND tablename = 'mine';
-- what is not known to be refused, PostgreSQL refuses
SELECT refit.ddl('ALTER TYPE mood ADD VALUE ''mad''') AS id \gset
SELECT * FROM try('SELECT refit.wait(' || :id || ', ''20s'')');
SELECT refit.ddl('DROP TABLE mine') AS id \gset
SELECT refit.wait(:id, '20s'), outcome(:id);
SET ROLE ddl_owner;
SELECT count(*) AS seen, count(definition) AS texts FROM refit.migrations WHERE submitted_by = 'ddl_other';
SELECT * FROM try('SELECT refit.retry(' || :id || ')');
RESET ROLE;
DROP OWNED BY ddl_owner, ddl_other;
DROP ROLE ddl_owner, ddl_other;

--
-- Refused, before anything is touched
--
CREATE TEMP TABLE mine (id int);
SELECT max(id) AS last FROM refit.migrations \gset
CREATE TABLE refused (number serial, text text);
INSERT INTO refused (text) VALUES
	('SELECT 1'), ('UPDATE t SET k = 1'), ('BEGIN'), ('COMMIT'), ('SET work_mem = 1'),
	('EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1'), ('DO ''BEGIN END'''), ('CALL x()'),
	('LOCK TABLE t'), ('COPY t FROM STDIN'), ('CHECKPOINT'),
	('CREATE DATABASE x'), ('DROP DATABASE x'), ('ALTER SYSTEM SET work_mem = 1'),
	('CREATE ROLE x PASSWORD ''y'''), ('ALTER ROLE x RENAME TO y'), ('CREATE TABLESPACE x LOCATION ''/x'''),
	('CREATE SUBSCRIPTION s CONNECTION ''password=x'' PUBLICATION p'),
	('VACUUM FULL t'), ('CLUSTER t USING t_pkey'), ('REINDEX TABLE t'), ('REINDEX SCHEMA CONCURRENTLY ddl'),
	('DROP EXTENSION pg_refit'), ('CREATE TEMP TABLE x (id int)'), ('CREATE TEMP VIEW x AS SELECT 1'),
	('ALTER TABLE mine ADD COLUMN x int'), ('DROP TABLE t; DROP TABLE t'), (''), ('-- nothing'),
	('CREATE TABEL x'), ('ALTER TABLE no_such_table ADD x int');
SELECT r.text, t.code, t.message, t.hint FROM refused r,
	LATERAL try(format('SELECT refit.ddl(%L)', r.text)) t ORDER BY r.number;
SELECT * FROM try('SELECT refit.ddl(NULL)');
SELECT count(*) FROM refit.migrations m WHERE id > :last;

-- Nothing is left
SELECT count(*) FROM refit.command;
SELECT relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE NOT indisvalid;
DROP SCHEMA ddl CASCADE;
