# What went wrong with other tools: a table that comes back under its name, a
# collation under which keys are equal, VACUUM of the work tables, and
# transactions that are in the way of our locks.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;
use Time::HiRes qw(time);

use constant {
	FEW => 30_000,
	MANY => 60_000,
	XIDS => 110_000,
	LOCK_MS => 100,
	SLACK_MS => $ENV{REFIT_SLACK_MS} || 150,
};

# No autovacuum but the one against wraparound, which takes minutes.
my $node = new_node('pitfalls', conf => <<'CONF');
max_prepared_transactions = 2
autovacuum_naptime = 1s
autovacuum_vacuum_threshold = 2000000000
autovacuum_vacuum_insert_threshold = -1
autovacuum_analyze_threshold = 2000000000
autovacuum_vacuum_cost_delay = 100ms
autovacuum_vacuum_cost_limit = 1
CONF

my @cancelled; # by this test

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Waits until a migration has failed; returns code, message and detail.
sub failure
{
	my ($id) = @_;

	wait_for($node, 'postgres', "migration $id ends",
		"SELECT finished_at IS NOT NULL FROM refit.migration WHERE id = $id");
	return sql("SELECT concat_ws(' | ', state, error_code, error_message, error_detail)"
		  . " FROM refit.migration WHERE id = $id");
}

# Submits a migration that stands still in a phase.
sub hold_in
{
	my ($table, $phase) = @_;
	my $id;

	close_gate($node, 'postgres', $table, INDEX_GATE) if $phase ne 'copy';
	$id = submit($node, 'postgres', $table,
		throttle => $phase eq 'copy' ? 0.99 : 0,
		chunk_time => '10ms');
	hold_copying($node, 'postgres', $id) if $phase eq 'copy';
	hold_later($id, $table, $phase) if $phase ne 'copy';
	return $id;
}

# Makes one that stands still in the copy, with the index gate closed, go on to
# an index or the catch-up.
sub hold_later
{
	my ($id, $table, $phase) = @_;

	sql("SELECT refit.throttle(0, id => $id)");
	wait_gate($node, 'postgres', $id, 'index');
	if ($phase eq 'catchup')
	{
		close_gate($node, 'postgres', $table, CATCHUP_GATE);
		open_gate($node, INDEX_GATE);
		wait_gate($node, 'postgres', $id, 'catchup');
	}
	sql("SELECT refit.throttle(1, id => $id)");
	open_gate($node, $phase eq 'index' ? INDEX_GATE : CATCHUP_GATE);
}

#
# The name goes to another table
#

sub recreate
{
	my ($phase, $removal) = @_;
	my $table = "r_${phase}_" . lc((split / /, $removal)[0]);
	my ($id, $file);

	make_table($node, 'postgres', $table, FEW);
	$id = hold_in($table, $phase);
	sql(sprintf($removal, $table));
	sql("CREATE TABLE $table (id int PRIMARY KEY, k int, v text, wide text);"
		  . " INSERT INTO $table SELECT g, g FROM generate_series(1, 3) g");
	$file = sql("SELECT pg_relation_filenode('$table')");
	sql("SELECT refit.throttle(0, id => $id)");
	if ($removal =~ /^DROP/)
	{
		like(failure($id), qr/^failed \| 42P01 \| /,
			"dropped and made again in $phase: it fails");
	}
	else
	{
		wait_state($node, 'postgres', $id, 'completed');
		check_equal($node, 'postgres', "${table}_old", "${table}_oracle");
		check_type($node, 'postgres', "${table}_old", 'bigint');
		check_clean($node, 'postgres', "${table}_old");
	}
	is( sql("SELECT pg_relation_filenode('$table'), count(*), sum(id), count(k)"
			  . " FROM $table"),
		"$file|3|6|3",
		'the new table is not touched');
	check_type($node, 'postgres', $table, 'integer');
	check_clean($node, 'postgres', $table);
}

#
# Keys that are equal in a new collation
#

# The table is what it was: its file, its definition, its rows.
sub state_of
{
	my ($table) = @_;

	return sql("SELECT pg_relation_filenode('$table'), (SELECT string_agg(attname || attcollation, ' '"
		  . " ORDER BY attnum) FROM pg_attribute WHERE attrelid = '$table'::regclass),"
		  . " (SELECT md5(string_agg(t::text, ' ' ORDER BY id COLLATE \"C\")) FROM $table t),"
		  . " (SELECT count(*) FROM $table)");
}

sub collations
{
	my ($id, $before);

	sql(<<'SQL');
CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2',
	deterministic = false);
CREATE TABLE people (id text COLLATE "C" PRIMARY KEY, name text NOT NULL UNIQUE);
INSERT INTO people SELECT 'k' || g, 'n' || g FROM generate_series(1, 2000) g;
INSERT INTO people VALUES ('one', 'Ada'), ('two', 'ada');
SQL
	$before = state_of('people');
	$id = sql("SELECT refit.alter_table('people',"
		  . " 'ALTER COLUMN name TYPE text COLLATE folded')");
	like(failure($id),
		qr/^failed \| 23505 \| .*people_name_key.*\(name\)=\([Aa]da\)/,
		'two rows equal in the new collation: it fails, the key is named');
	is(state_of('people'), $before, 'and the table is what it was');
	check_clean($node, 'postgres', 'people');

	sql("DELETE FROM people WHERE id = 'two'");
	foreach my $column ('id', 'name')
	{
		foreach my $verify ('full', 'off')
		{
			$id = sql("SELECT refit.alter_table('people', 'ALTER COLUMN $column"
				  . " TYPE text COLLATE folded', verify => '$verify', cutover => 'manual')");
			wait_state($node, 'postgres', $id, 'ready');
			sql("INSERT INTO people VALUES ('K7', 'N7')");
			$before = state_of('people');
			wait_for($node, 'postgres', 'the row is met',
				"SELECT finished_at IS NOT NULL OR pending_changes = 0"
				  . " FROM refit.migration m LEFT JOIN refit.progress p USING (id)"
				  . " WHERE m.id = $id");
			$node->psql('postgres', "SELECT refit.cutover($id)");
			like(failure($id), qr/^failed \| 23505 \| .*\($column\)=\([KkNn]7\)/,
				"such a row in the catch-up, column $column, verify $verify:"
				  . ' it fails, the key is named');
			is(state_of('people'), $before, 'and the table is what it was');
			check_clean($node, 'postgres', 'people');
			sql("DELETE FROM people WHERE id COLLATE \"C\" = 'K7'");
		}
	}

	# The other way: keys that were equal and are not.
	sql(<<'SQL');
CREATE TABLE other (id text COLLATE folded PRIMARY KEY, n numeric UNIQUE NOT NULL);
INSERT INTO other SELECT 'k' || g, g FROM generate_series(1, 2000) g;
SQL
	$id = sql("SELECT refit.alter_table('other', 'ALTER COLUMN id TYPE text COLLATE \"C\"',"
		  . " verify => 'off', cutover => 'manual')");
	wait_state($node, 'postgres', $id, 'ready');
	sql("UPDATE other SET id = 'K' || n WHERE n % 3 = 0;"
		  . " UPDATE other SET id = 'k' || n WHERE n % 6 = 0;"
		  . " UPDATE other SET n = n * 1.00 WHERE n % 5 = 0");
	$before = sql("SELECT md5(string_agg(id || n, ' ' ORDER BY n)) FROM other");
	sql("SELECT refit.cutover($id)");
	wait_state($node, 'postgres', $id, 'completed');
	is(sql("SELECT md5(string_agg(id || n, ' ' ORDER BY n)) FROM other"),
		$before, 'keys written anew in another form are followed');
	is(sql('SELECT count(*), count(DISTINCT id) FROM other'),
		'2000|2000', 'each is there once');
	check_clean($node, 'postgres', 'other');
}

#
# Keys that a cast makes the same
#

sub lossy_keys
{
	my ($id, $before);

	sql(<<'SQL');
CREATE TABLE prices (id numeric PRIMARY KEY, v text);
INSERT INTO prices SELECT g, 'n' || g FROM generate_series(1, 2000) g;
SQL
	foreach my $verify ('full', 'off')
	{
		$id = sql("SELECT refit.alter_table('prices', 'ALTER COLUMN id TYPE int',"
			  . " verify => '$verify', cutover => 'manual')");
		wait_state($node, 'postgres', $id, 'ready');
		sql("UPDATE prices SET id = 7.00 WHERE id = 7; DELETE FROM prices WHERE id = 8;"
			  . " INSERT INTO prices VALUES (8.0, 'again')");
		wait_for($node, 'postgres', 'they are caught up with',
			"SELECT pending_changes = 0 FROM refit.progress WHERE id = $id");
		sql("INSERT INTO prices VALUES (1.4, 'second')");
		$before = sql("SELECT count(*), md5(string_agg(p::text, ' ' ORDER BY id)) FROM prices p");
		$node->psql('postgres', "SELECT refit.cutover($id)");
		like(
			failure($id),
			qr/^failed \| 22000 \| .*does not lead back.* \| .*\(id\)=\(1\.4\)/,
			"a key that becomes another's, verify $verify: it fails, the key is named");
		is(sql("SELECT count(*), md5(string_agg(p::text, ' ' ORDER BY id)) FROM prices p"),
			$before, 'and the table is what it was');
		check_clean($node, 'postgres', 'prices');
		$id = sql("SELECT refit.alter_table('prices', 'ALTER COLUMN id TYPE int',"
			  . " verify => '$verify')");
		like(failure($id), qr/^failed \| 22000 .*\(id\)=\(1\.4\)/, 'in the copy too');
		sql('DELETE FROM prices WHERE id = 1.4');
	}
}

#
# VACUUM of everything, between the steps of each phase
#

sub vacuum_all
{
	my ($id, $place) = @_;
	my @relations = split /\n/, sql(<<"SQL");
SELECT c.oid::regclass FROM pg_class c WHERE relkind = 'r'
	AND (relnamespace::regnamespace::text = 'refit_$id' OR c.oid = 'dusty'::regclass)
SQL
	my @failed = grep {
		$node->psql('postgres', "SET lock_timeout = '20s'; VACUUM (FREEZE) $_") != 0
		  || $node->psql('postgres', "SET lock_timeout = '20s'; VACUUM $_") != 0
	} @relations;

	cmp_ok(scalar @relations, '>=', 4, "table, twin, blank and logs in $place");
	is("@failed", '', 'VACUUM succeeds on each');
}

sub vacuum_everywhere
{
	my ($id, $writer);

	make_table($node, 'postgres', 'dusty', MANY);
	$writer = start_writer($node, 'postgres', 'dusty', MANY, rate => 100);
	close_gate($node, 'postgres', 'dusty', INDEX_GATE);
	$id = submit($node, 'postgres', 'dusty', throttle => 0.99,
		chunk_time => '10ms',
		arguments => q(cutover => 'manual', revertible => '1 hour'));
	hold_copying($node, 'postgres', $id);
	vacuum_all($id, 'copy');
	hold_later($id, 'dusty', 'index');
	vacuum_all($id, 'index');
	close_gate($node, 'postgres', 'dusty', CATCHUP_GATE);
	sql("SELECT refit.throttle(0, id => $id)");
	wait_gate($node, 'postgres', $id, 'catchup');
	sql("SELECT refit.throttle(1, id => $id)");
	open_gate($node, CATCHUP_GATE);
	vacuum_all($id, 'catchup');
	sql("SELECT refit.throttle(0, id => $id)");
	wait_state($node, 'postgres', $id, 'ready');
	vacuum_all($id, 'ready');
	sql("SELECT refit.cutover($id)");
	wait_state($node, 'postgres', $id, 'revertible');
	check_type($node, 'postgres', 'dusty', 'bigint');
	vacuum_all($id, 'window');
	sql("SELECT refit.revert($id)");
	wait_state($node, 'postgres', $id, 'reverted');
	stop_writer($writer);
	check_equal($node, 'postgres', 'dusty');
	check_type($node, 'postgres', 'dusty', 'integer');
	check_clean($node, 'postgres', 'dusty');
}

#
# Others in the way
#

# Makes the server start a vacuum of the table to prevent wraparound, which
# takes longer than the test.  Returns its pid.
sub start_wraparound_vacuum
{
	my $vacuum = "FROM pg_stat_activity WHERE query LIKE"
	  . " 'autovacuum: VACUUM %public.big (to prevent wraparound)'";

	sql('ALTER SYSTEM RESET autovacuum_vacuum_cost_delay');
	sql('SELECT pg_reload_conf()');
	sql('SET synchronous_commit = off; CALL burn(' . XIDS . ')');
	wait_for($node, 'postgres', 'the vacuum runs', "SELECT count(*) = 1 $vacuum");
	return sql("SELECT pid $vacuum");
}

# Ends it, and those of the twin and of TOAST tables; the next ones are quick.  From
# 16 on one that runs would be so too.
sub end_vacuum
{
	my ($pid) = @_;
	my $cancel = "SELECT pid FROM pg_stat_activity"
	  . " WHERE query LIKE '%wraparound)' AND pg_cancel_backend(pid)";
	my @ended = split /\n/, sql($cancel);

	sql('ALTER SYSTEM SET autovacuum_vacuum_cost_delay = 0');
	sql('SELECT pg_reload_conf()');
	is(scalar(grep { $_ == $pid } @ended),
		1, 'the vacuum was left alone until now');
	push @cancelled, @ended, split /\n/, sql($cancel);
}

# Waits until one in the way is named, in that phase, and was for seconds.
sub named
{
	my ($id, $phase, $who) = @_;

	wait_for($node, 'postgres', "waits in $phase for $who",
		"SELECT waiting_for ~ '$who' AND (SELECT count(*) >= 3 FROM refit.event e"
		  . " WHERE migration_id = $id AND e.kind = 'lock' AND e.phase = '$phase'"
		  . " AND detail ->> 'blocked_by' ~ '$who')"
		  . " FROM refit.migration_progress WHERE id = $id");
	pass("in $phase it says that it waits for $who");
}

# A pg_dump that stands still in the middle, because nobody reads.
sub start_dump
{
	my $pid = open my $dump, '-|', 'pg_dump', '-d', $node->connstr('postgres')
	  or die "pg_dump: $!";

	wait_for($node, 'postgres', 'pg_dump reads the table',
		"SELECT count(*) = 1 FROM pg_stat_activity"
		  . " WHERE query LIKE 'COPY public.big %' AND wait_event = 'ClientWrite'");
	return $dump;
}

sub in_the_way
{
	my ($id, $vacuum, $client, $reader, $writer, $dump, $text, $tries, $start);

	make_table($node, 'postgres', 'big', MANY);
	sql(<<'SQL');
ALTER TABLE big SET (autovacuum_freeze_max_age = 100000,
	autovacuum_freeze_table_age = 0);
CREATE PROCEDURE burn(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		PERFORM pg_current_xact_id();
		COMMIT;
	END LOOP;
END $$;
CREATE TABLE waits (phase text, ms float8);
-- A client with short transactions, which notes what took long.
CREATE PROCEDURE client(id bigint) LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz;
	ms float8;
	row int;
BEGIN
	WHILE EXISTS (SELECT FROM refit.migration m WHERE m.id = client.id
		AND finished_at IS NULL)
	LOOP
		start := clock_timestamp();
		row := 10 + (random() * 1000)::int;
		UPDATE big SET v = 'c' || row WHERE big.id = row;
		UPDATE big_oracle SET v = 'c' || row WHERE big_oracle.id = row;
		ms := 1000 * extract(epoch FROM clock_timestamp() - start);
		INSERT INTO waits SELECT m.phase, ms FROM refit.migration m WHERE m.id = client.id;
		COMMIT;
		PERFORM pg_sleep(0.005);
		COMMIT;
	END LOOP;
END $$;
SQL
	$vacuum = start_wraparound_vacuum();
	$id = submit($node, 'postgres', 'big', arguments => q(cutover => 'manual'));
	sql("SELECT refit.set_option($id, 'cancel_blockers_after', '10ms')");
	$client = $node->background_psql('postgres');
	$client->query_until(qr/begins/, "\\echo begins\nCALL client($id);\n\\echo ended\n");
	named($id, 'capture', 'to prevent wraparound');
	end_vacuum($vacuum);
	sql("SELECT refit.set_option($id, 'cancel_blockers_after', NULL)");
	wait_state($node, 'postgres', $id, 'ready');

	# The cutover has a vacuum, a dump, a reader, a writer and a prepared
	# transaction before it.
	$vacuum = start_wraparound_vacuum();
	$dump = start_dump();
	$reader = $node->background_psql('postgres');
	$reader->query_safe('BEGIN; DECLARE c CURSOR FOR SELECT id FROM big ORDER BY id; FETCH 2 FROM c');
	$writer = $node->background_psql('postgres');
	$writer->query_safe("BEGIN; UPDATE big SET v = 'kept' WHERE id = 2;"
		  . " UPDATE big_oracle SET v = 'kept' WHERE id = 2");
	sql("BEGIN; UPDATE big SET v = 'prepared' WHERE id = 3;"
		  . " UPDATE big_oracle SET v = 'prepared' WHERE id = 3; PREPARE TRANSACTION 'p'");
	$start = time;
	sql("SELECT refit.cutover($id)");
	wait_for($node, 'postgres', 'the cutover is tried',
		"SELECT cutover_attempts >= 12 FROM refit.migrations WHERE id = $id");
	$tries = sql("SELECT cutover_attempts FROM refit.migrations WHERE id = $id");
	cmp_ok($tries, '<=', 3 + 6 * (time - $start), 'it backs off between tries');
	sql("COMMIT PREPARED 'p'");
	is($reader->query_safe('FETCH 1 FROM c; COMMIT'), '2', 'the reader reads on');
	$writer->query_safe("UPDATE big SET v = v || ' and more' WHERE id = 2;"
		  . " UPDATE big_oracle SET v = v || ' and more' WHERE id = 2; COMMIT");
	$reader->quit;
	$writer->quit;
	named($id, 'cutover', 'to prevent wraparound');
	end_vacuum($vacuum);
	named($id, 'cutover', 'COPY public');
	$text = do { local $/; <$dump> };
	ok(close $dump, 'pg_dump succeeds');
	like($text, qr/^COPY public\.big .*^COPY public\.big_oracle .*dump complete/ms,
		'and is complete');
	wait_state($node, 'postgres', $id, 'completed');
	$client->query_until(qr/ended/, '');
	$client->quit;

	my ($count, $longest) = split /\|/,
	  sql('SELECT count(*), round(max(ms)) FROM waits');
	diag("longest transaction of a client: $longest ms of $count");
	cmp_ok($count, '>', 200, 'the client worked');
	cmp_ok($longest, '<', LOCK_MS + SLACK_MS,
		'no transaction took longer than the lock budget');
	is(sql('SELECT id, v FROM big WHERE id IN (2, 3) ORDER BY id'),
		"2|kept and more\n3|prepared", 'what was open was committed');
	check_equal($node, 'postgres', 'big');
	check_type($node, 'postgres', 'big', 'bigint');
	check_clean($node, 'postgres', 'big');
}

$node->start;
sql('CREATE EXTENSION pg_refit; CREATE EXTENSION amcheck');
foreach my $phase ('copy', 'index', 'catchup')
{
	recreate($phase, $_)
	  foreach ('DROP TABLE %s', 'ALTER TABLE %1$s RENAME TO %1$s_old');
}
SKIP:
{
	skip 'PostgreSQL was built without ICU', 1
	  if sql("SELECT count(*) FROM pg_collation WHERE collprovider = 'i'") == 0;
	collations();
}
lossy_keys();
vacuum_everywhere();
in_the_way();

# Whoever was cancelled was so by this test.
my @cancels = grep {
	my ($pid) = /\[(\d+)\]/;
	!grep { $_ == $pid } @cancelled
} slurp_file($node->logfile) =~
  /^.*(?:canceling|terminating (?!background worker)|deadlock detected).*$/mg;
is(join("\n", @cancels), '', 'nobody was cancelled, no deadlock');

$node->stop;
done_testing();
