# RefitCatalog: everything that the catalogs say about a table, as text, to
# compare what a table is with what it was.
package RefitCatalog;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(make_describe describe check_described);

# Makes public.describe(regclass).  Numbers that a revert may change are left
# out: those of the dropped columns that added ones have become, and files.
sub make_describe
{
	my ($node, $db) = @_;

	$node->safe_psql($db, <<'SQL');
CREATE FUNCTION public.describe(t regclass) RETURNS SETOF text
LANGUAGE sql SET search_path = pg_catalog AS $$
SELECT concat_ws(' ', 'table', oid, relname, relowner::regrole, relpersistence,
	relreplident, reltablespace, reloptions, relacl, relrowsecurity,
	relforcerowsecurity, relam, relrewrite, obj_description(oid, 'pg_class'))
FROM pg_class WHERE oid = t
UNION ALL
SELECT concat_ws(' ', 'toast', a.relname, a.reloptions, a.relrewrite)
FROM pg_class c JOIN pg_class a ON a.oid = c.reltoastrelid WHERE c.oid = t
UNION ALL
SELECT concat_ws(' ', 'column', attnum, attname, format_type(atttypid, atttypmod),
	attcollation::regcollation, 'not null', attnotnull, 'default', atthasdef,
	pg_get_expr(adbin, adrelid), 'identity', attidentity, 'generated',
	attgenerated, attstorage, attcompression, coalesce(attstattarget, -1),
	attlen, attalign, attbyval, attislocal, attinhcount,
	(SELECT array_agg(o) FROM unnest(attoptions) o WHERE o LIKE 'n_distinct%'), attacl,
	'missing', atthasmissing, attmissingval, col_description(attrelid, attnum))
FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attrelid = t AND attnum > 0 AND NOT attisdropped
UNION ALL
-- 18: NOT NULL has names, and ALTER TYPE gives those of partitions the parent's
SELECT concat_ws(' ', 'constraint', conrelid::regclass,
	CASE WHEN contype <> 'n' OR coninhcount = 0 THEN conname END,
	pg_get_constraintdef(oid), 'valid', convalidated, connoinherit,
	conindid::regclass, obj_description(oid, 'pg_constraint'))
FROM pg_constraint WHERE t IN (conrelid, confrelid)
UNION ALL
SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), indisunique,
	indisprimary, indimmediate, indisclustered, indisreplident, indisvalid,
	indisready, indislive, c.relowner::regrole, c.reltablespace, c.relrewrite,
	obj_description(indexrelid, 'pg_class'))
FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = t
UNION ALL
SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(oid), tgenabled)
FROM pg_trigger WHERE tgrelid = t AND NOT tgisinternal
UNION ALL
SELECT concat_ws(' ', 'key trigger', tgfoid::regproc, tgtype, tgenabled, count(*))
FROM pg_trigger WHERE tgrelid = t AND tgisinternal
GROUP BY tgfoid, tgtype, tgenabled
UNION ALL
SELECT concat_ws(' ', 'view', v.oid, v.relname, v.relowner::regrole, v.relacl,
	v.reloptions, pg_get_viewdef(v.oid), (SELECT string_agg(concat_ws(' ',
		attname, format_type(atttypid, atttypmod), attcollation), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = v.oid AND attnum > 0))
FROM (SELECT DISTINCT r.ev_class FROM pg_depend d JOIN pg_rewrite r
	ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
	WHERE d.refobjid = t AND r.ev_class <> t) x JOIN pg_class v ON v.oid = ev_class
UNION ALL
SELECT concat_ws(' ', 'policy', polname, polcmd, polroles,
	pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
FROM pg_policy WHERE polrelid = t
UNION ALL
SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(oid),
	coalesce(stxstattarget, -1))
FROM pg_statistic_ext WHERE stxrelid = t
UNION ALL
SELECT concat_ws(' ', 'publication', prpubid, prattrs, prqual)
FROM pg_publication_rel WHERE prrelid = t
UNION ALL
SELECT concat_ws(' ', 'sequence', s.seqrelid::regclass, s.seqtypid::regtype,
	s.seqmin, s.seqmax, s.seqincrement, d.deptype, d.refobjsubid)
FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.refobjid = t
	AND d.refclassid = 'pg_class'::regclass
UNION ALL
SELECT DISTINCT concat_ws(' ', 'role', refobjid::regrole, deptype, objsubid)
FROM pg_shdepend WHERE objid = t AND classid = 'pg_class'::regclass
	AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL
SELECT DISTINCT concat_ws(' ', 'depends', objsubid, 'on',
	pg_describe_object(refclassid, refobjid, refobjsubid), deptype)
FROM pg_depend d WHERE objid = t AND classid = 'pg_class'::regclass
	AND (objsubid = 0 OR EXISTS (SELECT FROM pg_attribute
		WHERE attrelid = t AND attnum = objsubid AND NOT attisdropped))
ORDER BY 1
$$
SQL
	return;
}

# That of a table.
sub describe
{
	my ($node, $db, $table) = @_;

	return $node->safe_psql($db, "SELECT * FROM public.describe('$table')");
}

# A table is what it was; what differs is shown.
sub check_described
{
	my ($node, $db, $table, $before) = @_;
	my $now = describe($node, $db, $table);
	my %was = map { $_ => 1 } split /\n/, $before;
	my %is = map { $_ => 1 } split /\n/, $now;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($before ne '' && $now eq $before, "the definition of $table is what it was")
	  or diag(join "\n", (map { "was $_" } grep { !$is{$_} } sort keys %was),
		(map { "is  $_" } grep { !$was{$_} } sort keys %is));
	return;
}

1;
