
# A batch of catch-up begins in the log where the one before it ended.  The mark of
# a TRUNCATE that stands before that place is still found before rows that were
# written after it: they stay.
#
# A batch that meets rows which other keys of a long log will take away has them make
# way, and none is without a limit.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 20_000;

my $node = new_node('long_log', conf => "autovacuum = off\nlog_min_messages = debug1\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

$node->start;

# Each row that catch-up applies takes time while there is a row in "slow".
sql(<<"SQL");
CREATE EXTENSION pg_refit;
CREATE TABLE slow AS SELECT;
CREATE FUNCTION slowly(n int) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN
	IF n > 0 AND EXISTS (SELECT FROM public.slow) THEN
		PERFORM pg_sleep(0.002);
	END IF;
	RETURN n;
END \$\$;
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO t SELECT g, 0 FROM generate_series(1, @{[ROWS]}) g;
SQL
my $id = sql("SELECT refit.alter_table('t', 'ALTER n TYPE bigint USING slowly(n)',"
	  . " cutover => 'manual', verify => 'off', options => '{\"chunk_time\": \"10ms\"}')");
wait_state($node, 'postgres', $id, 'ready');

# Who holds a lock on the logs keeps them from being truncated, so that each session
# goes on writing to its own page.  That of the one that truncates is the second.
my ($holder, $writer, $truncater) =
  map { $node->background_psql('postgres', on_error_stop => 1) } 1 .. 3;

$holder->query_safe("BEGIN; LOCK TABLE refit_$id.\"\$log0\", refit_$id.\"\$log1\""
	  . ' IN ROW EXCLUSIVE MODE');
$writer->query_safe('UPDATE t SET n = -1 WHERE id = 2');
$truncater->query_safe('UPDATE t SET n = -1 WHERE id BETWEEN 3 AND 320');
$writer->query_safe('UPDATE t SET n = 1 WHERE id > 1000');

# Batches become short and go on from place to place.
wait_for($node, 'postgres', 'some of the keys are worked',
	"SELECT pending_changes BETWEEN 1 AND 17000 FROM refit.progress WHERE id = $id");
$truncater->query_safe('BEGIN; TRUNCATE t;'
	  . ' INSERT INTO t SELECT g, 1 FROM generate_series(5001, 15000) g; COMMIT');
cmp_ok(sql("SELECT pending_changes FROM refit.progress WHERE id = $id"),
	'>', 5000, 'most of the keys were pending when the table was truncated');

# All of it in limited batches: that of the cutover takes everything at once.
sql('DELETE FROM slow');
wait_for($node, 'postgres', 'nothing is pending',
	"SELECT pending_changes = 0 FROM refit.progress WHERE id = $id");
$holder->query_safe('ROLLBACK');
$_->quit foreach ($holder, $writer, $truncater);
sql("SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
is( sql('SELECT count(*), min(id), max(id), sum(n), pg_typeof(min(n)) FROM t'),
	'10000|5001|15000|10000|bigint', 'the rows written after the TRUNCATE are there');

# Each row takes the unique value of another one, far away in the order of keys.
sql(<<"SQL");
CREATE TABLE u (id int PRIMARY KEY, v int UNIQUE, n int);
INSERT INTO u SELECT g, g, 0 FROM generate_series(1, @{[ROWS]}) g;
SQL
$id = sql("SELECT refit.alter_table('u', 'ALTER n TYPE bigint', cutover => 'manual',"
	  . " options => '{\"chunk_time\": \"10ms\"}')");
wait_state($node, 'postgres', $id, 'ready');
my $log = -s $node->logfile;
sql('BEGIN; UPDATE u SET v = -v; UPDATE u SET v = ' . (ROWS + 1) . ' + v; COMMIT');
wait_for($node, 'postgres', 'all is applied',
	"SELECT NOT EXISTS (SELECT FROM refit_$id.\"\$log0\")"
	  . " AND NOT EXISTS (SELECT FROM refit_$id.\"\$log1\")");
is(sql("SELECT count(*) FROM (TABLE u EXCEPT TABLE refit_$id.u) d"),
	'0', 'the twin is what the table is');
my $said = slurp_file($node->logfile, $log);
like($said, qr/had \d+ rows make way/, 'rows were in the way of others');
unlike($said, qr/conflict: all are taken/, 'and no batch took everything for that');
sql("SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
is(sql('SELECT count(*), sum(v), pg_typeof(min(n)) FROM u'),
	join('|', ROWS, ROWS * (ROWS + 1) / 2, 'bigint'), 'it is completed');

$node->stop;
done_testing();
