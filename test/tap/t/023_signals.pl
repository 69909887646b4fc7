# Each signal of the governor that needs a state of the server which pg_regress
# cannot make: it slows a migration, stops it, is named with its value, and lets
# it go.  Not here: manual, signal_function (governor.sql), free_disk (011),
# replica_lag (024).
use strict;
use warnings;

use File::Spec;
use FindBin;
use IPC::Run;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	ROWS => 200_000,
	FEW => 4_000,
	XIDS => 100_500,
};

# Segments of 1 MB; autovacuum of what the test says only.
my $node = new_node(
	'signals',
	allows_streaming => 1,
	extra => ['--wal-segsize=1'],
	conf => <<'CONF');
archive_mode = on
archive_command = 'true'
max_slot_wal_keep_size = 64MB
max_wal_size = 2GB
max_prepared_transactions = 1
checkpoint_completion_target = 0
checkpoint_warning = 4s
refit.max_active_backends = 50
autovacuum_naptime = 1s
autovacuum_vacuum_threshold = 2000000000
autovacuum_vacuum_insert_threshold = -1
autovacuum_analyze_threshold = 2000000000
CONF

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Sets something for the whole server.
sub set
{
	my ($setting) = @_;

	$node->append_conf('postgresql.conf', $setting);
	$node->reload;
}

# Waits until a signal is the worst one, and slows or stops.
sub wait_signal
{
	my ($id, $signal, $state) = @_;
	my $compare = $state eq 'stop' ? '>=' : '<';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for($node, 'postgres', "$signal: $state", <<"SQL");
SELECT m[1]::float8 $compare m[2]::float8
	FROM refit.progress, regexp_match(throttled_by, '^$signal: ([0-9.e+-]+) of ([0-9.e+-]+) ') m
	WHERE id = $id
SQL
	pass("$signal says $state: "
		  . sql("SELECT throttled_by FROM refit.progress WHERE id = $id"));
}

# Waits until a signal is not the worst one any more, and rows are done again.
sub wait_free
{
	my ($id, $signal) = @_;
	my $progress = "FROM refit.progress WHERE id = $id";
	my $done;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for($node, 'postgres', "$signal is over",
		"SELECT throttled_by IS NULL OR throttled_by !~ '^$signal:' $progress");
	$done = sql("SELECT rows_done $progress");
	wait_for($node, 'postgres', "it goes on after $signal",
		"SELECT rows_done > $done $progress");
	cmp_ok(
		sql("SELECT count(*) FROM refit.events WHERE migration_id = $id"
			  . " AND kind = 'governor' AND detail ->> 'signal' = '$signal'"),
		'>', 0, "there is an event of $signal");
}

# The state that a session of a user sees.
sub seen
{
	my ($signal) = @_;
	return sql("SELECT state FROM refit.signals WHERE signal = '$signal'");
}

# So many segments of WAL, nearly empty.
sub switch_wal
{
	my ($n) = @_;
	sql("SELECT count(pg_logical_emit_message(true, 'x', 'x') - pg_switch_wal())"
		  . " FROM generate_series(1, $n)");
}

# Clients that run a statement again and again; more options of pgbench.
sub start_clients
{
	my ($statement, @options) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/statement.sql';

	append_to_file($file, "$statement\n");
	return IPC::Run::start([ 'pgbench', '-n', '-T60', '-f', $file, @options, $node->connstr('postgres') ],
		'<', File::Spec->devnull, '>', File::Spec->devnull, '2>', File::Spec->devnull);
}

# WAL that somebody else writes, at the same rate all the time.
sub wal_rate
{
	my ($id) = @_;
	my $client = start_clients(q(SELECT pg_logical_emit_message(false, 'x', repeat('x', 50000))),
		'-c1', '-R20');
	my $value = "(SELECT substring(throttled_by, '[0-9.]+')::float8 FROM refit.progress WHERE id = $id)";

	sql("SELECT refit.set_option($id, 'max_wal_rate', '300')");
	wait_signal($id, 'wal_rate', 'stop');
	# a limit a tenth above what there is
	wait_for($node, 'postgres', 'wal_rate: slow', <<"SQL");
SELECT throttled_by ~ '^wal_rate' AND $value < (options ->> 'max_wal_rate')::float8
	OR refit.set_option($id, 'max_wal_rate', ceil(1.1 * coalesce($value, 300))::text) IS NULL
	FROM refit.progress JOIN refit.migrations USING (id) WHERE id = $id
SQL
	pass('wal_rate says slow: '
		  . sql("SELECT throttled_by FROM refit.progress WHERE id = $id"));
	$client->kill_kill(grace => 1);
	sql("SELECT refit.set_option($id, 'max_wal_rate', NULL)");
	wait_free($id, 'wal_rate');
}

# An archiver that fails.
sub archive_backlog
{
	my ($id) = @_;

	is(seen('archive_backlog'), 'ok', 'no backlog');
	set("archive_command = 'false'");
	switch_wal(25);
	wait_signal($id, 'archive_backlog', 'slow');
	is(seen('archive_backlog'), 'slow', 'a session sees it too');
	switch_wal(45);
	wait_signal($id, 'archive_backlog', 'stop');
	is(seen('archive_backlog'), 'stop', 'and that it stops');
	set("archive_command = 'true'");
	wait_free($id, 'archive_backlog');
}

# A slot that nobody reads from; one that the server has given up.
sub slot_retention
{
	my ($id) = @_;

	sql('CHECKPOINT'); # a slot begins at the last one
	sql("SELECT pg_create_physical_replication_slot('forgotten', true)");
	sql("SELECT pg_create_physical_replication_slot('unused')");
	switch_wal(38);
	wait_signal($id, 'slot_retention', 'slow');
	is(seen('slot_retention'), 'slow', 'a session sees it too');
	like(
		sql("SELECT reason FROM refit.signals WHERE signal = 'slot_retention'"),
		qr/^slot "forgotten", not in use, keeps \d+ MB of WAL$/,
		'and which slot it is');
	switch_wal(16);
	wait_signal($id, 'slot_retention', 'stop');
	switch_wal(20);
	sql('CHECKPOINT');
	is(sql("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'forgotten'"),
		'lost', 'the server gives the slot up');
	wait_free($id, 'slot_retention');
	sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
}

# Too little room for the WAL of the migration; a CHECKPOINT by hand is nothing, nor
# is what others write: it would stand still for as long as they do.
sub checkpoint_pressure
{
	my ($id) = @_;
	my $pressure = 'SELECT count(*) FROM refit.event WHERE migration_id = '
	  . "$id AND detail ->> 'signal' = 'checkpoint_pressure'";

	sql('CHECKPOINT') foreach 1 .. 4;
	sleep_a_look($id);
	is(sql($pressure), '0', 'checkpoints by hand do not count');
	set('max_wal_size = 8MB');
	foreach (1 .. 5)
	{
		my $count = sql('SELECT checkpoints_req FROM pg_stat_bgwriter');

		switch_wal(9);
		wait_for($node, 'postgres', 'a checkpoint',
			"SELECT checkpoints_req > $count FROM pg_stat_bgwriter");
	}
	sleep_a_look($id);
	is(sql($pressure), '0', 'nor do those that others force');
	sql('UPDATE noise SET bytes = 500000');
	wait_signal($id, 'checkpoint_pressure', 'stop');
	sql('UPDATE noise SET bytes = 0');
	set('max_wal_size = 2GB');
	wait_free($id, 'checkpoint_pressure');
}

# Catch-up rests for none of them: what it leaves, it must apply later.
sub race
{
	my ($id, $before);

	sql('UPDATE noise SET bytes = 0; CREATE TABLE race (id int PRIMARY KEY, k int);'
		  . ' INSERT INTO race SELECT g, g FROM generate_series(1, 4000) g');
	$id = submit($node, 'postgres', 'race',
		actions => 'ALTER COLUMN k TYPE int USING public.slowly(k)',
		arguments => "cutover => 'manual', verify => 'off'",
		chunk_time => '20ms');
	wait_state($node, 'postgres', $id, 'ready');
	set('max_wal_size = 8MB');
	sql('UPDATE noise SET bytes = 100000');
	$before = sql('SELECT checkpoints_req FROM pg_stat_bgwriter');
	sql('UPDATE race SET k = k + 1');
	wait_for($node, 'postgres', 'all is applied, and has forced checkpoints', <<"SQL");
SELECT checkpoints_req > $before + 4 AND pending_changes = 0
	FROM pg_stat_bgwriter, refit.progress WHERE id = $id
SQL
	is( sql("SELECT count(*) FROM refit.event WHERE migration_id = $id"
			  . " AND detail ->> 'signal' = 'checkpoint_pressure'"),
		'0', 'catch-up has not rested for the checkpoints that it has forced');
	sql('UPDATE noise SET bytes = 0');
	set('max_wal_size = 2GB');
	sql("SELECT refit.cancel($id)");
	wait_state($node, 'postgres', $id, 'cancelled');
}

# Waits until the worker has looked at the signals twice.
sub sleep_a_look
{
	my ($id) = @_;
	my $since = sql('SELECT clock_timestamp()');

	wait_for($node, 'postgres', 'some steps',
		"SELECT updated_at > '$since'::timestamptz + interval '1.5 s'"
		  . " FROM refit.migration_progress WHERE id = $id");
}

# Many clients.
sub active_backends
{
	my ($id) = @_;
	my @clients;

	set('refit.max_active_backends = 5');
	foreach my $n (7, 6)
	{
		push @clients, start_clients('SELECT pg_sleep(60)', "-c$n");
		wait_signal($id, 'active_backends', @clients == 1 ? 'slow' : 'stop');
	}
	$_->kill_kill(grace => 1) foreach @clients;
	sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE query LIKE 'SELECT pg_sleep(60)%'");
	wait_free($id, 'active_backends');
	set('refit.max_active_backends = 50');
}

# Somebody wants the table while a long chunk is at work: it ends, and the next
# ones are shorter.
sub lock_waiters
{
	my ($id) = @_;
	my $budget = "SELECT budget_ms FROM refit.migration_progress WHERE id = $id";

	sql("SELECT refit.set_option($id, 'chunk_time', '6s'), refit.throttle(1, id => $id)");
	wait_signal($id, 'manual', 'stop');
	sql("UPDATE refit.migration_progress SET budget_ms = 6000 WHERE id = $id");
	sql("SELECT refit.throttle(0, id => $id)");
	wait_for($node, 'postgres', 'a long chunk is at work',
		'SELECT xact_start < clock_timestamp() - interval \'1 s\' FROM pg_stat_activity'
		  . " JOIN refit.migration_progress p ON pid = worker_pid WHERE id = $id");
	my $start = sql('SELECT clock_timestamp()');
	sql("BEGIN; SET LOCAL lock_timeout = '10s'; LOCK TABLE big; COMMIT");
	cmp_ok(sql("SELECT extract(epoch FROM clock_timestamp() - '$start')"),
		'<', 4, 'a chunk of 6 s ends when somebody waits');
	wait_for($node, 'postgres', 'the next one is half as long', "SELECT ($budget) <= 3000");
	wait_for($node, 'postgres', 'there is an event of lock_waiters',
		"SELECT EXISTS (SELECT FROM refit.event WHERE migration_id = $id"
		  . " AND message ~ '^signal lock_waiters warns: ')");
	sql("SELECT refit.throttle(1, id => $id)"); # and short chunks again
	sql('BEGIN; LOCK TABLE big; COMMIT');
	wait_signal($id, 'manual', 'stop');
	sql("UPDATE refit.migration_progress SET budget_ms = 20 WHERE id = $id");
	sql("SELECT refit.throttle(0, id => $id)");
	sql("SELECT refit.set_option($id, 'chunk_time', '20ms')");
}

# A vacuum of the table by autovacuum: a plain one, then one that prevents
# wraparound.
sub vacuum
{
	my ($id) = @_;
	my $vacuum = "FROM pg_stat_activity WHERE query ~ '^autovacuum: VACUUM (ANALYZE )?public.big'";

	set("autovacuum_vacuum_cost_delay = 100ms\nautovacuum_vacuum_cost_limit = 1");
	sql('ALTER TABLE big SET (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)');
	sql('UPDATE big SET k = k WHERE id <= 10');
	wait_signal($id, 'vacuum', 'slow');
	is(seen('vacuum'), 'slow', 'a session sees it too');
	like(sql("SELECT reason FROM refit.signals WHERE signal = 'vacuum'"),
		qr/^pid \d+ vacuums .*big/, 'and whose it is');
	sql('ALTER TABLE big RESET (autovacuum_vacuum_threshold), SET (autovacuum_freeze_max_age = 100000)');
	sql("SELECT pg_cancel_backend(pid) $vacuum");
	wait_free($id, 'vacuum');
	sql('SET synchronous_commit = off; CALL burn(' . XIDS . ')');
	wait_signal($id, 'vacuum', 'stop');
	set('autovacuum_vacuum_cost_delay = 0'); # the next one is quick
	sql("SELECT pg_cancel_backend(pid) $vacuum");
	wait_free($id, 'vacuum');
}

# Dead rows that vacuum cannot take away, for a transaction is old.
sub dead_rows
{
	my $options = '{"chunk_time": "50ms", "max_dead_ratio": "0.3"}';
	my $id = sql("SELECT refit.backfill('dead', 'k = public.slowly(k) + 1', options => '$options')");

	wait_signal($id, 'dead_rows', 'slow');
	wait_for($node, 'postgres', 'it is nearly as far as it may go',
		"SELECT rows_done >= 0.35 * rows_total FROM refit.progress WHERE id = $id");
	sql("SELECT refit.set_option($id, 'max_dead_ratio', '0.2')");
	wait_signal($id, 'dead_rows', 'stop');
	cmp_ok(sql("SELECT rows_done FROM refit.progress WHERE id = $id"),
		'<', FEW * 0.8, 'it does not double the table');
	is(seen('dead_rows'), 'stop', 'a session sees it too');
	wait_for($node, 'postgres', 'the snapshot is old',
		"SELECT state = 'slow' FROM refit.signals WHERE signal = 'oldest_xmin'");
	like(
		sql("SELECT reason FROM refit.signals WHERE signal = 'oldest_xmin'"),
		qr/^prepared transaction old has an old snapshot: a warning only$/,
		'oldest_xmin names who has it');
	wait_for($node, 'postgres', 'and there is an event of it',
		"SELECT EXISTS (SELECT FROM refit.events WHERE migration_id = $id"
		  . " AND message ~ '^signal oldest_xmin warns: ')");
	sql(q(COMMIT PREPARED 'old'));
	wait_for($node, 'postgres', 'it is done',
		"SELECT state IN ('completed', 'failed') FROM refit.migration WHERE id = $id");
	is(sql("SELECT state FROM refit.migration WHERE id = $id"), 'completed',
		'vacuum comes, and it goes on to its end');
	is(sql('SELECT count(*) FROM dead WHERE k = id + 1'), FEW, 'every row once');
}

$node->start;
sql(<<'SQL');
CREATE EXTENSION pg_refit;
CREATE EXTENSION amcheck;
CREATE FUNCTION slowly(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.001), pg_logical_emit_message(false, 'noise', repeat('x', bytes))
		FROM public.noise;
	RETURN k;
END $$;
CREATE TABLE noise AS SELECT 0 AS bytes;
CREATE PROCEDURE burn(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		PERFORM pg_current_xact_id();
		COMMIT;
	END LOOP;
END $$;
CREATE TABLE big (id int PRIMARY KEY, k int);
CREATE TABLE dead (id int PRIMARY KEY, k int) WITH (autovacuum_vacuum_threshold = 10,
	autovacuum_vacuum_scale_factor = 0.02);
SQL
sql('INSERT INTO big SELECT g, g FROM generate_series(1, ' . ROWS . ') g');
sql('INSERT INTO dead SELECT g, g FROM generate_series(1, ' . FEW . ') g; VACUUM ANALYZE dead');

my $id = submit($node, 'postgres', 'big',
	actions => 'ALTER COLUMN k TYPE int USING public.slowly(k)',
	chunk_time => '20ms');
wait_copying($node, 'postgres', $id);
sql(q(BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'old'));
wal_rate($id);
archive_backlog($id);
slot_retention($id);
checkpoint_pressure($id);
active_backends($id);
lock_waiters($id);
vacuum($id);
sql("SELECT refit.cancel($id)");
wait_state($node, 'postgres', $id, 'cancelled');
race();
dead_rows();
check_clean($node, 'postgres', 'dead');
$node->stop;
done_testing();
