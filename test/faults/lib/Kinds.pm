# Kinds: the kinds of migration that the driver walks, and what it does to them.
#
# To add a kind, add an entry to @KINDS: its points are found by running it once.
# All kinds change app.t of lab.sql, under its load.
package Kinds;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(@KINDS @FAULTS kind fault);

# Leaves old rows to go back to: a column is retyped, one dropped, one added.
my $revertible =
    "SELECT refit.alter_table('app.t', 'ALTER id TYPE bigint, DROP COLUMN spare,"
  . " ADD COLUMN extra int NOT NULL DEFAULT 5', revertible => '1 hour',"
  . ' options => \'{"chunk_time": "1ms"}\')';

# The same of a tree, by columns that it is not partitioned by.
my $revertible_tree = $revertible =~ s/ALTER id TYPE bigint/ALTER k TYPE bigint, ALTER n TYPE bigint/r;

# Its window has been worked for a while, or cannot be.
my $in_window =
  "(lab.has_passed('window.batch', 'window.batch') OR error_code IS NOT NULL)";

# PostgreSQL has no CREATE INDEX CONCURRENTLY for a tree.
my $on_tree = { 'create index' => 'CREATE INDEX more ON app.t (n)' };

# In whatever schema: it goes with the table.
my $index_is_made =
    'SELECT EXISTS (SELECT FROM pg_index JOIN lab.subject ON relid = indrelid'
  . " JOIN pg_class c ON c.oid = indexrelid WHERE relname = 'made' AND indisvalid)";

# name		in the table of docs/design.md
# submit	returns the migration's id
# table		the function that makes the table, where it is not a plain one
# when		what is done once in a state, with the id for :id
# whenever	what is done in a state for as long as it returns nothing, and again
#			when the migration comes back to that state
# barred	what is done instead where another session's change bars it
# final		the state in which it ends
# changed	is true when the change is in place, and only then
# complete	is true when it is completed, and perhaps before
# held		a point where the worker is held while rows are written, so that the
#			points after it find some
# once		that point is reached once: at itself nothing is held before
# late		only the points from there on count, when they come again
# short		the faults of the list for CI
# without	faults that make no sense: a statement names its table
# refused	by fault, the errors that its session may get, beside those of the fault
# sql		what another session does in place of a fault's statement
our @KINDS = (
	{
		name => 'rewrite',
		submit => "SELECT refit.alter_table('app.t', 'ALTER id TYPE bigint',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		changed => "SELECT lab.type_of('id') = 'bigint NOT NULL'",
		held => 'copy.chunk',
		short => [qw(error kill)],
	},
	{
		name => 'revertible, reverted',
		submit => $revertible,
		whenever => {
			revertible => 'SELECT refit.revert(id) FROM refit.migration WHERE id = :id'
			  . " AND request IS NULL AND $in_window"
		},
		barred => 'SELECT refit.finish(:id)',
		final => 'reverted',
		changed => "SELECT lab.type_of('id') = 'bigint NOT NULL'",
		held => 'window.batch',
		late => 1,
		short => ['kill'],
	},
	{
		name => 'revertible, finished',
		submit => $revertible,
		whenever => {
			revertible => 'SELECT refit.finish(id) FROM refit.migration WHERE id = :id'
			  . " AND request IS NULL AND $in_window"
		},
		final => 'completed',
		changed => "SELECT lab.type_of('extra') IS NOT NULL AND lab.type_of('spare') IS NULL",
		held => 'copy.chunk',
	},
	{
		name => 'partition tree',
		table => 'make_tree',
		submit => "SELECT refit.alter_table('app.t', 'ALTER k TYPE bigint, ALTER n TYPE bigint',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		changed => "SELECT lab.type_of('k') = 'bigint NOT NULL'",
		held => 'copy.chunk',
		sql => $on_tree,
	},
	{
		name => 'partition tree, repack',
		table => 'make_tree',
		submit => "SELECT refit.repack('app.t', options => '{\"chunk_time\": \"1ms\", \"workers\": 2}')",
		final => 'completed',
		held => 'copy.chunk',
		sql => $on_tree,
	},
	{
		name => 'inheritance tree',
		table => 'make_heirs',
		submit => "SELECT refit.alter_table('app.t', 'ALTER id TYPE bigint, ALTER n TYPE bigint',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		changed => "SELECT lab.is_everywhere('id', 'bigint')",
		held => 'copy.chunk',
	},
	{
		name => 'inheritance tree, validate',
		table => 'make_heirs',
		submit => "SELECT refit.alter_table('app.t',"
		  . " 'ADD CONSTRAINT k_range CHECK (k >= 0), ALTER n SET NOT NULL')",
		final => 'completed',
		changed => "SELECT lab.type_of('n') = 'integer NOT NULL'",
	},
	{
		name => 'inheritance tree, reverted',
		table => 'make_heirs',
		submit => $revertible,
		whenever => {
			revertible => 'SELECT refit.revert(id) FROM refit.migration WHERE id = :id'
			  . " AND request IS NULL AND $in_window"
		},
		barred => 'SELECT refit.finish(:id)',
		final => 'reverted',
		changed => "SELECT lab.is_everywhere('id', 'bigint')",
		held => 'window.batch',
		late => 1,
	},
	{
		name => 'partition tree, reverted',
		table => 'make_tree',
		submit => $revertible_tree,
		whenever => {
			revertible => 'SELECT refit.revert(id) FROM refit.migration WHERE id = :id'
			  . " AND request IS NULL AND $in_window"
		},
		barred => 'SELECT refit.finish(:id)',
		final => 'reverted',
		changed => "SELECT lab.type_of('k') = 'bigint NOT NULL'",
		held => 'window.batch',
		late => 1,
		sql => $on_tree,
	},
	{
		name => 'partition tree, finished',
		table => 'make_tree',
		submit => $revertible_tree,
		whenever => {
			revertible => 'SELECT refit.finish(id) FROM refit.migration WHERE id = :id'
			  . " AND request IS NULL AND $in_window"
		},
		final => 'completed',
		changed => "SELECT lab.type_of('extra') IS NOT NULL AND lab.type_of('spare') IS NULL",
		held => 'copy.chunk',
		sql => $on_tree,
	},
	{
		name => 'create index',
		submit => q{SELECT refit.create_index('CREATE UNIQUE INDEX made ON app.t (n, id)',}
		  . q{ method => 'incremental', options => '{"chunk_time": "10ms"}')},
		final => 'completed',
		changed => $index_is_made,
		held => 'begin.made',
		once => 1,
		short => ['kill'],
	},
	{
		name => 'create index, partition tree',
		table => 'make_tree',
		submit => q{SELECT refit.create_index('CREATE INDEX made ON app.t USING hash (n)',}
		  . q{ method => 'incremental', options => '{"chunk_time": "10ms"}')},
		final => 'completed',
		changed => $index_is_made,
		held => 'begin.made',
		once => 1,
		sql => $on_tree,
	},
	{
		name => 'rebuild index',
		submit => q{SELECT refit.rebuild_index('app.t_pkey',}
		  . q{ method => 'incremental', options => '{"chunk_time": "10ms"}')},
		final => 'completed',
		held => 'begin.made',
		once => 1,
		short => ['kill'],
	},
	{
		name => 'ready',
		submit => "SELECT refit.alter_table('app.t', 'ALTER id TYPE bigint',"
		  . " cutover => 'manual')",
		when => { ready => 'SELECT refit.cutover(:id)' },
		final => 'completed',
		changed => "SELECT lab.type_of('id') = 'bigint NOT NULL'",
		held => 'index.built',
	},
	{
		# its verification goes round while it waits
		name => 'ready, waiting',
		submit => "SELECT refit.alter_table('app.t', 'ALTER id TYPE bigint',"
		  . " cutover => 'manual')",
		whenever => {
			ready => 'SELECT refit.cutover(id) FROM refit.migration WHERE id = :id'
			  . ' AND request IS NULL'
			  . " AND lab.has_passed('ready.written', 'verify.chunk', 'ready.written')"
		},
		final => 'completed',
		changed => "SELECT lab.type_of('id') = 'bigint NOT NULL'",
		held => 'ready.written',
		late => 1,
	},
	{
		name => 'ready, cancelled',
		submit => "SELECT refit.alter_table('app.t', 'ALTER id TYPE bigint',"
		  . " cutover => 'manual')",
		when => { ready => 'SELECT refit.cancel(:id)' },
		final => 'cancelled',
		changed => "SELECT lab.type_of('id') = 'bigint NOT NULL'",
		held => 'index.built',
	},
	{
		name => 'repack',
		submit => "SELECT refit.repack('app.t', options => '{\"chunk_time\": \"1ms\"}')",
		final => 'completed',
		held => 'copy.chunk',
	},
	{
		name => 'repack in an order',
		submit => "SELECT refit.repack('app.t', 'k DESC, id',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		held => 'copy.chunk',
	},
	{
		name => 'instant',
		submit => "SELECT refit.alter_table('app.t', 'ADD COLUMN extra int DEFAULT 5')",
		final => 'completed',
		changed => "SELECT lab.type_of('extra') IS NOT NULL",
	},
	{
		name => 'validate',
		submit => "SELECT refit.alter_table('app.t',"
		  . " 'ADD CONSTRAINT k_range CHECK (k >= 0), ALTER n SET NOT NULL')",
		final => 'completed',
		changed => "SELECT lab.type_of('n') = 'integer NOT NULL'",
	},
	{
		name => 'validate, violated',
		submit => "SELECT refit.alter_table('app.t',"
		  . " 'ADD CONSTRAINT n_range CHECK (n <> 4999)')",
		final => 'failed',
		code => '23514',
		changed => "SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = 'n_range')",
	},
	{
		# the trigger may be there when it has failed; the rows are not filled
		name => 'mirror a column',
		table => 'make_pair',
		submit => "SELECT refit.mirror_column('app.t', 'k', 'follower', 'k + 1',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		changed => 'SELECT lab.is_mirrored()',
		held => 'batches.chunk',
		short => ['kill'],
	},
	{
		name => 'take a mirror away',
		table => 'make_mirrored',
		submit => "SELECT refit.unmirror_column('app.t', 'follower')",
		final => 'completed',
		changed => 'SELECT NOT lab.is_mirrored()',
	},
	{
		name => 'validate_constraint',
		table => 'make_not_valid',
		submit => "SELECT refit.validate_constraint('app.t', 't_place')",
		final => 'completed',
		changed => "SELECT convalidated FROM pg_constraint WHERE conname = 't_place'",
	},
	{
		name => 'ddl',
		submit => "SELECT refit.ddl('ALTER TABLE app.t ADD COLUMN extra int DEFAULT 5')",
		final => 'completed',
		changed => "SELECT lab.type_of('extra') IS NOT NULL",
		without => [ 'rename', 'set schema' ],
	},
	{
		name => 'ddl, top-level',
		submit => "SELECT refit.ddl('CREATE INDEX CONCURRENTLY made ON app.t (n)')",
		final => 'completed',
		changed => "SELECT EXISTS (SELECT FROM pg_index WHERE indisvalid"
		  . " AND indexrelid = to_regclass('app.made'))",
		short => ['kill'],
		without => [ 'rename', 'set schema' ],
	},
	{
		name => 'ddl, top-level, violated',
		submit => "SELECT refit.ddl('CREATE UNIQUE INDEX CONCURRENTLY made ON app.t ((true))')",
		final => 'failed',
		code => '23505',
		changed => "SELECT to_regclass('app.made') IS NOT NULL",
		without => [ 'rename', 'set schema', 'truncate' ],
		# of what the command leaves until cleanup
		refused => { reindex => qr/^23505/ },
	},
	{
		name => 'backfill',
		table => 'make_batches',
		submit => "SELECT refit.backfill('app.t', 'times = t.times + 1',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		complete => "SELECT lab.is_done('times = 1')",
		held => 'batches.chunk',
	},
	{
		# two processes: the points are those of whoever gets there first
		name => 'backfill of a tree',
		table => 'make_batches_tree',
		submit => "SELECT refit.backfill('app.t', 'times = t.times + 1',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		complete => "SELECT lab.is_done('times = 1')",
		held => 'batches.chunk',
		sql => $on_tree,
	},
	{
		name => 'purge',
		table => 'make_batches',
		submit => "SELECT refit.purge('app.t', 'id > 100000',"
		  . ' options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		complete => "SELECT lab.is_done('id <= 100000')",
		held => 'batches.chunk',
	},
	{
		# its statement has the table's name
		name => 'batched',
		table => 'make_batches',
		submit => "SELECT refit.batched('app.t', 'INSERT INTO app.copied SELECT id FROM app.t"
		  . ' WHERE id BETWEEN $1 AND $2\', options => \'{"chunk_time": "1ms"}\')',
		final => 'completed',
		complete => "SELECT lab.is_done('t.id IN (SELECT c.id FROM app.copied c)')",
		held => 'batches.chunk',
		without => [ 'rename', 'set schema' ],
	},
);

# name		in the table
# action	what the process does at the point; 'wait' holds it for what follows
# again		the same once more, at the same point
# writer	a client writes meanwhile: where nothing is done that would be an
#			error to any client
# sql		run by another session while the process is held, as its owner would
# list		a query whose rows are run one after the other instead
# refused	the errors that the session may get
# redefines	the table's definition is another one then
# bars		and there is no way back to the old one
# may		final states that are right beside the kind's own, with SQLSTATEs
# leaks		leaves values out of line to which no row refers: VACUUM FULL stores
#			those of rows that died a moment ago again
# gone		the table need not be there at the end
our @FAULTS = (
	{ name => 'error', action => 'error', writer => 1 },
	{
		name => 'error twice',
		action => 'error',
		again => 1,
		writer => 1,
		may => { failed => ['58000'] }
	},
	{ name => 'kill', action => 'kill', writer => 1 },
	{ name => 'stop', action => 'stop', writer => 1 },
	{ name => 'promote', action => 'wait', writer => 1 },
	{
		name => 'drop',
		action => 'wait',
		sql => 'DROP TABLE app.t CASCADE',
		may => { failed => [ '42P01', '55000' ] },
		gone => 1
	},
	{
		name => 'rename',
		action => 'wait',
		sql => 'ALTER TABLE app.t RENAME TO renamed',
		redefines => 1
	},
	{
		name => 'set schema',
		action => 'wait',
		sql => 'ALTER TABLE app.t SET SCHEMA elsewhere',
		redefines => 1
	},
	{
		name => 'add column',
		action => 'wait',
		sql => 'ALTER TABLE app.t ADD COLUMN more int',
		redefines => 1,
		bars => 1,
		may => { failed => ['55000'] }
	},
	{
		name => 'vacuum full',
		action => 'wait',
		writer => 1,
		sql => 'VACUUM FULL app.t',
		leaks => 1
	},
	{
		name => 'vacuum',
		action => 'wait',
		writer => 1,
		list => 'SELECT lab.vacuums()',
		refused => qr/^(3F000|42P01)/ # a work table that is gone by then
	},
	{ name => 'reindex', action => 'wait', writer => 1, sql => 'REINDEX TABLE app.t' },
	{
		name => 'create index',
		action => 'wait',
		writer => 1,
		sql => 'CREATE INDEX CONCURRENTLY more ON app.t (n)',
		redefines => 1,
		bars => 1,
		may => { failed => ['55000'] }
	},
	{ name => 'truncate', action => 'wait', writer => 1, sql => 'SELECT lab.empty()' },
	{
		name => 'another',
		action => 'wait',
		writer => 1,
		sql => "SELECT refit.repack('app.t')",
		another => 1
	},
	{
		name => 'pause',
		action => 'wait',
		writer => 1,
		sql => 'SELECT refit.pause(:id)',
		refused => qr/^55000/
	},
	{
		name => 'cancel',
		action => 'wait',
		writer => 1,
		sql => 'SELECT refit.cancel(:id)',
		refused => qr/^55000/,
		may => { cancelled => [''] }
	},
);

# An entry by its name.
sub kind { my ($name) = @_; return (grep { $_->{name} eq $name } @KINDS)[0] }
sub fault { my ($name) = @_; return (grep { $_->{name} eq $name } @FAULTS)[0] }

1;
