# Tables at the edges of what PostgreSQL takes: very many columns, indexes, key
# columns; very large rows and keys; nothing in them at all; many changes waiting.
# Each is migrated and compared, row by row, with a copy made before.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RefitTest;
use Test::More;

use constant {
	COLUMNS => 1600,
	DROPPED => 20,
	INDEXES => 40,
	ROW_MB => 200,
	PENDING => 200_000,
};

my $node = new_node('extremes', conf => "autovacuum = off\nrefit.max_workers = 4");

# Runs SQL.
sub sql
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Migrates a table and checks that it is sound and has the rows of the query.
sub migrate
{
	my ($what, $table, $actions, %params) = @_;
	my $rows = $params{rows} // "SELECT md5(coalesce(string_agg(t::text, '|'"
	  . " ORDER BY t::text), '')) FROM $table t";
	my $before = sql($rows);
	my $submit =
	  $actions eq 'repack'
	  ? "refit.repack('$table')"
	  : "refit.alter_table('$table', \$\$$actions\$\$)";

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	note($what);
	my $id = sql("SELECT $submit");
	wait_state($node, 'postgres', $id, 'completed');
	is(sql($rows), $before, "$what: no row is lost, none is other");
	check_clean($node, 'postgres', $table) unless $params{unchecked};
	return $id;
}

$node->start;
sql('CREATE EXTENSION pg_refit; CREATE EXTENSION amcheck');

#
# Columns
#

# as many as there can be, dropped ones in the middle; one more is refused
my $columns = join(', ', map { "c$_ smallint" } 2 .. COLUMNS);
my $dropped = join(', ', map { "DROP COLUMN c$_" } 100 .. 99 + DROPPED);
sql("CREATE TABLE columns (c1 int PRIMARY KEY, $columns);"
	  . ' INSERT INTO columns (c1, c2, c1000, c1600) SELECT n, n, n, n'
	  . ' FROM generate_series(1, 300) n;'
	  . " ALTER TABLE columns $dropped;"
	  . ' INSERT INTO columns (c1, c99, c1599) SELECT n, 1, 2'
	  . ' FROM generate_series(301, 400) n');
migrate(COLUMNS . ' columns', 'columns',
	'ALTER COLUMN c1 TYPE bigint, ALTER COLUMN c1600 TYPE int');
migrate('the same, repacked', 'columns', 'repack');
my ($status, $out, $err) = $node->psql('postgres',
	"\\set VERBOSITY sqlstate\nSELECT refit.alter_table('columns', 'ADD COLUMN one_more int')");
like($err, qr/ERROR:  54011/, 'one column more is refused when it is submitted');

# hardly any
sql('CREATE TABLE one (id int PRIMARY KEY);'
	  . ' INSERT INTO one SELECT generate_series(1, 1000)');
migrate('one column', 'one', 'ALTER COLUMN id TYPE bigint');
sql('CREATE TABLE shrunk (id int PRIMARY KEY, a text, b int);'
	  . ' INSERT INTO shrunk SELECT n, repeat(n::text, 100), n FROM generate_series(1, 1000) n;'
	  . ' ALTER TABLE shrunk DROP COLUMN a, DROP COLUMN b');
migrate('all dropped but the key', 'shrunk', 'repack');

# nothing in them
sql('CREATE TABLE nulls (id int PRIMARY KEY, ' . join(', ', map { "c$_ text" } 1 .. 40)
	  . '); INSERT INTO nulls SELECT generate_series(1, 5000)');
migrate('all NULL', 'nulls',
	'ALTER COLUMN id TYPE bigint, ALTER COLUMN c40 TYPE jsonb USING c40::jsonb');

#
# Indexes and keys
#

sql('CREATE TABLE indexes (id int PRIMARY KEY, a int, b text, p point);'
	  . ' INSERT INTO indexes SELECT n, n % 7, n::text, point(n, n) FROM generate_series(1, 2000) n;'
	  . join('', map { "CREATE INDEX ON indexes ((a + $_), b) WHERE id > $_;" } 1 .. INDEXES - 6)
	  . ' CREATE INDEX ON indexes USING hash (b); CREATE INDEX ON indexes USING gist (p);'
	  . ' CREATE INDEX ON indexes USING brin (id); CREATE INDEX ON indexes USING spgist (p);'
	  . ' CREATE UNIQUE INDEX ON indexes (b, id) INCLUDE (a);');
migrate(INDEXES . ' indexes', 'indexes', 'ALTER COLUMN id TYPE bigint', unchecked => 1);
is( sql("SELECT count(bt_index_check(indexrelid, true)::text) FROM pg_index JOIN pg_class c"
		  . " ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam"
		  . " WHERE indrelid = 'indexes'::regclass AND amname = 'btree'"),
	INDEXES - 4, 'the B-trees are sound');
is( sql('SET enable_seqscan = off;'
		  . " SELECT (SELECT count(*) FROM indexes WHERE b = '77'),"
		  . " (SELECT count(*) FROM indexes WHERE p <@ box '((1,1),(9,9))'),"
		  . " count(*) FROM pg_index WHERE indrelid = 'indexes'::regclass AND indisvalid"),
	'1|9|' . INDEXES, 'the indexes find what is there');

# the longest key: 32 columns
my @keys = map { "k$_" } 1 .. 32;
my $keys = join(', ', @keys);
sql("CREATE TABLE composite (x int, " . join(', ', map { "$_ text" } @keys)
	  . ", PRIMARY KEY ($keys)); INSERT INTO composite SELECT n, "
	  . join(', ', map { "md5((n / $_)::text)" } 1 .. 32)
	  . ' FROM generate_series(1, 1000) n');

# and the widest: 2.5 kB that do not compress, and 250 kB that do, both with
# changes while the migration waits
sql(<<'SQL');
CREATE FUNCTION noise(seed int, length int) RETURNS text IMMUTABLE LANGUAGE sql AS $$
	SELECT left(string_agg(translate(md5((seed * 1000 + g)::text), '0123456789',
			chr(230 + g % 90) || 'ghijklmno'), ''), length)
	FROM generate_series(1, length / 32 + 1) g
$$;
CREATE TABLE widest (id text PRIMARY KEY, x int);
INSERT INTO widest SELECT noise(n, 2200), n FROM generate_series(1, 100) n;
INSERT INTO widest SELECT n || repeat('a', 100000), n FROM generate_series(101, 120) n;
SQL
foreach my $table ('composite', 'widest')
{
	my $key = $table eq 'widest' ? 'id' : 'k1';
	my $id = sql("SELECT refit.alter_table('$table',"
		  . " 'ADD COLUMN u uuid DEFAULT gen_random_uuid()', cutover => 'manual')");

	wait_state($node, 'postgres', $id, 'ready');
	sql("UPDATE $table SET x = -x WHERE x % 3 = 0;"
		  . " UPDATE $table SET $key = 'b' || $key WHERE x % 7 = 0;"
		  . " DELETE FROM $table WHERE x % 11 = 0;"
		  . " CREATE TABLE ${table}_oracle AS SELECT * FROM $table;"
		  . " SELECT refit.cutover($id)");
	wait_state($node, 'postgres', $id, 'completed');
	is( sql("ALTER TABLE $table DROP COLUMN u;"
			  . " SELECT count(*) FROM ((TABLE $table EXCEPT ALL TABLE ${table}_oracle)"
			  . " UNION ALL (TABLE ${table}_oracle EXCEPT ALL TABLE $table)) d"),
		0, "$table key: changes are followed");
	check_clean($node, 'postgres', $table);
}

#
# Rows
#

# hundreds of MB in one row, out of line; once handed on, once rewritten
my $mb = ROW_MB / 2;
sql(<<"SQL");
CREATE TABLE giant (id int PRIMARY KEY, a text, b bytea);
ALTER TABLE giant ALTER COLUMN a SET STORAGE EXTERNAL, ALTER COLUMN b SET STORAGE EXTERNAL;
INSERT INTO giant VALUES (1, 'small', 'small');
INSERT INTO giant SELECT 2, repeat('0123456789abcdef', $mb * 65536),
	convert_to(repeat('0123456789abcdef', $mb * 65536), 'UTF8');
SQL
my $digest = "SELECT string_agg(id || md5(a) || md5(b), ' ' ORDER BY id) FROM giant";
migrate(ROW_MB . ' MB in a row', 'giant', 'ALTER COLUMN id TYPE bigint',
	rows => $digest, unchecked => 1);
migrate(ROW_MB . ' MB rewritten', 'giant',
	'ALTER COLUMN a TYPE varchar USING a || \'\'', rows => $digest, unchecked => 1);
my $failed = sql("SELECT refit.alter_table('giant', 'ADD CONSTRAINT c CHECK (length(a) < 10)')");
wait_for($node, 'postgres', 'it fails',
	"SELECT state = 'failed' FROM refit.migration WHERE id = $failed");
is( sql("SELECT error_code, octet_length(error_detail) BETWEEN 20 AND 2000"
		  . " FROM refit.migration WHERE id = $failed"),
	'23514|t', 'an error that names such a row does not hold all of it');
sql('DROP TABLE giant');

# none, dead ones only, one range deleted
sql('CREATE TABLE none (id int PRIMARY KEY, x text)');
migrate('no rows', 'none', 'ALTER COLUMN id TYPE bigint, ADD COLUMN u uuid DEFAULT gen_random_uuid()');
sql('CREATE TABLE dead (id int PRIMARY KEY, x text);'
	  . ' INSERT INTO dead SELECT n, n FROM generate_series(1, 20000) n;'
	  . ' DELETE FROM dead');
migrate('dead rows only', 'dead', 'ALTER COLUMN id TYPE bigint');
is(sql("SELECT pg_relation_size('dead')"), 0, 'they are not copied');
sql('CREATE TABLE gap (id int PRIMARY KEY, x text);'
	  . ' INSERT INTO gap SELECT n, repeat(n::text, 20) FROM generate_series(1, 100000) n;'
	  . ' DELETE FROM gap WHERE id BETWEEN 1000 AND 99000');
migrate('a gap of thousands of pages', 'gap', 'ALTER COLUMN id TYPE bigint');
sql('VACUUM gap; DELETE FROM gap WHERE id > 500');
migrate('the end is empty', 'gap', 'ALTER COLUMN id TYPE int');

#
# Properties
#

mkdir $node->basedir . '/space' or die 'no folder for a tablespace';
my $space = $node->basedir . '/space';
sql("CREATE TABLESPACE space LOCATION '$space'");
sql(<<'SQL');
CREATE UNLOGGED TABLE special (id int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5),
	x text, y text COMPRESSION pglz, CONSTRAINT special_pkey PRIMARY KEY (id)
		WITH (fillfactor = 60) USING INDEX TABLESPACE space)
	WITH (fillfactor = 40, toast_tuple_target = 256, parallel_workers = 3,
		autovacuum_enabled = off, toast.autovacuum_enabled = off,
		toast.autovacuum_vacuum_threshold = 77, user_catalog_table = false)
	TABLESPACE space;
ALTER TABLE special ALTER COLUMN x SET STORAGE EXTERNAL,
	ALTER COLUMN x SET (n_distinct = 99), ALTER COLUMN x SET STATISTICS 17;
INSERT INTO special (x, y) SELECT repeat(n::text, 300), repeat(n::text, 900)
	FROM generate_series(1, 500) n;
SQL
my $properties = <<'SQL';
SELECT relpersistence, spcname, c.reloptions,
	(SELECT reloptions FROM pg_class WHERE oid = c.reltoastrelid),
	(SELECT string_agg(concat_ws(' ', attname, attstorage, attcompression,
			(SELECT string_agg(o, ' ') FROM unnest(attoptions) o WHERE o LIKE 'n_distinct%'),
			attstattarget, attidentity), ',' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0),
	(SELECT concat_ws(' ', i.reloptions, s.spcname) FROM pg_class i
		JOIN pg_tablespace s ON s.oid = i.reltablespace WHERE i.relname = 'special_pkey')
FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace
WHERE c.oid = 'special'::regclass
SQL
my $before = sql($properties);
like($before, qr/u\|space\|.*fillfactor=40.*threshold=77.*n_distinct=99.*fillfactor=60} space/s,
	'a table with every property');
migrate('every property', 'special', 'ALTER COLUMN id TYPE bigint');
is(sql($properties), $before, 'every property: all are kept');
is( sql('INSERT INTO special (x) VALUES (1) RETURNING id'),
	10 + 500 * 5, 'every property: the identity goes on');
($status, $out, $err) = $node->psql('postgres',
	"\\set VERBOSITY sqlstate\nINSERT INTO special (id, x) VALUES (1, 1)");
like($err, qr/ERROR:  428C9/, 'every property: the identity is ALWAYS');
is( sql("SELECT count(*) FROM pg_class WHERE relfilenode <> 0 AND reltablespace = 0"
		  . " AND oid IN (SELECT 'special'::regclass UNION SELECT indexrelid FROM pg_index"
		  . " WHERE indrelid = 'special'::regclass)"),
	0, 'every property: nothing has moved');

#
# Settings of the session that submits, which a plain ALTER TABLE goes by
#

sql(<<'SQL');
CREATE TABLE settings (id int PRIMARY KEY, t timestamp, d text, f float8, b bytea);
INSERT INTO settings VALUES (1, '2020-01-01 12:00', '01/02/2020', 1.0 / 3, 'a');
CREATE TABLE settings_plain AS TABLE settings;
SQL
my $retype = 'ALTER t TYPE timestamptz, ALTER d TYPE date USING d::date,'
  . ' ALTER f TYPE text, ALTER b TYPE text USING b::text';
my $set = sql(<<"SQL");
SET timezone = 'Asia/Tokyo'; SET datestyle = 'ISO, DMY';
SET extra_float_digits = 0; SET bytea_output = 'escape';
ALTER TABLE settings_plain $retype;
SELECT refit.alter_table('settings', '$retype');
SQL
wait_state($node, 'postgres', $set, 'completed');
is( sql("SET timezone = 'UTC'; SELECT concat_ws(' ', t, d, f, b) FROM settings"),
	'2020-01-01 03:00:00+00 2020-02-01 0.333333333333333 a',
	'values are converted as the submitter would read and write them');
is(sql('TABLE settings'), sql('TABLE settings_plain'), 'as by a plain ALTER TABLE');

#
# Changes
#

# very many of them wait in the log, several for each key
sql('CREATE TABLE changes (id int PRIMARY KEY, x int);'
	  . ' INSERT INTO changes SELECT n, 0 FROM generate_series(1, ' . PENDING / 2 . ') n');
my $id = sql("SELECT refit.alter_table('changes', 'ALTER COLUMN id TYPE bigint',"
	  . " cutover => 'manual')");
wait_state($node, 'postgres', $id, 'ready');
sql("SELECT refit.pause($id)");
wait_for($node, 'postgres', 'it is paused',
	"SELECT state = 'paused' FROM refit.migration WHERE id = $id");
sql('UPDATE changes SET x = x + 1; UPDATE changes SET x = x + 1;'
	  . ' DELETE FROM changes WHERE id % 5 = 0;'
	  . ' INSERT INTO changes SELECT n * 5, -1 FROM generate_series(1, 1000) n;'
	  . ' UPDATE changes SET id = -id WHERE id % 1000 = 7;'
	  . ' CREATE TABLE changes_oracle AS TABLE changes');
cmp_ok(sql("SELECT count(*) FROM refit_$id.\"\$log0\"")
	  + sql("SELECT count(*) FROM refit_$id.\"\$log1\""),
	'>', PENDING, 'very many changes wait');
sql("SELECT refit.resume($id); SELECT refit.cutover($id)");
wait_state($node, 'postgres', $id, 'completed');
is( sql('SELECT count(*) FROM ((TABLE changes EXCEPT ALL TABLE changes_oracle)'
		  . ' UNION ALL (TABLE changes_oracle EXCEPT ALL TABLE changes)) d'),
	0, 'very many changes are applied');
check_clean($node, 'postgres', 'changes');
check_no_orphans($node, 'postgres');

$node->stop;
done_testing();
