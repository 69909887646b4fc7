# One row among a million fails: it is found by few tries, named, and with on_error
# skip the rest is done; without, the migration fails there, and goes on from there
# once the row is corrected.
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
	BAD => 654_321,
	MOST_TRIES => 40,
};

my $node = new_node('batches_rows', conf => "autovacuum = off\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

$node->start;

# Each try of a batch fires the statement trigger, whose sequence is not rolled
# back with it; the function notes at which try the row failed first and last.
sql(<<"SQL");
CREATE EXTENSION pg_refit;
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO t SELECT g, CASE g WHEN @{[BAD]} THEN 0 ELSE 1 END FROM generate_series(1, @{[ROWS]}) g;
ANALYZE t;
CREATE SEQUENCE tries;
CREATE SEQUENCE failures;
CREATE SEQUENCE first_try;
CREATE SEQUENCE last_try;
CREATE FUNCTION count_try() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM nextval('public.tries');
	RETURN NULL;
END \$\$;
CREATE TRIGGER count_try BEFORE UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION count_try();
CREATE FUNCTION fail() RETURNS int VOLATILE LANGUAGE plpgsql AS \$\$
BEGIN
	IF nextval('public.failures') = 1 THEN
		PERFORM setval('public.first_try', currval('public.tries'));
	END IF;
	PERFORM setval('public.last_try', currval('public.tries'));
	RETURN 1 / 0;
END \$\$;
SQL

# Left out
my $id = sql("SELECT refit.backfill('t', 'n = CASE n WHEN 0 THEN fail() ELSE 2 END + id', 'n < 2',"
	  . " options => '{\"on_error\": \"skip\"}')");

wait_state($node, 'postgres', $id, 'completed');
my ($tries, $failures) = split /\|/,
  sql('SELECT l.last_value - f.last_value + 1, x.last_value'
	  . ' FROM last_try l, first_try f, failures x');
note("$tries tries, of which $failures failed, to find the row");
cmp_ok($tries, '<=', MOST_TRIES, 'the row is found by few tries');
is( sql("SELECT detail->>'key', detail->>'sqlstate', detail->>'message'"
		  . " FROM refit.events WHERE migration_id = $id AND kind IN ('skipped', 'row')"),
	'(id)=(654321)|22012|division by zero',
	'and named');
is(sql('SELECT count(*) FILTER (WHERE n = id + 2), min(id) FILTER (WHERE n = 0) FROM t'),
	(ROWS - 1) . '|' . BAD, 'the rest is done');
is(sql("SELECT rows FROM refit.migrations WHERE id = $id"), ROWS - 1, 'and counted');

# The migration fails, and goes on
sql('UPDATE t SET n = 0 WHERE id IN (999000, 999001)');
$id = sql("SELECT refit.backfill('t', 'n = n / n + id', 'id >= 990000')");
wait_for($node, 'postgres', 'it is over',
	"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
is( sql("SELECT state, error_code, error_message, error_detail, error_hint"
		  . " FROM refit.migrations WHERE id = $id"),
	"failed|22012|division by zero|The row with key (id)=(999000) is at fault."
	  . "|Correct it and use refit.retry($id); to leave such rows out, set option"
	  . " on_error to skip before.",
	'a migration that may not skip it fails and says why');
is(sql('SELECT count(*) FROM t WHERE n = id + 1 AND id BETWEEN 990000 AND 998999'),
	9000, 'what was before it is done');
sql('UPDATE t SET n = 1 WHERE id = 999000');
sql("SELECT refit.set_option($id, 'on_error', 'skip'), refit.retry($id)");
wait_state($node, 'postgres', $id, 'completed');
is( sql('SELECT count(*), min(id) FILTER (WHERE n = 0) FROM t'
		  . ' WHERE id >= 990000 AND n IN (id + 1, 0)'),
	'10001|999001',
	'every other row was done once');

$node->stop;
done_testing();
