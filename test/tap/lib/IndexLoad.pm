# IndexLoad: the load under which indexes are built in TAP tests, and what they
# must find afterwards.
package IndexLoad;

use strict;
use warnings;

use Exporter 'import';
use IPC::Run qw(start finish);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 30_000;

our @EXPORT = qw(%kinds make_load_table start_load stop_load check_index);

# Definitions, and queries of all that an index has: whatever they find must be as
# often in the table.
our %kinds = (
	btree => {
		definition => 'CREATE INDEX load_i ON load (k)',
		query => 'SELECT id, k FROM load WHERE k >= 0' },
	unique => {
		definition => 'CREATE UNIQUE INDEX load_i ON load (u)',
		query => 'SELECT id, u FROM load WHERE u > 0' },
	partial => {
		definition => 'CREATE INDEX load_i ON load ((k % 100), id)'
		  . ' INCLUDE (k) WHERE k % 3 = 0',
		query => 'SELECT id, k FROM load WHERE k % 3 = 0 AND k % 100 >= 0' },
	rebuild => {
		before => 'CREATE INDEX load_i ON load (k)',
		query => 'SELECT id, k FROM load WHERE k >= 0' },
	hash => {
		definition => 'CREATE INDEX load_i ON load USING hash (k)',
		query => 'SELECT l.id, l.k FROM generate_series(0, 999) g,'
		  . ' LATERAL (SELECT id, k FROM load WHERE k = g OFFSET 0) l' },
	gist => {
		definition => 'CREATE INDEX load_i ON load USING gist (p)',
		query => q{SELECT id, k FROM load WHERE p <@ box '((-1,-1),(1001,1001))'} },
	spgist => {
		definition => 'CREATE INDEX load_i ON load USING spgist (p)',
		query => q{SELECT id, k FROM load WHERE p <@ box '((-1,-1),(1001,1001))'} },
	gin => {
		definition => 'CREATE INDEX load_i ON load USING gin (arr)',
		query => 'SELECT id, k FROM load WHERE arr && ARRAY(SELECT generate_series(0, 999))',
		bitmap => 1 },
	brin => {
		definition => 'CREATE INDEX load_i ON load USING brin (k) WITH (pages_per_range = 2)',
		query => 'SELECT id, k FROM load WHERE k BETWEEN 0 AND 1000',
		bitmap => 1 },);
# What each connection does again and again: one transaction that has its xid
# before it writes, sometimes for long; with savepoints that are rolled back.
my $script = <<'SQL';
\set id random(1, 30000)
\set other random(1, 30000)
\set k random(0, 999)
\set what random(1, 12)
\set pause random(0, 30)
BEGIN;
SELECT pg_current_xact_id();
\if :what <= 3
\sleep :pause ms
\endif
\if :what <= 5
UPDATE load SET n = n + 1 WHERE id = :id;
SAVEPOINT s;
UPDATE load SET n = n + 1, k = :k, arr = ARRAY[:k], p = point(:k, :k) WHERE id = :other;
\if :what = 1
ROLLBACK TO s;
\else
RELEASE s;
\endif
\elif :what <= 8
UPDATE load SET k = :k, arr = ARRAY[:k, :k + 1], p = point(:k, n % 1000), u = u WHERE id = :id;
UPDATE load SET n = n + 1 WHERE id = :id;
\elif :what = 9
DELETE FROM load WHERE id = :id;
INSERT INTO load (id, k, p, arr) VALUES (:id, :k, point(:k, 1), ARRAY[:k]) ON CONFLICT DO NOTHING;
UPDATE load SET n = n + 1 WHERE id = :id;
\elif :what = 10
SAVEPOINT s;
INSERT INTO load (id, k, p, arr) VALUES (-:id - 30000 * :client_id, :k, point(:k, 2), ARRAY[:k]) ON CONFLICT DO NOTHING;
ROLLBACK TO s;
INSERT INTO load (id, k, p, arr) VALUES (-:id - 30000 * :client_id, :k, point(:k, 2), ARRAY[:k]) ON CONFLICT DO NOTHING;
\elif :what = 11
DELETE FROM load WHERE id < -:id;
\else
UPDATE load SET n = n + 1 WHERE id BETWEEN :id AND :id + 5;
\endif
\if :what = 3
ROLLBACK;
\else
COMMIT;
\endif
SQL

# Transactions that have taken their xid long before they write.
my $old = <<'SQL';
\set id random(1, 29990)
\set k random(0, 999)
\set pause random(100, 600)
BEGIN;
SELECT pg_current_xact_id();
\sleep :pause ms
UPDATE load SET k = (k + :k) % 1000, arr = ARRAY[(k + :k) % 1000], p = point((k + :k) % 1000, 5)
	WHERE id IN (SELECT id FROM load WHERE id BETWEEN :id AND :id + 9 FOR UPDATE SKIP LOCKED);
COMMIT;
SQL

my $vacuum = <<'SQL';
\set freeze random(0, 1)
\if :freeze
VACUUM (FREEZE, INDEX_CLEANUP ON) load;
\else
VACUUM (INDEX_CLEANUP ON) load;
\endif
\sleep 30 ms
SQL

# Makes the table anew, with HOT chains that differ in the columns to be indexed.
sub make_load_table
{
	my ($node, $kind) = @_;

	$node->safe_psql('postgres', <<"SQL");
DROP TABLE IF EXISTS load;
DROP SEQUENCE IF EXISTS load_u;
CREATE SEQUENCE load_u CACHE 20;
CREATE TABLE load (id int PRIMARY KEY, k int, n int DEFAULT 0,
	u bigint DEFAULT nextval('load_u'), p point, arr int[])
	WITH (fillfactor = 60);
INSERT INTO load SELECT i, i % 1000, 0, nextval('load_u'),
	point(i % 1000, i % 7), ARRAY[i % 1000] FROM generate_series(1, ${\ROWS}) i;
UPDATE load SET k = (k + 1) % 1000, arr = ARRAY[(k + 1) % 1000] WHERE id % 9 = 0;
SQL
	$node->safe_psql('postgres', $kinds{$kind}{before}) if $kinds{$kind}{before};
}

# Starts a pgbench that runs until it is ended.
sub start_pgbench
{
	my ($node, $name, $sql, $clients, $seed, $errors) = @_;
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";

	append_to_file($file, $sql) unless -e $file;
	return start([ 'pgbench', '-n', '-f', $file, '-c', $clients, '-j', 2,
			'-T', 120, "--random-seed=$seed", '-h', $node->host, '-p', $node->port,
			'--max-tries=100', 'postgres' ],
		'>', '/dev/null', '2>', $errors);
}

# Starts the load: writers, transactions that took their xid long before, VACUUM.
sub start_load
{
	my ($node, $seed) = @_;
	my ($errors, $vacuum_errors) = ('', '');

	return {
		errors => \$errors,
		runs => [
			start_pgbench($node, 'load', $script, 4, $seed, \$errors),
			start_pgbench($node, 'old', $old, 8, $seed, \$errors),
			start_pgbench($node, 'vacuum', $vacuum, 1, $seed, \$vacuum_errors) ] };
}

# Ends it; returns the errors that clients have had.
sub stop_load
{
	my ($load) = @_;

	$_->signal('TERM') for @{ $load->{runs} };
	$_->finish for @{ $load->{runs} };
	return join "\n",
	  grep { /error|FATAL/i && !/terminat/ } split /\n/, ${ $load->{errors} };
}

# Are an index scan's rows those of the table, each as often?  "+ 0": from 16 on
# the primary key would be scanned for the order of id.
sub check_index
{
	my ($node, $kind, $seed) = @_;
	my $k = $kinds{$kind};
	my $path = $k->{bitmap} ? 'bitmapscan' : 'indexscan';
	my $by_index = "SET enable_seqscan = off; SET enable_sort = off;"
	  . join('', map { " SET enable_$_ = off;" }
		  grep { $_ ne $path } qw(bitmapscan indexscan indexonlyscan));
	my $sum = "SELECT count(*), count(DISTINCT x.id + 0), coalesce(sum(hashtext(x::text)::bigint), 0) FROM (%s) x";
	my $plan = $node->safe_psql('postgres',
		"$by_index EXPLAIN " . sprintf $sum, $k->{query});

	like($plan, qr/load_i/, "$kind, seed $seed: the index is used");
	my $found = $node->safe_psql('postgres', "$by_index " . sprintf $sum, $k->{query});
	my $there = $node->safe_psql('postgres',
		'SET enable_indexscan = off; SET enable_bitmapscan = off;'
		  . ' SET enable_indexonlyscan = off; ' . sprintf $sum, $k->{query});
	is($found, $there, "$kind, seed $seed: index and sequential scan agree")
	  or diag($node->safe_psql('postgres', "$by_index SELECT * FROM (SELECT ctid, * FROM load) l"
		  . " WHERE NOT EXISTS (SELECT FROM ($k->{query}) x WHERE x.id = l.id) LIMIT 5"));
	$node->safe_psql('postgres', "SELECT bt_index_check('load_i', true)")
	  if $plan =~ /Index Scan/ && ($k->{definition} // 'btree') !~ /USING/;
}

1;
