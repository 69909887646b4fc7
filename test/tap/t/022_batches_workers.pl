# Several processes for one backfill: they share it, stop and go on together, come
# back when they are ended, and end with it.  Clients beside them have no error.  A
# row that kills its process is met by the leader in the end.  The promoted standby
# goes on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 100_000;

my $node = new_node('batches_workers', allows_streaming => 1,
	conf => "autovacuum = off\nrefit.max_workers = 4\n");
my ($id, $pid);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub make
{
	my ($table) = @_;

	sql(<<"SQL");
CREATE TABLE $table (id int PRIMARY KEY, n int NOT NULL, v int NOT NULL DEFAULT 0);
INSERT INTO $table SELECT g, g FROM generate_series(1, @{[ROWS]}) g;
VACUUM ANALYZE $table;
SQL
}

sub submit_slow
{
	my ($table, $workers) = @_;

	make($table);
	return sql(<<"SQL");
BEGIN;
SELECT refit.backfill('$table', 'n = n + 1',
	options => '{"chunk_time": "10ms", "workers": $workers}') AS id \\gset
SELECT refit.throttle(0.99, id => :id) \\g /dev/null
COMMIT;
SELECT :id;
SQL
}

# How many helpers there are, besides the leader.
my $is_helper = "backend_type = 'pg_refit worker' AND query LIKE '%, helper %'";
my $helpers = "SELECT count(*) FROM pg_stat_activity WHERE $is_helper";
my $all = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_refit worker'";

sub wait_helpers
{
	my ($n) = @_;

	wait_for($node, 'postgres', "$n helpers", "SELECT ($helpers) = $n");
}

sub check_once
{
	my ($where, $table) = @_;

	is( $where->safe_psql('postgres',
			"SELECT count(*) FILTER (WHERE n = id + 1) FROM $table"),
		ROWS,
		"every row of $table was done once");
}

$node->start;
sql('CREATE EXTENSION pg_refit');

# They share it
$id = submit_slow('shared', 3);
wait_helpers(2);
wait_for($node, 'postgres', 'each does something', <<"SQL");
SELECT count(*) FILTER (WHERE scanned > 0 AND helper IS NOT NULL) >= 2
	AND count(*) FILTER (WHERE scanned > 0 AND helper IS NULL) >= 1
	FROM refit.pass WHERE id = $id
SQL
is(sql("SELECT worker_pid IN (SELECT pid FROM pg_stat_activity WHERE $is_helper)"
		  . " FROM refit.progress WHERE id = $id"), 'f', 'the leader is shown in progress');

# They stop and go on together
sql("SELECT refit.pause($id)");
wait_state($node, 'postgres', $id, 'paused');
my $done = sql("SELECT sum(scanned) FROM refit.pass WHERE id = $id");
wait_for($node, 'postgres', 'all have left', "SELECT ($all) = 0");
is(sql("SELECT sum(scanned) FROM refit.pass WHERE id = $id"),
	$done, 'nothing is done once it is paused');
sql("SELECT refit.resume($id)");
wait_helpers(2);

# They come back
$pid = sql("SELECT pid FROM pg_stat_activity WHERE $is_helper ORDER BY pid LIMIT 1");
is(sql("SELECT pg_terminate_backend($pid, 10000)"), 't', 'a helper ends at once');
wait_helpers(2);
$pid = sql("SELECT worker_pid FROM refit.progress WHERE id = $id");
is(sql("SELECT pg_terminate_backend($pid, 10000)"), 't', 'the leader ends at once');
wait_for($node, 'postgres', 'another one leads', <<"SQL");
SELECT worker_pid <> $pid AND worker_pid IN (SELECT pid FROM pg_stat_activity)
	FROM refit.progress WHERE id = $id
SQL
wait_helpers(2);

# As many as are wanted now
sql("SELECT refit.set_option($id, 'workers', '1')");
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $is_helper");
wait_helpers(0);
sql("SELECT refit.throttle(0, id => $id)");
wait_state($node, 'postgres', $id, 'completed');
check_once($node, 'shared');
wait_for($node, 'postgres', 'all have left', "SELECT ($all) = 0");

# Cancelled
$id = submit_slow('cancelled', 2);
wait_helpers(1);
sql("SELECT refit.cancel($id)");
wait_state($node, 'postgres', $id, 'cancelled');
is( sql("SELECT (SELECT rows FROM refit.migrations WHERE id = $id)"
		  . " - (SELECT count(*) FROM cancelled WHERE n = id + 1)"),
	0, 'what was done until then is counted');
sql("SELECT refit.throttle(0, id => $id), refit.retry($id)");
wait_state($node, 'postgres', $id, 'completed');
check_once($node, 'cancelled');

# Clients that lock rows in the other order
make('busy');
my $script = PostgreSQL::Test::Utils::tempdir() . '/busy.sql';
append_to_file($script, <<"SQL");
\\set id random(1000, @{[ROWS]})
BEGIN;
UPDATE busy SET v = v + 1 WHERE id = :id;
UPDATE busy SET v = v + 1 WHERE id = :id - 1;
UPDATE busy SET v = v + 1 WHERE id = :id - 500;
UPDATE busy SET v = v + 1 WHERE id = :id - 900;
COMMIT;
SQL
my $log;
my $clients = IPC::Run::start(
	[ 'pgbench', '-n', '-c3', '-T60', '-R200', '-f', $script, $node->connstr('postgres') ],
	'<', File::Spec->devnull, '>', \$log, '2>&1');
wait_for($node, 'postgres', 'the clients write', 'SELECT sum(v) > 100 FROM busy');
$id = sql("SELECT refit.backfill('busy', 'n = n + 1', options => '{\"workers\": 2}')");
wait_state($node, 'postgres', $id, 'completed');
$clients->kill_kill(grace => 2);
unlike($log, qr/ERROR|aborted/, 'no client had an error');
check_once($node, 'busy');

# A row that kills its process, where the others are slow: each process could finish
# a chunk of those between two crashes
append_to_file($node->data_dir . '/curse', 'on');
make('cursed');
sql(<<"SQL");
CREATE FUNCTION curse(id int) RETURNS int VOLATILE LANGUAGE plpgsql AS \$\$
BEGIN
	IF id = @{[ROWS]} AND (pg_stat_file('curse', true)).size IS NOT NULL THEN
		EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
	ELSIF id < @{[ROWS * 3 / 4]} AND id % 20 = 0
		AND (pg_stat_file('curse', true)).size IS NOT NULL
	THEN
		PERFORM pg_sleep(0.02);
	END IF;
	RETURN 1;
END \$\$;
SQL
my $log_position = -s $node->logfile;
# the server may be gone before it answers
eval
{
	$node->psql('postgres', "SELECT refit.backfill('cursed', 'n = n + curse(id)',"
		  . " name => 'cursed', options => '{\"chunk_time\": \"100ms\", \"workers\": 4}')");
};
wait_for($node, 'postgres', 'it is over',
	"SELECT finished_at IS NOT NULL FROM refit.migration WHERE name = 'cursed'");
$id = sql("SELECT id FROM refit.migration WHERE name = 'cursed'");
is(sql("SELECT state, error_code FROM refit.migration WHERE id = $id"),
	'failed|57P02', 'a row that kills its process each time ends the migration');
my $crashes = () = slurp_file($node->logfile, $log_position) =~ /was terminated by signal 9/g;
cmp_ok($crashes, '<=', 20, "after $crashes crashes");
unlink $node->data_dir . '/curse';
sql("SELECT refit.retry($id)");
wait_state($node, 'postgres', $id, 'completed');
check_once($node, 'cursed');

# The standby goes on
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('batches_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$id = submit_slow('promoted', 2);
wait_helpers(1);
wait_for($standby, 'postgres', 'some of it is on the standby',
	"SELECT sum(scanned) > 1000 FROM refit.pass WHERE id = $id");
$node->stop('immediate');
$standby->promote;
$standby->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_state($standby, 'postgres', $id, 'completed');
check_once($standby, 'promoted');

# DROP EXTENSION ends all of them
$node = $standby;
$id = submit_slow('dropped', 2);
wait_helpers(1);
sql('DROP EXTENSION pg_refit');
wait_for($node, 'postgres', 'all have left', "SELECT ($all) = 0");
unlike(slurp_file($node->logfile), qr/ERROR:.*refit\./, 'nobody stumbled');

$node->stop;
done_testing();
