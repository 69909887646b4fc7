# The processes of a backfill whose expression is not idempotent, n = n + 1, are
# killed at random moments, again and again: every row is done once.  By one
# process, and by two.
#
# REFIT_KILLS is how often each of the two is killed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;
use Time::HiRes qw(usleep);

use constant KILLS => $ENV{REFIT_KILLS} || 5;
use constant ROWS => 100_000 + 20_000 * KILLS;

my $node = new_node('batches_crash', conf => "autovacuum = off\n");
my $seed = $ENV{REFIT_SEED} || time;

srand($seed);
note("REFIT_SEED=$seed");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# What a query gives; nothing while the server is not there, when psql ends before
# it has read the query.
sub look
{
	my ($query) = @_;
	my ($stdout, $stderr) = ('', '');

	local $SIG{PIPE} = 'IGNORE';
	eval {
		$node->psql('postgres', $query, stdout => \$stdout, stderr => \$stderr);
	};
	return $stdout // '';
}

# The processes that work.
sub workers
{
	return split /\n/,
	  look("SELECT pid FROM pg_stat_activity WHERE query LIKE 'refit migration%'"
		  . " AND backend_type = 'pg_refit worker'");
}

# Rows that are done, as the parts say; the last known while the server is away.
my $known = 0;

sub done
{
	my ($id) = @_;
	my $rows =
	  look("SELECT coalesce(sum(scanned), 0) FROM refit.pass WHERE id = $id");

	$known = $rows if $rows =~ /^\d+$/;
	return $known;
}

# Waits until some more rows are done, and there are processes to kill.
sub wait_for_work
{
	my ($id, $processes, $before) = @_;
	my @pids;

	for (1 .. 3000)
	{
		@pids = workers();
		return @pids if @pids >= $processes && done($id) > $before;
		usleep(10_000);
	}
	die 'nobody works: ' . sql("SELECT * FROM refit.events WHERE migration_id = $id");
}

# One backfill, with that many processes.
sub kill_again
{
	my ($table, $processes) = @_;
	my ($id, $before) = (undef, 0);
	my %killed;

	sql(<<"SQL");
CREATE TABLE $table (id bigint PRIMARY KEY, n bigint NOT NULL, v text) WITH (fillfactor = 80);
INSERT INTO $table SELECT g, g, md5(g::text) FROM generate_series(1, @{[ROWS]}) g;
VACUUM ANALYZE $table;
CHECKPOINT;
SQL
	$known = 0;
	$id = sql("SELECT refit.backfill('$table', 'n = n + 1',"
		  . " options => '{\"chunk_time\": \"20ms\", \"workers\": $processes}')");
	sql("SELECT refit.throttle(0.6, id => $id)");
	for my $i (1 .. KILLS)
	{
		my @pids = wait_for_work($id, $processes, $before);
		my $pid = $pids[rand @pids];

		usleep(rand 100_000);
		$before = done($id);
		kill 'KILL', $pid or next;
		$killed{$pid}++;
	}
	for (1 .. 3000)
	{
		last if look("SELECT refit.throttle(0, id => $id)");
		usleep(10_000);
	}
	wait_state($node, 'postgres', $id, 'completed');
	cmp_ok(scalar keys %killed, '>=', KILLS / 2,
		'processes were killed: ' . keys %killed);
	is( sql("SELECT count(*), count(*) FILTER (WHERE n = id + 1) FROM $table"),
		ROWS . '|' . ROWS,
		"every row was done once by $processes");
	is(sql("SELECT rows FROM refit.migrations WHERE id = $id"),
		ROWS, 'and counted once');
	is(sql("SELECT count(*) FROM refit.pass"), 0, 'nothing is left behind');
}

$node->start;
sql('CREATE EXTENSION pg_refit');
kill_again('one', 1);
kill_again('two', 2);
$node->stop;
done_testing();
