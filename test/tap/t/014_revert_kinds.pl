# What kinds of actions can be undone: for each, rows are changed in the window,
# the old definition is put back, and then catalogs and rows are what they would
# be had there been no migration.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitCatalog;
use RefitTest;
use Test::More;

# Every migration in its window has a worker.
my $node = new_node('kinds', conf => "max_worker_processes = 80\n");

# name: of the table.  columns, rows: of the table and of its oracle.  more: SQL
# run on the table alone, before.  changes: on both, in the window, %s stands
# for the table; in the oracle's words where those differ.
my @kinds = (
	{
		name => 'widened',
		columns => 'id serial PRIMARY KEY, n int, s text',
		rows => 'SELECT g, g, g::text FROM generate_series(1, 200) g',
		more => [
			"SELECT setval('widened_id_seq', 200)",
			"CREATE INDEX widened_n ON %s (n) WHERE n > 5",
			"CREATE STATISTICS widened_stat ON id, n FROM %s",
			"ALTER STATISTICS widened_stat SET STATISTICS 33",
			"COMMENT ON COLUMN %s.id IS 'the key'",
			"GRANT SELECT (id, s), UPDATE (s) ON %s TO reader",
			"CREATE VIEW widened_view AS SELECT id, s FROM %s WHERE id > 3",
			"GRANT SELECT ON widened_view TO reader",
			"CREATE TABLE widened_child (id int PRIMARY KEY, of int"
			  . " REFERENCES %s ON DELETE CASCADE)",
			"INSERT INTO widened_child SELECT g, g FROM generate_series(1, 50) g",
			"ALTER TABLE %s ADD parent int REFERENCES %s"
		],
		oracle => ['ALTER TABLE %s ADD parent int'],
		actions => 'ALTER id TYPE bigint',
		changes => [
			"UPDATE %s SET s = 'changed' WHERE id IN (7, 8)",
			'DELETE FROM %s WHERE id IN (20, 21)',
			"INSERT INTO %s (id, n, s, parent) VALUES (901, 1, 'new', 7)",
			'UPDATE %s SET id = id + 1000 WHERE id IN (100, 101)'
		],
	},
	{
		name => 'narrowed',
		columns => 'id bigserial PRIMARY KEY, s text',
		rows => 'SELECT g, g::text FROM generate_series(1, 200) g',
		actions => 'ALTER id TYPE int',
		changes => [
			"INSERT INTO %s VALUES (300, 'x')", 'DELETE FROM %s WHERE id = 5',
			'UPDATE %s SET id = 400 WHERE id = 6'
		],
	},
	{
		name => 'to_jsonb',
		columns => 'id int PRIMARY KEY, j text',
		rows => q(SELECT g, '{"a":' || g || '}' FROM generate_series(1, 100) g),
		actions => 'ALTER j TYPE jsonb USING j::jsonb',
		changes => [
			q(UPDATE %s SET j = '{"b": 2}' WHERE id = 3),
			q(INSERT INTO %s VALUES (500, '[1, 2]'), (501, NULL)),
		],
	},
	{
		name => 'to_text',
		columns => 'id int PRIMARY KEY, n int DEFAULT 7, v varchar(10) NOT NULL',
		rows => "SELECT g, g * 3, 'v' || g FROM generate_series(1, 100) g",
		actions => 'ALTER n TYPE text, ALTER v TYPE text',
		changes => [
			"UPDATE %s SET n = '12', v = 'short' WHERE id = 3",
			"INSERT INTO %s (id, v) VALUES (500, 'x')"
		],
	},
	{
		name => 'rescaled',
		columns => 'id int PRIMARY KEY, n numeric(10,2), m numeric(10,2),'
		  . ' t timestamp, d date',
		rows => "SELECT g, g / 7.0, 1.5, timestamp '2026-01-02 03:04:05' + g * interval"
		  . " '1 hour', date '2026-03-04' + g FROM generate_series(1, 100) g",
		actions => 'ALTER n TYPE numeric(12,4), ALTER m TYPE numeric,'
		  . ' ALTER t TYPE timestamptz, ALTER d TYPE timestamp',
		changes => [
			'UPDATE %s SET n = 4.25, m = 2.5 WHERE id = 3',
			"UPDATE %s SET t = '2026-05-06 07:08:09', d = '2026-08-09' WHERE id = 4"
		],
	},
	{
		name => 'collated',
		columns => 'id text PRIMARY KEY, s text COLLATE "POSIX", n name',
		rows => "SELECT 'k' || g, 's' || g, 'n' || g FROM generate_series(1, 100) g",
		more => ['CREATE UNIQUE INDEX collated_s ON %s (s, id)'],
		actions => 'ALTER id TYPE text COLLATE "C", ALTER s TYPE text COLLATE "C"',
		changes => [
			"UPDATE %s SET s = 'Z' WHERE id = 'k3'",
			"UPDATE %s SET id = 'K4' WHERE id = 'k4'"
		],
	},
	{
		name => 'dropped',
		columns => 'id int PRIMARY KEY, a int, b text COLLATE "C" DEFAULT \'b\','
		  . " c numeric(8,3) NOT NULL DEFAULT 1.5, w text, z int",
		rows => "SELECT g, g, 'b' || g, g / 3.0, wide(g), g FROM generate_series(1, 100) g",
		more => [
			'CREATE INDEX dropped_ab ON %s (a, b)',
			'CREATE INDEX dropped_expr ON %s ((a + z)) WITH (fillfactor = 70)',
			'ALTER TABLE %s ADD CONSTRAINT dropped_check CHECK (a > 0 AND z > 0)',
			'ALTER TABLE %s ADD UNIQUE (c, id)',
			'ALTER TABLE %s ADD FOREIGN KEY (a) REFERENCES numbers',
			'ALTER TABLE %s ALTER a SET STATISTICS 77, ALTER b SET (n_distinct = 5),'
			  . ' ALTER w SET STORAGE EXTERNAL',
			"COMMENT ON COLUMN %s.b IS 'gone for a while'",
			"COMMENT ON INDEX dropped_ab IS 'gone too'",
			"COMMENT ON CONSTRAINT dropped_check ON %s IS 'and this'",
			'GRANT SELECT (b) ON %s TO reader'
		],
		actions => 'DROP COLUMN a, DROP COLUMN b, DROP COLUMN c, DROP COLUMN w',
		in_window => [
			'INSERT INTO %s (id, z) VALUES (500, 9)',
			'UPDATE %s SET z = 55 WHERE id = 4',
			'DELETE FROM %s WHERE id = 5'
		],
		changes_oracle => [
			'INSERT INTO %s VALUES (500, NULL, NULL, 1.5, NULL, 9)',
			'UPDATE %s SET z = 55 WHERE id = 4',
			'DELETE FROM %s WHERE id = 5'
		],
	},
	{
		name => 'added',
		columns => 'id int PRIMARY KEY, s text',
		rows => "SELECT g, 's' || g FROM generate_series(1, 100) g",
		actions => 'ADD COLUMN u uuid NOT NULL DEFAULT gen_random_uuid(),'
		  . ' ADD COLUMN i bigint GENERATED ALWAYS AS IDENTITY UNIQUE,'
		  . ' ADD COLUMN r int REFERENCES numbers, ADD CHECK (u IS NOT NULL)',
		changes => [
			"INSERT INTO %s (id, s) VALUES (500, 'x')",
			"UPDATE %s SET s = 'y' WHERE id = 4", 'DELETE FROM %s WHERE id = 5'
		],
	},
	{
		name => 'constraints',
		columns => 'id int PRIMARY KEY, a int CHECK (a > 0) UNIQUE, b int NOT NULL'
		  . ' DEFAULT 4, c int, d int REFERENCES numbers',
		rows => 'SELECT g, g, g, g, g FROM generate_series(1, 100) g',
		more => ["COMMENT ON CONSTRAINT constraints_a_check ON %s IS 'positive'"],
		actions => 'DROP CONSTRAINT constraints_a_check,'
		  . ' DROP CONSTRAINT constraints_a_key, DROP CONSTRAINT constraints_d_fkey,'
		  . ' ADD CONSTRAINT small CHECK (c < 10000), ADD UNIQUE (b),'
		  . ' ADD CONSTRAINT refers FOREIGN KEY (c) REFERENCES numbers,'
		  . ' ALTER b DROP NOT NULL, ALTER b DROP DEFAULT, ALTER c SET NOT NULL,'
		  . ' ALTER c SET DEFAULT 8, ALTER a SET DEFAULT 9',
		changes => [
			'INSERT INTO %s VALUES (500, 501, 502, 50, 50)',
			'UPDATE %s SET a = 777, b = 555 WHERE id = 4',
			'DELETE FROM %s WHERE id = 5'
		],
	},
	{
		name => 'properties',
		columns => 'id int PRIMARY KEY, a text, b text COMPRESSION pglz',
		rows => 'SELECT g, wide(g), wide(g) FROM generate_series(1, 100) g',
		more => [
			'ALTER TABLE %s ALTER a SET STORAGE EXTERNAL, ALTER b SET STATISTICS 33,'
			  . ' ALTER b SET (n_distinct = 7), SET (fillfactor = 80,'
			  . ' toast.autovacuum_enabled = off)',
			"COMMENT ON TABLE %s IS 'a table'",
			'CREATE INDEX properties_md5 ON %s (md5(a))'
		],
		actions => 'ALTER a SET STORAGE MAIN, ALTER b SET STATISTICS 44,'
		  . ' ALTER b SET (n_distinct = 8), SET (fillfactor = 60),'
		  . ' RESET (toast.autovacuum_enabled), ALTER id TYPE bigint',
		changes => [
			'UPDATE %s SET a = wide(id::int + 1) WHERE id < 10',
			'UPDATE %s SET b = NULL WHERE id = 20'
		],
	},
	{
		name => 'short_rows',
		columns => 'id int PRIMARY KEY, gone int, s text',
		rows => "SELECT g, g, 's' || g FROM generate_series(1, 100) g",
		more => [
			"ALTER TABLE %s DROP gone, ADD fast int NOT NULL DEFAULT 42,"
			  . " ADD word text DEFAULT 'fast' || 1"
		],
		oracle => [
			"ALTER TABLE %s DROP gone, ADD fast int NOT NULL DEFAULT 42,"
			  . " ADD word text DEFAULT 'fast' || 1"
		],
		actions => 'ALTER id TYPE bigint, ADD COLUMN more int DEFAULT 1',
		changes => [
			'UPDATE %s SET fast = 43 WHERE id = 4',
			"INSERT INTO %s (id, s) VALUES (500, 'x')"
		],
	},
	{
		name => 'generated',
		columns => 'id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, n int,'
		  . ' g int GENERATED ALWAYS AS (n * 2) STORED, k int, h int GENERATED'
		  . ' ALWAYS AS (n + 1) STORED',
		fill => 'id, n, k',
		rows => 'SELECT g, g, g FROM generate_series(1, 100) g',
		actions => 'ALTER id TYPE bigint, DROP COLUMN g, ALTER k TYPE bigint',
		changes => [
			'UPDATE %s SET n = 50 WHERE id = 4',
			'INSERT INTO %s (id, n, k) VALUES (500, 1, 2)'
		],
	},
	{
		name => 'excluded',
		columns => 'id int, sub uuid, r int4range, PRIMARY KEY (sub, id),'
		  . ' EXCLUDE USING gist (r WITH &&)',
		rows => "SELECT g, md5(g::text)::uuid, int4range(g * 10, g * 10 + 5)"
		  . ' FROM generate_series(1, 100) g',
		actions => 'DROP CONSTRAINT excluded_r_excl, ALTER id TYPE bigint,'
		  . ' ADD CONSTRAINT excluded_other EXCLUDE USING gist (r WITH =)',
		changes => [
			"UPDATE %s SET r = '[3,5)' WHERE id = 4",
			"UPDATE %s SET id = 900 WHERE id = 5"
		],
	},
	{
		name => 'no_rewrite',
		columns => 'id int PRIMARY KEY, s text',
		rows => "SELECT g, 's' || g FROM generate_series(1, 100) g",
		actions => 'ADD COLUMN note text',
		changes => ["UPDATE %s SET s = 'y' WHERE id = 4"],
	});

$node->start;
make_table($node, 'postgres', 'orders', 100);
make_describe($node, 'postgres');
$node->safe_psql('postgres', <<'SQL');
SET client_min_messages = warning;
CREATE ROLE reader;
CREATE TABLE numbers (n int PRIMARY KEY);
INSERT INTO numbers SELECT generate_series(1, 10000);
SQL

# Runs SQL on a table.
sub run_on
{
	my ($table, @commands) = @_;

	$node->safe_psql('postgres', join(";\n", @commands) =~ s/%s/$table/gr);
}

foreach my $kind (@kinds)
{
	my $table = $kind->{name};
	my $fill = $kind->{fill} ? "($kind->{fill})" : '';

	my @made = ("CREATE TABLE %s ($kind->{columns})",
		"INSERT INTO %s $fill $kind->{rows}");
	run_on($table, @made, @{ $kind->{more} // [] }, 'ANALYZE %s');
	run_on("${table}_oracle", @made, @{ $kind->{oracle} // [] });
	$kind->{before} = describe($node, 'postgres', $table);
	$kind->{id} = submit($node, 'postgres', $table,
		actions => $kind->{actions} =~ s/'/''/gr,
		arguments => "revertible => '1 day'");
}
foreach my $kind (@kinds)
{
	my $table = $kind->{name};

	wait_state($node, 'postgres', $kind->{id}, 'revertible');
	isnt(describe($node, 'postgres', $table),
		$kind->{before}, "$table: the actions have done something");
	run_on($table, @{ $kind->{in_window} // $kind->{changes} });
	run_on("${table}_oracle", @{ $kind->{changes_oracle} // $kind->{changes} });
	$node->safe_psql('postgres', "SELECT refit.revert($kind->{id})");
}
foreach my $kind (@kinds)
{
	my $table = $kind->{name};

	wait_state($node, 'postgres', $kind->{id}, 'reverted');
	check_described($node, 'postgres', $table, $kind->{before});
	is($node->safe_psql('postgres', <<"SQL"), '', "$table: the rows are right");
(SELECT t::text FROM $table t EXCEPT ALL SELECT t::text FROM ${table}_oracle t)
UNION ALL
(SELECT t::text FROM ${table}_oracle t EXCEPT ALL SELECT t::text FROM $table t)
SQL
	check_clean($node, 'postgres', $table);
}
is( $node->safe_psql('postgres',
		'SELECT max(id) FROM widened_child WHERE of IN (20, 21)'),
	'', 'a cascade was followed');
check_no_orphans($node, 'postgres');
$node->stop;
done_testing();
