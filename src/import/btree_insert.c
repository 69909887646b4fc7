/*-------------------------------------------------------------------------
 *
 * btree_insert.c
 *	  Inserting sorted entries into a btree, leaf by leaf.  See btree_insert.h.
 *
 * Origin: PostgreSQL's src/backend/access/nbtree/nbtinsert.c.  Adding an item to
 * a leaf and its WAL record are as in _bt_insertonpg(), setting up the scan key as
 * in _bt_mkscankey().
 * Portions Copyright (c) 1996-2022, PostgreSQL Global Development Group
 * Portions Copyright (c) 1994, Regents of the University of California
 *
 * Where many items go to one leaf, its image is shorter than their records, and
 * one record takes the place of many.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/nbtxlog.h"
#include "access/relscan.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"

#include "compat.h"
#include "import/btree_insert.h"

/* What a record of one item takes beside the item. */
#define RECORD_OVERHEAD 56

/* Longer items are left to the access method, which knows the limit. */
#define LONGEST_ITEM (BLCKSZ / 4)

/* An entry and its place on the leaf. */
typedef struct Addition
{
	IndexTuple entry;
	OffsetNumber offset;
} Addition;

struct RefitBtree
{
	MemoryContext context;
	Relation heap;
	Relation index;
	bool unique;
	bool nulls_are_equal;
	BTScanInsert key; /* NULL before the first entry */
	List *found;	  /* blocks of entries that were there, if unique */
	int nadditions;
	Size bytes; /* of them */
	Addition additions[MaxIndexTuplesPerPage];
};

/* Gets ready to insert. */
RefitBtree *
refit_btree_open(Relation heap, Relation index, bool unique)
{
	RefitBtree *b = palloc0(sizeof(RefitBtree));

	b->context = CurrentMemoryContext;
	b->heap = heap;
	b->index = index;
	b->unique = unique;
	b->nulls_are_equal = index->rd_index->indnullsnotdistinct;
	return b;
}

/* Makes the scan key stand for an entry. */
static void
set_key(RefitBtree *b, IndexTuple entry)
{
	BTScanInsert key = b->key;

	if (key == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(b->context);

		key = b->key = _bt_mkscankey(b->index, entry);
		MemoryContextSwitchTo(old);
	}
	key->anynullkeys = false;
	key->scantid = &entry->t_tid;
	for (int i = 0; i < key->keysz; i++)
	{
		ScanKey part = &key->scankeys[i];
		bool isnull;

		part->sk_argument =
			index_getattr(entry, i + 1, RelationGetDescr(b->index), &isnull);
		if (isnull)
			part->sk_flags |= SK_ISNULL;
		else
			part->sk_flags &= ~SK_ISNULL;
		key->anynullkeys |= isnull && !b->nulls_are_equal;
	}
}

/*
 * The place of the key on the page, from low on: the first item that is not less.
 * near: it is likely to be close to low.
 */
static OffsetNumber
find_place(const RefitBtree *b, Page page, OffsetNumber low, bool near,
		   bool *is_equal)
{
	OffsetNumber high = OffsetNumberNext(PageGetMaxOffsetNumber(page));
	int step = near ? 1 : 0;

	*is_equal = false;
	while (low < high)
	{
		OffsetNumber probe = low + (high - low) / 2;
		int32 result;

		if (step > 0 && low + step - 1 < probe)
			probe = low + step - 1;
		step *= 2;
		result = _bt_compare(b->index, b->key, page, probe);
		if (result > 0)
			low = OffsetNumberNext(probe);
		else if (result < 0)
		{
			high = probe;
			step = 0;
		}
		else
		{
			*is_equal = true;
			return probe;
		}
	}
	return low;
}

/* Is the key's TID in the item, which has the same key? */
static bool
has_tid(const RefitBtree *b, Page page, OffsetNumber offset)
{
	IndexTuple item =
		(IndexTuple) PageGetItem(page, PageGetItemId(page, offset));

	if (!BTreeTupleIsPosting(item))
		return true;
	for (int i = 0; i < BTreeTupleGetNPosting(item); i++)
		if (ItemPointerEquals(b->key->scantid, BTreeTupleGetPostingN(item, i)))
			return true;
	return false;
}

/* May the index have another entry with this key? */
static bool
may_conflict(const RefitBtree *b, Page page, OffsetNumber place)
{
	BTPageOpaque opaque = BTPageGetOpaque(page);
	ItemPointer tid = b->key->scantid;
	bool result;

	if (!b->unique || b->key->anynullkeys)
		return false;
	b->key->scantid = NULL;
	if (place > P_FIRSTDATAKEY(opaque))
		result = _bt_compare(b->index, b->key, page, place - 1) == 0;
	else
		result = !P_LEFTMOST(opaque);
	if (!result && place <= PageGetMaxOffsetNumber(page))
		result = _bt_compare(b->index, b->key, page, place) == 0;
	else if (!result)
		result = !P_RIGHTMOST(opaque);
	b->key->scantid = tid;
	return result;
}

/*
 * Finds the places of entries on a leaf: as many as belong there and have room.
 * Returns how many are dealt with by that; some may be there already.
 */
static int
plan_leaf(RefitBtree *b, Page page, IndexTuple *entries, int n)
{
	BTPageOpaque opaque = BTPageGetOpaque(page);
	OffsetNumber place = P_FIRSTDATAKEY(opaque);
	Size room = PageGetExactFreeSpace(page);
	int i;

	b->nadditions = 0;
	b->bytes = 0;
	for (i = 0; i < n; i++)
	{
		Size size = MAXALIGN(IndexTupleSize(entries[i]));
		bool is_equal;

		if (i > 0)
			set_key(b, entries[i]);
		if (i > 0 && !P_RIGHTMOST(opaque) &&
			_bt_compare(b->index, b->key, page, P_HIKEY) > 0)
			break;
		place = find_place(b, page, place, i > 0, &is_equal);
		if (is_equal && has_tid(b, page, place))
		{
			if (b->unique && !b->key->anynullkeys)
				b->found = lappend_oid(
					b->found, ItemPointerGetBlockNumber(b->key->scantid));
			continue;
		}
		if (is_equal || may_conflict(b, page, place) || size > LONGEST_ITEM ||
			room < size + sizeof(ItemIdData) ||
			b->nadditions == MaxIndexTuplesPerPage)
			break;
		room -= size + sizeof(ItemIdData);
		b->bytes += size;
		b->additions[b->nadditions].entry = entries[i];
		b->additions[b->nadditions].offset = place + b->nadditions;
		b->nadditions++;
	}
	return i;
}

/* Writes the record of one item. */
static void
log_item(Buffer buffer, const Addition *addition)
{
	xl_btree_insert record = {.offnum = addition->offset};
	XLogRecPtr end;

	XLogBeginInsert();
	XLogRegisterData((char *) &record, SizeOfBtreeInsert);
	XLogRegisterBuffer(0, buffer, REGBUF_STANDARD);
	XLogRegisterBufData(0, (char *) addition->entry,
						IndexTupleSize(addition->entry));
	end = XLogInsert(RM_BTREE_ID, XLOG_BTREE_INSERT_LEAF);
	PageSetLSN(BufferGetPage(buffer), end); /* a macro that reads it twice */
}

/*
 * Adds the items.  A record is written before the next item is added, since it
 * may take an image of the page along.
 */
static void
fill_leaf(RefitBtree *b, Buffer buffer)
{
	Page page = BufferGetPage(buffer);
	bool needs_wal = RelationNeedsWAL(b->index);
	bool as_image = b->bytes + (Size) b->nadditions * RECORD_OVERHEAD >
					BLCKSZ - PageGetExactFreeSpace(page) + b->bytes;

	if (b->nadditions == 0)
		return;
	START_CRIT_SECTION();
	MarkBufferDirty(buffer);
	for (int i = 0; i < b->nadditions; i++)
	{
		const Addition *a = &b->additions[i];

		if (PageAddItem(page, (Item) a->entry,
						MAXALIGN(IndexTupleSize(a->entry)), a->offset, false,
						false) == InvalidOffsetNumber)
			elog(PANIC, "failed to add new item to block %u in index \"%s\"",
				 BufferGetBlockNumber(buffer),
				 RelationGetRelationName(b->index));
		if (needs_wal && !as_image)
			log_item(buffer, a);
	}
	if (needs_wal && as_image)
		log_newpage_buffer(buffer, true);
	END_CRIT_SECTION();
}

/* Inserts entries into the leaf that the first one belongs to. */
int
refit_btree_insert(RefitBtree *b, IndexTuple *entries, int n, int64 *inserted)
{
	Buffer buffer;
	int done;

	set_key(b, entries[0]);
	refit_bt_freestack(
		refit_bt_search(b->index, b->heap, b->key, &buffer, BT_WRITE));
	done = plan_leaf(b, BufferGetPage(buffer), entries, n);
	fill_leaf(b, buffer);
	_bt_relbuf(b->index, buffer);
	*inserted += b->nadditions;
	return done;
}

/* Takes the blocks of entries that were there. */
List *
refit_btree_take_found(RefitBtree *b)
{
	List *result = b->found;

	b->found = NIL;
	return result;
}

/* Have two entries equal keys? */
bool
refit_btree_same_key(RefitBtree *b, IndexTuple x, IndexTuple y)
{
	set_key(b, x);
	if (b->key->anynullkeys)
		return false;
	for (int i = 0; i < b->key->keysz; i++)
	{
		ScanKey part = &b->key->scankeys[i];
		bool isnull;
		Datum value =
			index_getattr(y, i + 1, RelationGetDescr(b->index), &isnull);

		if (isnull != ((part->sk_flags & SK_ISNULL) != 0))
			return false;
		if (!isnull &&
			DatumGetInt32(FunctionCall2Coll(&part->sk_func, part->sk_collation,
											value, part->sk_argument)) != 0)
			return false;
	}
	return true;
}
