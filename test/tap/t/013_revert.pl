# The revert window under load, through crashes, and what bars the way back.
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

my $node = new_node('revert', allows_streaming => 'logical',
	conf => 'max_worker_processes = 40');
my $subscriber = new_node('subscriber', preload => 0);
my ($id, $writer, $before);

# One value, as the superuser.
sub value
{
	return $node->safe_psql('postgres', $_[0]);
}

# Starts a migration with a window and waits until it is open.
sub open_window
{
	my ($table, $actions, $more) = @_;
	my $arguments = "revertible => '1 day'" . ($more // '');

	$id = submit($node, 'postgres', $table,
		actions => $actions,
		arguments => $arguments);
	wait_state($node, 'postgres', $id, 'revertible');
	return $id;
}

# Puts the old definition back.
sub revert
{
	value("SELECT refit.revert($id)");
	wait_state($node, 'postgres', $id, 'reverted');
	return;
}

# Stops the server at once and starts it.
sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

# The row, or whatever it is, that bars the way back is named by refit.revert().
sub check_barred
{
	my ($like, $what) = @_;
	my ($code, $out, $err);

	wait_for($node, 'postgres', 'the way back is barred',
		"SELECT message LIKE 'cannot be reverted now%' FROM refit.progress"
		  . " WHERE id = $id");
	($code, $out, $err) =
	  $node->psql('postgres', "SELECT refit.revert($id)", on_error_stop => 0);
	like($err, qr/migration $id cannot be reverted now.*$like/s, $what);
	is(value("SELECT state FROM refit.migrations WHERE id = $id"),
		'revertible', 'the window stays open');
	return;
}

# Like wait_state, with whatever error there was before.
sub wait_for_state
{
	my ($state) = @_;

	wait_for($node, 'postgres', "it is $state",
		"SELECT state = '$state' FROM refit.migration WHERE id = $id");
	return;
}

# What barred the way back is gone.
sub wait_unbarred
{
	wait_for($node, 'postgres', 'the way back is free',
		"SELECT message LIKE 'the old rows are kept%' FROM refit.progress"
		  . " WHERE id = $id");
	return;
}

$node->start;
$subscriber->start;
make_table($node, 'postgres', 'orders', ROWS);
make_describe($node, 'postgres');
value(<<'SQL');
CREATE ROLE reader;
CREATE TABLE items (id int PRIMARY KEY,
	order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE);
INSERT INTO items SELECT g, g FROM generate_series(0, 1) g;
CREATE VIEW order_ids AS SELECT id, v FROM orders;
GRANT SELECT (id) ON orders TO reader;
COMMENT ON COLUMN orders.id IS 'the key';
CREATE PUBLICATION p FOR TABLE orders;
SQL
$subscriber->safe_psql('postgres', <<"SQL");
CREATE TABLE orders (id bigint PRIMARY KEY, k int, v text, wide text);
CREATE SUBSCRIPTION s CONNECTION '${\$node->connstr} dbname=postgres' PUBLICATION p;
SQL
$subscriber->wait_for_subscription_sync($node, 's');

#
# Under load, through crashes in each phase
#

# The row of COPY_GATE is one that the writer leaves alone.
value("UPDATE $_ SET k = 1 WHERE k = -2; INSERT INTO $_ (id, k) VALUES (900000, -2)")
  foreach ('orders', 'orders_oracle');
$before = describe($node, 'postgres', 'orders');
$writer = start_writer($node, 'postgres', 'orders', ROWS);
open_window('orders', gated_actions());
check_type($node, 'postgres', 'orders', 'bigint');
like(value("SELECT revertible_until - now() FROM refit.migrations WHERE id = $id"),
	qr/^23:59/, 'it says until when');

# The writer keeps to smaller keys.
my $wrote = 0;
foreach my $sql (
	"INSERT INTO %s (id, k, v, wide) SELECT 1000000 + g, g, md5(g::text),"
	  . ' CASE WHEN g % 500 = 0 THEN wide(g) END FROM generate_series(1, 30000) g',
	"UPDATE %s SET v = 'second' || id WHERE id > 1000000",
	'UPDATE %s SET k = k + 1, wide = NULL WHERE id > 1000000',
	'UPDATE %s SET id = id + 1000000 WHERE id % 6 = 0 AND id > 1000000',
	'DELETE FROM %s WHERE id % 6 = 1 AND id > 1000000')
{
	my $count = "WITH w AS ($sql RETURNING 1) SELECT count(*) FROM w";

	$wrote += (split /\n/,
		value('BEGIN; ' . join('; ', map { $count =~ s/%s/$_/gr } 'orders', 'orders_oracle')
			  . '; COMMIT'))[0];
}
cmp_ok($wrote, '>=', 100_000, "$wrote rows are written in the window");

# In the window.
stop_writer($writer);
close_gate($node, 'postgres', 'orders', CATCHUP_GATE);
wait_gate($node, 'postgres', $id, 'window');
kill_worker($node, 'postgres');
wait_gate($node, 'postgres', $id, 'window');
crash();
wait_gate($node, 'postgres', $id, 'window');
close_gate($node, 'postgres', 'orders', COPY_GATE);
value("SELECT refit.revert($id)");
open_gate($node, CATCHUP_GATE);
value('BEGIN; DELETE FROM orders WHERE id = -1; DELETE FROM orders_oracle WHERE id = -1; COMMIT');

# While the tables are compared.
wait_gate($node, 'postgres', $id, 'recheck');
$writer = start_writer($node, 'postgres', 'orders', ROWS);
stop_writer($writer);
kill_worker($node, 'postgres');
wait_gate($node, 'postgres', $id, 'recheck');
crash();
wait_gate($node, 'postgres', $id, 'recheck');

# While the cutover is tried, and in the cleanup.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT v FROM orders WHERE id = 1');
open_gate($node, COPY_GATE);
wait_phase($node, 'postgres', $id, 'revert');
isnt($node->psql('postgres', "SELECT refit.cancel($id)"), 0, 'cancel is refused');
value("SELECT refit.pause($id)");
wait_state($node, 'postgres', $id, 'paused');
value("SELECT refit.resume($id)");
wait_phase($node, 'postgres', $id, 'revert');
value('SELECT pg_terminate_backend(' . worker_pid($node, 'postgres') . ', 10000)');
$writer = start_writer($node, 'postgres', 'orders', ROWS);
my $keeper = $node->background_psql('postgres');
$keeper->query_safe("BEGIN; LOCK TABLE refit_$id.\"\$suspects\" IN ACCESS SHARE MODE");
$reader->query_safe('COMMIT');
$reader->quit;
wait_phase($node, 'postgres', $id, 'cleanup');
check_type($node, 'postgres', 'orders', 'integer');
value('SELECT pg_terminate_backend(' . worker_pid($node, 'postgres') . ', 10000)');
$keeper->query_safe('COMMIT');
$keeper->quit;
wait_state($node, 'postgres', $id, 'reverted');
stop_writer($writer);
my $lock_ms = value("SELECT cutover_lock_ms FROM refit.migrations WHERE id = $id");
note("the revert held its locks for $lock_ms ms");
cmp_ok($lock_ms, '<', 500, 'the locks of the revert are short');
check_described($node, 'postgres', 'orders', $before);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
$node->wait_for_catchup('s');
is( $subscriber->safe_psql('postgres',
		"SELECT count(*), sum(hashtext(o::text)::numeric) FROM orders o"),
	value('SELECT count(*), sum(hashtext(o::text)::numeric) FROM orders o'),
	'the subscriber has the same rows');
unlike(slurp_file($subscriber->logfile),
	qr/refit_[0-9]|ERROR:  (?!(apply worker for .* )?could not (receive|connect))/,
	'and had no error but that the publisher was gone');
$subscriber->stop;

# Too many deaths on the way back lead to the window again.
value("SELECT refit.retry($id)");
wait_state($node, 'postgres', $id, 'revertible');
check_type($node, 'postgres', 'orders', 'bigint');
close_gate($node, 'postgres', 'orders', COPY_GATE);
value("SELECT refit.revert($id)");
wait_gate($node, 'postgres', $id, 'recheck');
value("UPDATE refit.migration_progress SET deaths = 4 WHERE id = $id");
kill_worker($node, 'postgres');
wait_for($node, 'postgres', 'it has gone back to the window',
	"SELECT state = 'revertible' AND error_code = '57P02'"
	  . " FROM refit.migrations WHERE id = $id");
open_gate($node, COPY_GATE);

#
# In the window: maintenance, TRUNCATE, pause, queue, cancel
#

foreach my $command ('VACUUM FULL %s', 'CLUSTER %s USING orders_v_id_idx',
	'VACUUM (FREEZE) %s', 'REINDEX TABLE %s')
{
	my $sql = $command =~ s/%s/orders/r;
	is($node->psql('postgres', "SET lock_timeout = '20s'; $sql"), 0, $sql);
}
value('BEGIN; TRUNCATE orders, items; TRUNCATE orders_oracle; COMMIT');
value("INSERT INTO $_ (id, k, v) SELECT g, g, 'new' FROM generate_series(3, 3000) g")
  foreach ('orders', 'orders_oracle');
isnt($node->psql('postgres', "SELECT refit.cancel($id)"), 0, 'cancel is refused');
value("SELECT refit.pause($id)");
wait_for_state('paused');
value("UPDATE $_ SET v = 'paused' WHERE id < 100") foreach ('orders', 'orders_oracle');
isnt($node->psql('postgres', "SELECT refit.revert($id)"), 0, 'nor a revert while paused');
value("SELECT refit.resume($id)");
wait_for_state('revertible');
my $queued = submit($node, 'postgres', 'orders', actions => 'ALTER v TYPE varchar');
is(value("SELECT state FROM refit.migrations WHERE id = $queued"),
	'queued', 'another migration has to wait');
revert();
wait_state($node, 'postgres', $queued, 'completed');
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
check_type($node, 'postgres', 'orders', 'integer');

#
# The end of the window
#

$id = submit($node, 'postgres', 'orders',
	arguments => "cutover => 'manual', revertible => '1 day'");
wait_state($node, 'postgres', $id, 'ready');
value("SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'revertible');
value("INSERT INTO orders (id, k) VALUES (25001, 1); INSERT INTO orders_oracle (id, k) VALUES (25001, 1)");
wait_for($node, 'postgres', 'it is in step',
	"SELECT EXISTS (SELECT FROM refit_$id.\"\$blank\" WHERE id = 25001)");
is( value("SELECT count(*) FROM refit.events WHERE migration_id = $id"
		  . " AND message = 'running -> revertible'"),
	1, 'a manual cutover is ordered once');
value("SELECT refit.finish($id)");
wait_state($node, 'postgres', $id, 'completed');
check_type($node, 'postgres', 'orders', 'bigint');
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
isnt($node->psql('postgres', "SELECT refit.revert($id)"), 0, 'after it, no revert');

$id = submit($node, 'postgres', 'orders', actions => 'ALTER id TYPE int',
	arguments => "revertible => '2 seconds'");
wait_state($node, 'postgres', $id, 'completed');
ok(value("SELECT finished_at >= revertible_until FROM refit.migrations WHERE id = $id") eq 't',
	'a window ends by time');
value("ALTER SYSTEM SET refit.revert_window = '1h'; SELECT pg_reload_conf()");
wait_for($node, 'postgres', 'the setting is there',
	"SELECT current_setting('refit.revert_window') = '1h'");
$id = submit($node, 'postgres', 'orders');
wait_state($node, 'postgres', $id, 'revertible');
value("SELECT refit.finish($id)");
wait_state($node, 'postgres', $id, 'completed');
$id = submit($node, 'postgres', 'orders', actions => 'ADD COLUMN quick int');
wait_state($node, 'postgres', $id, 'completed');
is(value("SELECT strategy FROM refit.migrations WHERE id = $id"),
	'instant', 'the setting makes no rewrite of what needs none');
value("ALTER SYSTEM RESET refit.revert_window; SELECT pg_reload_conf()");

# A change of the definition that waited for the cutover is there before the
# window's first step.  It bars the way back, and the window can be ended.
make_table($node, 'postgres', 'late', 2000);
value('CREATE STATISTICS late_s ON k, v FROM late');
$id = submit($node, 'postgres', 'late',
	arguments => "cutover => 'manual', revertible => '1 day'");
wait_state($node, 'postgres', $id, 'ready');
close_gate($node, 'postgres', 'late', INDEX_GATE);
value("SELECT refit.cutover($id)");
wait_gate($node, 'postgres', $id, 'settle');
my $ddl = $node->background_psql('postgres');
$ddl->query_until(qr/begins/,
	"\\echo begins\nALTER TABLE late ADD COLUMN more int;\n\\echo ended\n");
wait_for($node, 'postgres', 'it waits for the worker',
	"SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'late'::regclass)");
open_gate($node, INDEX_GATE);
$ddl->query_until(qr/ended/, '');
$ddl->quit;
check_barred(qr/definition of public\.late was changed/, 'a column more bars the way back');
value("SELECT refit.finish($id)");
wait_state($node, 'postgres', $id, 'completed');
value('ALTER TABLE late DROP COLUMN more');
check_equal($node, 'postgres', 'late');
check_clean($node, 'postgres', 'late');

#
# What bars the way back, and goes away again
#

value(<<'SQL');
CREATE TABLE parents (id int PRIMARY KEY);
INSERT INTO parents SELECT generate_series(1, 10);
CREATE TABLE model (id int PRIMARY KEY, n int, must int NOT NULL,
	u int UNIQUE, c int CHECK (c > 0), p int REFERENCES parents);
INSERT INTO model SELECT g, g, g, g, g, g FROM generate_series(1, 10) g;
SQL
my @bars = (
	[
		'narrow', 'ALTER n TYPE bigint', '(7000, 3000000000, 1, 7000, 1, 1)',
		'out of range.*\(id\)=\(7000\)'
	],
	[
		'must', 'DROP COLUMN must', '(7000, 1, 7000, 1, 1)',
		'contains null values.*\(id\)=\(7000\)'
	],
	[
		'lossy', 'ALTER n TYPE int USING n * 10',
		'(7000, 20, 1, 7000, 1, 1)', 'without loss.*\(id\)=\(7000\)'
	],
	[
		'check', 'DROP CONSTRAINT model_c_check', '(7000, 1, 1, 7000, -1, 1)',
		'check.*\(id\)=\(7000\)'
	],
	[
		'unique', 'DROP CONSTRAINT model_u_key', '(7000, 1, 1, 5, 1, 1)',
		'duplicate key.*\(u\)=\(5\)'
	],
	[
		'foreign', 'DROP CONSTRAINT model_p_fkey', '(7000, 1, 1, 7000, 1, 77)',
		'violated.*77'
	]);
foreach my $bar (@bars)
{
	my ($name, $actions) = @$bar;

	value("CREATE TABLE bar_$name (LIKE model INCLUDING ALL);"
		  . " INSERT INTO bar_$name SELECT * FROM model;"
		  . " ALTER TABLE bar_$name ADD CONSTRAINT model_p_fkey FOREIGN KEY (p)"
		  . ' REFERENCES parents');
	value("ALTER INDEX bar_${name}_u_key RENAME TO bar_${name}_u");
	$bar->[4] = describe($node, 'postgres', "bar_$name");
	$actions =~ s/model_u_key/bar_${name}_u/;
	$bar->[5] = submit($node, 'postgres', "bar_$name",
		actions => $actions,
		arguments => "revertible => '1 day'");
}
foreach my $bar (@bars)
{
	my ($name, $actions, $row, $like) = @$bar;

	$id = $bar->[5];
	wait_state($node, 'postgres', $id, 'revertible');
	value("INSERT INTO bar_$name VALUES $row");
	if ($name eq 'foreign')
	{
		# found on the way back only
		value("SELECT refit.revert($id)");
		wait_for($node, 'postgres', 'the way back is barred',
			"SELECT state = 'revertible' AND error_message IS NOT NULL"
			  . " FROM refit.migrations WHERE id = $id");
		like(value("SELECT error_message, error_detail FROM refit.migrations"
				  . " WHERE id = $id"),
			qr/$like/, "$name: the row is named");
	}
	else
	{
		check_barred($like, "$name: the row is named");
	}
	value("DELETE FROM bar_$name WHERE id = 7000");
	wait_unbarred();
	revert();
	check_described($node, 'postgres', "bar_$name", $bar->[4]);
	is( value("SELECT count(*) FROM (SELECT * FROM bar_$name EXCEPT ALL SELECT * FROM model) x"),
		0, "$name: so are the rows");
}
check_clean($node, 'postgres', "bar_$_->[0]") foreach @bars;

# DDL of others in the window bars it for good; the new definition can be kept.
foreach my $ddl ('ALTER TABLE %s ADD COLUMN other int', 'CREATE INDEX ON %s (n)')
{
	value('CREATE TABLE meddled (LIKE model INCLUDING ALL); INSERT INTO meddled SELECT * FROM model');
	open_window('meddled', 'ALTER n TYPE bigint');
	value($ddl =~ s/%s/meddled/r);
	check_barred('definition', $ddl);
	value("UPDATE meddled SET n = n + 1; SELECT refit.finish($id)");
	wait_state($node, 'postgres', $id, 'completed');
	check_clean($node, 'postgres', 'meddled');
	value('DROP TABLE meddled');
}

# So it does when it comes together with the order, which does not outlast it.
value('CREATE TABLE meddled (LIKE model INCLUDING ALL); INSERT INTO meddled SELECT * FROM model');
open_window('meddled', 'ALTER n TYPE bigint');
value("BEGIN; ALTER TABLE meddled ADD COLUMN other int; SELECT refit.revert($id); COMMIT");
wait_for($node, 'postgres', 'the order is given up',
	"SELECT state = 'revertible' AND request IS NULL AND message LIKE 'cannot be reverted now%'"
	  . ' FROM refit.migration JOIN refit.migration_progress USING (id)'
	  . " WHERE id = $id");
check_barred('definition', 'DDL together with the order');
value("SELECT refit.finish($id)");
wait_state($node, 'postgres', $id, 'completed');
check_clean($node, 'postgres', 'meddled');
value('DROP TABLE meddled');

# A view of a column that would go.
value('CREATE TABLE viewed (LIKE model INCLUDING ALL); INSERT INTO viewed SELECT * FROM model');
open_window('viewed', 'ADD COLUMN fresh int DEFAULT 5');
value('CREATE VIEW of_fresh AS SELECT fresh FROM viewed; ');
value("SELECT refit.revert($id)");
wait_for($node, 'postgres', 'it was tried',
	"SELECT error_message IS NOT NULL AND state = 'revertible' FROM refit.migrations WHERE id = $id");
like(value("SELECT error_message, error_detail FROM refit.migrations WHERE id = $id"),
	qr/of_fresh|depend/, 'a view is in the way');
value('DROP VIEW of_fresh');
wait_unbarred();
revert();
check_clean($node, 'postgres', 'viewed');

# More rows are changed than a batch has time for; each keeps what only its old
# row has.
value('CREATE TABLE broad (id int PRIMARY KEY, n int, kept text);'
	  . ' INSERT INTO broad SELECT g, g, md5(g::text) FROM generate_series(1, 20000) g');
$id = submit($node, 'postgres', 'broad',
	actions => 'DROP COLUMN kept',
	arguments => "revertible => '1 day'",
	chunk_time => '1ms');
wait_state($node, 'postgres', $id, 'revertible');
value('UPDATE broad SET n = n + 1');
revert();
is(value('SELECT count(*), count(*) FILTER (WHERE n = id + 1 AND kept = md5(id::text)) FROM broad'),
	'20000|20000', 'no batch loses the values of a dropped column');
check_clean($node, 'postgres', 'broad');

# The table is dropped in the window.
value('CREATE TABLE doomed (LIKE model INCLUDING ALL)');
open_window('doomed', 'ALTER n TYPE bigint');
value('DROP TABLE doomed');
wait_for($node, 'postgres', 'it is over',
	"SELECT state = 'failed' FROM refit.migrations WHERE id = $id");
check_clean($node, 'postgres', 'orders');

$node->stop;
done_testing();
