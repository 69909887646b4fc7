# What others do while an index is built: DDL and maintenance, a duplicate by a
# concurrent writer, an old snapshot, pauses and the throttle.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

my $node = new_node('index_races', conf => "autovacuum = off\nfsync = off\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Makes the table and starts a build that stands still after some blocks, with
# more to come: one that a busy machine let run further is begun again.
sub submit_held
{
	my ($definition) = @_;
	my $id;

	for (1 .. 5)
	{
		$id = start_held($definition);
		return $id
		  if sql("SELECT next_block < pg_relation_size('t') / 8192 / 2 FROM refit.index_build WHERE id = $id") eq 't';
		sql("SELECT refit.cancel(id) FROM refit.migration WHERE id = $id AND finished_at IS NULL; SELECT refit.throttle(0)");
		wait_for($node, 'postgres', 'it is over',
			"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
	}
	die 'no build could be held half-way';
}

sub start_held
{
	my ($definition) = @_;
	my $id;

	sql(<<'SQL');
DROP TABLE IF EXISTS t;
CREATE TABLE t (id int PRIMARY KEY, k int, u int, p point) WITH (fillfactor = 30);
INSERT INTO t SELECT i, i % 1000, i, point(i, i) FROM generate_series(1, 30000) i;
SELECT refit.throttle(0.97);
SQL
	$id = sql(qq{SELECT refit.create_index('$definition', method => 'incremental',
		options => '{"chunk_time": "10ms"}')});
	my $over = "EXISTS (SELECT FROM refit.migration WHERE id = $id AND finished_at IS NOT NULL)";
	wait_for($node, 'postgres', 'some blocks are done',
		"SELECT EXISTS (SELECT FROM refit.index_build WHERE id = $id AND next_block > 0) OR $over");
	sql('SELECT refit.throttle(1)');
	wait_for($node, 'postgres', 'it stands still',
		"SELECT EXISTS (SELECT FROM refit.migration_progress WHERE id = $id AND stands_still) OR $over");
	return $id;
}

# Does something while a build stands still, and lets it go on to a state.
sub race
{
	my ($name, $definition, $command, $state) = @_;
	my $id = submit_held($definition);

	sql($command);
	sql('SELECT refit.throttle(0)');
	wait_state($node, 'postgres', $id, $state) if $state eq 'completed';
	wait_for($node, 'postgres', "$name: it is over",
		"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
	is(sql("SELECT state FROM refit.migration WHERE id = $id"), $state, $name);
	is(sql("SELECT count(*) FROM pg_index WHERE NOT indisvalid"), 0, "$name: no invalid index");
	return if $state ne 'completed';
	is(sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_i'::regclass"), 't', "$name: it is valid");
	sql("SELECT bt_index_check('t_i', true)") if $definition !~ /USING/;
	is( sql("SET enable_seqscan = off; SELECT count(*) FROM t WHERE k >= 0"),
		sql("SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM t WHERE k >= 0"),
		"$name: it finds all");
}

$node->start;
sql('CREATE EXTENSION pg_refit; CREATE EXTENSION amcheck');

my $plain = 'CREATE INDEX t_i ON t (k)';
my $unique = 'CREATE UNIQUE INDEX t_i ON t (u)';

race('VACUUM FULL', $plain, 'VACUUM FULL t', 'completed');
race('VACUUM FULL, unique', $unique, 'VACUUM FULL t', 'completed');
race('CLUSTER', $plain, 'CLUSTER t USING t_pkey', 'completed');
race('TRUNCATE', $plain, 'TRUNCATE t; INSERT INTO t VALUES (1, 1)', 'completed');
race('TRUNCATE, unique', $unique, 'TRUNCATE t; INSERT INTO t VALUES (1, 1, 1)', 'completed');
race('VACUUM FREEZE', $plain, 'DELETE FROM t WHERE id % 3 = 0; VACUUM (FREEZE, INDEX_CLEANUP ON) t; INSERT INTO t SELECT -i, i FROM generate_series(1, 5000) i; VACUUM FREEZE t', 'completed');
race('REINDEX', $plain, 'REINDEX INDEX t_i', 'completed');
race('RENAME', $plain, 'ALTER TABLE t RENAME TO t_other; ALTER TABLE t_other RENAME TO t', 'completed');
race('ADD COLUMN', $plain, 'ALTER TABLE t ADD COLUMN more int DEFAULT 7', 'completed');
race('ALTER TYPE', $plain, 'ALTER TABLE t ALTER COLUMN k TYPE bigint', 'failed');
race('DROP INDEX', $plain, 'DROP INDEX t_i', 'failed');
race('DROP COLUMN', $plain, 'ALTER TABLE t DROP COLUMN k', 'failed');
race('DROP TABLE', $plain, 'DROP TABLE t', 'failed');
race('VACUUM FULL, gist', 'CREATE INDEX t_i ON t USING gist (p)', 'VACUUM FULL t', 'completed');

# VACUUM FULL of a unique index that has duplicates checks nothing: we do.
my $id = submit_held($unique);
sql('INSERT INTO t VALUES (900000, 1, 29999)');
sql('VACUUM FULL t');
sql('SELECT refit.throttle(0)');
wait_for($node, 'postgres', 'it has failed',
	"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
is( sql("SELECT concat_ws('; ', state, error_code, error_detail) FROM refit.migration WHERE id = $id"),
	'failed; 23505; Key (u)=(29999) is the key of two rows: (id)=(29999) and (id)=(900000).',
	'a duplicate that a writer made, and VACUUM FULL did not look for, is named');
is(sql("SELECT to_regclass('t_i') IS NULL"), 't', 'and the index is gone');

# A writer's duplicate of a row that is still to come.
$id = submit_held($unique);
sql('INSERT INTO t VALUES (900000, 1, 29999)');
sql('SELECT refit.throttle(0)');
wait_for($node, 'postgres', 'it has failed',
	"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
like(sql("SELECT error_detail FROM refit.migration WHERE id = $id"),
	qr/^Key \(u\)=\(29999\) is the key of two rows: \(id\)=\((?:29999|900000)\) and \(id\)=\((?:29999|900000)\)\.$/,
	'both rows of a duplicate that a writer made are named');

# One that its transaction may yet take back is waited for, by name.
$id = submit_held($unique);
my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN; INSERT INTO t VALUES (900000, 1, 29999)');
sql('SELECT refit.throttle(0)');
wait_for($node, 'postgres', 'it waits for the writer',
	"SELECT waiting_for ~ 'pid \\d+, idle in transaction' FROM refit.progress WHERE id = $id");
$writer->query_safe('ROLLBACK');
wait_state($node, 'postgres', $id, 'completed');
sql("SELECT bt_index_check('t_i', true)");

# An old snapshot is waited for, and sees what it saw.
$id = submit_held($plain);
$writer->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t');
sql('UPDATE t SET k = -5 WHERE id = 29000; UPDATE t SET k = 5 WHERE id = 29000');
sql('SELECT refit.throttle(0)');
wait_for($node, 'postgres', 'it waits for the snapshot',
	"SELECT phase = 'publish' AND waiting_for ~ 'snapshot of a transaction' FROM refit.progress WHERE id = $id");
is(sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_i'::regclass"), 'f', 'not valid before');
is(sql("SELECT refit.pause($id)"), 'running', 'it can be paused while it waits');
wait_state($node, 'postgres', $id, 'paused');
sql("SELECT refit.resume($id)");
$writer->query_safe('COMMIT');
$writer->quit;
wait_state($node, 'postgres', $id, 'completed');

# Paused: the application goes on, and nothing is lost.
$id = submit_held($plain);
sql("SELECT refit.pause($id)");
wait_state($node, 'postgres', $id, 'paused');
sql('UPDATE t SET k = k + 1 WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0; VACUUM t; INSERT INTO t SELECT 50000 + i, i FROM generate_series(1, 3000) i');
sql("SELECT refit.throttle(0); SELECT refit.resume($id)");
wait_state($node, 'postgres', $id, 'completed');
sql("SELECT bt_index_check('t_i', true)");

# Throttled to a tenth, it writes WAL about that much more slowly.
sub wal_rate
{
	my ($ratio) = @_;
	my ($from, $rate);

	sql("DROP INDEX IF EXISTS t_i; SELECT refit.throttle($ratio)");
	$from = sql('SELECT pg_current_wal_insert_lsn()');
	$id = sql(qq{SELECT refit.create_index('$plain', method => 'incremental', options => '{"chunk_time": "10ms"}')});
	wait_state($node, 'postgres', $id, 'completed');
	return sql("SELECT (pg_current_wal_insert_lsn() - '$from') / extract(epoch FROM finished_at - started_at)"
		  . " FROM refit.migration WHERE id = $id");
}
my $full = wal_rate(0);
my $tenth = wal_rate(0.9);
cmp_ok($tenth, '<', 0.5 * $full, sprintf('WAL: %.0f B/s, throttled %.0f B/s', $full, $tenth));

is(sql("SELECT count(*) FROM refit.index_build"), 0, 'no work is left');
$node->stop;
done_testing();
