# A mirrored column under load: writers of either column, a worker killed and a
# server that crashes while rows are filled, a subscriber with a mirror of its
# own, a dump.  Each row says in column expected what the source must be.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 40_000;

my $node = new_node('publisher', allows_streaming => 'logical');
my $subscriber = new_node('subscriber', allows_streaming => 'logical');
my $table = 'CREATE TABLE m (id int PRIMARY KEY, a int, b numeric, expected int)';

# The oracle: the source is what was last written, and the target follows it.
my $out_of_step =
  "SELECT count(*) FROM m WHERE a IS DISTINCT FROM expected OR b IS DISTINCT FROM a * 3.0";

# Writes to the source; and, once they are mirrored, to the target.  Moves rows to
# where the backfill has been.
sub start_load
{
	my ($mirrored) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
	my $run = { log => "$file.log" };
	my $target = $mirrored ? '3' : '2';

	append_to_file($file, <<"SQL");
\\set op random(1, 5)
\\set v random(1, 100000)
\\set id random(1, ${\ROWS} * 1.1)
\\if :op = 1
INSERT INTO m (id, a, expected) VALUES (:id, :v, :v) ON CONFLICT (id) DO UPDATE SET a = excluded.a, expected = excluded.expected;
\\elif :op = 2
UPDATE m SET a = :v, expected = :v WHERE id = :id;
\\elif :op = $target
UPDATE m SET b = :v * 3.0, expected = :v WHERE id = :id;
\\elif :op = 4
DELETE FROM m WHERE id = :id;
\\else
UPDATE m SET id = -id WHERE id = :id AND NOT EXISTS (SELECT FROM m x WHERE x.id = 0 - :id);
\\endif
SQL
	$run->{run} = IPC::Run::start(
		[
			'pgbench', '-n', '-c4', '-T600', '-R500', '-M', 'prepared', '-f', $file,
			$node->connstr('postgres') . ' application_name=writer'
		],
		'<', File::Spec->devnull, '>', $run->{log}, '2>&1');
	return { %$run, node => $node, db => 'postgres' };
}

$node->start;
$subscriber->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_refit;
$table;
INSERT INTO m SELECT g, g, NULL, g FROM generate_series(1, ${\ROWS}) g;
CREATE PUBLICATION p FOR TABLE m;
SQL
$subscriber->safe_psql('postgres', <<"SQL");
CREATE EXTENSION pg_refit;
$table;
ALTER TABLE m ADD COLUMN c bigint;
CREATE SUBSCRIPTION s CONNECTION '${\$node->connstr} dbname=postgres' PUBLICATION p;
SQL
$subscriber->wait_for_subscription_sync($node, 's');

# The subscriber mirrors a column that the publisher has into one that it has not.
my $there = $subscriber->safe_psql('postgres',
	"SELECT refit.mirror_column('m', 'a', 'c', 'a + 7')");

# A transaction that has written holds the installation up, and nobody else.
my $load = start_load(0);
my $blocker = $node->background_psql('postgres');
$blocker->query_safe('BEGIN; UPDATE m SET a = -1, expected = -1 WHERE id = 5;');
my $id = $node->safe_psql('postgres', <<'SQL');
BEGIN;
SELECT refit.mirror_column('m', 'a', 'b', 'a * 3.0', '(b / 3.0)::int',
	options => '{"chunk_time": "10ms"}') AS id \gset
SELECT refit.throttle(0.9, id => :id) \g /dev/null
COMMIT;
SELECT :id;
SQL
wait_for($node, 'postgres', 'the installation waits',
	"SELECT waiting_for IS NOT NULL FROM refit.progress WHERE id = $id AND phase = 'install'"
);
is($node->safe_psql('postgres', 'SELECT count(*) FROM refit.mirrors'),
	0, 'no trigger yet');
$blocker->query_safe('COMMIT;');
$blocker->quit;

# Killed while rows are filled, and the server crashes.
my $batches = "SELECT EXISTS (SELECT FROM refit.migration JOIN refit.migration_progress"
  . " USING (id) WHERE id = $id AND phase = 'batches' AND rows_done > ";
wait_for($node, 'postgres', 'rows are filled', "$batches 1000)");
my $pid = worker_pid($node, 'postgres');
kill 'TERM', $pid;
stop_writer($load);
$load = start_load(1);
wait_for($node, 'postgres', 'another worker goes on',
	"SELECT worker_pid <> $pid FROM refit.progress WHERE id = $id");
wait_for($node, 'postgres', 'more rows are filled', "$batches 5000)");
$node->stop('immediate');
stop_writer($load, crashed => 1);
$node->start;
$load = start_load(1);
is($node->safe_psql('postgres', 'SELECT enabled FROM refit.mirrors'),
	't', 'the trigger is there after the crash');
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_state($node, 'postgres', $id, 'completed');

# Other columns of the table change meanwhile, online.
my $change = $node->safe_psql('postgres',
	"SELECT refit.alter_table('m', 'ALTER id TYPE bigint')");
wait_state($node, 'postgres', $change, 'completed');
stop_writer($load);
is($node->safe_psql('postgres', $out_of_step),
	0, 'every row is in step, and has what was last written');
is( $node->safe_psql('postgres',
		"SELECT count(*) > ${\ROWS} / 2, count(*) FILTER (WHERE b IS NULL) FROM m"),
	't|0',
	'every row is filled');

# The subscriber has both of the publisher's columns, and its own mirror.
wait_state($subscriber, 'postgres', $there, 'completed');
$node->wait_for_catchup('s');
is($subscriber->safe_psql('postgres', $out_of_step),
	0, 'the subscriber is in step');
is( $subscriber->safe_psql('postgres',
		'SELECT count(*) FROM m WHERE c IS DISTINCT FROM a + 7'),
	0,
	'its own mirror follows what replication writes');
is( $subscriber->safe_psql('postgres', 'SELECT count(*) FROM m'),
	$node->safe_psql('postgres', 'SELECT count(*) FROM m'),
	'both have as many rows');

# A dump has the mirror, and a restored one works.
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok(
	[ 'pg_dump', '-f', $dump, '--no-publications', $node->connstr('postgres') ],
	'dump');
$node->command_ok(
	[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ],
	'restore');
$node->safe_psql('copy', <<'SQL');
UPDATE m SET a = 11, expected = 11 WHERE id = (SELECT min(id) FROM m);
UPDATE m SET b = 33, expected = 11 WHERE id = (SELECT max(id) FROM m);
SQL
is($node->safe_psql('copy', $out_of_step), 0, 'the copy is in step');
is( $node->safe_psql('copy',
		'SELECT relation, source_column, target_column, enabled FROM refit.mirrors'),
	'm|a|b|t',
	'and shows its mirror');

# Taken away, while a reader is in the way for a moment.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM m;');
$id = $node->safe_psql('postgres', "SELECT refit.unmirror_column('m', 'b')");
wait_for($node, 'postgres', 'it waits',
	"SELECT waiting_for IS NOT NULL FROM refit.progress WHERE id = $id");
$node->safe_psql('postgres', 'UPDATE m SET a = 1, expected = 1 WHERE id = 5');
$reader->query_safe('COMMIT;');
$reader->quit;
wait_state($node, 'postgres', $id, 'completed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM refit.mirrors'),
	0, 'the mirror is gone');
unlike(slurp_file($node->logfile), qr/deadlock detected/, 'nobody deadlocked');

$subscriber->stop;
$node->stop;
done_testing();
