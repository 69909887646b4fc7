# A session that waits for a migration keeps vacuum from nothing, if it does nothing
# else.
use strict;
use warnings;

use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 20_000;

my $db = 'postgres';
my $node = new_node('wait', conf => <<'CONF');
autovacuum_naptime = 1s
CONF

sub sql { return $node->safe_psql($db, $_[0]) }

# Starts psql with a statement that waits, and waits until it does.
sub start_waiting
{
	my ($sql) = @_;
	my $run = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($db), '-c', $sql ],
		'>', \my $out, '2>&1');

	wait_for($node, $db, 'somebody waits', q(SELECT EXISTS (SELECT FROM pg_stat_activity
		WHERE query ~ 'refit.wait' AND wait_event = 'Extension' AND pid <> pg_backend_pid())));
	return $run;
}

# How many dead rows vacuum leaves.
sub dead_left
{
	my ($stdout, $stderr);

	sql('UPDATE other SET n = n + 1');
	$node->psql($db, 'VACUUM (VERBOSE) other', stderr => \$stderr);
	return $stderr =~ /(\d+) are dead but not yet removable/ ? $1 : -1;
}

$node->start;
sql(<<'SQL');
CREATE EXTENSION pg_refit;
CREATE TABLE t (id int PRIMARY KEY, n int) WITH (autovacuum_vacuum_threshold = 10,
	autovacuum_vacuum_scale_factor = 0.02);
CREATE TABLE other AS SELECT 1 AS n;
ALTER TABLE other SET (autovacuum_enabled = false);
CREATE TABLE written (id bigint);
CREATE FUNCTION writes(id bigint) RETURNS bigint LANGUAGE sql VOLATILE AS
	'INSERT INTO written VALUES ($1) RETURNING id';
SQL
sql('INSERT INTO t SELECT g, 0 FROM generate_series(1, ' . ROWS . ') g; VACUUM ANALYZE t');

my $id = sql(q(SELECT refit.backfill('t', 'n = n + 1')));
sql("SELECT refit.throttle(1, '1 h', $id)");
my @beside = (
	"SELECT refit.wait($id), 1",
	"SELECT refit.wait(writes($id))",
	"BEGIN; SELECT refit.wait($id)",
	"SELECT refit.wait(id) FROM refit.migrations WHERE id = $id",
	"DO 'BEGIN PERFORM refit.wait($id); END'");
my @alone = ("SELECT refit.wait($id)", "SELECT refit.wait((SELECT max(id) FROM refit.migrations), '1 h')");

foreach my $sql (@beside)
{
	my $run = start_waiting($sql);

	cmp_ok(dead_left(), '>', 0, "vacuum keeps what another might see: $sql");
	$run->kill_kill;
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'refit.wait' AND pid <> pg_backend_pid()");
	wait_for($node, $db, 'it is gone', q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity
		WHERE query ~ 'refit.wait' AND pid <> pg_backend_pid())));
}
foreach my $sql (@alone)
{
	my $run = start_waiting($sql);
	my $left = 1;

	# it looks ten times a second, and counts while it does
	foreach (1 .. 20)
	{
		$left = dead_left();
		last if $left == 0;
	}
	is($left, 0, "vacuum keeps nothing: $sql");
	$run->kill_kill;
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'refit.wait' AND pid <> pg_backend_pid()");
}
sql("SELECT refit.cancel($id)");
wait_state($node, $db, $id, 'cancelled');

# What made it stand still for ever.
$id = sql(q(SELECT refit.backfill('t', 'n = n + 1', options => '{"max_dead_ratio": 0.1, "chunk_time": "20ms"}')));
is(sql("SELECT refit.wait($id, '2 min')"), 'completed',
	'a backfill that waits for vacuum completes though somebody waits for it');
is(sql('SELECT count(DISTINCT n) FROM t'), '1', 'every row was written');
$node->stop;
done_testing();
