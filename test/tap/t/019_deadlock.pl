# A client that holds one of several relations and then wants another one which
# the cutover has got already has no deadlock with it: the cutover gives way first.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

# Our patience, if that were all, would outlast the clients'.
my $node = new_node('deadlock',
	conf => "refit.lock_timeout = 20s\ndeadlock_timeout = 600ms\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Submits a migration and waits until it is ready.
sub get_ready
{
	my ($actions) = @_;
	my $id = submit($node, 'postgres', 'orders',
		actions => $actions,
		arguments => "cutover => 'manual'");

	wait_state($node, 'postgres', $id, 'ready');
	return $id;
}

# A session with a relation locked.  Nobody queues behind one that is older than
# a second, so what needs that is tried until it was fast enough.
sub hold
{
	my ($sql) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);

	$session->query_safe("BEGIN; $sql");
	return $session;
}

# The cutover holds the table and waits for one client; another one, which holds
# what it will want next, wants the table before it comes to that.
sub meet_at_tables
{
	my $id = get_ready('ALTER COLUMN id TYPE bigint');
	my ($met, $told) = ('f', '');

	for (1 .. 50)
	{
		my $second = hold('LOCK TABLE second_items IN ROW EXCLUSIVE MODE');
		my $first = hold('LOCK TABLE first_items IN ROW EXCLUSIVE MODE');

		sql("SELECT refit.cutover($id)");
		$met = $first->query_safe('SELECT worker_waits()');
		if ($met eq 't')
		{
			$second->query_until(qr/begins/,
				"\\echo begins\nSELECT count(*) FROM orders;\n\\echo ended\n");
			$met = $first->query_safe("SELECT client_waits()");
		}
		$first->query_safe('COMMIT');
		$first->quit;
		$second->query_until(qr/ended/, $met eq 't' ? '' : "\\echo ended\n");
		$told = $second->{stderr};
		$second->query('COMMIT');
		$second->quit;
		last if $met eq 't';
	}
	is($met, 't', 'two clients are in the way of a cutover, and it in theirs');
	unlike($told, qr/ERROR/, 'the one who waits for it has no error');
	wait_state($node, 'postgres', $id, 'completed');
}

# The cutover waits for a view; nobody waits for the table meanwhile.
sub meet_at_view
{
	my ($view, $actions) = @_;
	my $id = get_ready($actions);
	my ($met, $locked) = ('f', '');

	for (1 .. 50)
	{
		my $session = hold("COMMENT ON VIEW $view IS 'held'");

		sql("SELECT refit.cutover($id)");
		$met = $session->query_safe('SELECT worker_waits()');
		$locked = $session->query_safe("SELECT count(*) FROM pg_locks WHERE granted"
			  . " AND relation = 'orders'::regclass AND mode = 'AccessExclusiveLock'")
		  if $met eq 't';
		$session->query_safe('COMMIT');
		$session->quit;
		last if $met eq 't';
	}
	is($met, 't', "the cutover waits for view $view");
	is($locked, '0', 'and does not hold the table meanwhile');
	wait_state($node, 'postgres', $id, 'completed');
}

$node->start;
make_table($node, 'postgres', 'orders', 2000);
sql(<<'SQL');
CREATE TABLE first_items (id int PRIMARY KEY, order_id int REFERENCES orders);
CREATE TABLE second_items (id int PRIMARY KEY, order_id int REFERENCES orders);
CREATE VIEW few AS SELECT id, v FROM orders WHERE id < 10;
CREATE VIEW fewer AS SELECT id, v FROM few WHERE id < 5;
-- Does a worker of ours come to wait for what this session has locked?
CREATE FUNCTION worker_waits() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	WHILE clock_timestamp() < now() + interval '0.9 s' LOOP
		IF EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE NOT granted AND backend_type LIKE 'pg_refit%'
				AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))
		THEN
			RETURN true;
		END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
	RETURN false;
END $$;
-- Does a client wait for the table, while the worker still waits for us?
CREATE FUNCTION client_waits() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 40 LOOP
		IF EXISTS (SELECT FROM pg_locks WHERE NOT granted
			AND relation = 'orders'::regclass AND mode = 'AccessShareLock')
		THEN
			RETURN true;
		END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
	RETURN false;
END $$;
SQL

meet_at_tables();
meet_at_view('few', 'ALTER COLUMN v TYPE varchar(100)');
meet_at_view('fewer', 'ALTER COLUMN v TYPE varchar(90)');
is(sql('SELECT count(*) FROM fewer'), '5', 'the views are there');
check_equal($node, 'postgres', 'orders');
check_clean($node, 'postgres', 'orders');

$node->stop;
done_testing();
