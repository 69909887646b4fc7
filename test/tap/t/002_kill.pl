# The worker is terminated and killed in each phase: the migration goes on by
# itself.  Cancelled in each phase, it leaves nothing behind.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 150_000;

my $node = new_node('kill');
my ($id, $writer);

# Ends the worker with SIGTERM; the server stays up and another worker comes.
sub terminate
{
	my $pid = worker_pid($node, 'postgres');

	is($node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)"),
		't', 'the worker ends at once');
}

# Ends it with SIGKILL; the server restarts itself.
sub kill_hard
{
	my $pid = worker_pid($node, 'postgres');

	stop_writer($writer);
	kill 'KILL', $pid or die "could not kill $pid";
	ok( poll($node, 'postgres',
			"SELECT pg_postmaster_start_time() IS NOT NULL AND NOT EXISTS"
			  . " (SELECT FROM pg_stat_activity WHERE pid = $pid)"),
		'the server is there again');
	$writer = start_writer($node, 'postgres', 'orders', ROWS);
}

# Holds a migration in each phase in turn and does something to it there.
sub in_each_phase
{
	my ($action) = @_;

	$action->('copy', sub { wait_copying($node, 'postgres', $id) });
	$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
	$action->('copy', sub { wait_gate($node, 'postgres', $id, 'copy') });
	open_gate($node, COPY_GATE);
	$action->('index', sub { wait_gate($node, 'postgres', $id, 'index') });
	close_gate($node, 'postgres', 'orders', CATCHUP_GATE);
	open_gate($node, INDEX_GATE);
	$action->('catchup', sub { wait_gate($node, 'postgres', $id, 'catchup') });
	open_gate($node, CATCHUP_GATE);
	$action->('ready', sub { wait_state($node, 'postgres', $id, 'ready') });
}

# Holds a migration at one place, cancels it and looks what is left.
sub cancel_at
{
	my ($phase, %params) = @_;
	my $gate = $params{gate};
	my $reader;

	close_gate($node, 'postgres', 'orders', $gate)
	  if defined $gate && $gate != CATCHUP_GATE;
	close_gate($node, 'postgres', 'orders', INDEX_GATE)
	  if defined $gate && $gate == CATCHUP_GATE;
	$id = submit($node, 'postgres', 'orders',
		actions => gated_actions(),
		%params);
	if (defined $gate && $gate == CATCHUP_GATE)
	{
		wait_gate($node, 'postgres', $id, 'index');
		close_gate($node, 'postgres', 'orders', $gate);
		open_gate($node, INDEX_GATE);
	}
	if ($phase eq 'cutover')
	{
		wait_copying($node, 'postgres', $id);
		$reader = $node->background_psql('postgres');
		$reader->query_safe('BEGIN; SELECT v FROM orders WHERE id = 1');
		$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
		wait_for($node, 'postgres', 'the cutover is tried',
			"SELECT cutover_attempts > 2 FROM refit.migrations WHERE id = $id");
	}
	elsif (defined $gate) { wait_gate($node, 'postgres', $id, $phase) }
	elsif ($phase eq 'ready') { wait_state($node, 'postgres', $id, 'ready') }
	else { wait_copying($node, 'postgres', $id) }

	note("cancel in phase $phase");
	$node->safe_psql('postgres', "SELECT refit.cancel($id)");
	open_gate($node, $gate) if defined $gate;
	if ($reader)
	{
		# A try that is under way when cancel returns may still succeed.
		wait_phase($node, 'postgres', $id, 'cleanup');
		$reader->query_safe('COMMIT');
		$reader->quit;
	}
	wait_state($node, 'postgres', $id, 'cancelled');
	check_clean($node, 'postgres', 'orders');
	check_type($node, 'postgres', 'orders', 'integer');
	$node->safe_psql('postgres', 'BEGIN; DELETE FROM orders WHERE id = -1;'
		  . ' DELETE FROM orders_oracle WHERE id = -1; COMMIT');
}

$node->start;
make_table($node, 'postgres', 'orders', ROWS);
$writer = start_writer($node, 'postgres', 'orders', ROWS);

cancel_at('copy', throttle => 0.99, chunk_time => '10ms');
cancel_at('copy', gate => COPY_GATE);
cancel_at('index', gate => INDEX_GATE);
cancel_at('catchup', gate => CATCHUP_GATE);
cancel_at('cutover', throttle => 0.99, chunk_time => '10ms');
cancel_at('ready', arguments => "cutover => 'manual'");
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_no_orphans($node, 'postgres');
$writer = start_writer($node, 'postgres', 'orders', ROWS);

close_gate($node, 'postgres', 'orders', COPY_GATE);
close_gate($node, 'postgres', 'orders', INDEX_GATE);
$id = submit($node, 'postgres', 'orders',
	actions => gated_actions(),
	arguments => "cutover => 'manual'",
	throttle => 0.99,
	chunk_time => '10ms');
in_each_phase(
	sub {
		my ($phase, $wait) = @_;

		$wait->();
		note("SIGTERM in phase $phase");
		terminate();
		$wait->();
		note("SIGKILL in phase $phase");
		kill_hard();
		$wait->();
	});
$node->safe_psql('postgres', "SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
check_type($node, 'postgres', 'orders', 'bigint');

$node->stop;
done_testing();
