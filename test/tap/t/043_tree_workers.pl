# Several processes copy a partition tree: each leaf once, whoever does its chunks.
# They stop and go on together, get over the end of any of them, over VACUUM FULL
# and TRUNCATE of a leaf at work, end with the migration, and the promoted standby
# goes on.  A row that cannot be converted, or that kills its process, fails the
# migration, also when a helper meets it first.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 120_000;

my $node = new_node('tree_workers', allows_streaming => 1,
	conf => "refit.max_workers = 4\n");
my ($id, $pid, $writer);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A tree of four leaves with rows, and one without.
sub make
{
	my ($table) = @_;

	sql(<<"SQL");
CREATE EXTENSION IF NOT EXISTS pg_refit;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE OR REPLACE FUNCTION public.wide(seed int) RETURNS text
IMMUTABLE STRICT LANGUAGE sql AS \$\$
	SELECT string_agg(md5((seed + g)::text), '') FROM generate_series(1, 80) g
\$\$;
CREATE OR REPLACE FUNCTION public.slowly(k int) RETURNS bigint
IMMUTABLE STRICT LANGUAGE plpgsql AS \$\$
BEGIN
	IF (pg_catalog.pg_stat_file('slow', true)).size IS NOT NULL THEN
		PERFORM pg_catalog.pg_sleep(0.001);
	END IF;
	RETURN 1000 / (k + 1) * 0 + k;
END \$\$;
CREATE TABLE $table (id int PRIMARY KEY, k int NOT NULL, v text, wide text)
	PARTITION BY RANGE (id);
CREATE TABLE ${table}_minus PARTITION OF $table FOR VALUES FROM (MINVALUE) TO (0);
SELECT format('CREATE TABLE ${table}_%s PARTITION OF $table FOR VALUES FROM (%s) TO (%s)',
	g, g * 30000, CASE g WHEN 3 THEN 10000000 ELSE (g + 1) * 30000 END)
	FROM generate_series(0, 3) g \\gexec
ALTER TABLE $table ALTER COLUMN wide SET STORAGE EXTERNAL;
INSERT INTO $table SELECT g, g, md5(g::text), CASE WHEN g % 50 = 0 THEN wide(g) END
	FROM generate_series(0, @{[ROWS]} - 1) g;
CREATE INDEX ON $table (v, id);
CREATE TABLE ${table}_oracle (id int PRIMARY KEY, k int, v text, wide text);
INSERT INTO ${table}_oracle SELECT * FROM $table;
VACUUM ANALYZE $table, ${table}_oracle;
SQL
}

# Submits what the function does to k, which may not be -1.
sub submit_it
{
	my ($table, $workers) = @_;

	return sql("SELECT refit.alter_table('$table', 'ALTER k TYPE bigint USING public.slowly(k)',"
		  . qq[ options => '{"chunk_time": "10ms", "workers": $workers}')]);
}

# Makes a table and submits it, slow until go_on.
sub submit_slow
{
	make($_[0]);
	append_to_file($node->data_dir . '/slow', 'on');
	return submit_it(@_);
}

sub go_on { unlink $_[0]->data_dir . '/slow' or die 'it was not slow' }

my $is_helper = "backend_type = 'pg_refit worker' AND query LIKE '%, helper %'";
# One that finds no leaf is gone again at once.
my $has_leaf = 'pid IN (SELECT helper FROM refit.rewrite WHERE copied_blocks < source_blocks)';
my $all = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pg_refit worker'";

sub wait_helpers
{
	my ($n) = @_;

	wait_for($node, 'postgres', "$n helpers at work",
		"SELECT count(*) = $n FROM pg_stat_activity WHERE $is_helper AND $has_leaf");
}

sub copied
{
	return sql("SELECT string_agg(relation || ' ' || copied_blocks, ' ' ORDER BY number)"
		  . " FROM refit.rewrite WHERE id = $id");
}

sub check_end
{
	my ($where, $table) = @_;

	wait_state($where, 'postgres', $id, 'completed');
	check_equal($where, 'postgres', $table);
	check_clean($where, 'postgres', "${table}_$_") foreach (0 .. 3);
	is( $where->safe_psql('postgres',
			"SELECT DISTINCT format_type(atttypid, atttypmod) FROM pg_attribute"
			  . " WHERE attrelid IN (SELECT relid FROM pg_partition_tree('$table'))"
			  . " AND attname = 'k'"),
		'bigint',
		"k is bigint in all of $table");
}

$node->start;

# They share it, with clients beside them
$id = submit_slow('shared', 3);
$writer = start_writer($node, 'postgres', 'shared', ROWS, rate => 100);
wait_helpers(2);
wait_for($node, 'postgres', 'three leaves are begun and none is done', <<"SQL");
SELECT count(*) FILTER (WHERE copied_blocks > 0) >= 3 FROM refit.rewrite WHERE id = $id
SQL
is(sql("SELECT worker_pid IN (SELECT pid FROM pg_stat_activity WHERE $is_helper)"
		  . " FROM refit.progress WHERE id = $id"), 'f', 'the leader is shown in progress');
is(sql("SELECT rows_done > 0 AND rows_done <= (SELECT sum(copied_rows)"
		  . " FROM refit.rewrite WHERE id = $id) FROM refit.progress WHERE id = $id"),
	't', 'and what all have copied');

# They stop and go on together
sql("SELECT refit.pause($id)");
wait_state($node, 'postgres', $id, 'paused');
my $copied = copied();
wait_for($node, 'postgres', 'all have left', "SELECT ($all) = 0");
is(copied(), $copied, 'nothing is copied once it is paused');
sql("SELECT refit.resume($id)");
wait_helpers(2);

# Any of them ends
$pid = sql("SELECT pid FROM pg_stat_activity WHERE $is_helper AND $has_leaf ORDER BY pid LIMIT 1");
is(sql("SELECT pg_terminate_backend($pid, 10000)"), 't', 'a helper ends at once');
wait_helpers(2);
$pid = sql("SELECT worker_pid FROM refit.progress WHERE id = $id");
is(sql("SELECT pg_terminate_backend($pid, 10000)"), 't', 'the leader ends at once');
wait_helpers(2);

# A leaf at work changes its storage
sql('VACUUM FULL shared_3');
go_on($node);
stop_writer($writer);
check_end($node, 'shared');
wait_for($node, 'postgres', 'all have left', "SELECT ($all) = 0");

# It loses its rows
$id = submit_slow('emptied', 2);
wait_helpers(1);
wait_for($node, 'postgres', 'a helper copies the last leaf',
	"SELECT copied_blocks > 0 FROM refit.rewrite WHERE id = $id AND relation LIKE '%_3'");
sql('BEGIN; TRUNCATE emptied_3; DELETE FROM emptied_oracle WHERE id >= 90000;'
	  . ' INSERT INTO emptied VALUES (100000, 1); INSERT INTO emptied_oracle VALUES (100000, 1);'
	  . ' COMMIT');
go_on($node);
check_end($node, 'emptied');

# A helper is killed, and with it all processes of the server
$id = submit_slow('killed', 2);
wait_helpers(1);
wait_for($node, 'postgres', 'a helper copies the last leaf',
	"SELECT copied_blocks > 0 FROM refit.rewrite WHERE id = $id AND relation LIKE '%_3'");
$pid = sql("SELECT pid FROM pg_stat_activity WHERE $is_helper AND $has_leaf");
kill 'KILL', $pid;
ok( poll($node, 'postgres',
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)"),
	'the server is there again');
wait_helpers(1);
go_on($node);
check_end($node, 'killed');

# Cancelled, then done after all
$id = submit_slow('cancelled', 3);
wait_helpers(2);
sql("SELECT refit.cancel($id)");
wait_state($node, 'postgres', $id, 'cancelled');
wait_for($node, 'postgres', 'all have left', "SELECT ($all) = 0");
check_clean($node, 'postgres', 'cancelled_3');
go_on($node);
sql("SELECT refit.retry($id)");
check_end($node, 'cancelled');

# A row of the last leaf cannot be converted
make('bad');
sql('UPDATE bad SET k = -1 WHERE id = 119000');
$id = submit_it('bad', 2);
wait_for($node, 'postgres', 'it is over',
	"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
is(sql("SELECT state, error_code, error_detail ~ '119000' FROM refit.migration WHERE id = $id"),
	'failed|22012|t', 'the migration fails and names the row');
check_clean($node, 'postgres', 'bad_3');

# A row of the last leaf kills whoever converts it.  The others are slow, so that
# each process could finish a step of those between two crashes; the leader takes the
# leaf on himself and stays with it, so his deaths are counted.
make('cursed');
sql(<<"SQL");
CREATE FUNCTION curse(id int, k int) RETURNS bigint LANGUAGE plpgsql AS \$\$
BEGIN
	IF id = 119000 AND (pg_catalog.pg_stat_file('curse', true)).size IS NOT NULL THEN
		EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid());
	ELSIF id < 90000 AND id % 20 = 0
		AND (pg_catalog.pg_stat_file('curse', true)).size IS NOT NULL
	THEN
		PERFORM pg_sleep(0.02);
	END IF;
	RETURN k;
END \$\$;
SQL
append_to_file($node->data_dir . '/curse', 'on');
my $log_position = -s $node->logfile;
# the server may be gone before it answers
eval
{
	$node->psql('postgres', "SELECT refit.alter_table('cursed',"
		  . " 'ALTER k TYPE bigint USING public.curse(id, k)', name => 'cursed',"
		  . ' options => \'{"chunk_time": "100ms", "workers": 4}\')');
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
check_end($node, 'cursed');

# The standby goes on
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('tree_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$id = submit_slow('promoted', 2);
wait_helpers(1);
wait_for($standby, 'postgres', 'two leaves are begun on the standby',
	"SELECT count(*) FILTER (WHERE copied_blocks > 0) >= 2 FROM refit.rewrite WHERE id = $id");
$node->stop('immediate');
$standby->promote;
check_end($standby, 'promoted');

unlike(slurp_file($_->logfile), qr/TRAP|could not open relation|cache lookup failed/,
	'nobody stumbled')
  foreach ($node, $standby);

$standby->stop;
done_testing();
