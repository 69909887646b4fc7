/*-------------------------------------------------------------------------
 *
 * space.c
 *	  The disk space that a rewrite needs.  See space.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/itup.h"
#include "access/table.h"
#include "access/tupmacs.h"
#include "access/xlog.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "commands/tablespace.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "storage/fd.h"
#include "storage/itemid.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/varlena.h"

#include "guc.h"
#include "job/catalog.h"
#include "table/shape.h"
#include "table/space.h"
#include "util/disk.h"
#include "util/sqlutil.h"

/* What is taken for granted; see space.h. */
#define LOG_ENTRY_BYTES 64
#define ROWS_PER_LOG_ENTRY 10
#define INDEX_FILL 0.88 /* 90 %, and inner pages */
#define HEAP_BYTES_PER_BRIN_BYTE 128

/* A temporary file larger than this goes on in the next tablespace. */
#define TEMP_SEGMENT (INT64CONST(1) << 30)

/* ms between two looks for room. */
#define ROOM_PAUSE_MS 1000

/* How messages of ours in progress.message begin. */
#define WAITING "waiting for disk space"

/* One file system that is written to. */
typedef struct FileSystem
{
	RefitDisk disk;
	int64 needed;
	StringInfoData places;
	int nplaces;
} FileSystem;

/* Adds bytes to what a place gets. */
static List *
add_need(List *needs, Oid place, int64 bytes)
{
	RefitSpace *need;
	ListCell *lc;

	foreach(lc, needs)
	{
		need = lfirst(lc);
		if (need->place == place)
		{
			need->bytes += bytes;
			return needs;
		}
	}
	need = palloc(sizeof(RefitSpace));
	need->place = place;
	need->bytes = bytes;
	return lappend(needs, need);
}

/* The tablespace that a relation is in. */
static Oid
place_of(Relation rel)
{
	Oid tablespace = rel->rd_rel->reltablespace;

	return OidIsValid(tablespace) ? tablespace : MyDatabaseTableSpace;
}

/* Bytes of a relation's files, of its TOAST table too. */
static int64
file_bytes(Oid relid)
{
	return DatumGetInt64(
		DirectFunctionCall1(pg_table_size, ObjectIdGetDatum(relid)));
}

/* Rows of a table, as the planner sees it. */
static double
count_rows(Relation rel)
{
	BlockNumber pages;
	double tuples;
	double visible;

	estimate_rel_size(rel, NULL, &pages, &tuples, &visible);
	return tuples;
}

/* What a value of a column takes, by its type. */
static int32
type_width(Form_pg_attribute att)
{
	return get_typavgwidth(att->atttypid, att->atttypmod);
}

/* Bytes by which a column makes a row longer, or less; before NULL: added. */
static int64
column_growth(Form_pg_attribute before, bool is_there, Form_pg_attribute after)
{
	if (before == NULL && !after->atthasdef && after->attidentity == '\0')
		return 0;
	if (before == NULL || !is_there)
		return MAXALIGN(type_width(after));
	if (before->atttypid == after->atttypid &&
		before->atttypmod == after->atttypmod)
		return 0;
	if (type_width(after) < type_width(before))
		return type_width(after) - type_width(before);
	return MAXALIGN(type_width(after) - type_width(before));
}

/* Bytes by which all rows become longer. */
static int64
growth(Relation source, Relation twin, double rows)
{
	TupleDesc before = RelationGetDescr(source);
	TupleDesc after = RelationGetDescr(twin);
	int64 width = 0;

	for (int i = 0; i < after->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(after, i);
		Form_pg_attribute old =
			i < before->natts ? TupleDescAttr(before, i) : NULL;

		/* a fast default stands in the catalog, not in the row */
		if (!att->attisdropped)
			width +=
				column_growth(old, old != NULL && !old->atthasmissing, att);
	}
	return width > 0 ? (int64) (rows * MAXALIGN(width)) : 0;
}

/* The index of the table that one of its twin was made after, or InvalidOid. */
static Oid
find_model(Relation source, Relation index)
{
	Oid model = get_relname_relid(RelationGetRelationName(index),
								  RelationGetNamespace(source));

	return list_member_oid(RelationGetIndexList(source), model) ? model
																: InvalidOid;
}

/*
 * Bytes of an index entry: by the table's statistics for columns that are in
 * it with this type, else by their type.
 */
static double
entry_bytes(Relation index, Relation source)
{
	TupleDesc desc = RelationGetDescr(index);
	TupleDesc columns = RelationGetDescr(source);
	Size width = 0;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		AttrNumber attnum = index->rd_index->indkey.values[i];
		int32 known = 0;

		if (attnum > 0 && attnum <= columns->natts &&
			TupleDescAttr(columns, attnum - 1)->atttypid == att->atttypid)
			known = get_attavgwidth(RelationGetRelid(source), attnum);
		if (att->attlen > 0)
			width = att_align_nominal(width, att->attalign);
		width += known > 0 ? known : type_width(att);
	}
	return sizeof(ItemIdData) + sizeof(IndexTupleData) + MAXALIGN(width);
}

/* Bytes of an index that has no model. */
static int64
new_index_bytes(Relation source, Relation index)
{
	if (index->rd_rel->relam == BRIN_AM_OID)
		return file_bytes(RelationGetRelid(source)) / HEAP_BYTES_PER_BRIN_BYTE;
	return (int64) (count_rows(source) * entry_bytes(index, source) /
					INDEX_FILL);
}

/* Bytes that an index of the twin will have. */
static int64
index_bytes(Relation source, Relation index)
{
	Oid model_oid = find_model(source, index);
	Relation model;
	double ratio;

	if (!OidIsValid(model_oid))
		return new_index_bytes(source, index);
	model = index_open(model_oid, AccessShareLock);
	ratio = entry_bytes(index, source) / entry_bytes(model, source);
	index_close(model, NoLock);
	return (int64) (file_bytes(model_oid) * Max(ratio, 1));
}

/*
 * Adds the temporary files of a sort.  They go round temp_tablespaces, a
 * segment at a time.  Rights on them are not looked at: who lacks one uses the
 * others.
 */
static List *
add_sort(List *needs, int64 bytes)
{
	List *names = NIL;
	List *places = NIL;
	char *setting = pstrdup(GetConfigOption("temp_tablespaces", false, false));
	ListCell *lc;

	if (bytes <= (int64) maintenance_work_mem * 1024)
		return needs;
	if (!SplitIdentifierString(setting, ',', &names))
		names = NIL;
	foreach(lc, names)
	{
		Oid place = get_tablespace_oid(lfirst(lc), true);

		if (OidIsValid(place))
			places = list_append_unique_oid(places, place);
	}
	if (places == NIL)
		return add_need(needs, MyDatabaseTableSpace, bytes);
	foreach(lc, places)
		needs =
			add_need(needs, lfirst_oid(lc),
					 Min(bytes, bytes / list_length(places) + TEMP_SEGMENT));
	return needs;
}

/* Adds the WAL of what is written so far. */
static List *
add_wal(List *needs, Relation twin)
{
	int64 written = refit_space_total(needs);
	char *present;
	int64 room;

	if (twin->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		return needs;
	present = refit_sql_text("SELECT coalesce(sum(size), 0)::int8"
							 " FROM pg_catalog.pg_ls_waldir()",
							 0, NULL, NULL);
	room = (int64) max_wal_size_mb * 1024 * 1024 - strtoll(present, NULL, 10);
	return add_need(needs, REFIT_PLACE_WAL, Max(Min(written, room), 0));
}

/* Adds the twin's indexes; *largest is the size of the largest one. */
static List *
add_indexes(List *needs, Relation source, Relation twin, int64 *largest)
{
	ListCell *lc;

	*largest = 0;
	foreach(lc, RelationGetIndexList(twin))
	{
		Relation index = index_open(lfirst_oid(lc), AccessShareLock);
		int64 bytes = index_bytes(source, index);

		needs = add_need(needs, place_of(index), bytes);
		*largest = Max(*largest, bytes);
		index_close(index, NoLock);
	}
	return needs;
}

/* Adds the index that rows are found by where the actions have left none. */
static List *
add_key_index(List *needs, Relation twin, Oid key_index)
{
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(key_index, &attnums);

	if (OidIsValid(refit_shape_find_index(twin, nkeys, attnums)))
		return needs;
	return add_need(needs, place_of(twin), file_bytes(key_index));
}

/* What a rewrite writes. */
List *
refit_space_of_rewrite(Relation source, Oid twin_oid, Oid key_index,
					   bool ordered)
{
	Relation twin = table_open(twin_oid, AccessShareLock);
	double rows = count_rows(source);
	int64 table =
		file_bytes(RelationGetRelid(source)) + growth(source, twin, rows);
	int64 largest;
	List *needs;

	needs = add_need(NIL, place_of(twin), ordered ? 2 * table : table);
	needs = add_indexes(needs, source, twin, &largest);
	needs = add_key_index(needs, twin, key_index);
	needs = add_need(needs, place_of(source),
					 (int64) (rows / ROWS_PER_LOG_ENTRY * LOG_ENTRY_BYTES));
	needs = add_wal(needs, twin);
	needs = add_sort(needs, ordered ? Max(table, largest) : largest);
	table_close(twin, NoLock);
	return needs;
}

/* What the build of one index of the twin writes. */
List *
refit_space_of_index(Relation source, Oid index_oid)
{
	Relation index = index_open(index_oid, AccessShareLock);
	int64 bytes = index_bytes(source, index);
	List *needs = add_need(NIL, place_of(index), bytes);

	needs = add_wal(needs, index);
	needs = add_sort(needs, bytes);
	index_close(index, NoLock);
	return needs;
}

/* What putting the twin in an order writes: a sorted copy, and its indexes. */
List *
refit_space_of_order(Relation source, Oid twin_oid)
{
	Relation twin = table_open(twin_oid, AccessShareLock);
	int64 table = file_bytes(twin_oid);
	List *needs = add_need(NIL, place_of(twin), table);
	int64 largest;

	needs = add_indexes(needs, source, twin, &largest);
	needs = add_wal(needs, twin);
	needs = add_sort(needs, Max(table, largest));
	table_close(twin, NoLock);
	return needs;
}

/* The needs of two tables together. */
List *
refit_space_add(List *needs, List *more)
{
	ListCell *lc;

	foreach(lc, more)
		needs = add_need(needs, ((RefitSpace *) lfirst(lc))->place,
						 ((RefitSpace *) lfirst(lc))->bytes);
	return needs;
}

/* All bytes of a list. */
int64
refit_space_total(List *needs)
{
	int64 total = 0;
	ListCell *lc;

	foreach(lc, needs)
		total += ((RefitSpace *) lfirst(lc))->bytes;
	return total;
}

/* Adds a place to the file system that it is on. */
static List *
add_place(List *result, const RefitSpace *need, const RefitDisk *disk)
{
	FileSystem *fs = NULL;
	ListCell *lc;

	foreach(lc, result)
		if (((FileSystem *) lfirst(lc))->disk.device == disk->device)
			fs = lfirst(lc);
	if (fs == NULL)
	{
		fs = palloc0(sizeof(FileSystem));
		fs->disk = *disk;
		initStringInfo(&fs->places);
		result = lappend(result, fs);
	}
	fs->needed += need->bytes;
	appendStringInfo(&fs->places, "%s%s (%s)", fs->nplaces++ > 0 ? ", " : "",
					 refit_disk_place_name(need->place),
					 refit_disk_pretty(need->bytes));
	return result;
}

/* What is written to each file system; those that cannot be seen left out. */
static List *
by_file_system(List *needs)
{
	List *result = NIL;
	ListCell *lc;

	foreach(lc, needs)
	{
		RefitSpace *need = lfirst(lc);
		RefitDisk disk;

		if (refit_disk_look(need->place, &disk))
			result = add_place(result, need, &disk);
	}
	return result;
}

/* Is there too little room on a file system? */
static bool
is_short(const FileSystem *fs)
{
	return fs->needed > 0 &&
		   fs->disk.free - fs->needed < refit_disk_kept_back(&fs->disk);
}

/* The figures of file systems: of all, or of those with too little room. */
static char *
describe(List *systems, bool only_short)
{
	StringInfoData text;
	ListCell *lc;

	initStringInfo(&text);
	foreach(lc, systems)
	{
		FileSystem *fs = lfirst(lc);

		if (only_short && !is_short(fs))
			continue;
		appendStringInfo(&text, "%s%s: %s needed, %s free, %s kept back",
						 text.len > 0 ? "; " : "", fs->places.data,
						 refit_disk_pretty(fs->needed),
						 refit_disk_pretty(fs->disk.free),
						 refit_disk_pretty(refit_disk_kept_back(&fs->disk)));
	}
	return text.data;
}

/* Needed, free and kept back of each file system. */
char *
refit_space_describe(List *needs)
{
	return describe(by_file_system(needs), false);
}

/* The figures of what lacks, or NULL when there is room. */
static char *
find_shortage(List *needs)
{
	List *systems;
	ListCell *lc;

	if (refit_min_free_disk == 0)
		return NULL;
	systems = by_file_system(needs);
	foreach(lc, systems)
		if (is_short(lfirst(lc)))
			return describe(systems, true);
	return NULL;
}

/* disk_full unless there is room. */
void
refit_space_check(Oid relid, List *needs)
{
	char *shortage = find_shortage(needs);

	if (shortage == NULL)
		return;
	shortage[0] = pg_toupper((unsigned char) shortage[0]);
	ereport(ERROR,
			(errcode(ERRCODE_DISK_FULL),
			 errmsg("not enough disk space to rewrite table %s",
					refit_qualified_name(relid)),
			 errdetail("%s.", shortage),
			 errhint("Make room, use another tablespace, or lower "
					 "refit.min_free_disk; 0 switches this check off.")));
}

/* Writes down what a migration needs. */
void
refit_space_save(const RefitMigration *m, List *needs)
{
	Oid types[3] = {INT8OID, OIDOID, INT8OID};
	ListCell *lc;

	SPI_connect();
	foreach(lc, needs)
	{
		RefitSpace *need = lfirst(lc);
		Datum values[3] = {Int64GetDatum(m->id), ObjectIdGetDatum(need->place),
						   Int64GetDatum(need->bytes)};

		refit_sql("INSERT INTO refit.space (id, place, bytes)"
				  " VALUES ($1, $2, $3) ON CONFLICT (id, place)"
				  " DO UPDATE SET bytes = excluded.bytes",
				  3, types, values, NULL);
	}
	SPI_finish();
}

/* Did the step before this one wait for room? */
static bool
was_waiting(const RefitMigration *m)
{
	return m->progress.said != NULL &&
		   strncmp(m->progress.said, WAITING, strlen(WAITING)) == 0;
}

/* Says in progress that we wait for room, in the events the first time. */
static void
note_shortage(RefitMigration *m, char *message)
{
	if (!was_waiting(m))
		refit_catalog_event(m, "governor", message, NULL);
	m->progress.message = message;
	m->progress.throttled_by = "free_disk";
}

/* Is there room for a step that writes much in one go? */
bool
refit_space_allows(RefitMigration *m, List *needs, const char *what,
				   RefitBudget *budget)
{
	char *shortage = find_shortage(needs);

	if (shortage == NULL)
		return true;
	note_shortage(m, psprintf("%s to %s: %s", WAITING, what, shortage));
	budget->pause_ms = ROOM_PAUSE_MS;
	return false;
}

/* A step has met a full disk. */
void
refit_space_note_full(RefitMigration *m, const char *error)
{
	note_shortage(m, psprintf("%s: %s", WAITING, error));
}

/* A step was done. */
void
refit_space_note_room(RefitMigration *m)
{
	if (was_waiting(m))
		refit_catalog_event(m, "governor", "there is disk space again", NULL);
}
