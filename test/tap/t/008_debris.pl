# Maintenance of the table while it is copied and afterwards, and unlogged
# tables through a crash.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	ROWS => 240_000,
	KEPT_ROWS => 10_000,
};

my $node = new_node('debris', conf => 'autovacuum = off');
my %copying = (throttle => 0.99, chunk_time => '10ms');
my $writer;

# Runs a command on a table, and on its oracle, in one transaction if it can.
sub on_both
{
	my ($command, $table) = @_;

	foreach my $name ($table, "${table}_oracle")
	{
		my $sql = sprintf($command, $name);
		is($node->psql('postgres', "SET lock_timeout = '20s'; $sql"), 0, $sql);
	}
}

# Waits until one more chunk is copied and makes the copy stand still.  Returns
# the number of rows copied.
sub next_chunk
{
	my ($id) = @_;
	my $rows = "SELECT rows_done FROM refit.migration_progress WHERE id = $id";
	my $before = $node->safe_psql('postgres', $rows);

	$node->safe_psql('postgres', "SELECT refit.throttle(0.99, id => $id)");
	wait_for($node, 'postgres', 'a chunk is copied',
		"SELECT phase = 'copy' AND rows_done > 0 AND rows_done <> $before"
		  . " FROM refit.migration JOIN refit.migration_progress USING (id)"
		  . " WHERE id = $id");
	$node->safe_psql('postgres', "SELECT refit.throttle(1, id => $id)");
	return $node->safe_psql('postgres', $rows);
}

$node->start;
make_table($node, 'postgres', 'orders', ROWS);
$writer = start_writer($node, 'postgres', 'orders', ROWS);

# Each of these while the table is copied.
my $id = submit($node, 'postgres', 'orders', %copying);
my $copied = next_chunk($id);
foreach my $command (
	'VACUUM %s', 'VACUUM (FREEZE) %s', 'ANALYZE %s', 'REINDEX TABLE %s',
	'VACUUM FULL %s', 'CLUSTER %1$s USING %1$s_pkey')
{
	my $before = $copied;

	on_both($command, 'orders');
	$copied = next_chunk($id);
	isnt($copied, $before, 'the copy goes on after it');
}
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM refit.events WHERE migration_id = $id AND kind = 'restart'"
	),
	2,
	'it starts again where the rows have moved');
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_state($node, 'postgres', $id, 'completed');
check_clean($node, 'postgres', 'orders');

# And afterwards, under load as well.
on_both($_, 'orders')
  foreach ('VACUUM %s', 'VACUUM FULL %s', 'CLUSTER %1$s USING %1$s_pkey',
	'REINDEX TABLE %s', 'ANALYZE %s');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
check_type($node, 'postgres', 'orders', 'bigint');
check_no_orphans($node, 'postgres');

# TRUNCATE of both, in one transaction, in the copy; rows are written after it.
make_table($node, 'postgres', 'parts', ROWS / 2);
$writer = start_writer($node, 'postgres', 'parts', ROWS / 2);
$id = submit($node, 'postgres', 'parts', %copying);
wait_copying($node, 'postgres', $id);
$node->safe_psql('postgres', 'TRUNCATE parts, parts_oracle');
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'parts');
check_clean($node, 'postgres', 'parts');
$node->safe_psql('postgres', 'TRUNCATE parts, parts_oracle;'
	  . " INSERT INTO parts (id, k) VALUES (1, 1);"
	  . " INSERT INTO parts_oracle (id, k) VALUES (1, 1)");
check_equal($node, 'postgres', 'parts');
check_clean($node, 'postgres', 'parts');

# An unlogged table that a crash empties, oracle and all, in the copy; then one
# that becomes logged and must have its rows after the crash.
make_table($node, 'postgres', 'scratch', ROWS / 2, unlogged => 1);
make_table($node, 'postgres', 'kept', KEPT_ROWS, unlogged => 1);
$id = submit($node, 'postgres', 'kept', actions => 'SET LOGGED');
wait_state($node, 'postgres', $id, 'completed');
$id = submit($node, 'postgres', 'scratch', %copying);
wait_copying($node, 'postgres', $id);
$node->stop('immediate');
$node->start;
$node->safe_psql('postgres', <<'SQL');
BEGIN;
INSERT INTO scratch (id, k, v) SELECT g, g, g FROM generate_series(1, 1000) g;
INSERT INTO scratch_oracle (id, k, v) SELECT g, g, g FROM generate_series(1, 1000) g;
COMMIT;
SQL
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_state($node, 'postgres', $id, 'completed');
check_equal($node, 'postgres', 'scratch');
check_type($node, 'postgres', 'scratch', 'bigint');
is( $node->safe_psql('postgres',
		"SELECT relpersistence FROM pg_class WHERE relname = 'scratch'"),
	'u',
	'the unlogged table is still unlogged');
check_clean($node, 'postgres', 'scratch');
is( $node->safe_psql('postgres',
		'SELECT count(*), sum(id), bool_and(k IN (-2, id)) FROM kept'),
	KEPT_ROWS . '|' . KEPT_ROWS * (KEPT_ROWS - 1) / 2 . '|t',
	'a table that became logged survives the crash');
check_clean($node, 'postgres', 'kept');

# The migrated unlogged table crashes as an unlogged table does, and no worse.
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM scratch'),
	0, 'a crash empties the unlogged table');
$node->safe_psql('postgres', "INSERT INTO scratch (id, k, wide) VALUES (1, 1, wide(1))");
check_clean($node, 'postgres', 'scratch');

$node->stop;
done_testing();
