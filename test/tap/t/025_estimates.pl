# When a backfill says that it will have finished: at full speed, and throttled.
# The history is purged without a launcher too.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 1_200;

my $node = new_node('estimates', preload => 0, conf => "refit.max_active_backends = 100\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A backfill whose pace is that of a sleep for each row; none of the estimates in
# its second half is off by more than a fifth of what is left.  They are in whole
# seconds.
sub estimate
{
	my ($throttle) = @_;
	my ($id, $samples, $bad, $worst, $percents);

	sql('TRUNCATE estimates');
	$id = sql(<<"SQL");
BEGIN;
SELECT refit.backfill('steady', 'k = public.slowly(k) + 1',
	options => '{"chunk_time": "100ms"}') AS id \\gset
SELECT refit.throttle($throttle, id => :id) \\g /dev/null
COMMIT;
SELECT :id;
SQL
	sql("CALL sample($id)");
	wait_state($node, 'postgres', $id, 'completed');
	($samples, $bad, $worst, $percents) = split /\|/, sql(<<"SQL");
WITH phases AS (
	SELECT phase, at, lead(at) OVER (ORDER BY at) AS ends FROM refit.event
	WHERE migration_id = $id AND kind = 'phase'),
late AS (
	SELECT e.eta, ends - e.at AS remaining, e.eta - ends AS off,
		abs(e.percent - 99 * extract(epoch FROM e.at - phases.at) / extract(epoch FROM ends - phases.at)) AS off_percent
	FROM estimates e, phases WHERE phase = 'batches'
		AND e.at BETWEEN phases.at + (ends - phases.at) / 2
			AND phases.at + (ends - phases.at) * 0.95)
SELECT count(*), count(*) FILTER (WHERE eta IS NULL
		OR abs(extract(epoch FROM off)) > 1.2 + 0.2 * extract(epoch FROM remaining)),
	round(max(abs(extract(epoch FROM off)) / extract(epoch FROM remaining)), 2),
	round(max(off_percent), 1) FROM late
SQL
	diag("throttle $throttle: $samples estimates in the second half, furthest off: $worst of what"
		  . " was left; percent off by at most $percents");
	cmp_ok($samples, '>=', 8, 'there were estimates');
	is($bad, 0, 'none is off by more than a fifth of what is left');
	cmp_ok($percents, '<=', 12, 'percent is how much of the time has passed');
	return;
}

$node->start;
sql(<<'SQL');
SET client_min_messages = error;
CREATE EXTENSION pg_refit;
CREATE FUNCTION slowly(k int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(0.005); RETURN k; END $$;
CREATE TABLE steady (id int PRIMARY KEY, k int);
CREATE TABLE estimates (at timestamptz, eta timestamptz, percent numeric);
CREATE PROCEDURE sample(id bigint) LANGUAGE plpgsql AS $$
BEGIN
	WHILE EXISTS (SELECT FROM refit.migration m WHERE m.id = sample.id AND finished_at IS NULL)
	LOOP
		INSERT INTO estimates SELECT clock_timestamp(), p.eta, p.percent
			FROM refit.progress p WHERE p.id = sample.id AND p.phase = 'batches';
		COMMIT;
		PERFORM pg_sleep(0.1);
		COMMIT;
	END LOOP;
END $$;
SQL
sql('INSERT INTO steady SELECT g, g FROM generate_series(1, ' . ROWS . ') g; VACUUM ANALYZE steady');
estimate(0);
estimate(0.5);
is(sql('SELECT count(*) FROM steady WHERE k = id + 2'), ROWS, 'every row was done twice');

# No launcher: who works the next migration purges.
sql(q(UPDATE refit.migration SET finished_at = finished_at - interval '100 days';)
	  . q( UPDATE refit.event SET at = at - interval '100 days'));
sql(q(INSERT INTO refit.event (at, migration_id, kind, message)
	SELECT now() - interval '91 days', NULL, 'old', 'x' FROM generate_series(1, 5000)));
sql("SELECT refit.backfill('steady', 'k = 0', 'id < 10')");
wait_for($node, 'postgres', 'the history is purged',
	"SELECT count(*) = 1 FROM refit.migration");
wait_for($node, 'postgres', 'in more than one batch',
	"SELECT count(*) = 0 FROM refit.event WHERE at < now() - interval '90 days'");
cmp_ok(sql('SELECT count(*) FROM refit.event'), '>', 0, 'what is new stays');
$node->stop;
done_testing();
