# An inheritance tree whose tables all have rows, copied by several processes: the
# server stops at once and the worker is killed in each phase, each time at another
# table, while clients write through the parent and to its children; then the way back, after which the
# catalogs say what they said before; and tables that come or go meanwhile.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitCatalog;
use RefitTest;
use Test::More;

use constant ROWS => 20_000;

use constant ACTIONS => 'ALTER COLUMN v TYPE varchar(100), ALTER COLUMN id TYPE bigint, '
  . 'ALTER COLUMN k TYPE int USING public.gate(k, -2)';

# Where the row with an id is: at the remainder by 4.
my @members = qw(orders orders_a orders_b orders_ab);
my $node = new_node('inheritance', allows_streaming => 1,
	conf => "refit.max_workers = 4\n");
my $writer;

# The tree: a table with columns in another order, one that is dropped and some of
# its own; one that comes from the top on two ways; one that nobody writes to.  They
# have no primary keys, and NOT NULL has the same names: else 18 does not alter types.
sub make_children
{
	my $middle = int(ROWS / 2);

	make_table($node, 'postgres', 'orders', ROWS);
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE orders_a (own_a text DEFAULT 'a', UNIQUE (id)) INHERITS (orders);
CREATE TABLE orders_b (gone int, wide text, own_b int NOT NULL DEFAULT 7, v text,
	k int CONSTRAINT orders_k_not_null NOT NULL,
	id int CONSTRAINT orders_id_not_null NOT NULL UNIQUE);
ALTER TABLE orders_b DROP COLUMN gone, ALTER wide SET STORAGE EXTERNAL;
ALTER TABLE orders_b INHERIT orders;
ALTER TABLE orders_b ADD CONSTRAINT its_own CHECK (own_b = 7);
CREATE TABLE orders_ab (UNIQUE (id)) INHERITS (orders_b, orders_a);
CREATE TABLE orders_rest (UNIQUE (id)) INHERITS (orders_ab);
CREATE INDEX ON orders_ab (gate(k, 0));
CREATE UNIQUE INDEX ON orders_b (id, own_b) WHERE v IS NOT NULL;
CREATE VIEW orders_view AS SELECT id, v FROM orders WHERE v > 'f';
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER note BEFORE UPDATE ON orders_a FOR EACH ROW EXECUTE FUNCTION note();
WITH moved AS (DELETE FROM ONLY orders WHERE id % 4 = 1 RETURNING *)
INSERT INTO orders_a (id, k, v, wide) SELECT id, k, v, wide FROM moved;
WITH moved AS (DELETE FROM ONLY orders WHERE id % 4 = 2 RETURNING *)
INSERT INTO orders_b (id, k, v, wide) SELECT id, k, v, wide FROM moved;
WITH moved AS (DELETE FROM ONLY orders WHERE id % 4 = 3 OR id = 0 RETURNING *)
INSERT INTO orders_ab (id, k, v, wide) SELECT id, k, v, wide FROM moved;
VACUUM ANALYZE orders, orders_a, orders_b, orders_ab;
SQL
}

# What the clients do: a row keeps its table when its key changes.
sub script
{
	my $script = sprintf <<'SQL', ROWS;
\set op random(1, 10)
\set id random(2, %d)
\set value random(1, 1000000000)
\set other 0 - :id
\set member :id %% 4
BEGIN;
SELECT pg_advisory_xact_lock(1, :id);
SQL
	my $word = 'if';

	foreach my $change (
		[ 3, 'UPDATE %1$s SET v = md5(CAST(:value AS text)) WHERE id = :id' ],
		[ 4, 'UPDATE %1$s SET wide = wide(:value), v = NULL WHERE id = :id' ],
		[ 5, 'DELETE FROM %1$s WHERE id = :id' ],
		[ 6, 'UPDATE %1$s SET id = :other WHERE id = :id'
			  . ' AND NOT EXISTS (SELECT FROM %1$s WHERE id = :other)' ],
		[ 7, 'UPDATE %1$s SET id = :id WHERE id = :other'
			  . ' AND NOT EXISTS (SELECT FROM %1$s WHERE id = :id)' ])
	{
		$script .= "\\$word :op <= $change->[0]\n";
		$script .= sprintf "$change->[1];\n", $_ foreach qw(orders orders_oracle);
		$word = 'elif';
	}
	foreach my $n (0 .. $#members)
	{
		$script .= "\\elif :op <= 9 AND :member = $n\n";
		$script .= "INSERT INTO $_ (id, k, v) VALUES (:id, :value, CAST(:value AS text))"
		  . " ON CONFLICT (id) DO UPDATE SET k = excluded.k, v = excluded.v;\n"
		  foreach $members[$n], 'orders_oracle';
		$script .= "\\elif :member = $n\n";
		$script .= "DELETE FROM $_ WHERE id = :id;\n"
		  . "INSERT INTO $_ (id, k, wide) VALUES (:id, :value, wide(:value));\n"
		  . "SAVEPOINT s; DELETE FROM $_ WHERE id = :id; ROLLBACK TO s;\n"
		  foreach $members[$n], 'orders_oracle';
	}
	return "$script\\endif\nCOMMIT;\n";
}

# Clients begin to write.
sub write_on
{
	$writer = start_writer($node, 'postgres', 'orders', ROWS, script => script());
}

# Stops the server as a power cut would and starts it again.
sub crash
{
	my ($session) = @_;

	$node->stop('immediate');
	stop_writer($writer, crashed => 1);
	$session->{run}->kill_kill if $session;
	$node->start;
	write_on();
}

# Every table is sound and of the wanted types, its own columns are what they were,
# and nothing is left behind.
sub check_members
{
	my (@types) = @_;

	check_equal($node, 'postgres', 'orders');
	check_clean($node, 'postgres', $_) foreach @members, 'orders_rest';
	is($node->safe_psql('postgres', <<'SQL'), join(' ', @types), "id and v are @types everywhere");
SELECT DISTINCT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attname)
FROM pg_attribute WHERE attname IN ('id', 'v') AND attrelid::regclass::text ~ '^orders(_a|_b|_ab|_rest)?$'
GROUP BY attrelid
SQL
	is($node->safe_psql('postgres', <<'SQL'), 't', 'columns of their own are what they were');
SELECT (SELECT bool_and(own_a = 'a') FROM orders_a) AND (SELECT bool_and(own_b = 7) FROM orders_b)
SQL
}

# A migration meets a change of the tree and fails, naming it.
sub meet
{
	my ($what, $sql, $expected, %params) = @_;
	my $id = submit($node, 'postgres', 'orders',
		actions => 'ALTER COLUMN v TYPE varchar(200)',
		arguments => "cutover => 'manual'",
		throttle => $params{throttle} // 0,
		chunk_time => '10ms');

	if ($params{throttle}) { wait_copying($node, 'postgres', $id) }
	else { wait_state($node, 'postgres', $id, 'ready') }
	$node->safe_psql('postgres', $sql);
	$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
	check_failed($id, $what, $expected);
	return $id;
}

# A migration has failed because the tree was changed, and nothing is left of it.
sub check_failed
{
	my ($id, $what, $expected) = @_;

	wait_for($node, 'postgres', "$what is noticed",
		"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
	like($node->safe_psql('postgres',
			"SELECT error_code || ': ' || error_message || ', ' || error_hint"
			  . " FROM refit.migration WHERE id = $id"),
		qr/^55000: the children of public\.orders were changed .*: table $expected, .*refit\.retry\($id\)/,
		"$what is named");
	is($node->safe_psql('postgres', <<'SQL'), '0', 'nothing is left behind');
SELECT (SELECT count(*) FROM pg_trigger WHERE tgname ~ 'refit')
	+ (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^refit_[0-9]')
	+ (SELECT count(*) FROM refit.rewrite)
SQL
}

$node->start;
make_children();
make_describe($node, 'postgres');
my %before = map { $_ => describe($node, 'postgres', $_) } @members, 'orders_rest';
write_on();
close_gate($node, 'postgres', 'orders', COPY_GATE);
close_gate($node, 'postgres', 'orders', INDEX_GATE);

# Capture: some tables have it, one cannot be locked.
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN; UPDATE orders_rest SET k = k; LOCK orders_ab IN ROW EXCLUSIVE MODE");
my $id = submit($node, 'postgres', 'orders', actions => ACTIONS, workers => 3);
wait_for($node, 'postgres', 'some tables are captured',
	"SELECT count(*) BETWEEN 2 AND 8 FROM pg_trigger WHERE tgname ~ 'refit'");
crash($session);

# The copy, an index build, the catch-up; the worker dies, and the server.
wait_gate($node, 'postgres', $id, 'copy');
wait_for($node, 'postgres', 'others have copied the children meanwhile',
	"SELECT count(*) = 3 FROM refit.rewrite WHERE id = $id AND number > 1 AND copied_blocks > 0");
crash();
wait_gate($node, 'postgres', $id, 'copy');
open_gate($node, COPY_GATE);
wait_gate($node, 'postgres', $id, 'index');
close_gate($node, 'postgres', 'orders', CATCHUP_GATE);
kill 'KILL', worker_pid($node, 'postgres');
stop_writer($writer, crashed => 1);
poll($node, 'postgres', 'SELECT true');
write_on();
wait_gate($node, 'postgres', $id, 'index');
open_gate($node, INDEX_GATE);
wait_gate($node, 'postgres', $id, 'catchup');
crash();
wait_gate($node, 'postgres', $id, 'catchup');

# The cutover, which a reader of one table holds up.
$session = $node->background_psql('postgres');
$session->query_safe('BEGIN; SELECT count(*) FROM ONLY orders_b WHERE id = 1');
open_gate($node, CATCHUP_GATE);
wait_for($node, 'postgres', 'the cutover is tried',
	"SELECT cutover_attempts > 0 FROM refit.migrations WHERE id = $id");
crash($session);
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_members('bigint', 'character varying(100)');

# And back: the catalogs are what they were.
write_on();
$id = submit($node, 'postgres', 'orders',
	actions => 'ALTER COLUMN v TYPE text, ALTER COLUMN id TYPE int');
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_members('integer', 'text');
check_described($node, 'postgres', $_, $before{$_}) foreach sort keys %before;

# There once more, and back by the revert: the server stops in the window, and on
# the way back.
write_on();
$id = submit($node, 'postgres', 'orders',
	actions => 'ALTER COLUMN v TYPE varchar(100), ALTER COLUMN id TYPE bigint',
	arguments => "revertible => '1 day'");
wait_state($node, 'postgres', $id, 'revertible');
crash();
wait_for($node, 'postgres', 'the window goes on',
	"SELECT message ~ 'kept in step' FROM refit.progress WHERE id = $id");
$node->safe_psql('postgres', "SELECT refit.revert($id)");
wait_for($node, 'postgres', 'the way back is begun',
	"SELECT phase <> 'window' FROM refit.migration WHERE id = $id");
crash();
wait_state($node, 'postgres', $id, 'reverted');
stop_writer($writer);
check_members('integer', 'text');
check_described($node, 'postgres', $_, $before{$_}) foreach sort keys %before;

# Tables come and go, in the copy and before the cutover.
write_on();
meet('a new child', 'CREATE TABLE orders_new (PRIMARY KEY (id)) INHERITS (orders_a)',
	'(public\.)?orders_new has come');
meet('a child that inherits no more', 'ALTER TABLE orders_new NO INHERIT orders_a',
	'public\.orders_new has gone', throttle => 0.99);
meet('a table that inherits', 'ALTER TABLE orders_new INHERIT orders_a',
	'(public\.)?orders_new has come', throttle => 0.99);
meet('a dropped child', 'DROP TABLE orders_rest', 'public\.orders_rest has gone');

# One comes in a transaction that the cutover has to wait for.
$id = submit($node, 'postgres', 'orders',
	actions => 'ALTER COLUMN v TYPE varchar(200)',
	arguments => "cutover => 'manual'");
wait_state($node, 'postgres', $id, 'ready');
$session = $node->background_psql('postgres');
$session->query_safe('BEGIN; CREATE TABLE orders_late (PRIMARY KEY (id)) INHERITS (orders_b);'
	  . ' INSERT INTO orders_late (id, k) VALUES (2000000000, 1);'
	  . ' INSERT INTO orders_oracle (id, k) VALUES (2000000000, 1)');
$node->safe_psql('postgres', "SELECT refit.cutover($id)");
wait_for($node, 'postgres', 'the cutover is tried',
	"SELECT cutover_attempts > 0 FROM refit.migrations WHERE id = $id");
$session->query_safe('COMMIT');
check_failed($id, 'a child of a transaction', '(public\.)?orders_late has come');
$node->safe_psql('postgres', "SELECT refit.retry($id)");
wait_for($node, 'postgres', 'it is ready again or done',
	"SELECT state IN ('ready', 'completed') FROM refit.migration WHERE id = $id");
$node->safe_psql('postgres', "SELECT refit.cutover($id) FROM refit.migration WHERE id = $id AND state = 'ready'");
wait_state($node, 'postgres', $id, 'completed');

# What needs no rewrite takes such a one in.
$session->query_safe('BEGIN; CREATE TABLE orders_later (PRIMARY KEY (id)) INHERITS (orders_b)');
$id = submit($node, 'postgres', 'orders', actions => 'ADD COLUMN more int DEFAULT 5');
wait_for($node, 'postgres', 'the lock is tried',
	"SELECT count(*) > 1 FROM refit.lock_attempts WHERE migration_id = $id");
$session->query_safe('COMMIT');
$session->quit;
wait_state($node, 'postgres', $id, 'completed');
is($node->safe_psql('postgres',
		"SELECT count(*) FROM pg_attribute WHERE attname = 'more' AND attinhcount + attislocal::int > 0"),
	'7', 'all tables have the new column');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');

# The children leave and the table at the top is dropped: they are let go, too.
$id = submit($node, 'postgres', 'orders',
	actions => 'ALTER COLUMN v TYPE text',
	arguments => "cutover => 'manual'");
wait_state($node, 'postgres', $id, 'ready');
$node->safe_psql('postgres', <<'SQL');
BEGIN;
DROP VIEW orders_view;
ALTER TABLE orders_a NO INHERIT orders;
ALTER TABLE orders_b NO INHERIT orders;
DROP TABLE orders;
COMMIT;
SQL
wait_for($node, 'postgres', 'it has failed',
	"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
check_clean($node, 'postgres', $_) foreach qw(orders_a orders_b orders_ab);

$node->stop;
done_testing();
