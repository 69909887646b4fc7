# RefitTest: what the TAP tests of pg_refit share.
#
# A test table comes in two copies: the one that is migrated, and an oracle that
# never is.  Every transaction of the writer makes the same change to both, so
# that they are equal at any moment, whatever happens to the server.
#
# Gates hold a worker inside a step.  A gate is a file in the data directory, so
# it outlives a crash of the server; only workers of pg_refit stop at it, at the
# row whose k is the gate's number:
#	COPY_GATE		in the middle of a chunk, with the action from gated_actions
#	INDEX_GATE		in the build of an index
#	CATCHUP_GATE	while a row that close_gate has added is applied
package RefitTest;

use strict;
use warnings;

BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} ||= 45; }

use Exporter 'import';
use File::Spec;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant {
	COPY_GATE => -2,
	INDEX_GATE => 0,
	CATCHUP_GATE => -1,
};

our @EXPORT = qw(
  COPY_GATE INDEX_GATE CATCHUP_GATE
  new_node make_table submit gated_actions
  start_writer stop_writer close_gate open_gate wait_gate
  poll wait_for wait_state wait_phase wait_copying hold_copying worker_pid kill_worker
  check_equal check_clean check_type check_no_orphans
);

# A server that is set up but not started.  Its search_path is plain, because the
# user who runs the tests may have the name of our schema.  conf: more settings; preload => 0:
# without shared_preload_libraries; the rest goes to init().
sub new_node
{
	my ($name, %params) = @_;
	my $conf = delete $params{conf} // '';
	my $preload = delete $params{preload} // 1;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%params);
	$node->append_conf('postgresql.conf', <<"CONF");
restart_after_crash = on
search_path = 'public'
log_statement = none
log_line_prefix = '%m [%p] %b %a '
max_worker_processes = 16
max_connections = 40
shared_buffers = 64MB
deadlock_timeout = 500ms
log_lock_waits = on
autovacuum_naptime = 5s
# a nearly full disk of the machine shall not stop the tests
refit.min_free_disk = 0
$conf
CONF
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'pg_refit'\n")
	  if $preload;
	return $node;
}

# Makes the extension, a table with two indexes, an out-of-line column and a
# dropped one, and its oracle.  unlogged => 1: an unlogged table.  partitions =>
# 1: a partitioned one, so that each gate is in another leaf and the last leaf,
# <table>_rest, is empty.
sub make_table
{
	my ($node, $db, $table, $rows, %params) = @_;
	my $kind = $params{unlogged} ? 'UNLOGGED TABLE' : 'TABLE';
	my $middle = int($rows / 2);
	my $by = $params{partitions} ? 'PARTITION BY RANGE (id)' : '';
	my $leaves = $params{partitions} ? <<"SQL" : '';
CREATE TABLE ${table}_minus PARTITION OF $table FOR VALUES FROM (MINVALUE) TO (0);
CREATE TABLE ${table}_low (wide text, v text, gone int, id int NOT NULL, k int NOT NULL);
ALTER TABLE ${table}_low DROP COLUMN gone, ADD COLUMN gone int;
ALTER TABLE $table ATTACH PARTITION ${table}_low FOR VALUES FROM (0) TO ($middle);
CREATE TABLE ${table}_high PARTITION OF $table
	FOR VALUES FROM ($middle) TO (1000000000) PARTITION BY HASH (id);
CREATE TABLE ${table}_0 PARTITION OF ${table}_high FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE ${table}_1 PARTITION OF ${table}_high FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE ${table}_rest PARTITION OF $table FOR VALUES FROM (1000000000) TO (MAXVALUE);
SQL

	$node->safe_psql($db, <<"SQL");
CREATE EXTENSION IF NOT EXISTS pg_refit;
CREATE EXTENSION IF NOT EXISTS amcheck;
CREATE OR REPLACE FUNCTION public.wide(seed int) RETURNS text
IMMUTABLE STRICT LANGUAGE sql AS \$\$
	SELECT string_agg(md5((seed + g)::text), '') FROM generate_series(1, 80) g
\$\$;
CREATE OR REPLACE FUNCTION public.gate(k int, here int) RETURNS int
IMMUTABLE LANGUAGE plpgsql AS \$\$
BEGIN
	IF k <= 0 AND (k = -2) = (here = -2)
		AND (SELECT backend_type LIKE 'pg_refit%' FROM pg_catalog.pg_stat_activity
			WHERE pid = pg_catalog.pg_backend_pid())
	THEN
		WHILE (pg_catalog.pg_stat_file('gate' || k, true)).size IS NOT NULL LOOP
			PERFORM pg_catalog.pg_sleep(0.02);
		END LOOP;
	END IF;
	RETURN k;
END \$\$;
CREATE $kind $table (id int PRIMARY KEY, k int NOT NULL, gone int,
	v text, wide text) $by;
$leaves
ALTER TABLE $table ALTER COLUMN wide SET STORAGE EXTERNAL;
INSERT INTO $table SELECT g, CASE g WHEN 0 THEN 0 WHEN $middle THEN -2 ELSE g END,
	g, md5(g::text), CASE WHEN g % 500 = 0 THEN wide(g) END
	FROM generate_series(0, $rows - 1) g;
ALTER TABLE $table DROP COLUMN gone;
CREATE INDEX ON $table (gate(k, 0));
CREATE INDEX ON $table (v, id);
CREATE $kind ${table}_oracle (id int PRIMARY KEY, k int, v text, wide text);
INSERT INTO ${table}_oracle SELECT * FROM $table;
VACUUM ANALYZE $table, ${table}_oracle;
SQL
}

# int to bigint, with a stop in the middle of the copy.
sub gated_actions
{
	return 'ALTER COLUMN id TYPE bigint, '
	  . 'ALTER COLUMN k TYPE int USING public.gate(k, -2)';
}

# Submits int to bigint and returns the migration's id.  actions, arguments:
# SQL; throttle: from the first moment on; chunk_time; workers.
sub submit
{
	my ($node, $db, $table, %params) = @_;
	my $actions = $params{actions} // 'ALTER COLUMN id TYPE bigint';
	my $arguments = $params{arguments} ? ", $params{arguments}" : '';
	my $chunk_time = $params{chunk_time} // '500ms';
	my $throttle = $params{throttle} // 0;
	my $workers = $params{workers} // 1;
	my $id = $node->safe_psql($db, <<"SQL");
BEGIN;
SELECT refit.alter_table('$table', '$actions',
	options => '{"chunk_time": "$chunk_time", "workers": $workers}'$arguments) AS id \\gset
SELECT refit.throttle($throttle, id => :id) \\g /dev/null
COMMIT;
SELECT :id;
SQL
	return $id;
}

#
# Gates
#

# Stops workers at a gate from now on.
sub close_gate
{
	my ($node, $db, $table, $gate) = @_;
	my $path = $node->data_dir . "/gate$gate";

	append_to_file($path, 'closed');
	$node->safe_psql($db, <<"SQL") if $gate == CATCHUP_GATE;
BEGIN;
INSERT INTO $table (id, k, v) VALUES (-1, -1, 'gate');
INSERT INTO ${table}_oracle (id, k, v) VALUES (-1, -1, 'gate');
COMMIT;
SQL
}

# Lets workers through.
sub open_gate
{
	my ($node, $gate) = @_;

	unlink $node->data_dir . "/gate$gate" or die "gate $gate was not closed";
}

# Waits until a worker of the migration stands at a gate in that phase.
sub wait_gate
{
	my ($node, $db, $id, $phase) = @_;

	wait_for($node, $db, "a worker stands at the gate in phase $phase", <<"SQL");
SELECT EXISTS (SELECT FROM refit.migration WHERE id = $id AND phase = '$phase')
	AND EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'
		AND backend_type LIKE 'pg_refit%')
SQL
}

#
# The writer
#

# One transaction of the writer: all its changes are to one row, in both tables.
sub writer_script
{
	my ($table, $rows) = @_;
	my @changes = (
		[ 4, 'UPDATE %s SET v = md5(CAST(:value AS text)) WHERE id = :id' ],
		[ 5, 'UPDATE %s SET wide = wide(:value), v = NULL WHERE id = :id' ],
		[ 6, 'DELETE FROM %s WHERE id = :id' ],
		[ 7, 'INSERT INTO %s (id, k, v) VALUES (:id, :value, CAST(:value AS text))'
			  . ' ON CONFLICT (id) DO UPDATE SET k = excluded.k' ],
		[ 8, 'UPDATE %1$s SET id = :other WHERE id = :id'
			  . ' AND NOT EXISTS (SELECT FROM %1$s WHERE id = :other)' ],
		[ 9, 'UPDATE %1$s SET id = :id WHERE id = :other'
			  . ' AND NOT EXISTS (SELECT FROM %1$s WHERE id = :id)' ],
		[ 10, 'DELETE FROM %1$s WHERE id = :id;'
			  . ' INSERT INTO %1$s (id, k, wide) VALUES (:id, :value, wide(:value));'
			  . ' SAVEPOINT s; DELETE FROM %1$s WHERE id = :id; ROLLBACK TO s' ]);
	my $word = 'if';
	my $script = <<"SQL";
\\set op random(1, 10)
\\set id random(2, $rows * 1.1)
\\set value random(1, 1000000000)
\\set other 0 - :id
BEGIN;
SELECT pg_advisory_xact_lock(1, :id);
SQL

	foreach my $change (@changes)
	{
		my ($most, $sql) = @$change;

		$script .= "\\$word :op <= $most\n";
		$script .= sprintf("$sql;\n", $_) foreach ($table, "${table}_oracle");
		$word = 'elif';
	}
	return "$script\\endif\nCOMMIT;\n";
}

# Starts three connections that write to a table and its oracle.  script: instead
# of the usual changes.
sub start_writer
{
	my ($node, $db, $table, $rows, %params) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . '/writer.sql';
	my $rate = $params{rate} // 400;
	my $mode = $params{mode} // 'prepared';
	my $writer = { node => $node, db => $db, log => "$file.log" };

	append_to_file($file, $params{script} // writer_script($table, $rows));
	$writer->{run} = IPC::Run::start(
		[
			'pgbench', '-n', '-c3', '-T600', "-R$rate", '-M', $mode, '-f', $file,
			$node->connstr($db) . ' application_name=writer'
		],
		'<', File::Spec->devnull, '>', $writer->{log}, '2>&1');
	wait_for($node, $db, 'the writer writes',
		"SELECT count(*) = 3 FROM pg_stat_activity WHERE application_name = 'writer'"
	);
	return $writer;
}

# Ends the writer.  Unless the server crashed, no client may have had an error.
sub stop_writer
{
	my ($writer, %params) = @_;

	local $SIG{PIPE} = 'IGNORE';
	$writer->{run}->kill_kill(grace => 2);
	return if $params{crashed};
	unlike(slurp_file($writer->{log}), qr/ERROR|aborted/, 'no client had an error');
	wait_for($writer->{node}, $writer->{db}, 'the writer has gone',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'writer'"
	);
}

#
# Waiting
#

# Is a query true before long?  In a crash it may fail for a while: then a psql
# that is turned away may be gone before it is given the query, which is no news.
sub poll
{
	my ($node, $db, $sql) = @_;

	for (1 .. 20)
	{
		my $is_true = eval { $node->poll_query_until($db, $sql) };
		return $is_true if $@ eq '';
		die $@ if $@ !~ /Broken pipe/;
	}
	return 0;
}

# Waits until a query is true.
sub wait_for
{
	my ($node, $db, $what, $sql) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	return if poll($node, $db, $sql);
	diag(sprintf('waited %.0f s in vain: %s', time - $start, $what));
	diag($node->safe_psql($db,
			"SELECT * FROM refit.migrations; SELECT * FROM refit.progress;"
			  . " SELECT * FROM refit.events ORDER BY at DESC LIMIT 20;"
			  . " SELECT pid, backend_type, state, wait_event, query"
			  . " FROM pg_stat_activity WHERE backend_type LIKE 'pg_refit%'"));
	die "waited in vain: $what";
}

# Waits until a migration is in a state, or in one that it will not leave.
sub wait_state
{
	my ($node, $db, $id, $state) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for($node, $db, "migration $id is $state",
		"SELECT state IN ('$state', 'completed', 'reverted',"
		  . " 'cancelled', 'failed')"
		  . " FROM refit.migration WHERE id = $id");
	is( $node->safe_psql($db,
			"SELECT concat_ws(', ', state, error_message, error_detail)"
			  . " FROM refit.migration WHERE id = $id"),
		$state,
		"migration $id is $state");
}

# Waits until a migration is in a phase.
sub wait_phase
{
	my ($node, $db, $id, $phase) = @_;

	wait_for($node, $db, "migration $id is in phase $phase",
		"SELECT phase = '$phase' FROM refit.migration WHERE id = $id");
}

# Waits until some rows are copied.  On a standby too.
sub wait_copying
{
	my ($node, $db, $id, $rows) = @_;

	$rows //= 1;
	wait_for($node, $db, "migration $id copies",
		"SELECT EXISTS (SELECT FROM refit.migration JOIN refit.migration_progress"
		  . " USING (id) WHERE id = $id AND phase = 'copy' AND rows_done >= $rows)"
	);
}

# Waits until some rows are copied and makes the copy stand still.
sub hold_copying
{
	my ($node, $db, $id) = @_;

	wait_copying($node, $db, $id);
	$node->safe_psql($db, "SELECT refit.throttle(1, id => $id)");
}

# The process that works the only migration that is worked.
sub worker_pid
{
	my ($node, $db) = @_;

	wait_for($node, $db, 'a worker runs',
		"SELECT count(*) = 1 FROM pg_stat_activity"
		  . " WHERE backend_type IN ('pg_refit worker', 'pg_refit scan')");
	return $node->safe_psql($db,
		"SELECT pid FROM pg_stat_activity"
		  . " WHERE backend_type IN ('pg_refit worker', 'pg_refit scan')");
}

# Kills that process; the server restarts itself.
sub kill_worker
{
	my ($node, $db) = @_;
	my $pid = worker_pid($node, $db);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	kill 'KILL', $pid or die "could not kill $pid";

	ok( poll($node, $db,
			'SELECT pg_postmaster_start_time() IS NOT NULL AND NOT EXISTS'
			  . " (SELECT FROM pg_stat_activity WHERE pid = $pid)"),
		'the server is there again');
	return;
}

#
# Checks
#

# The two tables have the same rows, and more than none.
sub check_equal
{
	my ($node, $db, $table, $oracle) = @_;

	$oracle //= "${table}_oracle";
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $columns = 'id, k, v, wide';
	my ($missing, $extra, $rows, $same) = split /\|/,
	  $node->safe_psql($db, <<"SQL");
SET enable_indexscan = off; SET enable_bitmapscan = off;
SELECT (SELECT count(*) FROM (SELECT $columns FROM $oracle
		EXCEPT ALL SELECT $columns FROM $table) x),
	(SELECT count(*) FROM (SELECT $columns FROM $table
		EXCEPT ALL SELECT $columns FROM $oracle) x),
	(SELECT count(*) FROM $table),
	(SELECT count(*) FROM $table) = (SELECT count(*) FROM $oracle)
SQL
	is("$missing missing, $extra too many, $same", '0 missing, 0 too many, t',
		"$table equals $oracle");
	cmp_ok($rows, '>', 0, "$table has rows");
}

# Heap and indexes of a table are sound, and nothing of pg_refit is left.
sub check_clean
{
	my ($node, $db, $table) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql($db, "SELECT blkno, offnum, msg FROM verify_heapam('$table')"),
		'', "verify_heapam finds nothing in $table");
	is( $node->safe_psql($db, <<"SQL"), '', "amcheck finds nothing in $table");
SELECT v.* FROM pg_class c, verify_heapam(c.reltoastrelid) v
	WHERE c.oid = '$table'::regclass AND c.reltoastrelid <> 0
SQL
	is( $node->psql($db, <<"SQL"), 0, "the indexes of $table are sound");
SELECT bt_index_check(i.indexrelid, true)
	FROM pg_index i JOIN pg_class t ON i.indrelid IN (t.oid, t.reltoastrelid)
	JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am a ON a.oid = x.relam
	WHERE t.oid = '$table'::regclass AND amname = 'btree'
SQL
	is($node->safe_psql($db, <<"SQL"), '', 'nothing is left behind');
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname ~ '^refit_[0-9]'
UNION ALL
SELECT 'trigger ' || tgname FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
	WHERE tgname ~ 'refit' OR f.pronamespace::regnamespace::text = 'refit'
UNION ALL
SELECT 'relrewrite of ' || relname FROM pg_class WHERE relrewrite NOT IN (0, oid)
UNION ALL
SELECT 'toast ' || t.relname || ' of ' || c.relname FROM pg_class c
	JOIN pg_class t ON t.oid = c.reltoastrelid
	WHERE c.oid = '$table'::regclass AND t.relname <> 'pg_toast_' || c.oid
UNION ALL
SELECT 'work of migration ' || id FROM refit.rewrite
UNION ALL
SELECT 'owed by migration ' || id FROM refit.owed
UNION ALL
SELECT 'member ' || classid::regclass || ' ' || objid FROM pg_depend d
	WHERE refclassid = 'pg_extension'::regclass AND classid = 'pg_class'::regclass
		AND NOT EXISTS (SELECT FROM pg_class WHERE oid = d.objid)
SQL
	is($node->safe_psql($db, <<"SQL"), '', 'no two relations share a file');
SELECT array_agg(oid::regclass) FROM pg_class WHERE relfilenode <> 0
	GROUP BY reltablespace, relfilenode HAVING count(*) > 1
SQL
}

# No file of the database belongs to no relation.  Not after a crash, which
# leaves such files without us too.
sub check_no_orphans
{
	my ($node, $db) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($node->safe_psql($db, <<"SQL"), '', 'no file is left behind');
CHECKPOINT;
SELECT f FROM pg_database d, pg_ls_dir('base/' || d.oid) f
	WHERE datname = current_database() AND f ~ '^[0-9]+\$'
		AND pg_filenode_relation(0, f::oid) IS NULL
SQL
}

# The column has this type.
sub check_type
{
	my ($node, $db, $table, $type) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is( $node->safe_psql($db,
			"SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
			  . " WHERE attrelid = '$table'::regclass AND attname = 'id'"),
		$type,
		"id of $table is $type");
}

1;
