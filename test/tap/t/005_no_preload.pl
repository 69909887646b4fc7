# Without shared_preload_libraries a worker starts at COMMIT, and unfinished
# work goes on when a function of pg_refit is called after a restart.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 150_000;

my $node = new_node('lazy', preload => 0);
my $workers =
  "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'pg_refit%'";

$node->start;
make_table($node, 'postgres', 'orders', ROWS);
make_table($node, 'postgres', 'parts', ROWS);
my $writer = start_writer($node, 'postgres', 'orders', ROWS);

# Nothing is begun by a transaction that rolls back.
$node->safe_psql('postgres',
	"BEGIN; SELECT refit.alter_table('orders', 'ALTER COLUMN id TYPE bigint');"
	  . " ROLLBACK");
is( $node->safe_psql('postgres', 'SELECT count(*) FROM refit.migrations'),
	0, 'a submission rolls back');

my $id = submit($node, 'postgres', 'orders',
	throttle => 0.99,
	chunk_time => '10ms');
wait_copying($node, 'postgres', $id);
pass('a worker starts at COMMIT');

$node->stop('immediate');
stop_writer($writer, crashed => 1);
$node->start;
$writer = start_writer($node, 'postgres', 'orders', ROWS);
is($node->safe_psql('postgres', $workers), 0, 'nothing goes on by itself');
is($node->safe_psql('postgres',
		"SELECT state FROM refit.progress WHERE id = $id"),
	'running', 'progress still shows the migration');

# The first call of a function that controls it makes it go on.
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
$node->safe_psql('postgres', "SELECT refit.resume($id)");
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
check_type($node, 'postgres', 'orders', 'bigint');

# In the foreground, with no worker allowed.
$node->append_conf('postgresql.conf', 'refit.max_workers = 0');
$node->restart;
$writer = start_writer($node, 'postgres', 'parts', ROWS);
$id = submit($node, 'postgres', 'parts');
$node->safe_psql('postgres', "CALL refit.run($id)");
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'parts');
check_clean($node, 'postgres', 'parts');
check_type($node, 'postgres', 'parts', 'bigint');

$node->stop;
done_testing();
