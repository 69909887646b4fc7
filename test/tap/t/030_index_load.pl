# Indexes of each access method, built beside the application: inserts, HOT and
# other updates, deletes, aborted subtransactions, transactions that began before
# the index did, VACUUM and VACUUM FREEZE all the time.  Afterwards an index scan
# finds what a sequential scan finds, no row twice, and amcheck nothing.
#
#   REFIT_INDEX_SEEDS   runs for each access method (1)
#   REFIT_SEED          the first seed (a random one, which is printed)
#   REFIT_INDEX_KINDS   those to run, of the names below
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IndexLoad;
use RefitTest;
use Test::More;

my $seeds = $ENV{REFIT_INDEX_SEEDS} // 1;
my $first_seed = $ENV{REFIT_SEED} // int(rand(1_000_000));

my @kinds = split / /, $ENV{REFIT_INDEX_KINDS} // join ' ', sort keys %kinds;

my $node = new_node('index_load', conf => "autovacuum = off\nfsync = off\n");

# One build under load.
sub run_kind
{
	my ($kind, $seed) = @_;
	my ($load, $id);
	my $submit =
	  $kinds{$kind}{before}
	  ? "refit.rebuild_index('load_i'"
	  : "refit.create_index('$kinds{$kind}{definition}'";

	make_load_table($node, $kind);
	$load = start_load($node, $seed);
	select(undef, undef, undef, 0.7);
	$node->safe_psql('postgres', 'SELECT refit.throttle(0.5)');
	$id = $node->safe_psql('postgres',
		qq{SELECT $submit, method => 'incremental', options => '{"chunk_time": "10ms"}')});
	wait_state($node, 'postgres', $id, 'completed');
	is(stop_load($load), '', "$kind, seed $seed: no client has an error");
	wait_for($node, 'postgres', 'the clients are gone',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'");
	check_index($node, $kind, $seed);
	is($node->safe_psql('postgres',
			"SELECT count(*) FROM pg_index WHERE NOT indisvalid"),
		0, "$kind, seed $seed: no invalid index is left");
}

$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION pg_refit; CREATE EXTENSION amcheck');
note("first seed: $first_seed");
for my $seed ($first_seed .. $first_seed + $seeds - 1)
{
	run_kind($_, $seed) for @kinds;
}
$node->stop;
done_testing();
