# Whose rights a command has that runs in transactions of its own; and DETACH
# PARTITION CONCURRENTLY, which is ended in two steps.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

my $db = 'postgres';
my $node = new_node('ddl_rights', conf => 'autovacuum = off');

$node->start;
$node->safe_psql($db, <<'SQL');
CREATE EXTENSION pg_refit;
CREATE ROLE mallory NOLOGIN;
CREATE SCHEMA mallory AUTHORIZATION mallory;
SET ROLE mallory;
CREATE TABLE mallory.t (id int PRIMARY KEY, k int);
INSERT INTO mallory.t SELECT g, g FROM generate_series(1, 10) g;
-- tries each way to more rights, and says in the log how it was refused
CREATE FUNCTION mallory.grab(place text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	way text;
BEGIN
	FOREACH way IN ARRAY ARRAY['RESET SESSION AUTHORIZATION', 'RESET ROLE', 'SET ROLE NONE',
		'CREATE TEMP TABLE later (id int)'] LOOP
		BEGIN
			EXECUTE way;
			EXECUTE 'ALTER ROLE mallory SUPERUSER';
			RAISE LOG 'mallory % %: granted', place, way;
		EXCEPTION WHEN OTHERS THEN
			RAISE LOG 'mallory % %: %', place, way, SQLERRM;
		END;
	END LOOP;
END $$;
CREATE FUNCTION mallory.f(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF k = 1 THEN PERFORM mallory.grab('index'); END IF;
	RETURN k;
END $$;
RESET ROLE;
-- a superuser's event trigger that runs what another one wrote
CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM mallory.grab('trigger'); END $$;
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION public.note();
SQL

my $id = $node->safe_psql($db, <<'SQL');
SET ROLE mallory;
SELECT refit.ddl('CREATE INDEX CONCURRENTLY i ON mallory.t (mallory.f(k))');
SQL
is($node->safe_psql($db, "SELECT refit.wait($id, '30s')"), 'completed', 'the index is made');
my $log = slurp_file($node->logfile);
foreach my $place ('index', 'trigger')
{
	foreach my $way ('RESET SESSION AUTHORIZATION', 'RESET ROLE', 'SET ROLE NONE',
		'CREATE TEMP TABLE later \(id int\)')
	{
		like($log, qr/mallory $place $way: cannot .* within security-(restricted operation|definer function)/,
			"in the $place: $way is refused");
	}
}
is($node->safe_psql($db, "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), 'f',
	'nobody has become a superuser');

# the same for a statement in a transaction
$id = $node->safe_psql($db, <<'SQL');
SET ROLE mallory;
SELECT refit.ddl('CREATE INDEX j ON mallory.t (mallory.f(k))');
SQL
is($node->safe_psql($db, "SELECT refit.wait($id, '30s')"), 'completed', 'another index is made');
is($node->safe_psql($db, "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), 'f',
	'and nobody has become one then');
is($node->safe_psql($db, "SELECT string_agg(DISTINCT relowner::regrole::text, ' ') FROM pg_class"
	  . " WHERE relnamespace = 'mallory'::regnamespace"), 'mallory', 'all of it is its own');
$node->safe_psql($db, 'DROP EVENT TRIGGER note');

# the role is gone before its statement is run
$node->safe_psql($db, <<'SQL');
CREATE ROLE brief;
GRANT CREATE ON SCHEMA public TO brief;
BEGIN;
SET LOCAL ROLE brief;
SELECT refit.pause(refit.ddl('CREATE TABLE public.late (id int)', 'late'));
COMMIT;
REVOKE CREATE ON SCHEMA public FROM brief;
DROP ROLE brief;
SELECT refit.resume(id) FROM refit.migrations WHERE name = 'late';
SQL
$id = $node->safe_psql($db, "SELECT id FROM refit.migrations WHERE name = 'late'");
wait_for($node, $db, 'it has failed', "SELECT state = 'failed' FROM refit.migration WHERE id = $id");
is($node->safe_psql($db, "SELECT error_code, to_regclass('public.late') FROM refit.migrations WHERE id = $id"),
	'42704|', 'a statement of a role that is gone is not run');

# a partition is detached in two steps, the second when nobody is in the way
$node->safe_psql($db, <<'SQL');
CREATE TABLE p (id int) PARTITION BY LIST (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2);
INSERT INTO p VALUES (1), (2);
SQL
my $reader = $node->background_psql($db, on_error_stop => 1);
my $pid = $reader->query_safe('BEGIN; SELECT count(*) FROM p; SELECT pg_backend_pid();');
$pid =~ s/.*\n//;
$id = $node->safe_psql($db, "SELECT refit.ddl('ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY')");
wait_for($node, $db, 'the partition is half detached',
	"SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p1'::regclass");
wait_for($node, $db, 'the reader is named',
	"SELECT waiting_for ~ '^pid $pid,' FROM refit.progress WHERE id = $id");
# meanwhile nobody who uses the partition waits
is($node->safe_psql($db, "SET statement_timeout = '5s'; INSERT INTO p1 VALUES (1); SELECT count(*) FROM p1"),
	'2', 'the partition can be used');
is($node->safe_psql($db, 'SELECT count(*) FROM p'), '1', 'new queries do without it');
$reader->query_safe('COMMIT');
$reader->quit;
is($node->safe_psql($db, "SELECT refit.wait($id, '30s')"), 'completed', 'it is detached');
is($node->safe_psql($db, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'p'::regclass"), '1',
	'and is no partition any more');

# refit.wait() is not in its way, though it began before the partition was seen
# to be half detached, or one that has a snapshot is told that it is
$node->safe_psql($db, 'CREATE TABLE p3 PARTITION OF p FOR VALUES IN (3)');
$node->safe_psql($db, 'CREATE TABLE p4 PARTITION OF p FOR VALUES IN (4)');
for my $case (['p3', "SELECT refit.wait(ID, '30s')"],
	['p4', "DO \$\$ BEGIN PERFORM refit.wait(ID, '30s'); END \$\$"])
{
	my ($part, $call) = @$case;
	$reader = $node->background_psql($db, on_error_stop => 1);
	$reader->query_safe('BEGIN; SELECT count(*) FROM p;');
	$node->safe_psql($db,
		"SELECT refit.pause(refit.ddl('ALTER TABLE p DETACH PARTITION $part CONCURRENTLY', '$part'))");
	$id = $node->safe_psql($db, "SELECT id FROM refit.migrations WHERE name = '$part'");
	$call =~ s/ID/$id/;
	my $waiter = $node->background_psql($db, on_error_stop => 0);
	$waiter->query_until(qr/queued|running/, "SELECT refit.resume($id);\n$call;\n\\echo ended\n");
	wait_for($node, $db, 'the partition is seen to be half detached',
		"SELECT pending_at IS NOT NULL FROM refit.command WHERE id = $id");
	$reader->query_safe('COMMIT');
	$reader->quit;
	like($waiter->query_until(qr/ended/, '') . $waiter->{stderr},
		$part eq 'p3' ? qr/completed/ : qr/waits for this transaction to end/, "$part: what refit.wait() says");
	$waiter->quit;
	wait_state($node, $db, $id, 'completed');
}

# given up while it is half detached: there is no way back, so it is ended
$reader = $node->background_psql($db, on_error_stop => 1);
$reader->query_safe('BEGIN; SELECT count(*) FROM p;');
$id = $node->safe_psql($db, "SELECT refit.ddl('ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY')");
wait_for($node, $db, 'the partition is half detached',
	"SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p2'::regclass");
$node->safe_psql($db, "SELECT refit.cancel($id)");
$reader->query_safe('COMMIT');
$reader->quit;
wait_state($node, $db, $id, 'cancelled');
is($node->safe_psql($db, 'SELECT count(*) FROM pg_inherits WHERE inhdetachpending'), '0',
	'nothing is half detached');

done_testing();
