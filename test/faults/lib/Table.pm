# Table: the outcomes of all cells, between two marks in docs/design.md.
#
# For each kind there is the list of its points and a table that a person can read:
# faults with the same outcomes everywhere share rows, points with the same outcome
# share one.  It is read back, so that what is not run again keeps its outcome.
package Table;

use strict;
use warnings;

use Exporter 'import';
use Kinds qw(@KINDS @FAULTS kind);

our @EXPORT_OK = qw(update_tables);

# The tables with the outcomes of these lines put in.  points: those that there
# still are, in their order.
sub update_tables
{
	my ($tables, $points, @lines) = @_;
	my %outcome;

	while ($tables =~ /^\*\*(.+?)\*\* \(without a fault: .+?\)\n\n(.*?)(?=^\*\*|\z)/gms)
	{
		$outcome{$1} = read_table($2);
	}
	foreach (@lines)
	{
		my ($ok, $kind, $point, $fault, $text) =
		  /^(ok|not ok) (.+?): (\S+): (.+?) -> (.*?) \([\d.]+ s\)/
		  or next;
		next if !kind($kind);
		my $final = kind($kind)->{final};
		$text =~ s/^\Q$final\E(?: \d\S*)?(?=$|,)/✓/;
		$outcome{$kind}{$point}{$fault} = $ok eq 'ok' ? $text : "**$text**";
	}
	return join "\n", map { write_table($_, $outcome{ $_->{name} }, $points) }
	  grep { $outcome{ $_->{name} } } @KINDS;
}

# The outcomes of one table, by point and fault.
sub read_table
{
	my ($text) = @_;
	my @points = ($text =~ /^Points: (.*)$/m ? $1 : '') =~ /`(\S+)`/g;
	my (%outcome, %named);

	while ($text =~ /^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$/mg)
	{
		my ($faults, $at, $result) = ($1, $2, $3);
		my @at = $at =~ /^all/ ? grep { !$named{$faults}{$_} } @points
		  : map { my $name = $_; grep { is_meant($name, $_) } @points } $at =~ /`(\S+)`/g;

		foreach my $point (@at)
		{
			$named{$faults}{$point} = 1;
			next if $result eq 'not run';
			$outcome{$point}{$_} = $result foreach split /, /, $faults;
		}
	}
	return \%outcome;
}

# Does a name, which can be that of a whole phase, mean the point?
sub is_meant
{
	my ($name, $point) = @_;
	return $name eq $point || $name =~ /^(\w+\.)\*$/ && index($point, $1) == 0;
}

# The table of one kind.
sub write_table
{
	my ($kind, $outcome, $known) = @_;
	my @points = grep { $outcome->{$_} } @$known;
	my %without = map { $_ => 1 } @{ $kind->{without} // [] };
	my (@groups, %group, @never, $run);

	foreach my $fault (map { $_->{name} } @FAULTS)
	{
		my @column = map { $outcome->{$_}{$fault} // 'not run' } @points;
		my $count = grep { $_ ne 'not run' } @column;

		push @never, $fault if !$count && !$without{$fault};
		next if !$count;
		$run += $count;
		push @groups, $group{"@column"} = { column => \@column } if !$group{"@column"};
		push @{ $group{"@column"}{faults} }, $fault;
	}
	return "**$kind->{name}** (without a fault: $kind->{final})\n\nPoints: "
	  . join(' ', map { "`$_`" } @points)
	  . "\n\n| faults | at | outcome |\n|---|---|---|\n"
	  . join('', map { rows_of($_, @points) } @groups)
	  . "\n$run cells were run."
	  . (@never ? ' Faults that were not: ' . join(', ', @never) . '.' : '') . "\n";
}

# The rows of faults that have the same outcomes.  What most points have is last.
sub rows_of
{
	my ($group, @points) = @_;
	my (%at, @results);

	foreach my $n (0 .. $#points)
	{
		my $result = $group->{column}[$n];

		push @results, $result if !$at{$result};
		push @{ $at{$result} }, $points[$n];
	}
	my ($most) = sort { @{ $at{$b} } <=> @{ $at{$a} } } @results;
	my @rest = grep { $_ ne $most } @results;
	my $faults = join ', ', @{ $group->{faults} };

	return join '', map { "| $faults | $_->[0] | $_->[1] |\n" }
	  (map { [ names_of($at{$_}, \@points), $_ ] } @rest),
	  [ @rest ? 'all others' : 'all', $most ];
}

# Some of the points in words: a phase by its name where it is there whole.
sub names_of
{
	my ($some, $points) = @_;
	my %is_there = map { $_ => 1 } @$some;
	my (@names, %named);

	foreach my $point (@$some)
	{
		my ($phase) = $point =~ /^(\w+)\./;
		my @phase = grep { /^\Q$phase\E\./ } @$points;
		my $whole = @phase > 1 && !grep { !$is_there{$_} } @phase;

		next if $named{$phase};
		$named{$phase} = 1 if $whole;
		push @names, $whole ? "`$phase.*`" : "`$point`";
	}
	return join ' ', @names;
}

1;
