# How long clients wait while DDL comes to a table that somebody reads from for
# long; idle sessions in the way; what is left when a server starts.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	READER_S => 5,
	STALL_MS => 150,
	SLACK_MS => $ENV{REFIT_SLACK_MS} || 150,
};

my $db = 'postgres';
my $node = new_node('ddl_stall', conf => 'autovacuum = off');
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->start;
$node->safe_psql($db, <<'SQL');
CREATE EXTENSION pg_refit;
CREATE TABLE t (id int PRIMARY KEY, n int);
INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g;
CREATE TABLE spare (LIKE t INCLUDING ALL);
INSERT INTO spare SELECT * FROM t;
SQL

# The longest statement of four clients that write to a table, in ms.
sub start_clients
{
	my ($table) = @_;
	append_to_file("$dir/$table.sql",
		"\\set id random(1, 1000)\nUPDATE $table SET n = n + 1 WHERE id = :id;\n");
	my $run = IPC::Run::start(
		[ 'pgbench', '-n', '-c4', '-T' . (READER_S + 2), '-R200', '-l',
			"--log-prefix=$dir/$table", '-f', "$dir/$table.sql", $node->connstr($db) ],
		'>', \my $out, '2>&1');
	return { run => $run, table => $table, out => \$out };
}

sub longest
{
	my ($clients) = @_;
	my $longest = 0;
	$clients->{run}->finish;
	unlike(${ $clients->{out} }, qr/ERROR|aborted/, "no client of $clients->{table} had an error");
	foreach my $file (glob "$dir/$clients->{table}.[0-9]*")
	{
		foreach (split /\n/, slurp_file($file))
		{
			my (undef, undef, $us, undef, undef, undef, $lag) = split;
			my $ms = ($us - ($lag // 0)) / 1000;
			$longest = $ms if $ms > $longest;
		}
	}
	return $longest;
}

my @clients = map { start_clients($_) } qw(t spare);
my $reader = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($db), '-c',
	'BEGIN; SELECT count(*) FROM t; SELECT pg_sleep(' . READER_S . '); COMMIT' ], '>', \my $ignored);
wait_for($node, $db, 'the reader reads',
	"SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 't'::regclass AND mode = 'AccessShareLock'"
	  . " AND pid IN (SELECT pid FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND backend_type = 'client backend'))");
my $id = $node->safe_psql($db, "SELECT refit.ddl('ALTER TABLE t ADD COLUMN extra int DEFAULT 7')");
wait_for($node, $db, 'the reader is named',
	"SELECT EXISTS (SELECT FROM refit.lock_attempts WHERE migration_id = $id AND NOT granted"
	  . " AND blocked_by @? '\$[*] ? (\@.state == \"active\" && \@.query like_regex \"pg_sleep\")')");
$reader->finish;
is($node->safe_psql($db, "SELECT refit.wait($id, '30s')"), 'completed', 'the column is there');
my ($waited, $elsewhere) = map { longest($_) } @clients;
cmp_ok($waited, '<', STALL_MS + SLACK_MS + $elsewhere,
	sprintf('no client waited for long (%.0f ms; %.0f ms for another table)', $waited, $elsewhere));

# whoever queued behind a granted request is told of
is($node->safe_psql($db,
		"SELECT count(*) FROM refit.lock_attempts WHERE migration_id = $id AND granted"),
	'1', 'the lock was granted once');

# a session that is idle in a transaction is ended, if that is asked for
my $idle = $node->background_psql($db, on_error_stop => 0);
$idle->query('BEGIN; SELECT count(*) FROM t;');
$id = $node->safe_psql($db, "SELECT refit.ddl('ALTER TABLE t DROP COLUMN extra', options =>"
	  . ' \'{"cancel_idle_in_transaction_after": "200ms"}\')');
is($node->safe_psql($db, "SELECT refit.wait($id, '30s')"), 'completed', 'the column is gone');
is($node->safe_psql($db, "SELECT count(*) FROM refit.events WHERE migration_id = $id"
	  . " AND message ~ '^terminated pid [0-9]+ of .*, idle in transaction for '"), '1',
	'and it is told who was ended');
$idle->{run}->finish if ref $idle->{run};

# who may not end it does not
$node->safe_psql($db, <<'SQL');
CREATE ROLE owner;
GRANT ALL ON SCHEMA public TO owner;
ALTER TABLE spare OWNER TO owner;
SQL
my $superuser = $node->background_psql($db, on_error_stop => 1);
$superuser->query_safe('BEGIN; SELECT count(*) FROM spare;');
$id = $node->safe_psql($db, <<'SQL');
SET ROLE owner;
SELECT refit.ddl('ALTER TABLE spare ADD COLUMN extra int', options =>
	'{"cancel_idle_in_transaction_after": "1ms", "max_attempts": 3}');
SQL
wait_for($node, $db, 'it has failed', "SELECT state = 'failed' FROM refit.migration WHERE id = $id");
is($node->safe_psql($db, "SELECT error_code FROM refit.migrations WHERE id = $id"), '55006',
	'a superuser is not ended for an owner');
is($superuser->query_safe('SELECT 1'), '1', 'he goes on');
$superuser->query_safe('COMMIT');
$superuser->quit;
is($node->safe_psql($db, "SET ROLE owner; SELECT count(*) FROM refit.lock_attempts"
	  . " WHERE migration_id = $id AND blocked_by -> 0 ? 'query'"), '0',
	'nor is his query shown to the owner');
is($node->safe_psql($db, "SELECT count(*) FROM refit.lock_attempts"
	  . " WHERE migration_id = $id AND blocked_by -> 0 ? 'query'"), '3',
	'it is shown to a superuser');

# what is left of a migration that is over is removed at the next start
$id = $node->safe_psql($db, "SELECT refit.alter_table('t', 'ALTER n TYPE bigint', cutover => 'manual')");
wait_state($node, $db, $id, 'ready');
$node->safe_psql($db, "SELECT refit.pause($id)");
wait_for($node, $db, 'it is paused', "SELECT state = 'paused' FROM refit.migration WHERE id = $id");
$node->safe_psql($db, "UPDATE refit.migration SET state = 'failed', phase = NULL WHERE id = $id");
is($node->safe_psql($db, "SELECT string_agg(kind, ', ' ORDER BY kind) FROM refit.leftovers()"),
	'capture trigger, work schema', 'something is left');
$node->restart;
wait_for($node, $db, 'it is removed', 'SELECT count(*) = 0 FROM refit.leftovers()');
$node->safe_psql($db, 'UPDATE t SET n = n + 1');

done_testing();
