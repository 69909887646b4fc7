# A subscriber of all tables sees nothing of a migration, and stays in step.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 150_000;

my $publisher = new_node('publisher', allows_streaming => 'logical');
my $subscriber = new_node('subscriber', preload => 0,
	allows_streaming => 'logical');

$publisher->start;
$subscriber->start;
make_table($publisher, 'postgres', 'orders', ROWS);

# The subscriber's key is wide enough beforehand.
$subscriber->safe_psql('postgres', <<'SQL');
CREATE EXTENSION amcheck;
CREATE TABLE orders (id bigint PRIMARY KEY, k int, v text, wide text);
CREATE TABLE orders_oracle (id int PRIMARY KEY, k int, v text, wide text);
SQL
$publisher->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');

# PostgreSQL lists an extension's tables in such a publication, so they must be
# there; what is written to them is never sent.
$subscriber->safe_psql('postgres', 'CREATE EXTENSION pg_refit');
my $connstr = $publisher->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION s CONNECTION '$connstr' PUBLICATION everything");
$subscriber->wait_for_subscription_sync($publisher, 's');

my $writer = start_writer($publisher, 'postgres', 'orders', ROWS);
close_gate($publisher, 'postgres', 'orders', CATCHUP_GATE);
my $id = submit($publisher, 'postgres', 'orders',
	throttle => 0.99,
	chunk_time => '10ms');
wait_copying($publisher, 'postgres', $id);
$publisher->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
open_gate($publisher, CATCHUP_GATE);
wait_state($publisher, 'postgres', $id, 'completed');

# Values out of line, written and left alone after the cutover.
$publisher->safe_psql('postgres', <<'SQL');
BEGIN;
UPDATE orders SET wide = wide(1) WHERE id = 0;
UPDATE orders_oracle SET wide = wide(1) WHERE id = 0;
UPDATE orders SET v = 'key only' WHERE id = 1;
UPDATE orders_oracle SET v = 'key only' WHERE id = 1;
INSERT INTO orders (id, k, wide) VALUES (2000000, 1, wide(2));
INSERT INTO orders_oracle (id, k, wide) VALUES (2000000, 1, wide(2));
COMMIT;
INSERT INTO orders (id, k, wide) VALUES (3000000000, 1, wide(3));
DELETE FROM orders WHERE id = 3000000000;
SQL
stop_writer($writer);
$publisher->wait_for_catchup('s');

check_equal($publisher, 'postgres', 'orders');
check_clean($publisher, 'postgres', 'orders');
check_equal($subscriber, 'postgres', 'orders');
is( $subscriber->safe_psql('postgres',
		"SELECT length(wide), md5(wide) = md5((SELECT string_agg(md5((1 + g)::text), '')"
		  . " FROM generate_series(1, 80) g)) FROM orders WHERE id = 0"),
	'2560|t',
	'a value out of line arrives in full');
is( $publisher->safe_psql('postgres',
		"SELECT count(*) FROM (SELECT id, k, v, wide FROM orders) x"),
	$subscriber->safe_psql('postgres', 'SELECT count(*) FROM orders'),
	'publisher and subscriber have the same rows');
is($subscriber->safe_psql('postgres',
		'SELECT count(*) FROM refit.migration'),
	0, 'no bookkeeping arrives');
unlike(slurp_file($subscriber->logfile),
	qr/refit_[0-9]|ERROR/, 'the subscriber had no error');

$subscriber->stop;
$publisher->stop;
done_testing();
