# Subscribers during and after each kind of migration: one of all tables, and one
# of some, with a partition tree under the name of its root.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant ROWS => 3_000;

# table => what is done to it.  there: what the subscriber has beforehand, as for
# any ALTER TABLE.  end: the last state.
my %kinds = (
	retyped => { actions => 'ALTER COLUMN id TYPE bigint', ready => 1 },
	retyped_full => {
		actions => 'ALTER COLUMN id TYPE bigint, ALTER COLUMN k TYPE numeric',
		more => 'ALTER TABLE retyped_full REPLICA IDENTITY FULL',
		ready => 1,
	},
	repacked => { sql => q(refit.repack('repacked', options => '{"chunk_time": "10ms"}')) },
	ordered => {
		sql => q(refit.repack('ordered', 'v, id DESC', options => '{"chunk_time": "10ms"}'))
	},
	added => {
		actions => 'ADD COLUMN extra int NOT NULL DEFAULT 7 + (0 * random())::int',
		there => 'ALTER TABLE added ADD COLUMN extra int NOT NULL DEFAULT 7',
		ready => 1,
	},
	instant => {
		actions => 'ADD COLUMN extra int DEFAULT 7, ALTER COLUMN k SET DEFAULT 1',
		there => 'ALTER TABLE instant ADD COLUMN extra int DEFAULT 7',
	},
	validated => {
		actions => 'ALTER COLUMN k SET NOT NULL, ADD CONSTRAINT small CHECK (k < 2000000000)',
	},
	reverted => {
		actions => 'ALTER COLUMN id TYPE bigint',
		revertible => 1,
		ready => 1,
		end => 'revertible',
	},
	tree => {
		actions => 'ALTER COLUMN k TYPE bigint',
		partitioned => 1,
		ready => 1,
	},
);
my @tables = sort keys %kinds;
my $publisher = new_node('publisher', allows_streaming => 'logical',
	conf => "refit.max_workers = 3\nmax_worker_processes = 30\n");
my $subscriber = new_node('subscriber', preload => 0,
	allows_streaming => 'logical');

sub sql { return $publisher->safe_psql('postgres', $_[0]) }

# The statements that make a table; key is the type of its key.
sub table_sql
{
	my ($table, $key) = @_;
	my $kind = $kinds{$table};
	my $sql = "CREATE TABLE $table (id $key PRIMARY KEY, k $key, v text, wide text)";

	$sql .= ' PARTITION BY RANGE (id)' if $kind->{partitioned};
	$sql .= ";ALTER TABLE $table ALTER COLUMN wide SET STORAGE EXTERNAL;";
	return $sql if !$kind->{partitioned};
	return $sql
	  . "CREATE TABLE ${table}_low PARTITION OF $table FOR VALUES FROM (MINVALUE) TO (1000);"
	  . "CREATE TABLE ${table}_high PARTITION OF $table FOR VALUES FROM (1000) TO (MAXVALUE);";
}

# One change of one row of a table.
my $change = <<'SQL';
CREATE EXTENSION pg_refit;
CREATE EXTENSION amcheck;
CREATE FUNCTION wide(seed int) RETURNS text
IMMUTABLE STRICT LANGUAGE sql AS $$
	SELECT string_agg(md5((seed + g)::text), '') FROM generate_series(1, 80) g
$$;
CREATE PROCEDURE change(t text, op int, id int) LANGUAGE plpgsql AS $$
DECLARE
	statement text := CASE
		WHEN op <= 3 THEN 'UPDATE %1$I SET v = md5(v) WHERE id = $1'
		WHEN op = 4 THEN 'UPDATE %1$I SET wide = wide($1 + 1), v = NULL WHERE id = $1'
		WHEN op = 5 THEN 'DELETE FROM %1$I WHERE id = $1'
		WHEN op = 6 THEN 'UPDATE %1$I SET id = id + 10000 WHERE id = $1
			AND NOT EXISTS (SELECT FROM %1$I WHERE id = $1 + 10000)'
		ELSE 'INSERT INTO %1$I (id, k, v, wide) VALUES ($1, $1, $1, wide($1))
			ON CONFLICT (id) DO UPDATE SET k = 3' END;
BEGIN
	EXECUTE format(statement, t) USING id;
END $$;
SQL

# Starts a client that writes to all tables.
sub start_changes
{
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $log = "$dir/changes.log";

	append_to_file("$dir/changes.sql",
		"\\set op random(1, 7)\n\\set id random(1, " . ROWS . ")\n"
		  . join('', map { "CALL change('$_', :op, :id);\n" } @tables));
	return {
		log => $log,
		run => IPC::Run::start(
			[
				'pgbench', '-n', '-c1', '-T600', '-R20', '-f', "$dir/changes.sql",
				$publisher->connstr('postgres') . ' application_name=writer'
			],
			'<', \undef, '>', $log, '2>&1')
	};
}

sub stop_changes
{
	my ($client) = @_;

	local $SIG{PIPE} = 'IGNORE';
	$client->{run}->kill_kill(grace => 2);
	unlike(slurp_file($client->{log}), qr/ERROR|aborted/, 'no client had an error');
	wait_for($publisher, 'postgres', 'the client has gone',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'writer'");
}

# Waits until n more changes were made to a table.
sub wait_changes
{
	my ($n) = @_;
	my $sum = 'SELECT sum(pg_stat_get_tuples_inserted(oid)'
	  . ' + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid))'
	  . " FROM pg_class WHERE relname = 'retyped'";
	my $before = sql($sum);

	wait_for($publisher, 'postgres', "$n changes", "SELECT ($sum) >= $before + $n");
}

# What a table holds in some columns, types aside.
sub contents
{
	my ($node, $db, $table, $columns) = @_;

	return $node->safe_psql($db, "SELECT count(*), count(wide), md5(string_agg("
		  . "ROW($columns)::text, E'\\n' ORDER BY id)) FROM $table");
}

# Both subscribers have what the publisher has.
sub check_subscribers
{
	my ($when) = @_;

	$publisher->wait_for_catchup($_) foreach ('s_everything', 's_several');
	foreach my $table (@tables)
	{
		my $columns = sql("SELECT string_agg(attname, ', ' ORDER BY attname) FROM pg_attribute"
			  . " WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped");
		my $there = contents($publisher, 'postgres', $table, $columns);

		is(contents($subscriber, $_, $table, $columns), $there, "$when: $table in $_ is equal")
		  foreach ('everything', 'several');
		like($there, qr/^[1-9]\d{2,}\|[1-9]\d/, "$table has rows, some wide");
	}
}

$publisher->start;
$subscriber->start;
sql($change);
foreach my $table (@tables)
{
	sql(table_sql($table, 'int')
		  . "INSERT INTO $table SELECT g, g, g, CASE WHEN g % 20 = 0 THEN wide(g) END"
		  . ' FROM generate_series(1, ' . ROWS . ') g;'
		  . ($kinds{$table}{more} // ''));
}
sql('CREATE PUBLICATION everything FOR ALL TABLES;'
	  . 'CREATE PUBLICATION several FOR TABLE ' . join(', ', @tables)
	  . ' WITH (publish_via_partition_root = true)');
foreach my $db ('everything', 'several')
{
	$subscriber->safe_psql('postgres', "CREATE DATABASE $db");
	$subscriber->safe_psql($db, 'CREATE EXTENSION pg_refit') if $db eq 'everything';
	$subscriber->safe_psql($db,
		table_sql($_, $_ eq 'retyped_full' ? 'numeric' : 'bigint')
		  . ($kinds{$_}{there} // ''))
	  foreach @tables;
	$subscriber->safe_psql($db,
		"CREATE SUBSCRIPTION s_$db CONNECTION '"
		  . $publisher->connstr . " dbname=postgres' PUBLICATION $db");
}
foreach my $db ('everything', 'several')
{
	$subscriber->poll_query_until($db,
		"SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel")
	  or die 'no synchronization';
}

# Changes while each of them runs.
my $client = start_changes();
my %ids;
foreach my $table (@tables)
{
	my $kind = $kinds{$table};
	my $call = $kind->{sql} // "refit.alter_table('$table', '$kind->{actions}'"
	  . ($kind->{ready} ? ", cutover => 'manual'" : '')
	  . ($kind->{revertible} ? ", revertible => '1 hour'" : '')
	  . q[, options => '{"chunk_time": "10ms"}')];

	$ids{$table} = sql("BEGIN; SELECT $call AS id \\gset\n"
		  . "SELECT refit.throttle(0.5, id => :id) \\g /dev/null\nCOMMIT; SELECT :id");
}
wait_state($publisher, 'postgres', $ids{$_},
	$kinds{$_}{ready} ? 'ready' : 'completed')
  foreach @tables;
wait_changes(40);
stop_changes($client);
check_subscribers('before the cutovers');

# In the cutovers, and after them.
$client = start_changes();
foreach my $table (grep { $kinds{$_}{ready} } @tables)
{
	sql("SELECT refit.cutover($ids{$table})");
	wait_state($publisher, 'postgres', $ids{$table},
		$kinds{$table}{end} // 'completed');
	wait_changes(10);
}
sql("SELECT refit.revert($ids{reverted})");
wait_state($publisher, 'postgres', $ids{reverted}, 'reverted');
wait_changes(40);

# Values out of line that nobody touches go on to be there.
sql(join('', map { "UPDATE $_ SET v = 'untouched' WHERE wide IS NOT NULL;" } @tables));
stop_changes($client);
check_subscribers('afterwards');
check_type($publisher, 'postgres', 'retyped', 'bigint');
is(sql("SELECT count(*) FROM pg_attribute WHERE attrelid::regclass::text ~ '^tree(_low|_high)?\$'"
		  . " AND attname = 'k' AND atttypid = 'bigint'::regtype"),
	3, 'k is bigint in the whole tree');
check_type($publisher, 'postgres', 'reverted', 'integer');
check_clean($publisher, 'postgres', $_) foreach grep { $_ ne 'tree' } @tables;
check_clean($publisher, 'postgres', $_) foreach ('tree_low', 'tree_high');
is($subscriber->safe_psql('everything', 'SELECT count(*) FROM refit.migration'),
	0, 'no bookkeeping arrives');
unlike(slurp_file($subscriber->logfile),
	qr/refit_[0-9]|ERROR/, 'the subscribers had no error');

$subscriber->stop;
$publisher->stop;
done_testing();
