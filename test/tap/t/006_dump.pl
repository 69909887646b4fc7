# Dump and restore, DROP EXTENSION and DROP DATABASE in the middle of a
# migration; the extension in two databases.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;
use Time::HiRes qw(time);

use constant ROWS => 150_000;

my $node = new_node('dump');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
my %copying = (throttle => 0.99, chunk_time => '10ms');

$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE one; CREATE DATABASE two');

# A history, and a migration under way.
make_table($node, 'one', 'parts', 100);
my $finished = submit($node, 'one', 'parts');
wait_state($node, 'one', $finished, 'completed');
make_table($node, 'one', 'orders', ROWS);
my $running = submit($node, 'one', 'orders', %copying);
hold_copying($node, 'one', $running);

$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('one') ],
	'pg_dump succeeds in the middle of a copy');
my $text = slurp_file($dump);
unlike($text, qr/refit_[0-9]/, 'work tables are not dumped');
unlike($text, qr/pg_refit_capture/, 'the capture trigger is not dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok(
	[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ],
	'the dump can be restored');
is( $node->safe_psql('restored', 'SELECT id, state FROM refit.migrations'),
	"$finished|completed",
	'history is restored, work under way is not');
is( $node->safe_psql('restored',
		'SELECT count(*) > 0 AND bool_and(migration_id = ' . $finished . ')'
		  . ' FROM refit.events'),
	't',
	'and so are its events');
check_equal($node, 'restored', 'orders');
check_type($node, 'restored', 'orders', 'integer');
check_clean($node, 'restored', 'orders');
check_type($node, 'restored', 'parts', 'bigint');

# The restored database takes new work, under new ids.
my $new = submit($node, 'restored', 'orders');
cmp_ok($new, '>', $finished, 'ids are not used again');
wait_state($node, 'restored', $new, 'completed');
check_equal($node, 'restored', 'orders');
check_clean($node, 'restored', 'orders');

# Two databases at a time.
make_table($node, 'two', 'orders', ROWS);
my $other = submit($node, 'two', 'orders', %copying);
hold_copying($node, 'two', $other);
is( $node->safe_psql('one', "SELECT state FROM refit.progress WHERE id = $running"),
	'running',
	'migrations of two databases run at the same time');

# DROP EXTENSION takes everything along.
my $start = time;
$node->safe_psql('two', 'DROP EXTENSION pg_refit');
my $seconds = time - $start;
diag(sprintf('DROP EXTENSION took %.2f s', $seconds));
cmp_ok($seconds, '<', 3, 'DROP EXTENSION is quick');
is( $node->safe_psql('two', <<'SQL'), '', 'DROP EXTENSION leaves nothing');
SELECT nspname FROM pg_namespace WHERE nspname LIKE 'refit%'
UNION ALL SELECT tgname FROM pg_trigger WHERE tgname LIKE '%refit%'
UNION ALL SELECT relname FROM pg_class WHERE relrewrite <> 0
SQL
$node->safe_psql('two', "UPDATE orders SET v = 'x' WHERE id = 1;"
	  . " UPDATE orders_oracle SET v = 'x' WHERE id = 1");
check_equal($node, 'two', 'orders');
check_type($node, 'two', 'orders', 'integer');
wait_for($node, 'postgres', 'the worker of database two ends',
	"SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'two'"
	  . " AND backend_type LIKE 'pg_refit%'");
check_no_orphans($node, 'two');

# And may come back.
$node->safe_psql('two', 'CREATE EXTENSION pg_refit');
wait_state($node, 'two', submit($node, 'two', 'orders'), 'completed');
check_clean($node, 'two', 'orders');

# DROP DATABASE while a worker is at work in it.
is( $node->safe_psql('one', "SELECT state FROM refit.progress WHERE id = $running"),
	'running',
	'the migration of the first database still runs');
$node->safe_psql('postgres', 'DROP DATABASE one WITH (FORCE)');
wait_for($node, 'postgres', 'no worker is left',
	"SELECT count(*) = 0 FROM pg_stat_activity"
	  . " WHERE backend_type IN ('pg_refit worker', 'pg_refit scan')");
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/,
	'no process died');

$node->stop;
done_testing();
