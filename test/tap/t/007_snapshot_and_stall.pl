# How old a snapshot of ours becomes while the table is copied, and how long a
# client waits while another one is in the way of the cutover.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	ROWS => 1_000_000,
	CHUNK_MS => 100,
	READER_S => 5,
	STALL_MS => 200,
	SLACK_MS => $ENV{REFIT_SLACK_MS} || 150,
};

my $node = new_node('calm');
$node->start;
$node->safe_psql('postgres', sprintf(<<'SQL', ROWS));
CREATE EXTENSION pg_refit;
CREATE EXTENSION amcheck;
CREATE TABLE big (id int NOT NULL, k int, v text, wide text);
INSERT INTO big SELECT g, g, md5(g::text) FROM generate_series(1, %d) g;
ALTER TABLE big ADD PRIMARY KEY (id);
VACUUM ANALYZE big;
CREATE TABLE samples (age_ms float8, xmin_held bool);
CREATE TABLE other AS SELECT * FROM big LIMIT 1001;
ALTER TABLE other ADD PRIMARY KEY (id);
CREATE TABLE waits (relation regclass, ms float8);
-- Samples in a transaction that has no snapshot itself for long.
CREATE PROCEDURE sample(id bigint) LANGUAGE plpgsql AS $$
BEGIN
	WHILE EXISTS (SELECT FROM refit.migration m WHERE m.id = sample.id
		AND (phase IS NULL OR phase IN ('plan', 'prepare', 'capture', 'copy')))
	LOOP
		INSERT INTO samples SELECT 1000 * extract(epoch FROM clock_timestamp() - xact_start),
			backend_xmin IS NOT NULL
			FROM pg_stat_activity JOIN refit.migration m ON m.id = sample.id
			WHERE backend_type LIKE 'pg_refit%%' AND xact_start IS NOT NULL
				AND m.phase = 'copy';
		COMMIT;
		PERFORM pg_sleep(0.005);
		COMMIT;
	END LOOP;
END $$;
-- A client with short statements, which notes how long the longest took.
CREATE PROCEDURE client(id bigint, relation regclass) LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz;
	longest float8 := 0;
BEGIN
	WHILE EXISTS (SELECT FROM refit.migration m WHERE m.id = client.id
		AND finished_at IS NULL)
	LOOP
		start := clock_timestamp();
		EXECUTE format('UPDATE %%s SET v = $1 WHERE id = $2', relation)
			USING 'c', 1 + (random() * 1000)::int;
		longest := greatest(longest,
			1000 * extract(epoch FROM clock_timestamp() - start));
		COMMIT;
		PERFORM pg_sleep(0.005);
		COMMIT;
	END LOOP;
	INSERT INTO waits VALUES (relation, longest);
END $$;
SQL

my $id = submit($node, 'postgres', 'big',
	arguments => q(cutover => 'manual'),
	chunk_time => CHUNK_MS . 'ms');
$node->safe_psql('postgres', "CALL sample($id)");
my ($samples, $oldest) = split /\|/, $node->safe_psql('postgres',
	'SELECT count(*), round(max(age_ms)) FROM samples WHERE xmin_held');
diag(sprintf('oldest snapshot in the copy: %s ms of %d samples, chunk_time %d ms',
		$oldest, $samples, CHUNK_MS));
cmp_ok($samples, '>', 5, 'the copy was sampled');
cmp_ok($oldest, '<=', 2 * CHUNK_MS,
	'no snapshot is older than two chunk times in the copy');

# A reader holds its lock for some seconds from before the cutover on.
wait_state($node, 'postgres', $id, 'ready');
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT v FROM big WHERE id = 1');
my @clients = map {
	my $client = $node->background_psql('postgres');
	$client->query_until(qr/begins/, "\\echo begins\nCALL client($id, '$_');\n\\echo ended\n");
	$client;
} ('big', 'other');
$node->safe_psql('postgres', "SELECT refit.cutover($id)");
$reader->query_safe('SELECT pg_sleep(' . READER_S . ')');
is( $node->safe_psql('postgres', "SELECT finished_at IS NULL FROM refit.migration WHERE id = $id"),
	't', 'the cutover waits for the reader');
like(
	$node->safe_psql('postgres', "SELECT waiting_for FROM refit.progress WHERE id = $id"),
	qr/pg_sleep/,
	'and says for whom');
$reader->query_safe('COMMIT');
wait_state($node, 'postgres', $id, 'completed');
foreach my $client (@clients)
{
	$client->query_until(qr/ended/, '');
	$client->quit;
}
$reader->quit;

# What a client of a table that nobody migrates waited for is the machine's.
my ($longest, $other) = split /\n/,
  $node->safe_psql('postgres', "SELECT round(ms) FROM waits ORDER BY relation <> 'big'::regclass");
my $slack = $other > SLACK_MS ? $other : SLACK_MS;
my $lock = $node->safe_psql('postgres',
	"SELECT cutover_lock_ms || ' ms, ' || cutover_attempts || ' attempts'"
	  . " FROM refit.migrations WHERE id = $id");
diag("longest statement of a client: $longest ms, of one elsewhere $other ms; cutover: $lock");
cmp_ok($longest, '<=', STALL_MS + $slack, 'no client waits for long');
check_clean($node, 'postgres', 'big');

$node->stop;
done_testing();
