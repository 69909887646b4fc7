# Schedules by the launcher's clock: runs that nobody asks for, across crashes and
# a time when the server was down; windows; never two runs at once; and pg_cron
# as the clock of a library that is not preloaded.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

# A window of the day as the server's clock says, in seconds from now: its text,
# and when it begins and ends.
sub window
{
	my ($node, $from, $to) = @_;

	return split /\|/, $node->safe_psql('postgres', <<"SQL");
SELECT to_char(b, 'HH24:MI:SS') || '-' || to_char(e, 'HH24:MI:SS'), b, e
FROM (SELECT date_trunc('second', now()) + interval '$from s',
	date_trunc('second', now()) + interval '$to s') AS w(b, e)
SQL
}

# Schedules a purge of table t.
sub schedule
{
	my ($node, $name, $every, $where, $more) = @_;

	$more = $more ? ", $more" : '';
	return $node->safe_psql('postgres',
		"SELECT refit.schedule('$name', '$every', 'purge', 't',"
		  . " '{\"where_clause\": \"$where\"}'$more)");
}

# How many runs of a schedule are complete, and more.
sub wait_runs
{
	my ($node, $name, $runs) = @_;

	wait_for($node, 'postgres', "$runs runs of $name",
		"SELECT count(*) >= $runs FROM refit.migrations"
		  . " WHERE name LIKE 'schedule/$name/%' AND state = 'completed'");
}

my $node = new_node('clock', conf => "refit.lock_timeout = '1s'");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION pg_refit;
CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now());
INSERT INTO t SELECT generate_series(1, 20000);
SQL

# Every second, through crashes; nobody calls a function of pg_refit any more.
schedule($node, 'second', '1 second', 'id % 3 = 0');
wait_runs($node, 'second', 2);
foreach my $round (1 .. 3)
{
	my $runs = $node->safe_psql('postgres',
		"SELECT count(*) FROM refit.migrations WHERE state = 'completed'");

	$node->stop('immediate');
	$node->start;
	wait_runs($node, 'second', $runs + 1);
}
pass('it goes on after each crash');
is( $node->safe_psql('postgres', <<'SQL'), 0, 'never two at once');
SELECT count(*) FROM refit.migrations a JOIN refit.migrations b
	ON a.id < b.id AND coalesce(a.finished_at, 'infinity') > b.created_at
SQL
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM refit.migrations WHERE state = 'failed'"),
	0,
	'no run has failed');
is($node->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id % 3 = 0'),
	0, 'the runs have done their work');
$node->safe_psql('postgres', "SELECT refit.unschedule('second')");

# Down for five hours: one run makes up for all that were missed.
schedule($node, 'hour', '1 hour', 'id % 5 = 0');
$node->safe_psql('postgres',
	"UPDATE refit.schedule SET next_run = next_run - interval '6 hours'");
$node->restart;
wait_runs($node, 'hour', 1);
is( $node->safe_psql('postgres', <<'SQL'), '1|t', 'one run for five missed ones');
SELECT (SELECT count(*) FROM refit.migrations WHERE name LIKE 'schedule/hour/%'),
	next_run - last_run BETWEEN interval '59 minutes' AND interval '61 minutes'
FROM refit.schedules
SQL
$node->safe_psql('postgres', "SELECT refit.unschedule('hour')");

# A table that is locked when a run is due: it begins when the lock is gone.
my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN; LOCK TABLE t;');
$node->safe_psql('postgres', <<'SQL');
BEGIN;
INSERT INTO refit.schedule (name, relid, kind, arguments, options, every, at_window_end,
	search_path, settings, home, scheduled_by, next_run)
SELECT 'locked', 't', 'purge', '{"where_clause": "false"}', '{}', '1 day', 'pause',
	'public', refit._settings(), refit._home(), current_user, now();
SELECT refit._tick();
COMMIT;
SQL
my $waiting = "FROM pg_locks WHERE NOT granted AND relation = 't'::regclass";
wait_for($node, 'postgres', 'a look waits', "SELECT count(*) > 0 $waiting");
wait_for($node, 'postgres', 'and gives up', "SELECT count(*) = 0 $waiting");
$holder->query_safe('COMMIT;');
$holder->quit;
wait_runs($node, 'locked', 1);
is($node->safe_psql('postgres', 'SELECT last_state, last_error FROM refit.schedules'),
	'completed|', 'a lock in the way is no refusal');
$node->safe_psql('postgres', "SELECT refit.unschedule('locked')");

# A window that begins and ends by the clock.  The run would go on.
$node->safe_psql('postgres', 'SELECT refit.throttle(1)');
my ($window, $begins, $ends) = window($node, 4, 7);
schedule($node, 'window', '1 day', 'true',
	"time_window => '$window', first_run => now() - interval '1 minute'");
is($node->safe_psql('postgres', 'SELECT last_run FROM refit.schedules'),
	'', 'not before the window');
wait_for($node, 'postgres', 'the run is paused',
	"SELECT last_state = 'paused' FROM refit.schedules");
is( $node->safe_psql('postgres', <<"SQL"), 't|t|t', 'begun and paused in time');
SELECT min(at) FILTER (WHERE message LIKE 'run of%') BETWEEN '$begins' AND '$ends',
	max(at) FILTER (WHERE message LIKE 'paused%')
		BETWEEN '$ends' AND timestamptz '$ends' + interval '20 s',
	count(*) = 2
FROM refit.events WHERE kind = 'schedule' AND detail ->> 'schedule' = 'window'
SQL
my $id = $node->safe_psql('postgres', 'SELECT last_migration FROM refit.schedules');

# The next window begins while the server starts up; the same run goes on.
$node->safe_psql('postgres', 'SELECT refit.throttle(0)');
($window) = window($node, 2, 600);
$node->safe_psql('postgres',
	"UPDATE refit.schedule SET time_window = '$window'");
$node->stop('immediate');
$node->start;
wait_state($node, 'postgres', $id, 'completed');
is( $node->safe_psql('postgres', <<'SQL'), 'completed|1|0', 'one run, in two windows');
SELECT last_state, (SELECT count(*) FROM refit.migrations WHERE name LIKE 'schedule/window/%'),
	(SELECT count(*) FROM t)
FROM refit.schedules
SQL

# A dump has the schedule; in the copy it does nothing of its own accord.
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->command_ok(
	[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ],
	'restore');
is( $node->safe_psql('copy',
		'SELECT name, relation, active, next_run FROM refit.schedules'),
	'window|t|f|',
	'the schedule is in the copy, and asleep');

# Several databases, each with its own clock.
$node->safe_psql('copy', <<'SQL');
INSERT INTO t SELECT generate_series(1, 10);
SELECT refit.schedule('here', '1 second', 'purge', 't', '{"where_clause": "true"}');
SQL
wait_for($node, 'copy', 'the other database has its own clock',
	'SELECT count(*) = 0 FROM t');
$node->stop;

# Without preloading, pg_cron is the clock.
SKIP:
{
	my $cron = new_node('cron', preload => 0, conf => <<'CONF');
max_worker_processes = 20
CONF
	$cron->start;
	skip 'pg_cron is not installed', 4
	  if $cron->safe_psql('postgres',
		"SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'") == 0;
	$cron->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'pg_cron'
cron.database_name = 'postgres'
cron.use_background_workers = on
CONF
	$cron->restart;
	my ($status, $out, $err) = $cron->psql('postgres', <<'SQL');
CREATE EXTENSION pg_refit;
CREATE TABLE t (id int PRIMARY KEY);
INSERT INTO t SELECT generate_series(1, 10);
SELECT refit.schedule('keep', '1 hour', 'purge', 't', '{"where_clause": "true"}') > now();
SQL
	like($err, qr/WARNING:  there is no clock for schedules/, 'no clock: a warning');
	($status, $out, $err) = $cron->psql('postgres', <<'SQL');
CREATE EXTENSION pg_cron;
SELECT refit.schedule('keep', '1 hour', 'purge', 't', '{"where_clause": "true"}') > now();
SELECT jobname, schedule, command FROM cron.job;
SQL
	is("$out$err", "t\npg_refit|* * * * *|SELECT refit._tick()", 'pg_cron has a job for it');

	# At its next start pg_cron runs the job, rather than within a minute.
	$cron->safe_psql('postgres', <<'SQL');
SELECT cron.alter_job(jobid, '@reboot') FROM cron.job;
UPDATE refit.schedule SET next_run = now();
SQL
	$cron->restart;
	wait_for($cron, 'postgres', 'pg_cron has begun the run',
		"SELECT last_state = 'completed' FROM refit.schedules");
	is($cron->safe_psql('postgres', 'SELECT count(*) FROM t'),
		0, 'the run that pg_cron began has done its work');
	$cron->safe_psql('postgres', "SELECT refit.unschedule('keep')");
	is($cron->safe_psql('postgres', 'SELECT count(*) FROM cron.job'),
		0, 'the job goes with the last schedule');
	$cron->stop;
}
done_testing();
