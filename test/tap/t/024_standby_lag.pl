# A standby that replays slower than a migration writes: the lag stays below the
# limit, the signal is named, and the migration is fast again when the standby is.
# One that is gone, one that is caught up, one that archives WAL and a logical
# subscriber do not lag.
use strict;
use warnings;

use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	ROWS => 200_000,
	P99_MS => 1500,
	SAMPLE_S => 12,
};

my $node = new_node(
	'primary',
	allows_streaming => 'logical',
	conf => <<'CONF');
max_wal_size = 4GB
refit.max_active_backends = 100
refit.max_replica_lag = '1s'
CONF
my $standby = PostgreSQL::Test::Cluster->new('standby');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# What refit.signals says of replica_lag.
sub lag
{
	return sql(q(SELECT state || CASE WHEN value < 100 THEN '' ELSE ', ' || value END)
		  . q( FROM refit.signals WHERE signal = 'replica_lag'));
}

# Starts psql with some SQL; finish it to wait for its end.
sub start_sql
{
	my ($where, $sql, $out) = @_;

	return IPC::Run::start([ 'psql', '-XAtq', '-d', $where->connstr('postgres'), '-c', $sql ],
		'>', $out // \my $nothing, '2>&1');
}

$node->start;
$node->backup('b');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1s\n");
$standby->start;
sql(<<'SQL');
CREATE EXTENSION pg_refit;
CREATE TABLE t (id int PRIMARY KEY, n int, filler text);
CREATE TABLE beat (id int PRIMARY KEY, at timestamptz);
INSERT INTO beat VALUES (1, clock_timestamp());
-- what a client of the application writes all the time
CREATE PROCEDURE beats(seconds int) LANGUAGE plpgsql AS $$
DECLARE until timestamptz := clock_timestamp() + make_interval(secs => seconds);
BEGIN
	WHILE clock_timestamp() < until LOOP
		UPDATE beat SET at = clock_timestamp();
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
SQL
sql("INSERT INTO t SELECT g, 0, repeat('x', 200) FROM generate_series(1, " . ROWS . ') g; VACUUM ANALYZE t');
$node->wait_for_catchup($standby);

# Caught up and idle: replay_lag is NULL, and there is no lag.
wait_for($node, 'postgres', 'the standby is idle',
	'SELECT replay_lag IS NULL AND replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication');
is(lag(), 'ok', 'a standby that is caught up and idle does not lag');

# Receives WAL and replays none; decodes it and confirms late.
my $receiver = IPC::Run::start(
	[
		'pg_receivewal', '-D', PostgreSQL::Test::Utils::tempdir(), '-d', $node->connstr('postgres')
	],
	'>', \my $out, '2>&1');
sql("SELECT pg_create_logical_replication_slot('decoder', 'test_decoding')")
  if -e $node->config_data('--pkglibdir') . '/test_decoding.so';
wait_for($node, 'postgres', 'the archiver runs', 'SELECT count(*) = 2 FROM pg_stat_replication');
sql("SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000000))");
$node->wait_for_catchup($standby);
is(lag(), 'ok', 'what only receives WAL does not lag');
$receiver->kill_kill(grace => 1);

# Replay is let go for some tenths of the time, while a backfill writes as fast as
# it may and a client writes the time.  Gives the backfill, the budget of its
# shortest chunk, and the lags that were seen with the times of the looks.
sub sample
{
	my $replay = start_sql($standby, <<"SQL");
DO \$\$
DECLARE until timestamptz := clock_timestamp() + interval '@{[SAMPLE_S + 2]} s';
BEGIN
	WHILE clock_timestamp() < until LOOP
		PERFORM pg_wal_replay_pause();
		PERFORM pg_sleep(0.2);
		PERFORM pg_wal_replay_resume();
		PERFORM pg_sleep(0.05);
		COMMIT; -- or replay would wait for this snapshot
	END LOOP;
END \$\$
SQL
	my $beats = start_sql($node, 'CALL beats(' . (SAMPLE_S + 2) . ')');
	wait_for($standby, 'postgres', 'the time of now is there',
		q(SELECT at > clock_timestamp() - interval '0.5 s' FROM beat));
	my $id = sql(q(SELECT refit.backfill('t', 'n = n + 1')));
	my $lags = $standby->safe_psql('postgres', <<"SQL");
DO \$\$
DECLARE
	until timestamptz := clock_timestamp() + interval '@{[SAMPLE_S]} s';
	lags text := '';
	budget int := 500;
BEGIN
	WHILE clock_timestamp() < until LOOP
		lags := lags || ' ' || (SELECT extract(epoch FROM clock_timestamp() - at) * 1000 FROM beat)
			|| '/' || extract(epoch FROM clock_timestamp()) * 1000;
		budget := least(budget, (SELECT min(budget_ms) FROM refit.migration_progress
			WHERE budget_ms > 0));
		COMMIT;
		PERFORM pg_sleep(0.02);
		COMMIT;
	END LOOP;
	PERFORM set_config('refit_test.lags', budget || lags, false);
END \$\$;
SELECT current_setting('refit_test.lags');
SQL
	$_->finish foreach ($replay, $beats);
	return ($id, split ' ', $lags);
}

# What a machine with too much to do adds is the longest time that the sampler, which
# sleeps 20 ms, was not let run; and the standby has the same machine: where the
# lag is not bounded it is not in any of three tries.
my ($id, $budget, @lags);
my $tries = 0;
my $is_bounded = 0;
while (!$is_bounded && $tries++ < 3)
{
	my ($gap, $last) = (0, undef);

	if (defined $id) { wait_state($node, 'postgres', $id, 'completed') }
	$node->wait_for_catchup($standby);
	($id, $budget, my @samples) = sample();
	@lags = ();
	foreach (@samples)
	{
		my ($lag, $at) = split '/';

		push @lags, $lag;
		$gap = $at - $last if defined $last && $at - $last > $gap;
		$last = $at;
	}
	@lags = sort { $a <=> $b } @lags;
	my $p99 = $lags[ int(@lags * 0.99) ];
	my ($throttled, $done) = split /\|/,
	  sql("SELECT throttled_by, rows_done FROM refit.progress WHERE id = $id");
	diag(sprintf('lag of %d samples, at most %.0f ms apart: median %.0f ms, p99 %.0f ms, most %.0f ms; %s rows; %s',
			scalar @lags, $gap, $lags[ @lags / 2 ], $p99, $lags[-1], $done // 'all', $throttled // 'not throttled'));
	$is_bounded = $p99 <= P99_MS + 2 * $gap;
}
ok($is_bounded, 'the 99th percentile of the lag is bounded');
cmp_ok(scalar @lags, '>', SAMPLE_S * 5, 'there were samples');
is( sql("SELECT count(*) > 0 FROM refit.events WHERE migration_id = $id"
		  . " AND message ~ '^(slowed|stopped) by signal replica_lag: .* of 1000 ms'"),
	't', 'events name the signal');
cmp_ok($budget, '<', 500, 'chunks are shorter');
wait_state($node, 'postgres', $id, 'completed');

# Replay stands still, and goes on.
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
$id = sql(q(SELECT refit.backfill('t', 'n = n + 1')));
wait_for($node, 'postgres', 'the signal is named, with its value', <<"SQL");
SELECT throttled_by ~ '^replica_lag: [0-9.e+]+ of 1000 ms' AND (SELECT stands_still
	FROM refit.migration_progress p WHERE p.id = $id) FROM refit.progress WHERE id = $id
SQL
my $before = sql("SELECT rows_done FROM refit.progress WHERE id = $id");
wait_for($node, 'postgres', 'some looks',
	"SELECT updated_at > clock_timestamp() - interval '0.5 s' AND phase_started_at <"
	  . ' clock_timestamp() - interval \'4 s\' FROM refit.migration_progress JOIN'
	  . " refit.migration USING (id) WHERE id = $id");
is(sql("SELECT rows_done FROM refit.progress WHERE id = $id"),
	$before, 'it stands still as long as replay does');
like(
	sql("SELECT reason FROM refit.signals WHERE signal = 'replica_lag'") . 'x',
	qr/^(standby "standby" \(walsender \d+\) is behind)?x$/,
	'the standby is named');
my $from = sql('SELECT clock_timestamp()');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_state($node, 'postgres', $id, 'completed');
cmp_ok(sql("SELECT extract(epoch FROM clock_timestamp() - '$from')"),
	'<', 30, 'and is fast when the standby is');

# A standby that is gone has no lag; what it costs is seen at its slot.
$standby->stop('immediate');
$id = sql(q(SELECT refit.backfill('t', 'n = n + 1')));
wait_state($node, 'postgres', $id, 'completed');
is(sql("SELECT count(*) FROM t WHERE n = $tries + 2"), ROWS, 'every row was written once by each');
$node->stop;
done_testing();
