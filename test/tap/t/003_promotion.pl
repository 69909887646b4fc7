# The primary is lost in the middle of the copy: the promoted standby finishes
# the migration by itself.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 150_000;

my $primary = new_node('primary', allows_streaming => 1);
$primary->start;
make_table($primary, 'postgres', 'orders', ROWS);
$primary->backup('base');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

my $writer = start_writer($primary, 'postgres', 'orders', ROWS);
my $id = submit($primary, 'postgres', 'orders',
	throttle => 0.99,
	chunk_time => '10ms');

# The standby has some chunks, and does nothing about them.
wait_copying($standby, 'postgres', $id, ROWS / 20);
is( $standby->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_refit%'"
	),
	0,
	'no worker runs on a standby');

$primary->stop('immediate');
stop_writer($writer, crashed => 1);
$standby->promote;
$writer = start_writer($standby, 'postgres', 'orders', ROWS);
$standby->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");

wait_state($standby, 'postgres', $id, 'completed');
stop_writer($writer);
is( $standby->safe_psql('postgres',
		"SELECT count(*) FROM refit.events WHERE migration_id = $id"
		  . " AND message IN ('phase copy begins', 'queued -> running')"),
	2,
	'the new primary went on where the old one was');
check_equal($standby, 'postgres', 'orders');
check_clean($standby, 'postgres', 'orders');
check_type($standby, 'postgres', 'orders', 'bigint');

$standby->stop;
done_testing();
