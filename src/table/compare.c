/*-------------------------------------------------------------------------
 *
 * compare.c
 *	  Comparing a table with its twin, row by row, in one snapshot.
 *
 * See compare.h.
 *
 * Values are compared by their images, after detoasting: the twin's were made
 * from the same rows by the same expressions, so whatever is not the same to
 * the byte is not the same.
 *
 * A row of the twin that is out of step is held against three questions: does
 * its key lead to it, and to no other row; has the table a row of this key;
 * is that row, transformed, this one.  Its key is cast back for that.  Rows that
 * are met in step, the great majority, do not need it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/datum.h"
#include "utils/snapmgr.h"

#include "pass/governor.h"
#include "table/compare.h"
#include "table/shape.h"

/* Blocks that are scanned before the clock is looked at, if no row is met. */
#define EXTENT_BLOCKS 16

/* A partner that stands no further ahead than this is walked to: blocks. */
#define NEAR_BLOCKS 2

/*
 * One side of the walk
 */

/* Begins a walk at a block. */
static void
begin_walk(RefitWalk *w, Relation rel, Snapshot snapshot, BlockNumber from,
		   BlockNumber stride)
{
	w->rel = rel;
	w->end = RelationGetNumberOfBlocks(rel);
	w->next = Min(from, w->end);
	w->extent_end = w->next;
	w->stride = stride;
	w->scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	w->row = table_slot_create(rel, NULL);
	w->has_row = false;
}

/* Ends it. */
static void
end_walk(RefitWalk *w)
{
	table_endscan(w->scan);
	ExecDropSingleTupleTableSlot(w->row);
}

/* Is the extent that begins at this block one to look at? */
static bool
is_wanted(const RefitWalk *w, BlockNumber block)
{
	return w->stride <= 1 || (block / EXTENT_BLOCKS) % w->stride == 0;
}

/*
 * Goes on to the next row.  False: there is none in this extent; w->next is the
 * first block after it.  The caller looks at the clock and goes on.
 */
static bool
next_in_extent(RefitWalk *w)
{
	if (w->next >= w->extent_end)
	{
		/* extents begin at the same blocks whatever the walk began with */
		w->extent_end =
			Min(w->end, (w->next / EXTENT_BLOCKS + 1) * EXTENT_BLOCKS);
		if (!is_wanted(w, w->next))
		{
			w->next = w->extent_end;
			return false;
		}
		table_rescan(w->scan, NULL);
		heap_setscanlimits(w->scan, w->next, w->extent_end - w->next);
	}
	w->has_row = table_scan_getnextslot(w->scan, ForwardScanDirection, w->row);
	w->next = w->has_row ? ItemPointerGetBlockNumber(&w->row->tts_tid)
						 : w->extent_end;
	return w->has_row;
}

/*
 * Keys that are dirty
 */

/* qsort_arg comparator of keys of the twin. */
static int
compare_keys(const void *a, const void *b, void *arg)
{
	const RefitComparison *c = arg;

	return refit_finder_compare(c->order, c->transform->nkeys,
								*(Datum *const *) a, *(Datum *const *) b);
}

/* A copy of a key of the twin. */
static Datum *
copy_key(RefitComparison *c, const Datum *key)
{
	RefitTransform *t = c->transform;
	Datum *copy = palloc(sizeof(Datum) * t->nkeys);

	for (int i = 0; i < t->nkeys; i++)
	{
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(c->twin), t->key_attnums[i] - 1);

		copy[i] = datumCopy(key[i], att->attbyval, att->attlen);
	}
	return copy;
}

/* Collects what one log has. */
static void
collect_dirty(RefitComparison *c, Oid oid, int64 *room)
{
	Relation log = table_open(oid, AccessShareLock);
	TableScanDesc scan =
		table_beginscan_strat(log, c->snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(log, NULL);
	Datum key[INDEX_MAX_KEYS];

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		slot_getallattrs(slot);
		if (slot->tts_isnull[0])
		{
			c->truncated = true;
			continue;
		}
		if (c->ndirty == *room)
		{
			*room = Max(256, *room * 2);
			c->dirty =
				c->dirty == NULL
					? palloc_extended(sizeof(Datum *) * *room, MCXT_ALLOC_HUGE)
					: repalloc_huge(c->dirty, sizeof(Datum *) * *room);
		}
		if (!c->m->rewrite.reversed)
			refit_transform_key(c->transform, slot->tts_values, key);
		c->dirty[c->ndirty++] =
			copy_key(c, c->m->rewrite.reversed ? slot->tts_values : key);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(log, NoLock);
}

/* Is a key of the twin dirty? */
static bool
is_dirty(RefitComparison *c, const Datum *key)
{
	return c->truncated ||
		   (c->ndirty > 0 &&
			bsearch_arg(&key, c->dirty, c->ndirty, sizeof(Datum *),
						compare_keys, c) != NULL);
}

/*
 * Rows
 */

/*
 * Are two values of a column of the twin the same?  After the cutover a number
 * may have gone to the old definition and come back in another scale.
 */
static bool
is_same(RefitComparison *c, Form_pg_attribute att, Datum a, Datum b)
{
	return c->m->rewrite.reversed
			   ? refit_transform_is_same(att, a, b)
			   : datum_image_eq(a, b, att->attbyval, att->attlen);
}

/* The first column in which two rows of the twin differ, or 0. */
static AttrNumber
find_difference(RefitComparison *c, TupleTableSlot *a, TupleTableSlot *b)
{
	RefitTransform *t = c->transform;
	TupleDesc desc = RelationGetDescr(c->twin);

	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < t->ncompared; i++)
	{
		int n = t->compared[i] - 1;
		Form_pg_attribute att = TupleDescAttr(desc, n);

		if (a->tts_isnull[n] != b->tts_isnull[n] ||
			(!a->tts_isnull[n] &&
			 !is_same(c, att, a->tts_values[n], b->tts_values[n])))
			return n + 1;
	}
	return 0;
}

/* Have two rows of the twin the same key, to the byte? */
static bool
same_key(RefitComparison *c, TupleTableSlot *a, TupleTableSlot *b)
{
	RefitTransform *t = c->transform;

	for (int i = 0; i < t->nkeys; i++)
	{
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(c->twin), t->key_attnums[i] - 1);
		bool null_a;
		bool null_b;
		Datum value_a = slot_getattr(a, t->key_attnums[i], &null_a);
		Datum value_b = slot_getattr(b, t->key_attnums[i], &null_b);

		if (null_a || null_b ||
			!datum_image_eq(value_a, value_b, att->attbyval, att->attlen))
			return false;
	}
	return true;
}

/* What the handler was told. */
typedef struct Told
{
	RefitFinding finding;
	Datum *key; /* of the twin */
} Told;

/*
 * Is a finding news?  A row that is out of step is met twice, by its key and
 * where it stands.  The handler is told few before it stops the walk.
 */
static bool
is_news(RefitComparison *c, RefitFinding finding, const Datum *key)
{
	Told *told;
	ListCell *lc;

	foreach(lc, c->told)
	{
		told = lfirst(lc);
		if (told->finding == finding && compare_keys(&told->key, &key, c) == 0)
			return false;
	}
	told = palloc(sizeof(Told));
	told->finding = finding;
	told->key = copy_key(c, key);
	c->told = lappend(c->told, told);
	return true;
}

/* Tells of a finding about a row; source NULL: only the twin has it. */
static void
tell(RefitComparison *c, RefitFinding finding, AttrNumber attnum,
	 TupleTableSlot *source, TupleTableSlot *twin)
{
	Datum source_key[INDEX_MAX_KEYS];
	Datum twin_key[INDEX_MAX_KEYS];

	if (source != NULL)
		refit_transform_get_key(c->transform, source, source_key);
	refit_transform_get_key(c->transform, twin, twin_key);
	if (!is_news(c, finding, twin_key))
		return;
	c->handler(
		c->handler_arg, finding, refit_transform_key_text(c->transform, twin),
		attnum == 0
			? NULL
			: NameStr(TupleDescAttr(RelationGetDescr(c->twin), attnum - 1)
						  ->attname),
		source != NULL ? source_key : NULL, twin_key, &twin->tts_tid);
}

/* Compares the row that a source row should be with the row that is there. */
static void
compare_rows(RefitComparison *c, TupleTableSlot *source,
			 TupleTableSlot *expected, TupleTableSlot *twin)
{
	AttrNumber attnum = find_difference(c, expected, twin);

	if (attnum != 0)
		tell(c, REFIT_DIFFERS, attnum, source, twin);
}

/* Looks for the twin's row of a source row; false: it is not there. */
static bool
check_forth(RefitComparison *c, TupleTableSlot *source,
			TupleTableSlot *expected, const Datum *key)
{
	ItemPointerData tid;

	if (!refit_finder_find(c->in_twin, key, c->partner))
	{
		tell(c, REFIT_MISSING, 0, source, expected);
		return false;
	}
	compare_rows(c, source, expected, c->partner);
	tid = c->partner->tts_tid;
	if (refit_finder_next(c->in_twin, c->partner))
		tell(c, REFIT_TWO_VERSIONS, 0, source, c->partner);
	c->partner->tts_tid = tid;
	return true;
}

/*
 * Holds a row of the twin that is out of step against the table.  Its key must
 * lead to it, and to a row of the table that is transformed to it.
 */
static void
check_back(RefitComparison *c, TupleTableSlot *twin, const Datum *key)
{
	Datum source_key[INDEX_MAX_KEYS];

	if (!refit_finder_find(c->in_twin, key, c->partner) ||
		!ItemPointerEquals(&c->partner->tts_tid, &twin->tts_tid) ||
		refit_finder_next(c->in_twin, c->partner))
		tell(c, REFIT_TWO_VERSIONS, 0, NULL, twin);
	else if (!refit_transform_trace_key(c->transform, twin, source_key) ||
			 !refit_finder_find(c->in_source, source_key, c->origin))
		tell(c, REFIT_EXTRA, 0, NULL, twin);
	else
		compare_rows(c, c->origin, refit_transform_row(c->transform, c->origin),
					 twin);
}

/*
 * The walk
 */

/*
 * Steps the twin's walk to its next row that is not dirty; false: there is none
 * in this extent.
 */
static bool
next_of_twin(RefitComparison *c, Datum *key)
{
	while (next_in_extent(&c->twin_walk))
	{
		refit_transform_get_key(c->transform, c->twin_walk.row, key);
		if (!is_dirty(c, key))
			return true;
		if (c->m->rewrite.reversed) /* the old rows may not have it yet */
			c->skipped++;
		c->twin_walk.has_row = false;
	}
	return false;
}

/* Is a row not far ahead of where the twin's walk is? */
static bool
is_near(const RefitWalk *w, ItemPointer tid)
{
	return ItemPointerCompare(tid, &w->row->tts_tid) >= 0 &&
		   ItemPointerGetBlockNumber(tid) <= w->next + NEAR_BLOCKS;
}

/*
 * Walks the twin to a row that was met by its key, holding the rows that are
 * passed on the way against the table.
 */
static void
catch_up_to(RefitComparison *c, ItemPointer partner)
{
	RefitWalk *w = &c->twin_walk;
	ItemPointerData tid = *partner;
	Datum key[INDEX_MAX_KEYS];

	while (w->has_row)
	{
		int order = ItemPointerCompare(&w->row->tts_tid, &tid);

		if (order > 0)
			break;
		if (order < 0)
		{
			refit_transform_get_key(c->transform, w->row, key);
			check_back(c, w->row, key);
		}
		w->has_row = false;
		while (!w->has_row && w->next < w->end)
			(void) next_of_twin(c, key);
		if (order == 0)
			break;
	}
}

/* Compares one row of the table, its walk's present one. */
static void
compare_source_row(RefitComparison *c)
{
	RefitWalk *w = &c->twin_walk;
	TupleTableSlot *source = c->source_walk.row;
	TupleTableSlot *expected = refit_transform_row(c->transform, source);
	Datum key[INDEX_MAX_KEYS];
	Datum other[INDEX_MAX_KEYS];

	refit_transform_get_key(c->transform, expected, key);
	if (is_dirty(c, key))
	{
		c->skipped++;
		return;
	}
	c->compared++;
	while (!w->has_row && w->next < w->end && w->stride <= 1)
		(void) next_of_twin(c, other);
	if (w->has_row && same_key(c, expected, w->row))
	{
		compare_rows(c, source, expected, w->row);
		w->has_row = false;
	}
	else if (check_forth(c, source, expected, key) && w->has_row &&
			 is_near(w, &c->partner->tts_tid))
		catch_up_to(c, &c->partner->tts_tid);
}

/* Is it time to stop, having come to a new block? */
static bool
stop_here(const RefitWalk *w, BlockNumber begun, const RefitBudget *budget)
{
	CHECK_FOR_INTERRUPTS();
	return w->next > begun && w->next < w->end &&
		   refit_governor_step_over(budget);
}

/* Walks the table; false: time is up. */
static bool
walk_source(RefitComparison *c, const RefitBudget *budget)
{
	RefitWalk *w = &c->source_walk;
	BlockNumber begun = w->next;

	while (w->next < w->end && !c->stop)
	{
		BlockNumber block = w->next;
		bool met = next_in_extent(w);

		if ((!met || w->next != block) && stop_here(w, begun, budget))
			return false;
		if (met)
			compare_source_row(c);
	}
	return true;
}

/* Holds what is left of the twin against the table; false: time is up. */
static bool
walk_rest_of_twin(RefitComparison *c, const RefitBudget *budget)
{
	RefitWalk *w = &c->twin_walk;
	BlockNumber begun = w->next;
	Datum key[INDEX_MAX_KEYS];

	while ((w->has_row || w->next < w->end) && !c->stop)
	{
		BlockNumber block = w->next;

		if (!w->has_row)
			(void) next_of_twin(c, key);
		if ((!w->has_row || w->next != block) && stop_here(w, begun, budget))
			return false;
		if (!w->has_row)
			continue;
		refit_transform_get_key(c->transform, w->row, key);
		check_back(c, w->row, key);
		w->has_row = false;
	}
	return true;
}

/* Walks both tables from where they are. */
bool
refit_compare_walk(RefitComparison *c, const RefitBudget *budget,
				   BlockNumber stride, int64 *source_block, int64 *twin_block)
{
	bool done;

	begin_walk(&c->source_walk, c->source, c->snapshot, *source_block, stride);
	begin_walk(&c->twin_walk, c->twin, c->snapshot, *twin_block, stride);
	done = walk_source(c, budget) && walk_rest_of_twin(c, budget);
	*source_block = c->source_walk.next;
	*twin_block = c->twin_walk.next;
	end_walk(&c->source_walk);
	end_walk(&c->twin_walk);
	return done;
}

/*
 * One row again
 */

/* Compares one row, named by its key. */
bool
refit_compare_key(RefitComparison *c, const Datum *source_key,
				  const Datum *twin_key)
{
	if (is_dirty(c, twin_key))
		return false;
	if (source_key != NULL &&
		refit_finder_find(c->in_source, source_key, c->origin))
		(void) check_forth(c, c->origin,
						   refit_transform_row(c->transform, c->origin),
						   twin_key);
	else if (refit_finder_find(c->in_twin, twin_key, c->found))
	{
		if (source_key != NULL)
			tell(c, REFIT_EXTRA, 0, NULL, c->found);
		else
			check_back(c, c->found, twin_key);
	}
	return true;
}

/* Has a table a row that the snapshot sees? */
static bool
has_rows(Relation rel, Snapshot snapshot)
{
	TableScanDesc scan =
		table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool result = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	return result;
}

/* Has either table one? */
bool
refit_compare_has_rows(RefitComparison *c)
{
	return has_rows(c->source, c->snapshot) || has_rows(c->twin, c->snapshot);
}

/*
 * Opening
 */

/* Opens the finders, after everything else. */
static void
open_finders(RefitComparison *c)
{
	RefitTransform *t = c->transform;

	c->in_twin = refit_finder_open(c->twin, c->twin_key, c->snapshot, t->nkeys);
	c->in_source =
		refit_finder_open(c->source, c->source_key, c->snapshot, t->nkeys);
}

/*
 * Opens the tables.  The source is always of the old definition, so that no
 * value needs to be cast back; after the cutover that is the blank.
 */
static void
open_tables(RefitComparison *c)
{
	RefitRewrite *r = &c->m->rewrite;
	Relation table = table_open(c->m->leaf, AccessShareLock);
	Relation work = table_open(r->target, AccessShareLock);
	RefitTransform *t;
	Relation table_key;
	Relation work_key;

	c->source = r->reversed ? work : table;
	c->twin = r->reversed ? table : work;
	c->transform = t = refit_transform_open(c->m, c->source, c->twin, true);
	table_key = index_open(r->key_index, AccessShareLock);
	work_key =
		index_open(refit_shape_find_index(work, t->nkeys, t->key_attnums),
				   AccessShareLock);
	c->source_key = r->reversed ? work_key : table_key;
	c->twin_key = r->reversed ? table_key : work_key;
}

/* Opens what a comparison needs, and takes its snapshot. */
RefitComparison *
refit_compare_open(RefitMigration *m, RefitFindingHandler handler, void *arg)
{
	RefitComparison *c = palloc0(sizeof(RefitComparison));
	int64 room = 0;

	c->m = m;
	c->handler = handler;
	c->handler_arg = arg;
	open_tables(c);
	c->snapshot = RegisterSnapshot(GetLatestSnapshot());
	PushActiveSnapshot(c->snapshot);
	c->order = refit_finder_order(c->twin, c->twin_key, c->transform->nkeys);
	c->partner = table_slot_create(c->twin, NULL);
	c->found = table_slot_create(c->twin, NULL);
	c->origin = table_slot_create(c->source, NULL);
	open_finders(c);
	for (int i = 0; i < REFIT_LOGS; i++)
		collect_dirty(c, m->rewrite.logs[i], &room);
	if (c->ndirty > 0)
		qsort_arg(c->dirty, c->ndirty, sizeof(Datum *), compare_keys, c);
	return c;
}

/* Closes it again. */
void
refit_compare_close(RefitComparison *c)
{
	refit_finder_close(c->in_twin);
	refit_finder_close(c->in_source);
	ExecDropSingleTupleTableSlot(c->partner);
	ExecDropSingleTupleTableSlot(c->found);
	ExecDropSingleTupleTableSlot(c->origin);
	PopActiveSnapshot();
	UnregisterSnapshot(c->snapshot);
	refit_transform_close(c->transform);
	index_close(c->twin_key, NoLock);
	index_close(c->source_key, NoLock);
	table_close(c->twin, NoLock);
	table_close(c->source, NoLock);
}
