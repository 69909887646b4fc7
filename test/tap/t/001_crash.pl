# The server stops at once in each phase: after its start the migration goes on
# by itself, and no change made meanwhile is lost.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 150_000;

my $node = new_node('crash', allows_streaming => 1);
my $writer;

# Stops the server as a power cut would and starts it again.
sub crash
{
	$node->stop('immediate');
	stop_writer($writer, crashed => 1);
	$node->start;
	$writer = start_writer($node, 'postgres', 'orders', ROWS);
}

# The row that says what is done.
sub rows_done
{
	my ($id) = @_;
	return $node->safe_psql('postgres',
		"SELECT rows_done FROM refit.migration_progress WHERE id = $id");
}

$node->start;
make_table($node, 'postgres', 'orders', ROWS);
$writer = start_writer($node, 'postgres', 'orders', ROWS);

# The copy: between two chunks, then within one.
close_gate($node, 'postgres', 'orders', COPY_GATE);
close_gate($node, 'postgres', 'orders', INDEX_GATE);
my $id = submit($node, 'postgres', 'orders',
	actions => gated_actions(),
	throttle => 0.99,
	chunk_time => '10ms');
wait_copying($node, 'postgres', $id, ROWS / 20);
crash();
cmp_ok(rows_done($id), '>=', ROWS / 50, 'the copy goes on where it was');
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_gate($node, 'postgres', $id, 'copy');
crash();
wait_gate($node, 'postgres', $id, 'copy');
open_gate($node, COPY_GATE);

# An index build.
wait_gate($node, 'postgres', $id, 'index');
close_gate($node, 'postgres', 'orders', CATCHUP_GATE);
crash();
wait_gate($node, 'postgres', $id, 'index');
open_gate($node, INDEX_GATE);

# The catch-up.
wait_gate($node, 'postgres', $id, 'catchup');
crash();
wait_gate($node, 'postgres', $id, 'catchup');

# The cutover, which a reader holds up.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM orders WHERE id = 1');
open_gate($node, CATCHUP_GATE);
wait_for($node, 'postgres', 'the cutover is tried',
	"SELECT cutover_attempts > 0 FROM refit.migrations WHERE id = $id");
$node->stop('immediate');
stop_writer($writer, crashed => 1);
$reader->{run}->kill_kill;
$node->start;
$writer = start_writer($node, 'postgres', 'orders', ROWS);

wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
check_type($node, 'postgres', 'orders', 'bigint');

# Once more, after the end: what is there is on disk.
$node->stop('immediate');
$node->start;
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');

$node->stop;
done_testing();
