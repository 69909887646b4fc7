# A tablespace on a file system of 64 MB: what cannot fit is refused with the
# figures, what meets a full disk stands still and goes on when there is room.
use strict;
use warnings;

use File::Temp;
use Test::More;

use constant {
	ROWS => 60_000,
	DISK_MB => 64,
	KEPT_MB => 6.4, # 10 %
};

# An ordinary user may mount a tmpfs in a namespace of his own.  There he is
# root, which a server must not be, so the test runs in one more, as himself.
# That is done before the modules of the tests take over standard output.
BEGIN
{
	if (!defined $ENV{REFIT_TEST_MOUNT})
	{
		my $folder = File::Temp->newdir('refit_disk_XXXXXX', TMPDIR => 1);
		my $enter = sprintf(
			'mount -t tmpfs -o size=%dm refit_test "$REFIT_TEST_MOUNT"'
			  . ' && exec unshare -U --map-user=%d --map-group=%d "$@"',
			DISK_MB, $> || 1000, $) + 0 || 1000);
		my @inside = ('unshare', '-Urm', 'sh', '-c', $enter, 'sh');

		local $ENV{REFIT_TEST_MOUNT} = "$folder";
		plan skip_all => 'cannot mount a file system: this needs user namespaces'
		  if system("unshare -Urm true 2>/dev/null") != 0
		  || system(@inside, 'test', '-w', $folder) != 0;
		my $status = system(@inside, $^X, (map { "-I$_" } @INC), $0);
		undef $folder;
		exit($status >> 8 || $status);
	}
}

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;

my $mount = $ENV{REFIT_TEST_MOUNT};
my $node = new_node('disk', conf => 'refit.min_free_disk = 10');
$node->start;
make_table($node, 'postgres', 'orders', ROWS);
# WAL and the indexes are written to the disk of the machine
if ($node->safe_psql('postgres', <<'SQL') eq 't')
SELECT value < 15 FROM refit.signals WHERE signal = 'free_disk'
SQL
{
	$node->stop;
	plan skip_all => 'less than 15 % of the disk of this machine are free';
}
mkdir "$mount/space" or die "cannot make $mount/space: $!";
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$mount/space'");
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE blob (id int PRIMARY KEY, body text);
ALTER TABLE blob ALTER body SET STORAGE EXTERNAL;
INSERT INTO blob SELECT g, repeat('x', 1000000) FROM generate_series(1, 70) g;
VACUUM ANALYZE blob;
SQL

# Writes a file that leaves so many MB free, 0: none at all.
sub fill
{
	my ($mb) = @_;
	my $free = qx(stat -f -c '%a*%S' $mount);
	my ($blocks, $size) = $free =~ /(\d+)\*(\d+)/;

	open(my $file, '>>', "$mount/fill") or die "cannot open $mount/fill: $!";
	syswrite($file, "\0" x int($blocks * $size - $mb * 1024 * 1024));
	close $file;
}

# MB that the table takes in its tablespace.
sub table_mb
{
	return $node->safe_psql('postgres', "SELECT pg_table_size('orders')") / 1024 / 1024;
}

# What a migration's row of progress says.
sub progress
{
	my ($id, $columns) = @_;
	return $node->safe_psql('postgres',
		"SELECT $columns FROM refit.progress WHERE id = $id");
}

# Refused at submission: the table does not fit, or not with what is kept back.
my ($status, $out, $err) = $node->psql('postgres',
	"\\set VERBOSITY verbose\nSELECT refit.alter_table('blob', 'SET TABLESPACE small')");
isnt($status, 0, 'what does not fit is refused');
like($err, qr/ERROR: +53100: not enough disk space to rewrite table public\.blob/,
	'with the SQLSTATE of a full disk and the name of the table');
like(
	$err,
	qr/DETAIL: +Tablespace "small" \((\d+) MB\): \1 MB needed, 64 MB free, \d+ kB kept back\./,
	'with what is needed, free and kept back');
like($err, qr/HINT: .*refit\.min_free_disk/, 'and with what to do');
unlike($err, qr/pg_default/, 'file systems with room are not named');
is($node->safe_psql('postgres', 'SELECT count(*) FROM refit.migration'),
	'0', 'nothing was submitted');

# The plan says the figures.
my ($bytes, $reason) = split /\|/,
  $node->safe_psql('postgres',
	"SELECT bytes, reason FROM refit.plan('blob', 'SET TABLESPACE small') WHERE step = 1");
cmp_ok($bytes, '>', 70_000_000, 'the plan says how much is needed');
like($reason, qr/disk space: .*tablespace "small" \(\d+ MB\): \d+ MB needed, 64 MB free/,
	'and where');

# The estimate is an upper one, but not by far: retyped, a column and an index
# more.
my $id = submit($node, 'postgres', 'orders',
	actions => 'ALTER COLUMN id TYPE bigint, ADD COLUMN n int DEFAULT (random() * 9), ADD UNIQUE (v, k, id)',
	arguments => q(cutover => 'manual'));
wait_state($node, 'postgres', $id, 'ready');
my ($needed, $used) = split /\|/, $node->safe_psql('postgres', <<"SQL");
SELECT s.bytes, pg_total_relation_size(twin) FROM refit.space s JOIN refit.rewrite r USING (id)
	JOIN pg_tablespace t ON t.oid = place WHERE id = $id AND spcname = 'pg_default'
SQL
diag("estimated $needed bytes, the twin has $used");
cmp_ok($needed, '>=', $used, 'the twin takes no more than was estimated');
cmp_ok($needed, '<', 1.5 * $used, 'and not much less');
$node->safe_psql('postgres', "SELECT refit.cancel($id)");
wait_for($node, 'postgres', 'it is cancelled',
	"SELECT state = 'cancelled' FROM refit.migrations WHERE id = $id");

# Refused by the worker: the room was there at submission.
$id = $node->safe_psql('postgres', <<'SQL');
BEGIN;
SELECT refit.alter_table('orders', 'SET TABLESPACE small') AS id \gset
SELECT refit.pause(:id) \g /dev/null
COMMIT;
SELECT :id;
SQL
fill(8);
$node->safe_psql('postgres', "SELECT refit.resume($id)");
wait_for($node, 'postgres', 'it has failed',
	"SELECT state = 'failed' FROM refit.migrations WHERE id = $id");
like(
	$node->safe_psql('postgres',
		"SELECT error_code, error_message, error_detail FROM refit.migrations WHERE id = $id"),
	qr/^53100\|not enough disk space to rewrite table public\.orders\|Tablespace "small"/,
	'the worker refuses too, before anything is written');
unlink "$mount/fill";

# Submits a move to the small tablespace and holds its worker in the middle of
# the copy, until the signals, which are kept for a moment, have been forgotten.
sub hold_moving
{
	my ($free) = @_;

	close_gate($node, 'postgres', 'orders', COPY_GATE);
	my $moved = submit($node, 'postgres', 'orders',
		actions => 'SET TABLESPACE small, ALTER COLUMN k TYPE int USING public.gate(k, -2)',
		throttle => 0.3,
		chunk_time => '10ms');
	wait_gate($node, 'postgres', $moved, 'copy');
	fill($free);
	wait_for($node, 'postgres', 'what was read before is too old',
		"SELECT max(at) < clock_timestamp() - interval '2 s' FROM refit.events"
		  . " WHERE migration_id = $moved");
	open_gate($node, COPY_GATE);
	return $moved;
}

# Below min_free_disk in the middle of a copy.
my $writer = start_writer($node, 'postgres', 'orders', ROWS, rate => 100);
$id = hold_moving(4);
wait_for($node, 'postgres', 'the migration stands still',
	"SELECT throttled_by ~ '^free_disk:' FROM refit.progress WHERE id = $id");
my $before = progress($id, 'rows_done');
is(progress($id, "state, phase, rows_done < rows_total"),
	'running|copy|t', 'it is running, in the middle of the copy');
is($node->safe_psql('postgres', <<'SQL'), 'stop|t|10|12|percent|t', 'the signal says why');
SELECT state, value < hard_limit, hard_limit, soft_limit, unit,
	reason LIKE 'tablespace "small" has % free of 64 MB'
	FROM refit.signals WHERE signal = 'free_disk'
SQL
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_for($node, 'postgres', 'the event is there', <<"SQL");
SELECT EXISTS (SELECT FROM refit.events WHERE migration_id = $id AND kind = 'governor'
	AND message ~ '^stopped by signal free_disk: .* of 10 percent: tablespace "small" has .*, still needed ')
SQL
is(progress($id, "rows_done, split_part(throttled_by, ':', 1)"),
	"$before|free_disk", 'nothing more is copied, although no throttle is left');
unlink "$mount/fill";
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');
is( $node->safe_psql('postgres',
		"SELECT spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = reltablespace"
		  . " WHERE c.oid = 'orders'::regclass"),
	'small', 'the table is in the small tablespace');
is($node->safe_psql('postgres', 'SELECT count(*) FROM refit.space'),
	'0', 'no estimate is left');
$node->safe_psql('postgres', 'ALTER TABLE orders SET TABLESPACE pg_default');

# A full disk in the middle of a copy, with the guard switched off.
$node->append_conf('postgresql.conf', 'refit.min_free_disk = 0');
$node->reload;
$writer = start_writer($node, 'postgres', 'orders', ROWS, rate => 100);
$id = hold_moving(0);
$node->safe_psql('postgres', "SELECT refit.throttle(0, id => $id)");
wait_for($node, 'postgres', 'it waits for room',
	"SELECT message ~ 'waiting for disk space: could not (extend|write)'"
	  . " AND throttled_by = 'free_disk' FROM refit.progress WHERE id = $id");
is(progress($id, 'state, phase'), 'running|copy', 'a full disk is no failure');
is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM orders'), 't', 'the table can be read');
unlink "$mount/fill";
wait_state($node, 'postgres', $id, 'completed');
stop_writer($writer);
# The pages that a chunk got before the disk was full may be enough for the next one,
# which then finds that there is room, and the one after it that there is not.
like(
	$node->safe_psql('postgres',
		"SELECT count(*) FILTER (WHERE message LIKE 'waiting for disk space:%'),"
		  . " count(*) FILTER (WHERE message = 'there is disk space again')"
		  . " FROM refit.events WHERE migration_id = $id"),
	qr/^([1-3])\|\1$/,
	'an event tells of it, and one of its end');
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');

# An order takes the table twice.
$node->append_conf('postgresql.conf', 'refit.min_free_disk = 10');
$node->reload;
fill(KEPT_MB + 1.5 * table_mb() + 0.5);
($status, $out, $err) = $node->psql('postgres',
	"BEGIN; SELECT refit.repack('orders'); ROLLBACK");
is($status, 0, 'there is room for a repack');
($status, $out, $err) = $node->psql('postgres', "SELECT refit.repack('orders', 'v')");
like($err, qr/not enough disk space.*Tablespace "small"/s, 'but not for one in an order');
unlink "$mount/fill";

# No room for an index, which is built in one go: the disk
# is filled when the index before it is being built.
$node->safe_psql('postgres',
	'ALTER TABLE orders SET TABLESPACE pg_default; ALTER INDEX orders_v_id_idx SET TABLESPACE small');
close_gate($node, 'postgres', 'orders', INDEX_GATE);
$id = submit($node, 'postgres', 'orders', actions => 'ALTER COLUMN id TYPE bigint');
wait_gate($node, 'postgres', $id, 'index');
fill(KEPT_MB + 1);
open_gate($node, INDEX_GATE);
wait_for($node, 'postgres', 'it waits for room', <<"SQL");
SELECT throttled_by ~ '^free_disk'
	AND message ~ '^waiting for disk space to build an index: tablespace "small" .* needed'
	FROM refit.progress WHERE id = $id
SQL
is( progress($id, "state, phase, rows_done || ' of ' || rows_total"),
	'running|index|2 of 3', 'the index is not begun');
unlink "$mount/fill";
wait_state($node, 'postgres', $id, 'completed');
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');

$node->stop;
done_testing();
