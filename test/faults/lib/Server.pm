# Server: a throwaway PostgreSQL in a private folder, sessions in it, and the
# files that arm the fault points of a library built with FAULTS=1.
#
# Nothing is synced to disk: a server that is killed loses nothing that the
# operating system has.
package Server;

use strict;
use warnings;

use File::Path qw(remove_tree);
use IO::Handle;
use Session;
use Time::HiRes qw(sleep time);

use constant LIMIT => 180;

# Runs a program; its output goes to a file that is shown when it fails.
sub command
{
	my ($self, @words) = @_;
	my $log = "$self->{dir}/commands.log";
	my $pid = fork // die "fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null' or die;
		open STDOUT, '>>', $log or die;
		open STDERR, '>&', \*STDOUT or die;
		exec @words or die "cannot run $words[0]: $!";
	}
	waitpid $pid, 0;
	die "failed: @words\n" . `tail -n 20 $log` if $? != 0;
}

# A server that does not exist yet, in a folder of its own.
sub new
{
	my ($class, $dir) = @_;

	mkdir $dir or die "cannot make $dir: $!";
	return bless { dir => $dir, data => "$dir/data", log => "$dir/server.log" },
	  $class;
}

# Makes a new cluster.
sub init
{
	my ($self) = @_;

	$self->command('initdb', '-D', $self->{data}, '-U', 'super', '-A', 'trust',
		'-E', 'UTF8', '--no-locale', '-N');
	$self->append_conf(<<'CONF');
listen_addresses = ''
shared_preload_libraries = 'pg_refit'
fsync = off
autovacuum = off
wal_level = replica
max_wal_senders = 4
max_worker_processes = 16
max_connections = 40
shared_buffers = 32MB
restart_after_crash = on
deadlock_timeout = 200ms
log_lock_waits = on
log_min_messages = debug1
log_error_verbosity = verbose
log_line_prefix = '%m [%p] %b %a '
CONF
}

# Adds settings.
sub append_conf
{
	my ($self, $text) = @_;

	open my $file, '>>', "$self->{data}/postgresql.conf" or die;
	print $file $text;
	close $file or die;
}

# Makes this server a copy of one that is stopped.
sub copy_of
{
	my ($self, $other) = @_;

	$self->command('cp', '-a', $other->{data}, $self->{data});
	return $self;
}

# Makes this server a streaming standby of one that runs.
sub standby_of
{
	my ($self, $primary) = @_;

	$self->command('pg_basebackup', '-D', $self->{data}, '-h', $primary->{dir},
		'-U', 'super', '-c', 'fast', '-X', 'stream', '-R', '-N');
	return $self;
}

# Starts it.
sub start
{
	my ($self) = @_;

	$self->command('pg_ctl', '-D', $self->{data}, '-l', $self->{log}, '-w', '-s',
		'-o', "-k $self->{dir}", 'start');
	return $self;
}

# Ends the recovery of a standby.
sub promote
{
	my ($self) = @_;

	$self->forget_sessions;
	$self->command('pg_ctl', '-D', $self->{data}, '-w', '-s', 'promote');
}

# Stops it; the mode is immediate where nothing else is said.
sub stop
{
	my ($self, $mode) = @_;

	$self->forget_sessions;
	return if !-f "$self->{data}/postmaster.pid";
	$self->command('pg_ctl', '-D', $self->{data}, '-m', $mode // 'immediate',
		'-w', '-s', 'stop');
}

# Stops it and removes its folder.
sub destroy
{
	my ($self) = @_;

	eval { $self->stop };
	remove_tree($self->{dir});
}

# Waits until a postmaster that has been told to stop has gone, and starts it.
sub restart_when_gone
{
	my ($self, $pid) = @_;

	wait_until('the server has stopped', sub { !kill 0, $pid });
	$self->forget_sessions;
	$self->start;
}

# Waits until the server has restarted itself after the death of a process.
sub wait_restarted
{
	my ($self) = @_;

	wait_until('the server notices the death', sub {
		!eval { $self->query('SELECT 1'); 1 };
	});
	$self->forget_sessions;
	wait_until('the server is there again', sub {
		$self->forget_sessions;
		eval { $self->query('SELECT 1'); 1 };
	});
}

# How many processes of pg_refit have been started, as the log says.
sub starts
{
	my ($self) = @_;

	open my $log, '<', $self->{log} or die;
	return scalar grep { /starting background worker process "pg_refit/ } <$log>;
}

# The process id of the postmaster.
sub postmaster
{
	my ($self) = @_;

	open my $file, '<', "$self->{data}/postmaster.pid" or die "$self->{dir}: $!";
	return int <$file>;
}

#
# Sessions
#

# A session by name, which is opened when it is used first.
sub session
{
	my ($self, $name) = @_;

	return $self->{sessions}{$name} //= Session->new($self->{dir}, $name);
}

# Closes all sessions.
sub forget_sessions
{
	my ($self) = @_;

	$_->close foreach values %{ $self->{sessions} };
	$self->{sessions} = {};
}

# The result of a query in the main session; dies on an error.
sub query
{
	my ($self, $sql) = @_;
	return $self->session('main')->query($sql);
}

#
# Fault points
#

# Arms a point for one time, whatever was armed before.
sub arm
{
	my ($self, $point, $action) = @_;
	my $path = "$self->{data}/refit_fault";

	open my $file, '>', "$path.new" or die "$path: $!";
	print $file "$point=$action\n";
	close $file or die;
	rename "$path.new", $path or die "$path: $!";
}

# Has a process got to the point that was armed?
sub is_reached
{
	my ($self) = @_;
	return -e "$self->{data}/refit_fault.reached";
}

# Lets a process go on that waits at a point.
sub release
{
	my ($self) = @_;
	unlink "$self->{data}/refit_fault.reached";
}

# Takes whatever was armed, reached or traced away.
sub disarm
{
	my ($self) = @_;
	unlink map { "$self->{data}/refit_fault$_" } '', '.reached', '.trace';
}

# Keeps a list of the points that are reached, from now on.
sub start_trace
{
	my ($self) = @_;

	open my $file, '>', "$self->{data}/refit_fault.trace" or die;
	close $file;
}

# The points that were reached, in order.
sub trace
{
	my ($self) = @_;

	open my $file, '<', "$self->{data}/refit_fault.trace" or die;
	chomp(my @points = <$file>);
	return @points;
}

#
# Waiting
#

# Waits until a function returns something true, and returns that.
sub wait_until
{
	my ($what, $function) = @_;
	my $end = time + LIMIT;

	for (;;)
	{
		my $result = $function->();

		return $result if $result;
		die "waited in vain: $what\n" if time > $end;
		sleep 0.005;
	}
}

1;
