# The verifier is shown what it must find: rows of the twin that were changed
# behind its back, functions that are not what they claim, walks that compare
# nothing.  And under load it finds nothing where there is nothing.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 20_000;

my $node = new_node('verify', conf => 'autovacuum = off');
my %manual = (
	actions => gated_actions(),
	arguments => "cutover => 'manual'",
	chunk_time => '10ms');

# One value, as the superuser.
sub value
{
	return $node->safe_psql('postgres', $_[0]);
}

# Starts a migration and holds it in the middle of its verification, between two
# chunks.
sub hold_verifying
{
	my (%params) = @_;
	my $table = $params{table} // 'orders';
	my $id;

	close_gate($node, 'postgres', $table, INDEX_GATE);
	$id = submit($node, 'postgres', $table, %manual, %params);
	wait_gate($node, 'postgres', $id, 'index');
	close_gate($node, 'postgres', $table, COPY_GATE);
	open_gate($node, INDEX_GATE);
	wait_gate($node, 'postgres', $id, 'verify');
	value("SELECT refit.throttle(1, id => $id)");
	open_gate($node, COPY_GATE);
	wait_for($node, 'postgres', 'verification stands still',
		"SELECT throttled_by IS NOT NULL AND phase = 'verify' AND rows_done > 0"
		  . " FROM refit.progress WHERE id = $id");
	return $id;
}

# Lets it go on.
sub let_go
{
	value("SELECT refit.throttle(0, id => $_[0])");
	return;
}

# The findings about a migration, a line each.
sub findings
{
	my ($id) = @_;

	return value("SELECT concat_ws(' ', detail->>'finding', detail->>'key',"
		  . " detail->>'column', detail->>'second') FROM refit.events"
		  . " WHERE migration_id = $id AND kind = 'discrepancy' ORDER BY at");
}

# What refit.migrations counts.
sub discrepancies
{
	return value("SELECT discrepancies FROM refit.migrations WHERE id = $_[0]");
}

# Ends a migration well.
sub cut_over
{
	my ($id) = @_;

	value("SELECT refit.cutover($id)");
	wait_state($node, 'postgres', $id, 'completed');
	check_equal($node, 'postgres', 'orders');
	return;
}

# Makes the table one of int again.
sub back_to_int
{
	value('ALTER TABLE orders ALTER id TYPE int');
	return;
}

# Changes the twin of a migration behind its back.
sub mutate
{
	my ($id, $sql) = @_;

	value($sql =~ s/%s/refit_$id.orders/gr);
	return;
}

# A migration that has failed its verification, whatever is done to it, leaves
# the table as it is.
sub check_never_cut_over
{
	my ($id, $type) = @_;

	wait_for($node, 'postgres', 'it has failed',
		"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
	is(value("SELECT error_code FROM refit.migrations WHERE id = $id"),
		'XX001', 'it has failed its verification');
	isnt($node->psql('postgres', "SELECT refit.$_($id)"), 0, "$_ is refused")
	  foreach ('cutover', 'resume', 'revert');
	$node->stop('immediate');
	$node->start;
	value('SELECT 1');
	is(value("SELECT state FROM refit.migrations WHERE id = $id"),
		'failed', 'and after a restart it still has');
	check_type($node, 'postgres', 'orders', $type);
	check_equal($node, 'postgres', 'orders');
	return;
}

$node->start;
make_table($node, 'postgres', 'orders', ROWS);
my $id;
my $late = ROWS - 100;

# Nothing is wrong: every row is compared.
$id = submit($node, 'postgres', 'orders');
wait_state($node, 'postgres', $id, 'completed');
is(value("SELECT verified_rows, discrepancies FROM refit.migrations WHERE id = $id"),
	ROWS . '|0', 'every row is verified');

# Each of these is found, named, mended and compared again.
my @mutations = (
	[
		"UPDATE %s SET v = 'flipped' WHERE id = $late",
		"differs (id)=($late) v false"
	],
	[
		"UPDATE %s SET wide = wide || 'x' WHERE id = 19000",
		'differs (id)=(19000) wide false'
	],
	[
		'UPDATE %s SET wide = NULL WHERE id = 19500',
		'differs (id)=(19500) wide false'
	],
	[ 'DELETE FROM %s WHERE id = 19100', 'missing (id)=(19100) false' ],
	[
		'INSERT INTO %s (id, k) VALUES (5000000, 1)',
		'extra (id)=(5000000) false'
	],
	[
		'INSERT INTO %s (id, k) VALUES (5000000000, 1)',
		'extra (id)=(5000000000) false'
	],
	[
		'UPDATE %s SET id = 5000001 WHERE id = 19200',
		"missing (id)=(19200) false\nextra (id)=(5000001) false"
	]);
$id = hold_verifying();
mutate($id, $_->[0]) foreach @mutations;
let_go($id);
wait_state($node, 'postgres', $id, 'ready');
my $found = findings($id) . "\n";
like($found, qr/^\Q$_\E$/m, $_) foreach map { split /\n/, $_->[1] } @mutations;
is($found =~ tr/\n//, 8, 'and nothing else is');
is(discrepancies($id), 8, 'all are counted');
cut_over($id);
check_clean($node, 'postgres', 'orders');
back_to_int();

# A row that is not where its partner stands is met twice in a chunk, by its key
# and where it stands, and told of once.
value('CREATE TABLE few AS SELECT * FROM orders WHERE id BETWEEN 1 AND 100;'
	  . ' ALTER TABLE few ADD PRIMARY KEY (id)');
$id = submit($node, 'postgres', 'few', arguments => "cutover => 'manual'");
wait_state($node, 'postgres', $id, 'ready');
value("UPDATE refit_$id.few SET v = 'flipped' WHERE id IN (7, 9)");
wait_for($node, 'postgres', 'both are found and mended',
	"SELECT count(*) > 1 AND NOT EXISTS (SELECT FROM refit_$id.few WHERE v = 'flipped')"
	  . " FROM refit.events WHERE migration_id = $id AND kind = 'discrepancy'");
is( join("\n", sort split /\n/, findings($id)),
	"differs (id)=(7) v false\ndiffers (id)=(9) v false",
	'each row is told of once');
is(discrepancies($id), 2, 'and counted once');
value("SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');

# While a manual cutover waits, the walk goes round.
$id = submit($node, 'postgres', 'orders', %manual);
wait_state($node, 'postgres', $id, 'ready');
value("UPDATE refit_$id.orders SET v = 'flipped' WHERE id = 77");
wait_for($node, 'postgres', 'it is found',
	"SELECT EXISTS (SELECT FROM refit.events WHERE migration_id = $id"
	  . " AND kind = 'discrepancy')");
is(findings($id), 'differs (id)=(77) v false', 'found while ready');
cut_over($id);
back_to_int();

# A row of the twin only, whose key must be cast back to be looked for: to one
# that the table does not have, and to none.
$id = submit($node, 'postgres', 'orders', %manual, actions => 'ALTER id TYPE text');
wait_state($node, 'postgres', $id, 'ready');
value("INSERT INTO refit_$id.orders (id, k) VALUES ('5000000', 1), ('none', 2)");
wait_for($node, 'postgres', 'both are found',
	"SELECT count(*) > 1 FROM refit.events WHERE migration_id = $id"
	  . " AND kind = 'discrepancy'");
is( join("\n", sort split /\n/, findings($id)),
	"extra (id)=(5000000) false\nextra (id)=(none) false",
	'rows that are extra under a key of another type');
value("SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
value('ALTER TABLE orders ALTER id TYPE int USING id::int');
check_equal($node, 'postgres', 'orders');

# Two rows of one key: the index of the key does not know of the second one.
$id = hold_verifying();
my $index = "refit_$id.orders_pkey";
value("UPDATE pg_index SET indisready = false WHERE indexrelid = '$index'::regclass");
value("INSERT INTO refit_$id.orders SELECT * FROM refit_$id.orders WHERE id = $late");
value("UPDATE pg_index SET indisready = true WHERE indexrelid = '$index'::regclass");
let_go($id);
wait_for($node, 'postgres', 'it has failed',
	"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
like(findings($id), qr/^two versions \(id\)=\($late\)/, 'a row that is there twice');
is(discrepancies($id), 1, 'and counted');
check_never_cut_over($id, 'integer');

# Too many rows.
$id = hold_verifying();
mutate($id, "UPDATE %s SET v = 'flipped' WHERE id > $late - 400");
let_go($id);
wait_for($node, 'postgres', 'it has failed',
	"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
like(value("SELECT error_detail FROM refit.migrations WHERE id = $id"),
	qr/^More than 100 rows differ; the last one: The row with key/,
	'the error says how many');
is(discrepancies($id), 101, 'and they are counted');
check_never_cut_over($id, 'integer');

# A function that lies about being IMMUTABLE.
value('CREATE FUNCTION liar(v text) RETURNS text IMMUTABLE LANGUAGE sql'
	  . " AS 'SELECT \$1 || random()'");
$id = submit($node, 'postgres', 'orders',
	actions => 'ALTER v TYPE varchar(200) USING liar(v)');
check_never_cut_over($id, 'integer');
like(value("SELECT error_detail FROM refit.migrations WHERE id = $id"),
	qr/differs in column "v"/, 'the column is named');
like(value("SELECT error_hint FROM refit.migrations WHERE id = $id"),
	qr/IMMUTABLE/, 'the hint says what to look for');

# The same in the sample, and not at all with 'off'.
$id = submit($node, 'postgres', 'orders',
	actions => 'ALTER v TYPE varchar(200) USING liar(v)',
	arguments => "verify => 'sample'");
check_never_cut_over($id, 'integer');
value('CREATE TABLE copied AS SELECT id, v FROM orders; ALTER TABLE copied ADD PRIMARY KEY (id)');
$id = submit($node, 'postgres', 'copied',
	actions => 'ALTER v TYPE varchar(200) USING liar(v)',
	arguments => "verify => 'off'");
wait_state($node, 'postgres', $id, 'completed');
is(value("SELECT verified_rows IS NULL OR verified_rows = 0 FROM refit.migrations WHERE id = $id"),
	't', 'nothing is verified with off');
$id = submit($node, 'postgres', 'copied', arguments => "verify => 'sample'");
wait_state($node, 'postgres', $id, 'completed');
is( value("SELECT verified_rows BETWEEN 1 AND " . ROWS
		  . " / 4 FROM refit.migrations WHERE id = $id"),
	't', 'a sample is a part');

# Failed, but the cleanup not done yet: killed and restarted there.
$id = hold_verifying();
value("UPDATE refit.rewrite SET verify = 'failed', finding = 'as found' WHERE id = $id");
value("SELECT refit.cutover($id)");
$node->stop('immediate');
$node->start;
kill 'TERM', worker_pid($node, 'postgres');
let_go($id);
check_never_cut_over($id, 'integer');
value("SELECT refit.retry($id)");
wait_state($node, 'postgres', $id, 'ready');
is(value("SELECT verified_rows FROM refit.migrations WHERE id = $id") > 0,
	1, 'retried, it verifies anew');
cut_over($id);
back_to_int();

# A walk that compares nothing.
$id = hold_verifying();
value("UPDATE refit.rewrite SET verify_source = 1000000, verify_twin = 1000000,"
	  . " verify_rows = 0, verify_skipped = 0, verify_filenode ="
	  . " (SELECT relfilenode FROM pg_class WHERE oid = 'orders'::regclass)"
	  . " WHERE id = $id");
let_go($id);
wait_for($node, 'postgres', 'it has failed',
	"SELECT state = 'failed' FROM refit.migration WHERE id = $id");
is( value("SELECT error_detail FROM refit.migrations WHERE id = $id"),
	'The table has rows, but none of them was compared.',
	'an empty walk proves nothing');
check_never_cut_over($id, 'integer');
value('CREATE TABLE empty (id int PRIMARY KEY, k int)');
$id = submit($node, 'postgres', 'empty');
wait_state($node, 'postgres', $id, 'completed');

# Stopped in the middle, it goes on from the block that it has reached.
$id = hold_verifying();
my $before = value("SELECT verify_source, verify_rows FROM refit.rewrite WHERE id = $id");
like($before, qr/^[1-9]\d*\|[1-9]/, 'some blocks are compared');
$node->stop('immediate');
$node->start;
is(value("SELECT verify_source, verify_rows FROM refit.rewrite WHERE id = $id"),
	$before, 'what was compared is remembered');
let_go($id);
wait_state($node, 'postgres', $id, 'ready');
is(value("SELECT verified_rows, discrepancies FROM refit.migrations WHERE id = $id"),
	ROWS . '|0', 'every row is verified once');
cut_over($id);
back_to_int();

# Where the table's rows have moved it begins anew.
foreach my $command ('VACUUM FULL %s', 'CLUSTER %s USING orders_v_id_idx',
	'TRUNCATE %s')
{
	$id = hold_verifying();
	my $sql = $command =~ s/%s/orders/gr;
	is($node->psql('postgres', "SET lock_timeout = '20s'; $sql"), 0, $sql);
	if ($sql =~ /TRUNCATE/)
	{
		value('TRUNCATE orders_oracle');
		value("INSERT INTO $_ (id, k, v) SELECT g, g, 'new' FROM generate_series(3, 3000) g")
		  foreach ('orders', 'orders_oracle');
	}
	let_go($id);
	wait_state($node, 'postgres', $id, 'ready');
	is(value("SELECT verified_rows = (SELECT count(*) FROM orders), discrepancies"
			  . " FROM refit.migrations WHERE id = $id"),
		't|0', 'every row is verified');
	cut_over($id);
	back_to_int();
}

# Tables of every sort, under a load of their own, in tiny chunks.
value('DROP TABLE orders, orders_oracle');
make_table($node, 'postgres', 'orders', ROWS);
my $writer = start_writer($node, 'postgres', 'orders', ROWS);
foreach my $arguments ('', "cutover => 'manual'")
{
	foreach my $type ('bigint', 'int')
	{
		$id = submit($node, 'postgres', 'orders',
			actions => "ALTER id TYPE $type, ADD COLUMN r float8 DEFAULT random(),"
			  . ' ADD COLUMN i bigint GENERATED ALWAYS AS IDENTITY',
			arguments => $arguments,
			chunk_time => '2ms');
		wait_state($node, 'postgres', $id, $arguments ? 'ready' : 'completed');
		if ($arguments)
		{
			wait_for($node, 'postgres', 'it goes round', <<"SQL");
SELECT verify_source > 0 AND verify = 'passed' FROM refit.rewrite WHERE id = $id
SQL
			value("SELECT refit.cutover($id)");
			wait_state($node, 'postgres', $id, 'completed');
		}
		is(discrepancies($id), 0, 'no false alarm under load');
		cmp_ok(value("SELECT verified_rows FROM refit.migrations WHERE id = $id"),
			'>', ROWS / 2, 'most rows are verified');
		value("ALTER TABLE orders DROP r, DROP i");
	}
}
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');

value(<<'SQL');
CREATE TABLE texts (id text COLLATE "C" PRIMARY KEY, gone int, n int,
	g int GENERATED ALWAYS AS (n * 2) STORED, p text COMPRESSION pglz, w text);
ALTER TABLE texts ALTER w SET STORAGE EXTERNAL;
INSERT INTO texts (id, n, p, w)
	SELECT md5(g::text)::uuid::text, g, repeat('packed ', 2000), wide(g)
	FROM generate_series(1, 2000) g;
ALTER TABLE texts DROP gone;
SQL
foreach my $actions (
	'ALTER id TYPE uuid USING id::uuid',
	'ALTER id TYPE text USING id::text, ADD h int GENERATED ALWAYS AS (n + 1) STORED')
{
	$id = submit($node, 'postgres', 'texts', actions => $actions,
		arguments => "cutover => 'manual'", chunk_time => '2ms');
	wait_state($node, 'postgres', $id, 'ready');
	value("UPDATE texts SET w = 'short' WHERE n % 100 = $_;"
		  . "DELETE FROM texts WHERE n % 100 = 50 + $_") foreach (1 .. 5);
	value("SELECT refit.cutover($id)");
	wait_state($node, 'postgres', $id, 'completed');
	is(discrepancies($id), 0, "no false alarm: $actions");
	cmp_ok(value("SELECT verified_rows FROM refit.migrations WHERE id = $id"),
		'>', 1500, 'rows are verified');
}
$id = value(q(SELECT refit.repack('texts', order_by => 'n DESC')));
wait_state($node, 'postgres', $id, 'completed');
is(value("SELECT verified_rows = (SELECT count(*) FROM texts), discrepancies"
		  . " FROM refit.migrations WHERE id = $id"),
	't|0', 'a repack in an order is verified');
check_clean($node, 'postgres', 'texts');

$node->stop;
done_testing();
