# The revert window of a partition tree: a writer moves rows between partitions
# all the time; the worker is killed, and the server stopped, in the window and on
# the way back; then each table of the tree is what it was, and the rows are those
# of the oracle.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitCatalog;
use RefitTest;
use Test::More;

use constant ROWS => 10_000;

# Not id, which the table is partitioned by.
use constant ACTIONS => 'ALTER COLUMN v TYPE varchar(100), DROP COLUMN spare, '
  . 'ADD COLUMN extra int NOT NULL DEFAULT 5, '
  . 'ALTER COLUMN k TYPE int USING public.gate(k, -2)';

my $node = new_node('revert_tree', allows_streaming => 1);
my ($id, $writer, @members, %before);

# One value, as the superuser.
sub value
{
	return $node->safe_psql('postgres', $_[0]);
}

# Stops the server at once and starts it.
sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

# Every leaf is sound, nothing is left behind, the rows are right.
sub check_tree
{
	check_equal($node, 'postgres', 'orders');
	check_clean($node, 'postgres', $_)
	  foreach split /\n/,
	  value("SELECT relid FROM pg_partition_tree('orders') WHERE isleaf");
	return;
}

# All tables of the tree are what they were.
sub check_definitions
{
	check_described($node, 'postgres', $_, $before{$_}) foreach @members;
	return;
}

$node->start;
make_table($node, 'postgres', 'orders', ROWS, partitions => 1);
make_describe($node, 'postgres');
value(<<'SQL');
CREATE ROLE reader;
ALTER TABLE orders ADD COLUMN spare text DEFAULT 'spared';
CREATE INDEX orders_spare ON orders (spare, k);
CREATE INDEX of_one ON orders_low (spare) WHERE k > 10;
ALTER TABLE orders_low ALTER k SET DEFAULT 12, ADD CONSTRAINT own CHECK (spare <> '');
COMMENT ON COLUMN orders_low.spare IS 'to spare';
GRANT SELECT (spare) ON orders_1 TO reader;
CREATE TABLE items (id int PRIMARY KEY,
	order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO items SELECT g, g FROM generate_series(0, 1) g;
CREATE VIEW order_ids AS SELECT id, v FROM orders;
SQL
# The row of COPY_GATE is one that the writer leaves alone.
value("UPDATE $_ SET k = 1 WHERE k = -2; INSERT INTO $_ (id, k) VALUES (900000, -2)")
  foreach ('orders', 'orders_oracle');
@members = split /\n/, value("SELECT relid FROM pg_partition_tree('orders')");
$before{$_} = describe($node, 'postgres', $_) foreach @members;

$writer = start_writer($node, 'postgres', 'orders', ROWS);
$id = submit($node, 'postgres', 'orders',
	actions => ACTIONS,
	arguments => "revertible => '1 day'");
wait_state($node, 'postgres', $id, 'revertible');
is(value(<<'SQL'), 'character varying(100)', 'v is retyped everywhere');
SELECT DISTINCT format_type(atttypid, atttypmod) FROM pg_attribute
	WHERE attname = 'v' AND attrelid IN (SELECT relid FROM pg_partition_tree('orders'))
SQL
value('SELECT pg_sleep(1)');
stop_writer($writer);

# In the window: killed while it applies, at one leaf; emptied, at another.
close_gate($node, 'postgres', 'orders', CATCHUP_GATE);
wait_gate($node, 'postgres', $id, 'window');
value('BEGIN; TRUNCATE orders_low CASCADE;'
	  . ' DELETE FROM orders_oracle WHERE id BETWEEN 0 AND '
	  . (ROWS / 2 - 1)
	  . '; COMMIT');
kill_worker($node, 'postgres');
wait_gate($node, 'postgres', $id, 'window');
$writer = start_writer($node, 'postgres', 'orders', ROWS);
value('SELECT pg_sleep(0.5)');
stop_writer($writer);
crash();
wait_gate($node, 'postgres', $id, 'window');
close_gate($node, 'postgres', 'orders', COPY_GATE);
open_gate($node, CATCHUP_GATE);

# While the tables are compared.
value("SELECT refit.revert($id)");
wait_gate($node, 'postgres', $id, 'recheck');
$writer = start_writer($node, 'postgres', 'orders', ROWS);
value('SELECT pg_sleep(0.5)');
stop_writer($writer);
kill_worker($node, 'postgres');
wait_gate($node, 'postgres', $id, 'recheck');
crash();
wait_gate($node, 'postgres', $id, 'recheck');

# While the cutover is tried: a reader of one leaf is in the way.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT v FROM orders_1 LIMIT 1');
open_gate($node, COPY_GATE);
wait_phase($node, 'postgres', $id, 'revert');
$writer = start_writer($node, 'postgres', 'orders', ROWS);
value('SELECT pg_terminate_backend(' . worker_pid($node, 'postgres') . ', 10000)');
wait_for($node, 'postgres', 'the revert is tried again',
	"SELECT phase = 'revert' FROM refit.migration WHERE id = $id");
isnt($node->psql('postgres', "SELECT refit.cancel($id)"), 0, 'cancel is refused');

# In the cleanup.
my $keeper = $node->background_psql('postgres');
$keeper->query_safe("BEGIN; LOCK TABLE refit_$id.\"\$suspects\" IN ACCESS SHARE MODE");
$reader->query_safe('COMMIT');
$reader->quit;
wait_phase($node, 'postgres', $id, 'cleanup');
value('SELECT pg_terminate_backend(' . worker_pid($node, 'postgres') . ', 10000)');
$keeper->query_safe('COMMIT');
$keeper->quit;
wait_state($node, 'postgres', $id, 'reverted');
stop_writer($writer);
note('the revert held its locks for '
	  . value("SELECT cutover_lock_ms FROM refit.migrations WHERE id = $id") . ' ms');
check_definitions();
check_tree();
is(value('SELECT count(*) > 0 FROM orders WHERE spare IS NULL'),
	't', 'rows that are new have no value in the dropped column');
is(value("SELECT count(*) > 0 FROM orders_high WHERE spare = 'spared'"),
	't', 'rows that were there have theirs');

#
# Partitions that go and come in the window, and its end
#

value("SELECT refit.retry($id)");
wait_state($node, 'postgres', $id, 'revertible');
value('DROP TABLE items'); # before there are writers, whom it may meet in a deadlock
$writer = start_writer($node, 'postgres', 'orders', ROWS);
value('ALTER TABLE orders DETACH PARTITION orders_rest CONCURRENTLY');
wait_for($node, 'postgres', 'a partition less is noticed',
	"SELECT message ~ 'orders_rest was detached' FROM refit.progress WHERE id = $id");
isnt($node->psql('postgres', "SELECT refit.revert($id)"), 0, 'the way back is barred');
value('CREATE TABLE orders_more PARTITION OF orders FOR VALUES FROM (1000000000) TO (1000000001)');
value("SELECT refit.finish($id)");
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_tree();
check_clean($node, 'postgres', 'orders_rest');

$node->stop;
done_testing();
