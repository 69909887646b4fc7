# A migration that stands still for long is no failed one; one that kills its
# process each time is.  When it says that it will have finished, and whether the
# phases at the end obey the governor.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	ROWS => 60_000,
	FEW => 2_000,
	SLOW_ROWS => 9_000,
	RESTARTS => 6,
	STANDSTILL_S => 20,
	DEATHS => 5,
};

my $node = new_node('standstill', conf => "refit.lock_timeout = 1ms\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Both columns of a migration that tell how far it is.
sub progress
{
	my ($id) = @_;

	return sql('SELECT m.state, m.phase, p.rows_done FROM refit.migration m'
		  . " JOIN refit.migration_progress p USING (id) WHERE id = $id");
}

# Waits until some time has passed on the server since start.
sub wait_since
{
	my ($start, $seconds) = @_;

	wait_for($node, 'postgres', "$seconds s",
		"SELECT clock_timestamp() >= timestamptz '$start' + interval '$seconds s'");
}

# Stands still for long, through more crashes than a step may die of.
sub stand_still
{
	my ($id, $start, $before);

	make_table($node, 'postgres', 'patient', ROWS);
	$id = submit($node, 'postgres', 'patient', throttle => 0.99, chunk_time => '10ms');
	hold_copying($node, 'postgres', $id);
	wait_for($node, 'postgres', 'it stands still',
		"SELECT throttled_by ~ '^manual:' FROM refit.progress WHERE id = $id");
	$start = sql('SELECT clock_timestamp()');
	$before = progress($id);
	foreach my $n (1 .. RESTARTS)
	{
		wait_since($start, STANDSTILL_S / RESTARTS * $n);
		is(progress($id), $before, 'it stands where it stood');
		worker_pid($node, 'postgres');
		$node->stop($n % 3 == 0 ? 'fast' : 'immediate');
		$node->start;
		sql("BEGIN; INSERT INTO patient VALUES (-$n - 10, 1);"
			  . " INSERT INTO patient_oracle VALUES (-$n - 10, 1); COMMIT");
		worker_pid($node, 'postgres');
	}
	sql("SELECT refit.throttle(0, id => $id)");
	wait_state($node, 'postgres', $id, 'completed');
	is( sql("SELECT count(*) FROM refit.events WHERE migration_id = $id"
			  . " AND kind IN ('error', 'restart')"),
		0,
		'no error on the way, and no new beginning');
	check_equal($node, 'postgres', 'patient');
	check_type($node, 'postgres', 'patient', 'bigint');
	check_clean($node, 'postgres', 'patient');
}

# Its process dies at the same row each time, at once after its start.
sub die_again
{
	my ($id, $deaths);

	make_table($node, 'postgres', 'cursed', FEW);
	append_to_file($node->data_dir . '/curse', 'on');
	sql(<<'SQL');
CREATE FUNCTION curse(k int) RETURNS int VOLATILE LANGUAGE plpgsql AS $$
BEGIN
	IF k = -2 AND (pg_stat_file('curse', true)).size IS NOT NULL THEN
		EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
	END IF;
	RETURN k;
END $$;
SQL
	$id = submit($node, 'postgres', 'cursed',
		actions => 'ALTER COLUMN id TYPE bigint, ALTER COLUMN k TYPE int USING public.curse(k)',
		throttle => 1);
	# the server may be gone before it answers
	$node->psql('postgres', "SELECT refit.throttle(0, id => $id)");
	wait_for($node, 'postgres', 'it is over',
		"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
	is( sql("SELECT state, error_code FROM refit.migration WHERE id = $id"),
		'failed|57P02', 'a step that kills the server each time fails');
	$deaths = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
	# The first may undo the step before too, which then is done again.
	cmp_ok($deaths, '>=', DEATHS, 'after as many deaths as is documented');
	cmp_ok($deaths, '<=', DEATHS + 1, 'and not more');
	check_equal($node, 'postgres', 'cursed');
	check_type($node, 'postgres', 'cursed', 'integer');
	check_clean($node, 'postgres', 'cursed');
	unlink $node->data_dir . '/curse' or die 'there was no curse';
	sql("SELECT refit.retry($id)");
	wait_state($node, 'postgres', $id, 'completed');
	check_equal($node, 'postgres', 'cursed');
}

# A copy whose pace is that of a sleep for each row.  The estimate is in whole
# seconds.
sub estimate
{
	my ($id, $samples, $bad, $worst);

	sql(<<'SQL');
CREATE FUNCTION slowly(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.001); RETURN k; END $$;
CREATE TABLE steady (id int PRIMARY KEY, k int);
CREATE TABLE estimates (at timestamptz, eta timestamptz);
CREATE PROCEDURE sample(id bigint) LANGUAGE plpgsql AS $$
BEGIN
	WHILE EXISTS (SELECT FROM refit.migration m WHERE m.id = sample.id
		AND finished_at IS NULL AND (phase IS NULL OR phase IN ('plan', 'prepare', 'capture', 'copy')))
	LOOP
		INSERT INTO estimates SELECT clock_timestamp(), p.eta
			FROM refit.progress p WHERE p.id = sample.id AND p.phase = 'copy';
		COMMIT;
		PERFORM pg_sleep(0.1);
		COMMIT;
	END LOOP;
END $$;
SQL
	sql('INSERT INTO steady SELECT g, g FROM generate_series(1, ' . SLOW_ROWS . ') g;'
		  . ' ANALYZE steady');
	$id = submit($node, 'postgres', 'steady',
		actions => 'ALTER COLUMN k TYPE int USING public.slowly(k)',
		arguments => q(verify => 'off'),
		chunk_time => '200ms');
	sql("CALL sample($id)");
	($samples, $bad, $worst) = split /\|/, sql(<<"SQL");
WITH phases AS (
	SELECT phase, at, lead(at) OVER (ORDER BY at) AS ends FROM refit.event
	WHERE migration_id = $id AND kind = 'phase'),
late AS (
	SELECT e.eta, ends - e.at AS remaining, e.eta - ends AS off
	FROM estimates e, phases WHERE phase = 'copy'
		AND e.at BETWEEN phases.at + (ends - phases.at) / 2
			AND phases.at + (ends - phases.at) * 0.95)
SELECT count(*), count(*) FILTER (WHERE eta IS NULL
		OR abs(extract(epoch FROM off)) > 1.2 + 0.2 * extract(epoch FROM remaining)),
	round(max(abs(extract(epoch FROM off)) / extract(epoch FROM remaining)), 2) FROM late
SQL
	diag("estimates of the second half: $samples, furthest off: $worst of what was left");
	cmp_ok($samples, '>=', 8, 'there were estimates');
	is($bad, 0, 'none is off by more than a fifth of what is left');
	wait_state($node, 'postgres', $id, 'completed');
}

# Stops a migration in a phase and looks whether it stands still, then goes on.
sub obeys
{
	my ($id, $phase) = @_;
	my ($start, $before);

	sql("SELECT refit.throttle(1, id => $id)");
	open_gate($node, CATCHUP_GATE) if $phase eq 'catchup';
	wait_for($node, 'postgres', 'it stands still',
		"SELECT p.throttled_by ~ '^manual:' AND p.updated_at > clock_timestamp() - interval '10 s'"
		  . " AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = p.worker_pid"
		  . " AND xact_start IS NOT NULL) FROM refit.migration_progress p WHERE id = $id");
	$start = sql('SELECT clock_timestamp()');
	$before = progress($id);
	like($before, qr/^running\|(?:$phase|verify)\|/, "it stands still in $phase");
	wait_since($start, 2);
	is(progress($id), $before, 'and does nothing');
}

sub finishing
{
	my ($id);

	# validate, of a table with two rows in a block
	sql('CREATE TABLE checked (id int PRIMARY KEY, k int, filler text);'
		  . ' ALTER TABLE checked ALTER COLUMN filler SET STORAGE PLAIN;'
		  . " INSERT INTO checked SELECT g, g, repeat('x', 3900) FROM generate_series(1, 3000) g");
	$id = submit($node, 'postgres', 'checked', throttle => 0.5,
		actions => 'ADD CONSTRAINT slow CHECK (public.slowly(k) > 0)',
		chunk_time => '100ms');
	wait_for($node, 'postgres', 'it validates',
		"SELECT phase = 'validate' AND rows_done > 0 FROM refit.progress WHERE id = $id");
	obeys($id, 'validate');
	is(sql("SELECT convalidated FROM pg_constraint WHERE conname = 'slow'"),
		'f', 'not valid yet');
	sql("SELECT refit.throttle(0, id => $id)");
	wait_state($node, 'postgres', $id, 'completed');
	is(sql("SELECT convalidated FROM pg_constraint WHERE conname = 'slow'"),
		't', 'valid');

	# catchup
	make_table($node, 'postgres', 'late', FEW);
	close_gate($node, 'postgres', 'late', INDEX_GATE);
	$id = submit($node, 'postgres', 'late');
	wait_gate($node, 'postgres', $id, 'index');
	close_gate($node, 'postgres', 'late', CATCHUP_GATE);
	open_gate($node, INDEX_GATE);
	wait_gate($node, 'postgres', $id, 'catchup');
	obeys($id, 'catchup');
	check_type($node, 'postgres', 'late', 'integer');
	sql("SELECT refit.throttle(0, id => $id)");
	wait_state($node, 'postgres', $id, 'completed');
	check_equal($node, 'postgres', 'late');
}

$node->start;
stand_still();
die_again();
estimate();
finishing();
$node->stop;
done_testing();
