# Tables whose storage was swapped, through pg_upgrade: the horizons of their
# transaction ids are right, before and after.  A migration that was under way is
# another server's.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 20_000;

my @swapped = ('orders', 'packed', 'back');
my $old = new_node('old', conf => "autovacuum = off\n");
my $new = new_node('new', conf => "autovacuum = off\n");

# The horizons of a table and of its TOAST table.
sub horizons
{
	my ($node) = @_;

	return $node->safe_psql('postgres', <<'SQL');
SELECT c.relname, c.relfrozenxid, c.relminmxid, t.relfrozenxid, t.relminmxid
FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
WHERE c.relname IN ('orders', 'packed', 'back') ORDER BY 1
SQL
}

# What is not right in tables and indexes.
sub check_sound
{
	my ($node, $when) = @_;

	is($node->safe_psql('postgres', <<'SQL'), '', "$when: no row is older than its table says");
SELECT c.oid::regclass, v.* FROM pg_class p
	JOIN pg_class c ON c.oid IN (p.oid, p.reltoastrelid), verify_heapam(c.oid) v
	WHERE p.relname IN ('orders', 'packed', 'back')
SQL
	check_equal($node, 'postgres', $_) foreach @swapped;
}

# Row versions of many ages, and rows locked by two transactions at once.
sub make_ages
{
	my ($table, $n) = @_;
	my $other = $old->background_psql('postgres');

	$other->query_safe("BEGIN; SELECT id FROM $table WHERE id % 50 = $n FOR KEY SHARE");
	$old->safe_psql('postgres',
		"BEGIN; SELECT id FROM $table WHERE id % 50 = $n FOR NO KEY UPDATE; COMMIT");
	$other->query_safe('COMMIT');
	$other->quit;
	foreach my $name ($table, "${table}_oracle")
	{
		$old->safe_psql('postgres',
			"UPDATE $name SET v = v || '$_', wide = CASE WHEN wide IS NOT NULL"
			  . " THEN wide($_) END WHERE id % 40 = $_")
		  foreach ($n .. $n + 3);
	}
}

$old->start;
foreach my $table (@swapped)
{
	make_table($old, 'postgres', $table, ROWS);
	make_ages($table, 1);
	$old->safe_psql('postgres', "VACUUM $table");
}

# Rows change, and xids pass, between the making of the twin and the cutover.
my %ids = (
	orders => submit($old, 'postgres', 'orders', arguments => q(cutover => 'manual')),
	packed => $old->safe_psql('postgres', "SELECT refit.repack('packed', 'v')"),
	back => submit($old, 'postgres', 'back',
		arguments => q(cutover => 'manual', revertible => '1 hour')));
wait_state($old, 'postgres', $ids{packed}, 'completed');
wait_state($old, 'postgres', $ids{$_}, 'ready') foreach ('orders', 'back');
make_ages($_, 10) foreach @swapped;
$old->safe_psql('postgres', "SELECT refit.cutover($ids{$_})") foreach ('orders', 'back');
wait_state($old, 'postgres', $ids{orders}, 'completed');
wait_state($old, 'postgres', $ids{back}, 'revertible');
make_ages($_, 20) foreach @swapped;
$old->safe_psql('postgres', "SELECT refit.revert($ids{back})");
wait_state($old, 'postgres', $ids{back}, 'reverted');
make_ages($_, 30) foreach @swapped;
check_sound($old, 'before');
# One is under way.
make_table($old, 'postgres', 'away', 120_000);
$ids{away} = submit($old, 'postgres', 'away', throttle => 0.99, chunk_time => '10ms');
hold_copying($old, 'postgres', $ids{away});

my $before = horizons($old);
$old->stop;
chdir PostgreSQL::Test::Utils::tempdir() or die "chdir: $!";
command_ok(
	[
		'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir,
		'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
		'-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade succeeds');
$new->start;
is(horizons($new), $before, 'the horizons are those of before');
check_sound($new, 'afterwards');
check_type($new, 'postgres', 'orders', 'bigint');
check_type($new, 'postgres', 'back', 'integer');
$new->safe_psql('postgres', "VACUUM (FREEZE) $_") foreach @swapped;
check_sound($new, 'frozen');

# Work goes on here; the migration that was under way does not.
my $id = submit($new, 'postgres', 'packed');
wait_state($new, 'postgres', $id, 'completed');
check_equal($new, 'postgres', 'packed');
is( $new->safe_psql('postgres',
		'SELECT state, home <> refit._home() FROM refit.migration'
		  . " WHERE id = $ids{away}"),
	'running|t', 'one that was under way is not worked');
check_equal($new, 'postgres', 'away');
$new->safe_psql('postgres', "UPDATE away SET v = 'new' WHERE id < 10;"
	  . " UPDATE away_oracle SET v = 'new' WHERE id < 10");
$new->safe_psql('postgres', "SELECT refit.cancel($ids{away})");
wait_state($new, 'postgres', $ids{away}, 'cancelled');
check_clean($new, 'postgres', $_) foreach (@swapped, 'away');
$new->safe_psql('postgres',
	"SELECT refit.throttle(0, id => $ids{away}); SELECT refit.retry($ids{away})");
wait_state($new, 'postgres', $ids{away}, 'completed');
check_equal($new, 'postgres', 'away');
check_type($new, 'postgres', 'away', 'bigint');
check_clean($new, 'postgres', 'away');

$new->stop;
done_testing();
