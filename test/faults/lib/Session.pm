# Session: a psql that stays open, so that a query costs no start of a program
# and a statement that waits can be left waiting.
package Session;

use strict;
use warnings;

use IO::Handle;
use IO::Select;
use IPC::Open2;
use Time::HiRes qw(time);

use constant LIMIT => 180;
use constant MARK => '~~end~~';

# Opens a session on the socket in a folder.
sub new
{
	my ($class, $dir, $name) = @_;
	my $self = bless { buffer => '' }, $class;

	local $ENV{PGAPPNAME} = "faults $name";
	local $ENV{PGOPTIONS} = '-c client_min_messages=error';
	$self->{pid} = open2($self->{out}, $self->{in},
		"exec psql -XAtq -h $dir -U super -d postgres 2>/dev/null");
	$self->{in}->autoflush(1);
	return $self;
}

# Ends it.
sub close
{
	my ($self) = @_;

	return if !$self->{pid};
	kill 'KILL', $self->{pid};
	close $self->{in};
	close $self->{out};
	waitpid $self->{pid}, 0;
	$self->{pid} = 0;
}

# Sends statements and does not wait.  Several of them, parted by \;, are one
# request and one transaction.
sub send
{
	my ($self, $sql) = @_;

	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } "$sql;\n\\echo '" . MARK
	  . "' :ERROR :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE\n";
}

# Has the statement sent last ended?  Waits so long for it.
sub is_done
{
	my ($self, $seconds) = @_;
	my $end = time + ($seconds // 0);
	my $mark = MARK;

	while ($self->{buffer} !~ /^\Q$mark\E [^\n]*\n/m)
	{
		my $left = $end - time;

		return 0 if !IO::Select->new($self->{out})->can_read($left > 0 ? $left : 0);
		return $self->{lost} = 1
		  if !sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer};
	}
	return 1;
}

# The rows of the statement sent last and its error, as SQLSTATE and message, or
# undef.
sub result
{
	my ($self) = @_;
	my $mark = MARK;

	$self->is_done(LIMIT) or die "a statement does not end\n";
	die "the connection is lost\n" if $self->{lost};
	$self->{buffer} =~ s/\A(.*?)^\Q$mark\E (\S+) (\S+) ?([^\n]*)\n//ms
	  or die "psql says $self->{buffer}\n";
	my ($rows, $failed, $error) = ($1, $2 eq 'true', "$3 $4");
	chomp $rows;
	return ($rows, $failed ? $error : undef);
}

# Runs a statement: rows and error.
sub try
{
	my ($self, $sql) = @_;

	$self->send($sql);
	return $self->result;
}

# Runs a statement that must not fail: its rows as text, columns parted by |.
sub query
{
	my ($self, $sql) = @_;
	my ($rows, $error) = $self->try($sql);

	die "$error\nin: $sql\n" if defined $error;
	return $rows;
}

1;
