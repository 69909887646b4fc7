# Hostile users.  Whoever owns a table, and whatever functions hang on it, gains
# nothing when somebody with more rights migrates it; whoever owns nothing sees
# and moves nothing; and nobody takes the server or another's table down.
#
# mallory is hostile and owns tables, victim owns others, eve owns none.
# Functions of mallory write into public.seen as whom they ran, and what they
# succeeded in that they must not.
use strict;
use warnings;

use Encode;
use FindBin;
use JSON::PP;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

my $node = new_node('hostile', conf => "refit.max_workers = 4\nautovacuum = off");
my $super;

# Runs SQL as a role and returns what it prints.
sub as
{
	my ($role, $sql) = @_;

	return $node->safe_psql('postgres', $sql, extra_params => [ '-U', $role ]);
}

# Runs SQL as a role that must be refused with this SQLSTATE.
sub refused
{
	my ($role, $sql, $code, $what) = @_;
	my ($status, $out, $err) = $node->psql(
		'postgres', "\\set VERBOSITY sqlstate\n$sql",
		extra_params => [ '-U', $role ]);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($err, qr/ERROR:  $code\b/, "$role: " . ($what // $sql));
	is($out, '', "$role gets no answer");
}

# The columns of a migration, as text.
sub row
{
	my ($id, $columns) = @_;

	return $node->safe_psql('postgres',
		"SELECT concat_ws(', ', $columns) FROM refit.migration WHERE id = $id");
}

# Waits for the end of a migration that must fail, and checks its SQLSTATE.
sub fails_with
{
	my ($id, $code, $what) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for($node, 'postgres', "migration $id is over",
		"SELECT state IN ('completed', 'cancelled', 'failed')"
		  . " FROM refit.migration WHERE id = $id");
	is(row($id, 'state, error_code'), "failed, $code", $what);
}

# Nobody but mallory ran, nobody succeeded in what is forbidden; and which of
# his functions ran at all, so that the test shows something.
sub check_seen
{
	my ($what, @vectors) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', "SELECT DISTINCT who FROM seen"),
		'mallory', "$what: his functions run as mallory");
	is($node->safe_psql('postgres',
			'SELECT DISTINCT vector, how FROM seen WHERE how IS NOT NULL'),
		'', "$what: and gain nothing");
	is( $node->safe_psql('postgres',
			"SELECT string_agg(DISTINCT vector, ', ' ORDER BY vector) FROM seen"),
		join(', ', sort @vectors),
		"$what: just these run");
	is($node->safe_psql('postgres',
			"SELECT rolsuper OR pg_has_role('mallory', 'pg_read_all_data', 'USAGE')"
			  . " FROM pg_roles WHERE rolname = 'mallory'"),
		'f', "$what: mallory is who he was");
}

# No work tables, schemas or triggers are left.
sub check_nothing_left
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql('postgres', <<'SQL'), '', 'nothing is left behind');
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^refit_[0-9]'
UNION ALL
SELECT 'trigger ' || tgname FROM pg_trigger
	WHERE tgfoid = 'refit._capture'::regproc
UNION ALL
SELECT 'work table ' || oid::regclass FROM pg_class WHERE relrewrite NOT IN (0, oid)
SQL
}

#
# Roles, and what mallory has prepared
#

$node->start;
$super = $node->safe_psql('postgres', 'SELECT quote_ident(current_user)');
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_refit;
CREATE EXTENSION amcheck;
CREATE ROLE mallory LOGIN;
CREATE ROLE victim LOGIN;
CREATE ROLE eve LOGIN;
CREATE SCHEMA m AUTHORIZATION mallory;
CREATE SCHEMA v AUTHORIZATION victim;
GRANT USAGE ON SCHEMA m, v TO PUBLIC;
CREATE TABLE seen (who name DEFAULT current_user, vector text, how text);
CREATE TABLE ddl (who name DEFAULT current_user, event text, tag text, what text);
GRANT SELECT, INSERT ON seen, ddl TO PUBLIC;

-- a superuser's event triggers
CREATE FUNCTION watch_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.ddl (event, tag, what)
		SELECT tg_event, tg_tag, object_identity
		FROM pg_catalog.pg_event_trigger_ddl_commands();
END $$;
CREATE FUNCTION watch_other() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.ddl (event, tag) VALUES (tg_event, tg_tag);
END $$;
SQL

as('mallory', <<"SQL");
CREATE TABLE m.deferred (vector text);

-- says as whom it runs, and tries what it can; only what succeeds is kept
CREATE FUNCTION m.act(vector text) RETURNS boolean LANGUAGE plpgsql AS \$\$
DECLARE
	command text;
BEGIN
	IF pg_catalog.current_setting('trap.is_set', true) = 'no' THEN
		RETURN true;
	END IF;
	INSERT INTO public.seen (vector) VALUES (act.vector);
	FOREACH command IN ARRAY ARRAY[
		'ALTER ROLE mallory SUPERUSER', 'GRANT pg_read_all_data TO mallory',
		'SET ROLE $super', 'SET ROLE victim', 'RESET ROLE',
		'SET SESSION AUTHORIZATION $super', 'RESET SESSION AUTHORIZATION',
		'SET LOCAL ROLE $super', 'CREATE TEMP TABLE left_behind ()',
		'LISTEN refit', 'PREPARE left_behind AS SELECT 1',
		'DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1',
		'INSERT INTO m.deferred VALUES (''deferred'')', 'CALL m.commit()',
		'SET refit.max_replica_lag = 0', 'SELECT count(*) FROM refit.migration',
		'UPDATE refit.migration SET definition = ''''',
		'SELECT refit._capture()', 'ALTER EXTENSION pg_refit UPDATE']
	LOOP
		BEGIN
			EXECUTE command;
			INSERT INTO public.seen (vector, how) VALUES (act.vector, command);
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;

	-- allowed, and gone with the step
	PERFORM pg_catalog.set_config('search_path', 'm', false),
		pg_catalog.set_config('refit.lock_timeout', '60000', false);
	-- allowed, and no harm
	PERFORM pg_catalog.pg_advisory_unlock_all(), pg_catalog.pg_notify('refit', '');
	RETURN true;
END \$\$;
CREATE FUNCTION m.pure(value text, vector text) RETURNS text IMMUTABLE
LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM m.act(vector);
	RETURN value;
END \$\$;
CREATE FUNCTION m.fire() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM m.act(tg_argv[0]);
	RETURN NEW;
END \$\$;
CREATE PROCEDURE m.commit() LANGUAGE plpgsql AS \$\$ BEGIN COMMIT; END \$\$;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON m.deferred
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION m.fire('deferred');

CREATE DOMAIN m.checked AS text CHECK (m.act('domain'));
CREATE DOMAIN m.literal AS text CHECK (m.act('view literal'));

-- names that ours could be taken for
CREATE FUNCTION m.int_int(int, int) RETURNS boolean LANGUAGE sql
	AS 'SELECT m.act(''operator'')';
CREATE FUNCTION m.text_text(text, text) RETURNS boolean LANGUAGE sql
	AS 'SELECT m.act(''operator'')';
CREATE FUNCTION m.int_float(int, float8) RETURNS float8 LANGUAGE sql
	AS 'SELECT m.act(''operator'')::int::float8';
CREATE OPERATOR m.= (LEFTARG = int, RIGHTARG = int, FUNCTION = m.int_int);
CREATE OPERATOR m.< (LEFTARG = int, RIGHTARG = int, FUNCTION = m.int_int);
CREATE OPERATOR m.= (LEFTARG = text, RIGHTARG = text, FUNCTION = m.text_text);
CREATE OPERATOR m./ (LEFTARG = int, RIGHTARG = float8, FUNCTION = m.int_float);
CREATE FUNCTION m.pg_sleep(float8) RETURNS void LANGUAGE sql
	AS 'SELECT m.act(''function'')';
CREATE FUNCTION m.format(text, bigint) RETURNS text LANGUAGE sql
	AS 'SELECT m.act(''function'')::text';
CREATE FUNCTION m.concat(text) RETURNS text LANGUAGE sql
	AS 'SELECT m.act(''function'')::text';
SQL

# Makes a table of mallory's with a function of his wherever there can be one.
sub make_trap
{
	my ($table) = @_;

	as('mallory', <<"SQL");
SET trap.is_set = no;
CREATE TABLE $table (id int PRIMARY KEY, x text, u text,
	c text CHECK (m.pure(c, 'check') <> ''), d text,
	g text GENERATED ALWAYS AS (m.pure(x, 'generated')) STORED);
INSERT INTO $table SELECT n, n, n, n, n FROM generate_series(1, 8) n;
CREATE INDEX ON $table (m.pure(x, 'index'));
CREATE INDEX ON $table (x) WHERE m.pure(x, 'predicate') <> '';
CREATE STATISTICS ${table}_stat ON (m.pure(x, 'statistics')), id FROM $table;
CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW
	EXECUTE FUNCTION m.fire('trigger');
CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON $table FOR EACH ROW
	EXECUTE FUNCTION m.fire('trigger');
CREATE TRIGGER s AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON $table
	EXECUTE FUNCTION m.fire('trigger');
ALTER TABLE $table ENABLE ALWAYS TRIGGER b;
ALTER TABLE $table ENABLE ALWAYS TRIGGER a;
ALTER TABLE $table ENABLE ALWAYS TRIGGER s;
CREATE RULE r AS ON DELETE TO $table DO ALSO SELECT m.act('rule');
ALTER TABLE $table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON $table USING (m.act('policy'));
CREATE VIEW ${table}_view AS SELECT id, '{a}'::m.literal[] AS l,
	m.act('view') AS f FROM $table;
SQL
	$node->safe_psql('postgres', 'TRUNCATE seen, ddl');
}

my @trap = (
	'check', 'default', 'domain', 'generated', 'index', 'new check', 'predicate',
	'statistics', 'using', 'view literal');
my $trap_actions = q{$$
	ALTER COLUMN id TYPE bigint,
	ALTER COLUMN u TYPE varchar(10) USING m.pure(u, 'using'),
	ALTER COLUMN c TYPE varchar(10), ALTER COLUMN d TYPE m.checked,
	ADD COLUMN n boolean DEFAULT m.act('default'),
	ADD CONSTRAINT k CHECK (m.act('new check'))
$$};

#
# A superuser migrates a table of mallory's
#

# by a worker
make_trap('m.trap');
$node->safe_psql('postgres', <<'SQL');
CREATE EVENT TRIGGER refit_test_end ON ddl_command_end EXECUTE FUNCTION watch_ddl();
CREATE EVENT TRIGGER refit_test_drop ON sql_drop EXECUTE FUNCTION watch_other();
CREATE EVENT TRIGGER refit_test_rewrite ON table_rewrite EXECUTE FUNCTION watch_other();
SQL
my $id = $node->safe_psql('postgres',
	"SELECT refit.alter_table('m.trap', $trap_actions)");
wait_state($node, 'postgres', $id, 'completed');
check_seen('worker', @trap);
check_nothing_left();
is( $node->safe_psql('postgres', <<'SQL'),
SELECT who, event, tag, what FROM ddl WHERE event = 'ddl_command_end' ORDER BY what
SQL
	"mallory|ddl_command_end|ALTER TABLE|m.trap",
	'event triggers fire for the ALTER TABLE that was asked for, and for nothing else');
is( $node->safe_psql('postgres', <<'SQL'),
DROP EVENT TRIGGER refit_test_end;
DROP EVENT TRIGGER refit_test_drop;
DROP EVENT TRIGGER refit_test_rewrite;
SELECT count(*) FROM ddl WHERE event = 'table_rewrite';
SQL
	1, 'and once for its rewrite');
is($node->safe_psql('postgres', 'SELECT count(*), sum(id), count(n) FROM m.trap'),
	'8|36|8', 'the rows are there, whatever policy the table has');

# by CALL refit.run in a superuser's session that looks at mallory's schema first
make_trap('m.again');
$node->append_conf('postgresql.conf', 'refit.max_workers = 0');
$node->reload;
$id = $node->safe_psql('postgres',
	"SELECT refit.alter_table('m.again', $trap_actions)");
is( $node->safe_psql('postgres', <<"SQL"), "m, public, pg_catalog|100ms|$super|0|0|0|",
SET search_path = m, public, pg_catalog;
CALL refit.run($id);
SET search_path = m, public, pg_catalog;
SELECT pg_catalog.current_setting('search_path'),
	pg_catalog.current_setting('refit.lock_timeout'), current_user,
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_statements),
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_cursors WHERE is_holdable),
	(SELECT pg_catalog.count(*) FROM pg_catalog.pg_listening_channels()),
	pg_catalog.to_regclass('pg_temp.left_behind');
SQL
	'CALL refit.run: his functions leave nothing in the session');
wait_state($node, 'postgres', $id, 'completed');
check_seen('CALL refit.run', @trap);
is( $node->safe_psql('postgres', <<'SQL'), '',
SET search_path = m, public, pg_catalog;
SELECT FROM refit.progress;
SELECT vector FROM seen WHERE vector OPERATOR(pg_catalog.~) '^(operator|function)$';
SQL
	'no name of his was taken for one of ours');
$node->append_conf('postgresql.conf', 'refit.max_workers = 4');
$node->reload;

# repack, and a constraint only
$node->safe_psql('postgres', 'TRUNCATE seen');
$id = $node->safe_psql('postgres',
	"SELECT refit.repack('m.trap', 'm.pure(x, ''order''), id')");
wait_state($node, 'postgres', $id, 'completed');
$id = $node->safe_psql('postgres', "SELECT refit.alter_table('m.trap',"
	  . q{ $$ADD CONSTRAINT later CHECK (m.act('validated'))$$)});
wait_state($node, 'postgres', $id, 'completed');
check_seen('repack and validate', 'generated', 'index', 'order', 'predicate',
	'statistics', 'validated');

#
# A view on a table of victim's, with mallory's literals
#

as('victim', <<'SQL');
CREATE TABLE v.t (id int PRIMARY KEY, x text, number int NOT NULL UNIQUE);
INSERT INTO v.t SELECT n, 'secret ' || n, 1000 + n FROM generate_series(1, 100) n;
GRANT SELECT, REFERENCES ON v.t TO mallory;
SQL
as('mallory', <<'SQL');
SET trap.is_set = no;
CREATE VIEW m.over WITH (security_barrier) AS
	SELECT id, '{a}'::m.literal[] AS l FROM v.t;
GRANT SELECT ON m.over TO eve;
SQL
$node->safe_psql('postgres', 'TRUNCATE seen');
$id = as('victim', "SELECT refit.alter_table('v.t', 'ALTER COLUMN id TYPE bigint')");
wait_state($node, 'postgres', $id, 'completed');
check_seen("a view on another's table", 'view literal');
is($node->safe_psql('postgres',
		"SELECT relowner::regrole, reloptions, replace(relacl::text, 'xtm/', 'xt/'),"
		  . " (SELECT count(*) FROM m.over), pg_typeof((SELECT id FROM m.over LIMIT 1))"
		  . " FROM pg_class WHERE oid = 'm.over'::regclass"),
	'mallory|{security_barrier=true}|{mallory=arwdDxt/mallory,eve=r/mallory}|100|bigint',
	'the view is what it was, with the new type');

#
# A foreign key of mallory's to victim's table: row security of one, rows of the
# other
#

as('mallory', <<'SQL');
CREATE TABLE m.child (id int PRIMARY KEY, parent int REFERENCES v.t (number));
INSERT INTO m.child SELECT n, 1000 + n FROM generate_series(1, 100) n;
ALTER TABLE m.child ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON m.child USING (m.act('policy'));
GRANT SELECT ON m.child TO PUBLIC;
SQL
$node->safe_psql('postgres', 'TRUNCATE seen');
$id = as('victim', "SELECT refit.alter_table('v.t', 'ALTER COLUMN number TYPE bigint')");
wait_state($node, 'postgres', $id, 'completed');
is($node->safe_psql('postgres', "SELECT who FROM seen WHERE vector = 'policy'"),
	'', "the other table's policy does not run as victim");
is($node->safe_psql('postgres',
		"SELECT convalidated FROM pg_constraint WHERE conname = 'child_parent_fkey'"),
	't', 'the foreign key is valid again');
as('mallory', 'REVOKE ALL ON m.child FROM PUBLIC;'
	  . ' ALTER POLICY p ON m.child USING (false)');
$id = as('victim', "SELECT refit.alter_table('v.t', 'ALTER COLUMN number TYPE bigint"
	  . " USING CASE number WHEN 1050 THEN 5000 ELSE number END')");
fails_with($id, '23503', 'rows that a policy hides are checked nevertheless');
unlike(row($id, 'error_message, error_detail, error_hint'), qr/50/,
	"and victim reads none of mallory's values in the error");
unlike(
	$node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', message, detail), ' ')"
		  . " FROM refit.event WHERE migration_id = $id"),
	qr/1050/, 'nor in the events');
$node->safe_psql('postgres', 'DROP TABLE m.child');

#
# Whoever owns nothing
#

as('victim', <<'SQL');
CREATE TABLE v.hidden (id text PRIMARY KEY, x text);
INSERT INTO v.hidden VALUES ('card 4711', 'not a number');
SQL
my $failed = as('victim', "SELECT refit.alter_table('v.hidden',"
	  . " 'ALTER COLUMN x TYPE int USING x::int', name => 'hidden')");
fails_with($failed, '22P02', 'a migration fails over a row');
like(row($failed, 'error_message, error_detail'), qr/not a number.*card 4711/,
	'and the error names the row');
my $ready = as('victim', "SELECT refit.alter_table('v.t',"
	  . " 'ALTER COLUMN x TYPE varchar(30) USING left(x, 30)', cutover => 'manual')");
wait_state($node, 'postgres', $ready, 'ready');
foreach my $other ('eve', 'mallory')
{
	foreach my $call (
		"pause($ready)", "resume($ready)", "cancel($ready)", "retry($failed)",
		"cutover($ready)", "set_option($ready, 'chunk_time', '1s')",
		"throttle(1, '1 hour', $ready)", 'throttle(1)', "_step($ready)",
		"_claim($ready)", "_failed($ready, '22000', 'x', 'x', 'x', 'x')",
		'_capture()', "alter_table('v.t', 'ADD COLUMN y int')", "repack('v.t')",
		"plan('v.t', 'ADD COLUMN y int')",
		"alter_table('refit.migration', 'ADD COLUMN y int')")
	{
		refused($other, "SELECT refit.$call", '42501');
	}
	refused($other, "CALL refit.run($ready)", '42501');
	refused($other, "SELECT * FROM refit_$ready.t", '42501');
	refused($other, "SELECT * FROM refit_$ready.\"\$log0\"", '42501');
	foreach my $table (
		'migration', 'migration_progress', 'rewrite', 'owed', 'event', 'hold')
	{
		refused($other, "TABLE refit.$table", '42501');
		refused($other, "DELETE FROM refit.$table", '42501');
		refused($other, "INSERT INTO refit.$table DEFAULT VALUES", '42501');
	}
	refused($other, "UPDATE refit.migrations SET state = 'failed'", '(42501|55000)');
	refused($other, "SELECT refit.require('hidden')", '55000');
	is( as( $other, <<"SQL"), "|||\n||", "$other sees that it is there, and no more");
SELECT definition, error_message, error_detail, error_hint
	FROM refit.migrations WHERE id = $failed;
SELECT message, detail, (SELECT max(message) FROM refit.progress WHERE id = $ready)
	FROM refit.events WHERE migration_id = $failed AND kind = 'error';
SQL
	my ($status, $out, $err) = $node->psql('postgres', "SELECT refit.wait($failed)",
		extra_params => [ '-U', $other ]);
	like($err, qr/migration $failed has failed/, "$other may wait");
	unlike("$out$err", qr/4711|number/, "$other is not told what for");
}
is( $node->safe_psql('postgres', "SELECT state FROM refit.migration WHERE id = $ready"),
	'ready',
	'nothing has moved it');
is( as('victim', "SELECT count(*) FROM refit.migrations"
		  . " WHERE id = $failed AND error_detail LIKE '%4711%'"),
	1, 'the owner is told');

# what blocks a migration is shown, what it says to others is not
as('victim', 'GRANT SELECT ON v.t TO mallory');
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe("BEGIN; SELECT count(*) FROM v.t; SELECT 'pass' || 'word'");
as('victim', "SELECT refit.cutover($ready)");
wait_for($node, 'postgres', 'the cutover waits',
	"SELECT waiting_for IS NOT NULL FROM refit.progress WHERE id = $ready");
like(as('victim', "SELECT waiting_for FROM refit.progress WHERE id = $ready"),
	qr/^pid \d+/, 'the owner sees who is in the way');
unlike(as('victim', "SELECT waiting_for FROM refit.progress WHERE id = $ready;"
		  . " SELECT detail FROM refit.events WHERE migration_id = $ready"),
	qr/word/, 'and not what that session runs');
$session->query_safe('COMMIT');
$session->quit;
wait_state($node, 'postgres', $ready, 'completed');

#
# The work tables, which belong to the owner of the table
#

as('mallory', <<'SQL');
CREATE TABLE m.work (id int PRIMARY KEY, x text);
INSERT INTO m.work SELECT n, n FROM generate_series(1, 500) n;
SQL
$id = as('mallory', "SELECT refit.alter_table('m.work',"
	  . " 'ALTER COLUMN id TYPE bigint', cutover => 'manual')");
wait_state($node, 'postgres', $id, 'ready');
my $log = "refit_$id.\"\$log0\"";
my $twin = "refit_$id.work";
refused('mallory', $_, '2BP01')
  foreach (
	"DROP TABLE $twin", "DROP TABLE refit_$id.\"\$blank\" CASCADE",
	"DROP TABLE $log", "DROP SCHEMA refit_$id CASCADE", 'DROP OWNED BY mallory');
refused('mallory', $_, '42501')
  foreach (
	"ALTER TABLE $log ALTER COLUMN key1 TYPE text", "TRUNCATE $log",
	"INSERT INTO $log VALUES (1)", "SELECT * FROM $log",
	"ALTER TABLE $log RENAME TO l", "CREATE INDEX ON $log (m.pure(key1::text, 'log'))",
	"CREATE TRIGGER t BEFORE INSERT ON $log FOR EACH ROW EXECUTE FUNCTION m.fire('log')",
	"CREATE RULE r AS ON INSERT TO $log DO ALSO SELECT m.act('log')",
	"ALTER EXTENSION pg_refit DROP TABLE $twin",
	"CREATE TRIGGER hand AFTER INSERT ON m.work FOR EACH ROW"
	. " EXECUTE FUNCTION refit._capture('1', '2', '3', '4')");
$node->safe_psql('postgres', "TRUNCATE seen; INSERT INTO seen VALUES ('mallory', 'none')");
as('mallory', <<"SQL");
CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON $twin FOR EACH ROW
	EXECUTE FUNCTION m.fire('twin trigger');
ALTER TABLE $twin ENABLE ALWAYS TRIGGER b;
CREATE RULE r AS ON INSERT TO $twin DO ALSO SELECT m.act('twin rule');
ALTER TABLE $twin ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON $twin USING (m.act('twin policy'));
ALTER TABLE $twin ALTER COLUMN x SET DEFAULT m.act('twin default')::text;
CREATE FUNCTION refit_$id.int4(text) RETURNS int LANGUAGE sql
	AS 'SELECT m.act(''function'')::int';
GRANT ALL ON $twin TO PUBLIC;
UPDATE m.work SET x = 'changed' WHERE id <= 10;
DELETE FROM m.work WHERE id > 400;
SELECT refit.cutover($id);
SQL
wait_state($node, 'postgres', $id, 'completed');
check_seen('what he hangs on the twin', 'none');
is( $node->safe_psql('postgres', <<'SQL'), '400|10|0||f||',
SELECT count(*), count(*) FILTER (WHERE x = 'changed'),
	(SELECT count(*) FROM pg_trigger WHERE tgrelid = 'm.work'::regclass),
	(SELECT string_agg(rulename, ',') FROM pg_rules WHERE tablename = 'work'),
	(SELECT relrowsecurity FROM pg_class WHERE oid = 'm.work'::regclass),
	(SELECT relacl FROM pg_class WHERE oid = 'm.work'::regclass),
	(SELECT column_default FROM information_schema.columns
		WHERE table_name = 'work' AND column_name = 'x')
FROM m.work
SQL
	'nothing of that comes to the table, and no row is lost');
check_nothing_left();

# what he alters there makes the migration fail, and nothing else
my %spoilt = (
	"ALTER TABLE %s ADD COLUMN z int" => '55000',
	"ALTER TABLE %s ALTER COLUMN x TYPE int USING 0" => '55000',
	"ALTER TABLE %s ALTER COLUMN id TYPE text" => '55000',
	"ALTER TABLE %s DROP COLUMN x" => '55000',
	"ALTER TABLE %s SET SCHEMA v" => '55000',
	"ALTER TABLE %s SET UNLOGGED" => 'XX000');
$node->safe_psql('postgres', 'GRANT CREATE ON SCHEMA v TO mallory');
foreach my $spoil (sort keys %spoilt)
{
	$id = as('mallory', "SELECT refit.alter_table('m.work',"
		  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()', cutover => 'manual')");
	wait_state($node, 'postgres', $id, 'ready');
	as('mallory', sprintf($spoil, "refit_$id.work") . "; SELECT refit.cutover($id)");
	fails_with($id, $spoilt{$spoil}, "$spoil of the twin");
}

# an index more is nobody's partner and goes with the twin
my $indexes = "SELECT count(*) FROM pg_index WHERE indrelid = 'm.work'::regclass";
my $indexes_before = $node->safe_psql('postgres', $indexes);
$id = as('mallory', "SELECT refit.alter_table('m.work',"
	  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()', cutover => 'manual')");
wait_state($node, 'postgres', $id, 'ready');
as('mallory', "CREATE UNIQUE INDEX ON refit_$id.work (id, x); SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
is($node->safe_psql('postgres', $indexes), $indexes_before,
	'an index that the twin has beside the table\'s does not come along');
as('mallory', 'ALTER TABLE m.work DROP COLUMN u');
is($node->safe_psql('postgres', 'SELECT count(*) FROM m.work'),
	400, 'the table is as it was');
check_nothing_left();

# the capture trigger under another name
$id = as('mallory', "SELECT refit.alter_table('m.work',"
	  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()', cutover => 'manual')");
wait_state($node, 'postgres', $id, 'ready');
as('mallory', <<'SQL');
SELECT format('ALTER TRIGGER %I ON m.work RENAME TO harmless', tgname)
	FROM pg_trigger WHERE tgrelid = 'm.work'::regclass AND tgtype & 1 = 1 \gexec
SQL
fails_with($id, '55000', 'a renamed capture trigger is noticed');
check_nothing_left();
as('mallory', "INSERT INTO m.work VALUES (1000, 'x')");

#
# What is not his
#

# a schema with a work schema's name
my $next = 1 + $node->safe_psql('postgres', 'SELECT max(id) FROM refit.migration');
$node->safe_psql('postgres', <<"SQL");
CREATE SCHEMA refit_$next AUTHORIZATION victim;
CREATE TABLE refit_$next.precious AS SELECT 42 AS x;
SQL
$id = as('mallory', "SELECT refit.alter_table('m.work',"
	  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()')");
is($id, $next, 'a migration gets the number');
fails_with($id, '42P06', 'a schema of that name is in its way');
is($node->safe_psql('postgres', "SELECT x FROM refit_$next.precious"),
	42, 'and is not dropped');
$node->safe_psql('postgres', "DROP SCHEMA refit_$next CASCADE");

# another's rights, when the table is given away while his actions wait
$id = as('mallory', "SELECT refit.alter_table('m.work',"
	  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()', cutover => 'manual')");
wait_state($node, 'postgres', $id, 'ready');
my $later = as('mallory', "SELECT refit.alter_table('m.work',"
	  . q{ $$ALTER COLUMN x TYPE text USING m.pure(x, 'owner')$$)});
$node->safe_psql('postgres', "TRUNCATE seen; ALTER TABLE m.work OWNER TO $super");
fails_with($id, '42501', 'what he has under way stops');
fails_with($later, '42501', "actions do not run with the next owner's rights");
is($node->safe_psql('postgres', 'SELECT * FROM seen'), '', 'not at all');
$node->safe_psql('postgres', 'ALTER TABLE m.work OWNER TO mallory');
$node->safe_psql('postgres', "SELECT refit.retry($later)");
wait_state($node, 'postgres', $later, 'completed');
check_seen('his again', 'owner');

#
# What crashes, or does not end
#

# the type of the key, under the eyes of the capture trigger
as('mallory', <<'SQL');
CREATE TABLE m.key (k text PRIMARY KEY, x int);
INSERT INTO m.key SELECT n, n FROM generate_series(1, 500) n;
SQL
$id = as('mallory', "SELECT refit.alter_table('m.key',"
	  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()', cutover => 'manual')");
wait_state($node, 'postgres', $id, 'ready');
as('mallory', <<'SQL');
BEGIN;
ALTER TABLE m.key ALTER COLUMN k TYPE int USING k::int;
INSERT INTO m.key VALUES (1000, 1);
UPDATE m.key SET k = k + 5000 WHERE k < 10;
DELETE FROM m.key WHERE k = 20;
COMMIT;
INSERT INTO m.key VALUES (1001, 1);
SQL
fails_with($id, '55000', 'a key column of another type is noticed');
is($node->safe_psql('postgres', 'SELECT count(*), sum(k) FROM m.key'),
	'501|172231', 'no writer was disturbed');

# functions behind CALL refit.run, called by hand and from an expression
refused('mallory', "SELECT refit._failed($id, NULL, NULL, NULL, NULL, NULL),"
	  . " 1 / 0", '22012', 'refit._failed without a message');
refused('mallory', "BEGIN; INSERT INTO m.key VALUES (2000, 1);"
	  . " SELECT refit._step($id); COMMIT", '25001');
as('mallory', <<'SQL');
CREATE FUNCTION m.call(what text, id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT refit.%s(%s)', what, id);
	RETURN true;
END $$;
SQL
foreach my $function ('_step', 'pause', 'cancel')
{
	$next = 1 + $node->safe_psql('postgres', 'SELECT max(id) FROM refit.migration');
	$id = as('mallory', "SELECT refit.alter_table('m.key',"
		  . " 'ADD COLUMN b boolean DEFAULT m.call(''$function'', $next)')");
	fails_with($id, '42501', "refit.$function within a step");
}

# errors of any kind, with no message
as('mallory', <<'SQL');
CREATE FUNCTION m.raise(state text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = state, MESSAGE = '';
END $$;
SQL
foreach my $state ('P0004', '57P01', '57014', '02000', 'ZZZZZ')
{
	$id = as('mallory', "SELECT refit.alter_table('m.key',"
		  . " 'ADD COLUMN b boolean DEFAULT m.raise(''$state'')')");
	fails_with($id, $state, "a function raises $state");
}
$node->append_conf('postgresql.conf', 'refit.max_workers = 0');
$node->reload;
$id = as('mallory', "SELECT refit.alter_table('m.key',"
	  . " 'ADD COLUMN b boolean DEFAULT m.raise(''P0004'')')");
is($node->safe_psql('postgres', "CALL refit.run($id); SELECT count(*)"
		  . " FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"),
	0, 'CALL refit.run records it and gives the claim back');
is(row($id, 'state, error_code'), 'failed, P0004', 'an assertion that fails');
$node->append_conf('postgresql.conf', 'refit.max_workers = 4');
$node->reload;
$id = as('mallory', "SELECT refit.alter_table('m.key',"
	  . " 'ADD COLUMN b boolean DEFAULT m.raise(''55P03'')')");
wait_for($node, 'postgres', 'the copy is tried',
	"SELECT phase = 'copy' FROM refit.migration WHERE id = $id");
as($super, "SELECT refit.cancel($id)");
wait_state($node, 'postgres', $id, 'cancelled');

# a function that does not end, and does not hear of cancel requests
as('mallory', <<'SQL');
CREATE FUNCTION m.forever() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		BEGIN
			PERFORM pg_catalog.pg_sleep(600);
		EXCEPTION WHEN query_canceled THEN
			NULL;
		END;
	END LOOP;
END $$;
SQL
$id = as('mallory', "SELECT refit.alter_table('m.key',"
	  . " 'ADD COLUMN b boolean DEFAULT m.forever()')");
wait_gate($node, 'postgres', $id, 'copy');
$node->safe_psql('postgres', "SELECT refit.pause($id)");
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid)"
	  . " FROM pg_stat_activity WHERE backend_type LIKE 'pg_refit%' AND query LIKE '%: copy'");
wait_for($node, 'postgres', 'it is paused',
	"SELECT state = 'paused' FROM refit.migration WHERE id = $id");
as('mallory', "SELECT refit.cancel($id)");
wait_state($node, 'postgres', $id, 'cancelled');
check_nothing_left();

# a name that fills a notification, and one that is too long for any
refused('mallory', "SELECT refit.repack('m.key', name => repeat('x', 1001))", '42622');
$id = as('mallory', q{SELECT refit.repack('m.key', name => repeat(E'\x01', 1000))});
wait_state($node, 'postgres', $id, 'completed');

#
# Names
#

# What names end with: quotes, format directives, backslash, line end, dollar,
# control character; and 31 letters of two bytes, which with one byte before them
# have all that a name can have.
my @names = (q{a"b'c%s%n%1$s\\%I$$;--}, qq{line\nend\tof \x01 it}, 'é' x 31, ' ');

foreach my $n (0 .. $#names)
{
	my $q = $names[$n] =~ s/"/""/gr;    # within double quotes
	my $l = $names[$n] =~ s/'/''/gr;    # within single ones
	my $ql = $q =~ s/'/''/gr;

	$node->safe_psql('postgres', <<"SQL");
CREATE ROLE "r$q";
CREATE SCHEMA "s$q" AUTHORIZATION "r$q";
SET ROLE "r$q";
CREATE TABLE "s$q"."t$q" ("c$q" int, "b$q" text,
	CONSTRAINT "p$q" PRIMARY KEY ("c$q"),
	CONSTRAINT "k$q" CHECK ("b$q" <> 'no'));
CREATE INDEX "i$q" ON "s$q"."t$q" ("b$q");
CREATE VIEW "s$q"."v$q" AS SELECT * FROM "s$q"."t$q";
INSERT INTO "s$q"."t$q" SELECT n, '%s %n ' || n FROM generate_series(1, 50) n;
SQL
	my $json = $node->safe_psql('postgres', <<"SQL");
LISTEN refit;
SELECT refit.alter_table('"s$ql"."t$ql"',
	'ALTER COLUMN "c$ql" TYPE bigint, ALTER COLUMN "b$ql" TYPE varchar(100)',
	name => 'n$l') \\gset
SQL
	$id = $node->safe_psql('postgres',
		"SELECT id FROM refit.migrations WHERE name = 'n$l'");
	is(decode_json($json =~ /payload "(\{.*?\})" received/s ? $1 : '{}')->{name},
		decode('UTF-8', "n$names[$n]"), "name $n: listeners are told, in JSON that can be read");
	wait_state($node, 'postgres', $id, 'completed');
	is( $node->safe_psql('postgres', <<"SQL"), '50|t|bigint|t|completed',
SELECT count(*), min("b$q") = '%s %n 1', min(pg_typeof("c$q")::text),
	(SELECT relation = quote_ident('s$l') || '.' || quote_ident('t$l')
		FROM refit.migrations WHERE id = $id), refit.require('n$l')
	FROM "s$q"."v$q"
SQL
		"name $n: the view has the rows and the type");

	# in messages
	$id = $node->safe_psql('postgres',
		qq{SELECT refit.alter_table('"s$ql"."t$ql"', 'ALTER COLUMN "b$ql" TYPE int USING "b$ql"::int')});
	fails_with($id, '22P02', "name $n: a row fails");
	is(row($id, 'error_detail'), "The row with key (c$names[$n])=(1) is at fault.",
		"name $n: and is named");
	$id = $node->safe_psql('postgres',
		qq{SELECT refit.alter_table('"s$ql"."t$ql"', 'ADD CONSTRAINT "z$ql" CHECK ("c$ql" < 10)')});
	fails_with($id, '23514', "name $n: a constraint is violated");
	is(row($id, 'error_message'),
		qq{constraint "z$names[$n]" of relation }
		  . $node->safe_psql('postgres',
			"SELECT quote_ident('s$l') || '.' || quote_ident('t$l')")
		  . ' is violated by some row',
		"name $n: and is named");
	$id = $node->safe_psql('postgres',
		qq{SELECT refit.alter_table('"s$ql"."t$ql"', 'ALTER COLUMN "b$ql" SET NOT NULL')});
	wait_state($node, 'postgres', $id, 'completed');
	$id = $node->safe_psql('postgres',
		qq{SELECT refit.repack('"s$ql"."t$ql"', '"b$ql" DESC')});
	wait_state($node, 'postgres', $id, 'completed');
	is($node->safe_psql('postgres', qq{SELECT min("c$q"), count(*) FROM "s$q"."t$q" WHERE ctid = '(0,1)'}),
		'9|1', "name $n: it is in order");
}

# names that our work tables have
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE "$blank" ("$log0" int CONSTRAINT "$log1" PRIMARY KEY, "$key" int);
CREATE INDEX "$log0" ON "$blank" ("$key");
INSERT INTO "$blank" SELECT n, n FROM generate_series(1, 50) n;
SQL
$id = $node->safe_psql('postgres',
	q{SELECT refit.alter_table('"$blank"', 'ALTER COLUMN "$log0" TYPE bigint')});
wait_state($node, 'postgres', $id, 'completed');
is($node->safe_psql('postgres', 'SELECT count(*), sum("$log0") FROM "$blank"'),
	'50|1275', 'a table with the names of our work tables');
check_nothing_left();

$node->stop;
done_testing();
