# Cell: one migration, one point, one fault, and what became of it.
#
# The worker gets to the point; the fault happens; the migration goes on to its
# end by itself; everything is checked.  A migration that the fault made fail
# leaves the table as it was and is then tried again, which must succeed.
package Cell;

use strict;
use warnings;

use Server;
use Time::HiRes qw(sleep time);

# A migration that takes longer than this does not end.
use constant MIGRATION_LIMIT => 120;

# How long a statement may take before it counts as waiting for the worker.
use constant RACE_SECONDS => 0.4;

sub new
{
	my ($class, $server, $kind, $point, $fault, $points) = @_;

	return bless {
		server => $server,
		kind => $kind,
		point => $point,
		fault => $fault,
		points => $points,
		problems => [],
	}, $class;
}

# Notes that something is not as it must be.
sub problem
{
	my ($self, $text) = @_;
	push @{ $self->{problems} }, split /\n/, $text;
}

# Runs the cell.  Returns the outcome, and dies where it cannot say one; what is
# wrong is in problems.
sub run
{
	my ($self) = @_;
	my $fault = $self->{fault};

	$self->begin;
	$self->reach_point;
	if ($fault->{name} eq 'promote') { $self->promote }
	elsif ($fault->{again}) { $self->again }
	elsif ($fault->{action} eq 'kill') { $self->after_crash(0) }
	elsif ($fault->{action} eq 'stop') { $self->after_crash(1) }
	elsif ($fault->{action} eq 'wait') { $self->race }
	my $outcome = $self->end($self->{server});
	$self->end_primary if $self->{primary};
	return $outcome;
}

# Runs the kind alone and returns the points that it gets to.
sub find_points
{
	my ($self) = @_;

	$self->{point} = $self->{kind}{held};
	$self->{fault} = { name => 'none', action => 'wait', writer => 1 };
	$self->begin;
	if ($self->{point})
	{
		$self->await_point($self->{point}, 'wait', sub { $self->submit });
		$self->write(3);
		$self->{server}->release;
	}
	else { $self->submit }
	my $outcome = $self->end($self->{server});
	die "$self->{kind}{name} without a fault: $outcome\n"
	  . join('', map { "  $_\n" } @{ $self->{problems} })
	  if @{ $self->{problems} };
	return $self->points_of($self->{server}->trace);
}

# The points that count for this kind, each once, of those that were reached.
sub points_of
{
	my ($self, @trace) = @_;
	my ($held, %seen) = $self->{kind}{held};

	if ($self->{kind}{late})
	{
		shift @trace while @trace && $trace[0] ne $held;
	}
	return grep { !$seen{$_}++ } @trace;
}

#
# Up to the point
#

# Makes the table, and the standby where there will be one.
sub begin
{
	my ($self) = @_;
	my $server = $self->{server};

	$server->disarm;
	$server->query("SELECT lab.reset('" . ($self->{kind}{table} // 'make_plain') . "')");
	$server->start_trace;
	$self->{orphans} = $server->query('CHECKPOINT; SELECT lab.orphans() ORDER BY 1');
	$self->{standby} =
	  Server->new("$server->{dir}/standby")->standby_of($server)->start
	  if $self->{fault}{name} eq 'promote';
	$self->start_writer($server) if $self->{fault}{writer};
}

# Submits the migration.
sub submit
{
	my ($self) = @_;
	$self->{id} = $self->{server}->query($self->{kind}{submit});
}

# Arms a point, starts what leads there, and waits until a process has got there.
sub await_point
{
	my ($self, $point, $action, $start) = @_;
	my $server = $self->{server};
	my $end;

	$server->arm($point, $action);
	$start->();
	Server::wait_until("nobody gets to $point",
		sub {
			return 1 if $server->is_reached;
			# it may be dead already; the last points come after the last commit
			my $state = eval { $self->follow($server) } // '';
			$end //= time + 2 if is_final($state);
			die "$point was not reached\n" if defined $end && time > $end;
			return 0;
		});
}

# Gets the worker to the point of this cell, with rows changed before if the kind
# says so.
sub reach_point
{
	my ($self) = @_;
	my $server = $self->{server};
	my $held = $self->{kind}{held};
	my $action = $self->{fault}{action};
	my $seen = 0;
	my @until = grep { $seen || ($seen = $_ eq ($held // '')) } @{ $self->{points} };

	$self->{postmaster} = $server->postmaster;
	shift @until if $self->{kind}{once};
	if (!grep { $_ eq $self->{point} } @until)
	{
		$self->await_point($self->{point}, $action, sub { $self->submit });
		return;
	}
	$self->await_point($held, 'wait', sub { $self->submit });
	$self->write(3);
	$self->await_point($self->{point}, $action, sub { $server->release });
}

# A statement about this migration.
sub with_id
{
	my ($self, $sql) = @_;
	return $sql =~ s/:id/$self->{id}/gr;
}

# Is it the end when a migration has this state?
sub is_final
{
	my ($state) = @_;
	return $state =~ /^(completed|failed|cancelled|reverted)$/;
}

# The migration's state.  Does what the kind does in that state.
sub follow
{
	my ($self, $server) = @_;
	my $kind = $self->{kind};
	my $state =
	  $server->query("SELECT state FROM refit.migration WHERE id = $self->{id}");
	my $what = $kind->{when}{$state};

	$server->query($self->with_id($what))
	  if defined $what && !$self->{followed}{$state}++;
	$self->ask($server, $kind->{whenever}{$state}) if $kind->{whenever}{$state};
	return $state;
}

# Asks for what may be refused for a while, or for good where somebody else has
# barred it.
sub ask
{
	my ($self, $server, $sql) = @_;
	my $session = $server->session('asks');

	# the worker may have just got to the point, and hold the row there
	$session->query("SET lock_timeout = '500ms'");
	my ($rows, $error) = $session->try($self->with_id($sql));

	if (!defined $error)
	{
		$self->{asked}++ if $rows ne '';
		return;
	}
	return if $error =~ /^55P03/;
	die "$error\nin: $sql\n" if $error !~ /^55000/;
	return if $error !~ /cannot be reverted now/ || !$self->{fault}{bars};
	$self->{barred} = 1;
	$server->query($self->with_id($self->{kind}{barred}));
}

#
# Writing
#

my $seed = 10000;

# Some transactions of the writer, where the worker does not hold them up.
sub write
{
	my ($self, $times) = @_;
	my $session = $self->{server}->session('writes');

	$session->query("SET lock_timeout = '100ms'");
	for (1 .. $times)
	{
		my (undef, $error) = $session->try('SELECT lab.write(' . $seed++ . ')');

		$self->problem("write: $error") if defined $error && $error !~ /^55P03/;
	}
}

# Starts a client that writes until it is stopped.
sub start_writer
{
	my ($self, $server) = @_;
	my $dir = $server->{dir};

	if (!-f "$dir/writer.sql")
	{
		open my $file, '>', "$dir/writer.sql" or die;
		print $file "\\set seed random(20000, 1000000000)\nSELECT lab.write(:seed);\n";
		close $file or die;
	}
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null' or die;
		open STDOUT, '>', "$dir/writer.log" or die;
		open STDERR, '>&', \*STDOUT or die;
		exec 'pgbench', '-n', '-c1', '-T600', '-R60', '-M', 'prepared', '-f',
		  "$dir/writer.sql", '-h', $dir, '-U', 'super', 'postgres'
		  or die "cannot run pgbench: $!";
	}
	$self->{writer} = { pid => $pid, log => "$dir/writer.log" };
}

# Ends it.  It may have had no error, unless the server crashed.
sub stop_writer
{
	my ($self, %params) = @_;
	my $writer = delete $self->{writer} or return;

	kill 'TERM', $writer->{pid};
	waitpid $writer->{pid}, 0;
	return if $params{crashed};
	open my $file, '<', $writer->{log} or die;
	$self->problem("client: $_") foreach grep { /ERROR|FATAL|aborted/ } <$file>;
}

#
# At the point
#

# Has it happen once more, where that place is passed a second time.
sub again
{
	my ($self) = @_;
	my $server = $self->{server};

	$server->arm($self->{point}, $self->{fault}{action});
	$server->release;
}

# Gets the server back.
sub after_crash
{
	my ($self, $whole) = @_;
	my $server = $self->{server};

	$self->{crashed} = 1;
	if ($whole) { $server->restart_when_gone($self->{postmaster}) }
	else { $server->wait_restarted }
	$self->stop_writer(crashed => 1);
	$server->release;
	$self->start_writer($server);
}

# Makes the standby, which has all that was committed, the server of this cell.
sub promote
{
	my ($self) = @_;
	my ($primary, $standby) = ($self->{server}, $self->{standby});

	$self->write(1);
	$self->stop_writer;
	my $lsn = $primary->query('SELECT pg_current_wal_insert_lsn() FROM txid_current()');
	$primary->query('SELECT pg_switch_wal()');
	Server::wait_until('the standby has replayed everything', sub {
		$standby->query("SELECT pg_last_wal_replay_lsn() >= '$lsn'") eq 't';
	});
	$standby->promote;
	@$self{qw(primary server)} = ($primary, $standby);
	$self->{promoted} = { followed => { %{ $self->{followed} // {} } }, asked => $self->{asked} };
	$standby->start_trace;
	$self->start_writer($standby);
}

# The old primary has nothing to do with it: its worker goes on as well.
sub end_primary
{
	my ($self) = @_;

	$self->{standby}->destroy;
	@$self{qw(followed asked)} = @{ $self->{promoted} }{qw(followed asked)};
	$self->{primary}->release;
	$self->end($self->{primary});
}

# Has another session do something while the worker is held.  What must wait for
# the worker waits until it is let go.
sub race
{
	my ($self) = @_;
	my ($server, $fault) = ($self->{server}, $self->{fault});
	my $sql = $self->{kind}{sql}{ $fault->{name} } // $fault->{sql};
	my @refused = grep { defined } ($fault->{refused}, $self->{kind}{refused}{ $fault->{name} });
	my $session = $server->session('race');
	my @commands =
	  $fault->{list}
	  ? split(/\n/, $server->query($fault->{list}))
	  : $self->with_id($sql);
	my $pid = $session->query('SELECT pg_backend_pid()');

	$self->write(1);
	foreach my $command (@commands)
	{
		$session->send($command);
		$self->wait_for_race($server, $session, $pid);
		my ($rows, $error) = $session->result;
		$self->{another} = $rows if $fault->{another};
		$self->problem("$command: $error")
		  if defined $error && !grep { $error =~ $_ } @refused;
	}
	$server->release;
	$self->write(1) if !$fault->{gone};
}

# Waits until a statement has ended.  If it waits for somebody, it is not longer
# held up by us.
sub wait_for_race
{
	my ($self, $server, $session, $pid) = @_;
	my $end = time + RACE_SECONDS;

	while (time < $end)
	{
		return if $session->is_done(0.02);
		last
		  if $server->query("SELECT wait_event_type = 'Lock' AND"
			  . " pg_blocking_pids(pid) && ARRAY(SELECT pid FROM pg_stat_activity"
			  . " WHERE backend_type IN ('pg_refit worker', 'pg_refit scan'))"
			  . " FROM pg_stat_activity WHERE pid = $pid") eq 't';
	}
	$server->release;
}

#
# The end
#

# Waits for the end and checks everything.  Returns the outcome.
sub end
{
	my ($self, $server) = @_;
	my $state = $self->await_final($server);
	my $outcome = $self->judge($server, $state);

	$self->await_idle($server);
	$self->write(2) if !$self->{fault}{gone} && !$self->{primary};
	$self->stop_writer;
	$self->check($server, $state);
	if ($state eq 'failed' && $self->{kind}{final} ne 'failed' && !$self->{fault}{gone})
	{
		$server->query("SELECT refit.retry($self->{id})");
		$self->{followed} = {};
		$state = $self->await_final($server);
		$self->problem("tried again: $state")
		  if $state ne $self->{kind}{final};
		$self->await_idle($server);
		$self->check($server, $state);
		$outcome .= ', then ' . $state;
	}
	return $outcome;
}

# Follows the migration to a final state, and another one that was submitted.
sub await_final
{
	my ($self, $server) = @_;
	my $end = time + MIGRATION_LIMIT;
	my ($state, $another) = ('', 'completed');

	for (;;)
	{
		$state = $self->follow($server);
		if ($state eq 'paused')
		{
			$self->{was_paused} = 1;
			$server->query("SELECT refit.resume($self->{id})");
		}
		$another = $server->query(
			"SELECT state FROM refit.migration WHERE id = $self->{another}")
		  if $self->{another};
		last
		  if is_final($state) && is_final($another);
		if (time > $end)
		{
			die "the migration does not end: $state, $another\n"
			  . $self->story($server);
		}
		sleep 0.01;
	}
	$self->problem("the other migration: $another") if $another ne 'completed';
	return $state;
}

# Is this state a right one?  Returns it in words.
sub judge
{
	my ($self, $server, $state) = @_;
	my ($kind, $fault) = @$self{qw(kind fault)};
	my $code = $server->query(
		"SELECT coalesce(error_code, '') FROM refit.migration WHERE id = $self->{id}");
	my @codes =
	    $state eq ($self->{barred} ? 'completed' : $kind->{final})
	  ? ($kind->{code} // ($state eq 'failed' ? () : $code), @{ $fault->{may}{$state} // [] })
	  : @{ $fault->{may}{$state} // [] };

	$self->problem("the state is $state $code\n" . $self->story($server))
	  if !grep { $state eq 'cancelled' || $_ eq $code } @codes;
	my $outcome = $code && $state eq 'failed' ? "$state $code" : $state;
	$outcome .= ', paused between' if $self->{was_paused};
	$outcome .= ', the way back barred' if $self->{barred};
	$outcome .= ', asked again' if ($self->{asked} // 0) > 1;
	return $outcome;
}

# Waits until no worker is left.
sub await_idle
{
	my ($self, $server) = @_;

	Server::wait_until('the workers end', sub {
		$server->query("SELECT count(*) = 0 FROM pg_stat_activity"
			  . " WHERE backend_type IN ('pg_refit worker', 'pg_refit scan')") eq 't';
	});
}

# Checks table, storage, files, debris, and that the change is in place or not at
# all.
sub check
{
	my ($self, $server, $state) = @_;
	my $changed = $self->{kind}{changed};
	my $there = $server->query(
		'SELECT EXISTS (SELECT FROM pg_class JOIN lab.subject ON oid = relid)') eq 't';

	$self->problem('the table is gone') if !$there && !$self->{fault}{gone};
	my @what = map { $_ ? 'true' : 'false' } (
		!$self->{fault}{leaks},
		$state ne 'completed' && !$self->{fault}{redefines},
		$state eq 'reverted');
	$self->problem($server->query('SELECT lab.check_all(' . join(', ', @what) . ')'));
	if ($changed && $there)
	{
		my $is = $server->query($changed);
		my $right = $state eq 'completed' ? 't' : 'f';

		$self->problem("state $state, and the change is "
			  . ($is eq 't' ? 'in place' : 'not in place'))
		  if $is ne $right;
	}
	$self->problem('completed, and not everything is done')
	  if $there && $state eq 'completed' && $self->{kind}{complete}
	  && $server->query($self->{kind}{complete}) ne 't';
	return if $self->{crashed} || $self->{primary};
	my $orphans = $server->query('CHECKPOINT; SELECT lab.orphans() ORDER BY 1');
	$self->problem('files without a relation: ' . join ' ', split /\n/, $orphans)
	  if $orphans ne $self->{orphans};
}

# What the migration says that happened.
sub story
{
	my ($self, $server) = @_;

	return eval {
		$server->query("SELECT to_char(at, 'SS.MS'), kind, phase, message, detail"
			  . " FROM refit.event WHERE migration_id = $self->{id} ORDER BY at")
		  . "\n"
		  . $server->query("SELECT state, phase, request, goal, error_code, error_message,"
			  . " error_detail, p.* FROM refit.migration m"
			  . " JOIN refit.migration_progress p USING (id) WHERE id = $self->{id}")
		  . "\n"
		  . $server->query("SELECT pid, backend_type, state, wait_event_type, wait_event,"
			  . " left(query, 60) FROM pg_stat_activity WHERE datname IS NOT NULL");
	} // $@;
}

1;
