# Builds of indexes whose process is killed, terminated or crashes with the server
# again and again: they go on, and the index is right.  Cancelled, nothing is left.
#
#   REFIT_INDEX_KILLS   how often in each build (6)
#   REFIT_SEED          seed (a random one, which is printed)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IndexLoad;
use RefitTest;
use Test::More;

my $kills = $ENV{REFIT_INDEX_KILLS} // 6;
my $seed = $ENV{REFIT_SEED} || int(rand(1_000_000));
my $node = new_node('index_crash', conf => "autovacuum = off\n");

# The process that works, if there is one; the server may be on its way.
sub find_worker
{
	my $pid = eval {
		$node->safe_psql('postgres',
			"SELECT pid FROM pg_stat_activity WHERE backend_type = 'pg_refit worker'");
	};

	return $pid;
}

# Does one of three things to the build.
sub strike
{
	my $what = int(rand(6));
	my $pid = find_worker();

	if ($what == 0)
	{
		$node->stop('immediate');
		$node->start;
	}
	elsif (!$pid)
	{
		return;
	}
	elsif ($what == 1)
	{
		kill 'KILL', $pid;
		wait_for($node, 'postgres', 'the server is there again',
			"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	}
	else
	{
		eval { $node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") };
	}
}

# Is the build under way, and not finished?
sub is_running
{
	my ($id) = @_;

	return $node->safe_psql('postgres',
		"SELECT state IN ('queued', 'running') FROM refit.migration WHERE id = $id") eq 't';
}

# Starts a build that is slow enough to be struck.
sub submit_index
{
	my ($kind, $throttle) = @_;

	make_load_table($node, $kind);
	$node->safe_psql('postgres', "SELECT refit.throttle($throttle)");
	return $node->safe_psql('postgres',
		qq{SELECT refit.create_index('$kinds{$kind}{definition}', method => 'incremental',
			options => '{"chunk_time": "10ms"}')});
}

# A build that is struck again and again.
sub build_and_strike
{
	my ($kind) = @_;
	my $id = submit_index($kind, $kills > 10 ? 0.99 : 0.9);
	my $struck = 0;

	while ($struck < $kills && is_running($id))
	{
		my $load = start_load($node, $seed + $struck);

		select(undef, undef, undef, 0.1 + rand(0.5));
		strike();
		stop_load($load);
		$struck++;
	}
	ok($struck > 0, "$kind: struck $struck times");
	$node->safe_psql('postgres', 'SELECT refit.throttle(0)');
	wait_state($node, 'postgres', $id, 'completed');
	wait_for($node, 'postgres', 'the clients are gone',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'");
	check_index($node, $kind, $seed);
}

# A build that is killed once and then cancelled.
sub cancel_after_kill
{
	my ($kind) = @_;
	my $id = submit_index($kind, 0.95);

	wait_for($node, 'postgres', 'some blocks are done',
		"SELECT next_block > 0 FROM refit.index_build WHERE id = $id");
	kill 'KILL', find_worker();
	wait_for($node, 'postgres', 'the build goes on',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'pg_refit worker'");
	$node->safe_psql('postgres', "SELECT refit.cancel($id)");
	wait_state($node, 'postgres', $id, 'cancelled');
	is($node->safe_psql('postgres', "SELECT to_regclass('load_i') IS NULL"),
		't', "$kind: the index is gone");
}

$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_refit; CREATE EXTENSION amcheck');
note("seed: $seed");
srand($seed);
build_and_strike($_) for $ENV{REFIT_INDEX_KILLS} ? qw(unique gist hash) : qw(unique gist);
cancel_after_kill('btree');
is($node->safe_psql('postgres', <<'SQL'), '0|0|0|0', 'nothing is left');
SELECT (SELECT count(*) FROM pg_index WHERE NOT indisvalid),
	(SELECT count(*) FROM refit.index_build), (SELECT count(*) FROM refit.index_doubt),
	(SELECT count(*) FROM pg_namespace WHERE nspname ~ '^refit_')
SQL
$node->stop;
done_testing();
