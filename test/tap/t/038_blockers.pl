# Sessions that stay in the way of a lock are ended where an option asks for it,
# and only those.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

my $db = 'postgres';
my $node = new_node('blockers', conf => <<'CONF');
autovacuum = off
refit.max_workers = 1
CONF

sub sql { return $node->safe_psql($db, $_[0]) }

# Submits as the owner, with options; the call has %s for them.
sub submit_as_owner
{
	my ($call, $options) = @_;
	return sql('SET ROLE owner; SELECT ' . sprintf($call, "options => '$options'"));
}

# A session of a role that has read the table in a transaction, and is idle then.
sub open_reader
{
	my ($role, $table) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0,
		extra_params => [ '-U', $role ]);

	$session->query("SET application_name = 'report of $role'; BEGIN; SELECT count(*) FROM $table;");
	return $session;
}

# Waits until one in the way has been told of in that way, so often.
sub told
{
	my ($id, $what, $user, $name) = @_;

	wait_for($node, $db, $name,
		"SELECT EXISTS (SELECT FROM refit.events WHERE migration_id = $id AND kind = 'lock'"
		  . " AND detail ->> 'what' = '$what' AND detail ->> 'user' = '$user')");
	pass($name);
}

# How often.
sub count_told
{
	my ($id, $what) = @_;
	return sql("SELECT count(*) FROM refit.events WHERE migration_id = $id"
		  . " AND kind = 'lock' AND detail ->> 'what' = '$what'");
}

sub completes
{
	my ($id, $name) = @_;
	is(sql("SELECT refit.wait($id, '60s')"), 'completed', $name);
}

$node->start;
sql(<<'SQL');
CREATE EXTENSION pg_refit;
CREATE ROLE clerk LOGIN;
CREATE ROLE stranger LOGIN;
CREATE ROLE owner LOGIN IN ROLE clerk;
GRANT ALL ON SCHEMA public TO owner;
CREATE TABLE t (id int PRIMARY KEY, n int);
INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;
ALTER TABLE t OWNER TO owner;
GRANT ALL ON t TO clerk, stranger;
CREATE TABLE latch ();
GRANT ALL ON latch TO clerk;
SQL
my $latch = $node->background_psql($db);
$latch->query_safe('BEGIN; LOCK TABLE latch');

# Each kind of lock: who is idle is left; his next statement, which would last for
# ever, is cancelled.  (For the build of an index one that had begun before would be
# waited for because of its snapshot.)
my @calls = (
	[ 'cutover', q{refit.alter_table('t', 'ALTER n TYPE bigint', %s)} ],
	[ 'alter', q{refit.alter_table('t', 'ADD COLUMN extra int', %s)} ],
	[ 'publish', q{refit.rebuild_index('t_pkey', method => 'incremental', %s)} ],
	[ 'ddl', q{refit.ddl('ALTER TABLE t DROP COLUMN extra', %s)} ]);
foreach (@calls)
{
	my ($phase, $call) = @$_;
	my $reader = open_reader('clerk', 't');
	my $id = submit_as_owner($call, '{"cancel_blockers_after": "700ms"}');

	told($id, 'idle', 'clerk', "$phase: who is idle is told of");
	$reader->query('LOCK TABLE latch IN ACCESS SHARE MODE;');
	like($reader->{stderr}, qr/canceling statement due to user request/,
		"$phase: the reader's statement was cancelled");
	completes($id, "$phase: it gets the lock");
	$reader->quit;
	is(sql("SELECT concat_ws(' | ', count(*), min(phase), min(detail ->> 'user'),"
			  . " min(detail ->> 'application'), bool_and(detail ->> 'query' ~ 'LOCK TABLE'),"
			  . " bool_and((detail ->> 'pid')::int > 0), bool_and((detail ->> 'age_ms')::int >= 700))"
			  . " FROM refit.events WHERE migration_id = $id AND detail ->> 'what' = 'cancelled'"),
		"1 | $phase | clerk | report of clerk | t | t | t", "$phase: and it is told whose");
	is(sql("SELECT min(e.at) - min(a.at) >= '650ms' FROM refit.events e"
			  . " JOIN refit.lock_attempts a ON a.migration_id = e.migration_id AND NOT granted"
			  . " WHERE e.migration_id = $id AND detail ? 'what'"),
		't', "$phase: it had been tried for so long before");
	like(slurp_file($node->logfile), qr/migration $id: cancelled the statement of pid/,
		"$phase: the server's log says so too");
}

# Who is idle in a transaction is named once and left; a stranger and a superuser
# are not the owner's to cancel; nor is the query of either shown to him.
my $idle = open_reader('clerk', 't');
my $stranger = open_reader('stranger', 't');
my $super = open_reader($node->safe_psql($db, 'SELECT current_user'), 't');
my $id = submit_as_owner($calls[0][1] =~ s/bigint/int/r, '{"cancel_blockers_after": "300ms"}');
told($id, 'idle', 'clerk', 'an idle session is told of');
told($id, 'not allowed', 'stranger', 'so is one of a stranger');
is(count_told($id, 'cancelled'), '0', 'nobody is cancelled');
like($super->query('SELECT 1; COMMIT'), qr/1/, 'the superuser goes on');
like($stranger->query('SELECT 2; COMMIT'), qr/2/, 'so does the stranger');
wait_for($node, $db, 'some more tries',
	"SELECT count(*) >= 4 FROM refit.lock_attempts WHERE migration_id = $id"
	  . " AND at > (SELECT max(at) FROM refit.events WHERE migration_id = $id AND kind = 'lock'"
	  . " AND detail ? 'what')");
is(count_told($id, 'idle'), '1', 'it is told once');
is(sql("SELECT count(*) FROM refit.events WHERE migration_id = $id"
		  . " AND detail ->> 'what' = 'not allowed' AND detail ? 'query'"), '0',
	'what strangers do is not shown');

# The other option does for every kind what it does for refit.ddl.
sql("SELECT refit.set_option($id, 'cancel_idle_in_transaction_after', '100ms')");
completes($id, 'it gets the lock');
is(count_told($id, 'terminated'), '1', 'the idle session was terminated');
$idle->{run}->finish;
$_->quit foreach ($super, $stranger);

# Transactions that are short but for which the time in the queue is not enough,
# one after the other: no one of them is old, all of them are in the way.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/busy.sql", "\\set s random(2, 6)\nSELECT count(*) FROM t \\; SELECT pg_sleep(:s / 10.0);\n");
my $busy = IPC::Run::start(
	[ 'pgbench', '-n', '-c8', '-T600', '-U', 'clerk', '-f', "$dir/busy.sql",
		$node->connstr($db) ], '>', \my $busy_out, '2>&1');
wait_for($node, $db, 'they are busy',
	"SELECT count(*) > 3 FROM pg_locks WHERE relation = 't'::regclass");
$id = submit_as_owner($calls[1][1], '{"cancel_blockers_after": "500ms", "lock_timeout": "50ms"}');
completes($id, 'a lock that is never free is got');
cmp_ok(count_told($id, 'cancelled'), '>=', 1, 'some had to go');
is(sql("SELECT count(*) FROM refit.events WHERE migration_id = $id"
		  . " AND detail ->> 'what' = 'cancelled' AND (detail ->> 'age_ms')::int < 45"),
	'0', 'and none that had just begun');
$busy->kill_kill;

# Migrations are not in each other's way like that, wherever they are worked: one by
# a worker, one by a session of the owner's.
sql(<<'SQL');
SET ROLE owner;
CREATE TABLE sink (id int);
CREATE TABLE gate AS SELECT 1 AS id;
CREATE FUNCTION slow(id int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	PERFORM count(*) FROM public.t;
	WHILE EXISTS (SELECT FROM public.gate) LOOP
		PERFORM pg_sleep(0.02);
	END LOOP;
	RETURN id;
END $$;
CREATE TABLE few AS SELECT 1 AS id;
CREATE TABLE fewer AS SELECT 1 AS id;
ALTER TABLE few ADD PRIMARY KEY (id);
ALTER TABLE fewer ADD PRIMARY KEY (id);
SQL
my ($theirs, $ours) = map {
	sql("SET ROLE owner; SELECT refit.batched('$_', 'INSERT INTO public.sink"
		  . " SELECT public.slow(id) FROM $_ WHERE id BETWEEN \$1 AND \$2')")
} qw(few fewer);
my $runs = IPC::Run::start(
	[ 'psql', '-XAtq', '-U', 'owner', '-d', $node->connstr($db), '-c', "CALL refit.run($ours)" ],
	'>', \my $runs_out, '2>&1');
wait_for($node, $db, 'both are in the way',
	"SELECT count(*) = 2 FROM pg_locks JOIN pg_stat_activity USING (pid)"
	  . " WHERE relation = 't'::regclass AND (backend_type ~ 'refit' OR query ~ 'refit.run')");
sql('ALTER SYSTEM SET refit.max_workers = 4');
sql('SELECT pg_reload_conf()');
$id = submit_as_owner($calls[3][1], '{"cancel_blockers_after": "100ms"}');
wait_for($node, $db, 'they have been in the way for long enough',
	"SELECT count(*) >= 3 FROM refit.lock_attempts WHERE migration_id = $id AND NOT granted"
	  . " AND blocked_by @? '\$[*] ? (\@.age_ms > 1200)'");
sql('DELETE FROM gate');
completes($_, 'each of them is done') foreach ($id, $theirs, $ours);
$runs->finish;
is($runs_out, '', 'the session had no error');
is(sql("SELECT count(*) FROM refit.events WHERE migration_id = $id AND detail ? 'what'"),
	'0', 'and were left alone');
is(sql('SELECT count(*) FROM sink'), '2', 'nor had to do anything again');

$latch->quit;
$node->stop;
done_testing();
