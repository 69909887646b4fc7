# A concurrent build that is killed, crashed, cancelled or paused in the middle: it
# is done exactly once or not at all, and no invalid index stays.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use RefitTest;
use Test::More;

my $db = 'postgres';
my $rows = 2000;
my $node = new_node('ddl_crash', conf => 'autovacuum = off');

$node->start;
make_table($node, $db, 't', $rows);

# Submits an index whose build stops at the gate.
sub submit_index
{
	my ($name) = @_;
	return $node->safe_psql($db,
		"SELECT refit.ddl('CREATE INDEX CONCURRENTLY $name ON t (gate(k, 0), v)')");
}

# The index as it is.
sub index_state
{
	my ($name) = @_;
	return $node->safe_psql($db,
		"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('$name')");
}

# Nothing invalid is left, and the migration says what became of it.
sub check_end
{
	my ($id, $name, $state, $is) = @_;
	wait_state($node, $db, $id, $state);
	is(index_state($name), $is, "$name: " . ($is eq '' ? 'no index' : 'a valid index'));
	is($node->safe_psql($db, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"),
		'0', "$name: no invalid index");
	is($node->safe_psql($db, 'SELECT count(*) FROM refit.command'), '0',
		"$name: nothing is written down any more");
}

my $writer = start_writer($node, $db, 't', $rows);

# cancelled in the build
close_gate($node, $db, 't', INDEX_GATE);
my $id = submit_index('cancelled');
wait_gate($node, $db, $id, 'command');
is(index_state('cancelled'), 'f', 'the build has begun');
$node->safe_psql($db, "SELECT refit.cancel($id)");
check_end($id, 'cancelled', 'cancelled', '');

# paused in the build: it begins again afterwards
$id = submit_index('paused');
wait_gate($node, $db, $id, 'command');
$node->safe_psql($db, "SELECT refit.pause($id)");
wait_for($node, $db, 'it is paused', "SELECT state = 'paused' FROM refit.migration WHERE id = $id");
is(index_state('paused'), '', 'a pause leaves no invalid index');
open_gate($node, INDEX_GATE);
$node->safe_psql($db, "SELECT refit.resume($id)");
check_end($id, 'paused', 'completed', 't');

# a transaction in the way of its end: named, and interrupted all the same
my $old = $node->background_psql($db, on_error_stop => 1);
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
my $pid = $old->query_safe('SELECT pg_backend_pid()');
$id = submit_index('waiting');
wait_for($node, $db, 'the old transaction is named',
	"SELECT waiting_for ~ '^pid $pid, idle in transaction, for ' FROM refit.progress WHERE id = $id");
like($node->safe_psql($db, "SELECT message FROM refit.progress WHERE id = $id"),
	qr/^waiting for (writers|old snapshots|readers)/, 'and what it does');
$node->safe_psql($db, "SELECT refit.cancel($id)");
check_end($id, 'waiting', 'cancelled', '');
$old->query_safe('COMMIT');
$old->quit;
stop_writer($writer);

# Makes durable what a command has committed, or it may have left nothing behind.
sub flush_wal
{
	$node->safe_psql($db, "SELECT pg_logical_emit_message(true, 'test', '')");
}

# the worker killed, and the server stopped, in the build
foreach my $how ('killed', 'crashed')
{
	close_gate($node, $db, 't', INDEX_GATE);
	$id = submit_index($how);
	wait_gate($node, $db, $id, 'command');
	my $victim = worker_pid($node, $db, $id);
	flush_wal();
	if ($how eq 'killed') { kill 'KILL', $victim }
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	wait_for($node, $db, 'another worker builds',
		"SELECT EXISTS (SELECT FROM refit.event WHERE migration_id = $id"
		  . " AND message ~ '^dropped the invalid index')");
	open_gate($node, INDEX_GATE);
	check_end($id, $how, 'completed', 't');
	is($node->safe_psql($db,
			"SELECT count(*) FROM refit.event WHERE migration_id = $id AND kind = 'index'"),
		'1', "$how: what was left was dropped once");
	is($node->safe_psql($db, "SELECT bt_index_check('$how', true)"), '', "$how: amcheck");
}

# REINDEX, killed in the build: the copy is dropped, the index is another one
my $before = $node->safe_psql($db, "SELECT 'killed'::regclass::oid");
close_gate($node, $db, 't', INDEX_GATE);
$id = $node->safe_psql($db, "SELECT refit.ddl('REINDEX INDEX CONCURRENTLY killed')");
wait_gate($node, $db, $id, 'command');
is(index_state('killed_ccnew'), 'f', 'REINDEX has begun');
flush_wal();
kill 'KILL', worker_pid($node, $db, $id);
wait_for($node, $db, 'another worker builds',
	"SELECT EXISTS (SELECT FROM refit.event WHERE migration_id = $id"
	  . " AND message ~ '^dropped the invalid index')");
open_gate($node, INDEX_GATE);
check_end($id, 'killed', 'completed', 't');
isnt($node->safe_psql($db, "SELECT 'killed'::regclass::oid"), $before, 'the index was rebuilt');
is($node->safe_psql($db, "SELECT count(*) FROM pg_class WHERE relname ~ '_cc(new|old)'"),
	'0', 'nothing of REINDEX is left');

check_equal($node, $db, 't');
done_testing();
