# A partition tree: the server stops at once in each phase, each time at another
# leaf, while a writer moves rows between partitions; and partitions that come or
# go while a migration runs make it fail before the cutover.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 30_000;

# Not id, which the table is partitioned by.
use constant ACTIONS => 'ALTER COLUMN v TYPE varchar(100), '
  . 'ALTER COLUMN k TYPE int USING public.gate(k, -2)';

my $node = new_node('partitions', allows_streaming => 1);
my $writer;

# Stops the server as a power cut would and starts it again.
sub crash
{
	my ($session) = @_;

	$node->stop('immediate');
	stop_writer($writer, crashed => 1);
	$session->{run}->kill_kill if $session;
	$node->start;
	$writer = start_writer($node, 'postgres', 'orders', ROWS);
}

# Every leaf is sound and of the wanted type, and nothing is left behind.
sub check_leaves
{
	my ($type) = @_;

	foreach my $leaf (split /\n/, $node->safe_psql('postgres',
			"SELECT relid FROM pg_partition_tree('orders') WHERE isleaf"))
	{
		check_clean($node, 'postgres', $leaf);
	}
	is($node->safe_psql('postgres', <<'SQL'), $type, "v is $type everywhere");
SELECT DISTINCT format_type(atttypid, atttypmod) FROM pg_attribute
	WHERE attname = 'v' AND attrelid IN (SELECT relid FROM pg_partition_tree('orders'))
SQL
}

# A migration meets a change of the partitions and fails, naming it; then it is
# done over.
sub meet
{
	my ($what, $sql, $expected, %params) = @_;
	my $id = submit($node, 'postgres', 'orders',
		actions => 'ALTER COLUMN v TYPE text',
		arguments => "cutover => 'manual'",
		throttle => $params{throttle} // 0,
		chunk_time => '10ms');

	if ($params{throttle}) { wait_copying($node, 'postgres', $id) }
	else { wait_state($node, 'postgres', $id, 'ready') }
	$node->safe_psql('postgres', $sql);
	$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
	wait_for($node, 'postgres', "$what is noticed",
		"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
	like($node->safe_psql('postgres',
			"SELECT error_code || ': ' || error_message || ', ' || error_hint"
			  . " FROM refit.migration WHERE id = $id"),
		qr/^55000: .* $expected, .*refit\.retry\($id\)/, "$what is named");
	is($node->safe_psql('postgres', <<'SQL'), '0', 'nothing is left behind');
SELECT (SELECT count(*) FROM pg_trigger WHERE tgname ~ 'refit')
	+ (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^refit_[0-9]')
	+ (SELECT count(*) FROM refit.rewrite)
SQL
	return $id;
}

$node->start;
make_table($node, 'postgres', 'orders', ROWS, partitions => 1);
$writer = start_writer($node, 'postgres', 'orders', ROWS);
close_gate($node, 'postgres', 'orders', COPY_GATE);
close_gate($node, 'postgres', 'orders', INDEX_GATE);

# Capture: some leaves have it, one cannot be locked.
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN; UPDATE orders_1 SET k = k WHERE id = (SELECT max(id) FROM orders_1)");
my $id = submit($node, 'postgres', 'orders', actions => ACTIONS);
wait_for($node, 'postgres', 'some leaves are captured',
	"SELECT count(*) BETWEEN 2 AND 8 FROM pg_trigger WHERE tgname ~ 'refit'");
crash($session);

# The copy, an index build, the catch-up.
wait_gate($node, 'postgres', $id, 'copy');
crash();
wait_gate($node, 'postgres', $id, 'copy');
open_gate($node, COPY_GATE);
wait_gate($node, 'postgres', $id, 'index');
close_gate($node, 'postgres', 'orders', CATCHUP_GATE);
crash();
wait_gate($node, 'postgres', $id, 'index');
open_gate($node, INDEX_GATE);
wait_gate($node, 'postgres', $id, 'catchup');
crash();
wait_gate($node, 'postgres', $id, 'catchup');

# The cutover, which a reader of one leaf holds up.
$session = $node->background_psql('postgres');
$session->query_safe('BEGIN; SELECT count(*) FROM orders_0 WHERE id = 1');
open_gate($node, CATCHUP_GATE);
wait_for($node, 'postgres', 'the cutover is tried',
	"SELECT cutover_attempts > 0 FROM refit.migrations WHERE id = $id");
crash($session);
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_leaves('character varying(100)');

$writer = start_writer($node, 'postgres', 'orders', ROWS);

# Partitions come and go, in the copy and before the cutover.
meet('a new partition', <<'SQL', 'partition public.orders_new was attached');
BEGIN;
ALTER TABLE orders DETACH PARTITION orders_rest;
CREATE TABLE orders_new PARTITION OF orders FOR VALUES FROM (1000000000) TO (1000000001);
ALTER TABLE orders ATTACH PARTITION orders_rest FOR VALUES FROM (1000000001) TO (MAXVALUE);
COMMIT;
SQL
meet('a detached partition', 'ALTER TABLE orders DETACH PARTITION orders_new',
	'partition public.orders_new was detached or dropped');
meet('an attached partition',
	'ALTER TABLE orders ATTACH PARTITION orders_new FOR VALUES FROM (1000000000) TO (1000000001)',
	'partition (public\.)?orders_new was attached', throttle => 0.99);
meet('a partition detached concurrently',
	'ALTER TABLE orders DETACH PARTITION orders_new CONCURRENTLY; DROP TABLE orders_new',
	'partition public.orders_new was detached or dropped', throttle => 0.99);
$id = meet('a dropped partition', 'DROP TABLE orders_rest',
	'partition public.orders_rest was detached or dropped');
$node->safe_psql('postgres',
	"SELECT refit.retry($id); SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_leaves('text');

$node->stop;
done_testing();
