/*-------------------------------------------------------------------------
 *
 * capture.c
 *	  Recording which rows change while a rewrite is under way.
 *
 * See capture.h for what it proves.
 *
 * The trigger runs as the application's user, who has no right on the log and
 * must never see an error because of us: it writes with the heap access method
 * and looks at nothing but its own arguments.  They are: migration, logs, key
 * columns.  It keeps what it derives from them, and the log that it has chosen,
 * for the statement, and a lock on the log for the transaction.
 *
 * The triggers are internal ones: pg_dump leaves them out and ALTER TABLE …
 * DISABLE TRIGGER USER leaves them alone.  They are tied to the extension in the
 * way that lets DROP EXTENSION take them along and DROP TABLE drop them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "job/catalog.h"
#include "table/actions.h"
#include "table/capture.h"
#include "table/shape.h"
#include "table/twin.h"
#include "util/baseline.h"
#include "util/fault.h"
#include "util/polite_lock.h"
#include "util/sqlutil.h"

/* '~' sorts behind every letter, so we fire last. */
#define TRIGGER_NAME "~pg_refit_capture"

/* A log that is longer than this is left alone by writers: 8 MB. */
#define LOG_FULL_BLOCKS 1024

/*
 * How entries are written: not for logical decoding, which would pass them over
 * one by one, and without looking for room in older pages, where there is none
 * before the log is truncated.
 */
#define ENTRY_OPTIONS (HEAP_INSERT_NO_LOGICAL | HEAP_INSERT_SKIP_FSM)

/*
 * So much of a log is counted to tell how many entries it has: 2 MB, in pieces
 * from all over it, since what was worked and what was not stand apart.
 */
#define COUNTED_BLOCKS 256
#define COUNTED_PIECES 32

/* What a trigger call needs, kept for the statement. */
typedef struct CaptureState
{
	Oid log; /* locked */
	int nkeys;
	AttrNumber attnums[INDEX_MAX_KEYS];
} CaptureState;

PG_FUNCTION_INFO_V1(refit_capture);

/*
 * Chooses the log that the statement writes to, and locks it.
 *
 * How long the first log is may be read without a lock: the answer is only a
 * hint, both logs are read.  To choose again within the statement would free
 * neither, since the first one chosen stays locked.  The relation cannot go
 * away, since our caller holds a lock on the table, and logs go after the
 * triggers.
 */
static Oid
choose_log(const Oid *logs)
{
	Relation first = RelationIdGetRelation(logs[0]);
	bool full;

	if (first == NULL)
		elog(ERROR, "could not open log %u of a migration", logs[0]);
	full = RelationGetNumberOfBlocks(first) > LOG_FULL_BLOCKS;
	RelationClose(first);
	LockRelationOid(logs[full ? 1 : 0], RowExclusiveLock);
	return logs[full ? 1 : 0];
}

/* Reads the trigger's arguments, once in a statement. */
static CaptureState *
capture_state(FunctionCallInfo fcinfo, Trigger *trigger)
{
	CaptureState *state = fcinfo->flinfo->fn_extra;
	Oid logs[REFIT_LOGS];

	if (state != NULL)
		return state;
	if (trigger->tgnargs < 1 + REFIT_LOGS + 1)
		elog(ERROR, "capture trigger \"%s\" has too few arguments",
			 trigger->tgname);
	for (int i = 0; i < REFIT_LOGS; i++)
		logs[i] = (Oid) strtoul(trigger->tgargs[1 + i], NULL, 10);
	state =
		MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(CaptureState));
	state->log = choose_log(logs);
	for (int i = 1 + REFIT_LOGS; i < trigger->tgnargs; i++)
		state->attnums[state->nkeys++] = atoi(trigger->tgargs[i]);
	fcinfo->flinfo->fn_extra = state;
	return state;
}

/* Writes an entry. */
static void
write_entry(Relation log, Datum *values, bool *nulls)
{
	HeapTuple tuple = heap_form_tuple(RelationGetDescr(log), values, nulls);

	heap_insert(log, tuple, GetCurrentCommandId(true), ENTRY_OPTIONS, NULL);
	heap_freetuple(tuple);
}

/* Marks the key of a row dirty. */
void
refit_capture_mark_dirty(Relation log, TupleTableSlot *row, int nkeys,
						 const AttrNumber *attnums)
{
	Datum values[INDEX_MAX_KEYS];
	bool nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < nkeys; i++)
		values[i] = slot_getattr(row, attnums[i], &nulls[i]);
	write_entry(log, values, nulls);
}

/* Marks a key dirty. */
void
refit_capture_mark_key(Relation log, const Datum *key)
{
	bool nulls[INDEX_MAX_KEYS] = {false};

	write_entry(log, (Datum *) key, nulls);
}

/*
 * Are the table's key columns still what the log was made for?  Whoever altered
 * or dropped one has ended the migration: its next step sees another
 * fingerprint.  Until then writers must not take a value for one of another
 * type.
 */
static bool
log_fits(Relation log, Relation table, const CaptureState *state)
{
	TupleDesc desc = RelationGetDescr(table);

	for (int i = 0; i < state->nkeys; i++)
		if (state->attnums[i] > desc->natts ||
			TupleDescAttr(desc, state->attnums[i] - 1)->atttypid !=
				TupleDescAttr(RelationGetDescr(log), i)->atttypid)
			return false;
	return true;
}

/* Have two versions of a row the same key, to the bit? */
static bool
same_key(TupleTableSlot *a, TupleTableSlot *b, const CaptureState *state)
{
	TupleDesc desc = a->tts_tupleDescriptor;

	for (int i = 0; i < state->nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, state->attnums[i] - 1);
		bool null_a;
		bool null_b;
		Datum value_a = slot_getattr(a, state->attnums[i], &null_a);
		Datum value_b = slot_getattr(b, state->attnums[i], &null_b);

		if (null_a != null_b ||
			(!null_a &&
			 !datumIsEqual(value_a, value_b, att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

/* Marks everything dirty: an entry without a key. */
static void
write_truncate_mark(Relation log, int nkeys)
{
	Datum values[INDEX_MAX_KEYS] = {0};
	bool nulls[INDEX_MAX_KEYS];

	memset(nulls, true, sizeof(nulls));
	write_entry(log, values, nulls);
}

/* The trigger function. */
Datum
refit_capture(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	CaptureState *state;
	Relation log;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("refit._capture() is a trigger of pg_refit's "
							   "own making"),
						errhint("It cannot be called or created by hand.")));
	state = capture_state(fcinfo, data->tg_trigger);
	log = table_open(state->log, NoLock);
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		write_truncate_mark(log, state->nkeys);
	else if (log_fits(log, data->tg_relation, state))
	{
		refit_capture_mark_dirty(log, data->tg_trigslot, state->nkeys,
								 state->attnums);
		if (TRIGGER_FIRED_BY_UPDATE(data->tg_event) &&
			!same_key(data->tg_trigslot, data->tg_newslot, state))
			refit_capture_mark_dirty(log, data->tg_newslot, state->nkeys,
									 state->attnums);
	}
	table_close(log, NoLock);
	return PointerGetDatum(NULL); /* not PG_RETURN_NULL, for a trigger */
}

/*
 * Makes an empty log.  It belongs to the bootstrap superuser: every writer of
 * the table trusts its columns' types, so the table's owner must not alter them.
 */
Oid
refit_capture_create_log(Relation source, Oid schema, Oid key_index, int number)
{
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(key_index, &attnums);
	TupleDesc desc = CreateTemplateTupleDesc(nkeys);
	RefitRights save;
	Oid log;

	for (int i = 0; i < nkeys; i++)
	{
		Form_pg_attribute att =
			TupleDescAttr(RelationGetDescr(source), attnums[i] - 1);

		TupleDescInitEntry(desc, i + 1, psprintf("key%d", i + 1), att->atttypid,
						   att->atttypmod, att->attndims);
		TupleDescInitEntryCollation(desc, i + 1, att->attcollation);
	}
	log = refit_twin_create_table(source, schema, psprintf("$log%d", number),
								  desc, BOOTSTRAP_SUPERUSERID);
	refit_rights_begin(&save, BOOTSTRAP_SUPERUSERID, false);
	refit_actions_run_own("SET (autovacuum_enabled = off,"
						  " toast.autovacuum_enabled = off)",
						  log);
	refit_rights_end(&save);
	return log;
}

/* Makes one of the two triggers. */
static Oid
create_trigger(const RefitMigration *m, bool row, int16 events, Oid function)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
	AttrNumber *attnums;
	int nkeys = refit_shape_key_attnums(m->rewrite.key_index, &attnums);
	ObjectAddress address;

	stmt->trigname = row ? TRIGGER_NAME : TRIGGER_NAME "_truncate";
	stmt->args = list_make1(makeString(psprintf(INT64_FORMAT, m->id)));
	for (int i = 0; i < REFIT_LOGS; i++)
		stmt->args =
			lappend(stmt->args, makeString(psprintf("%u", m->rewrite.logs[i])));
	for (int i = 0; i < nkeys; i++)
		stmt->args =
			lappend(stmt->args, makeString(psprintf("%d", attnums[i])));
	stmt->row = row;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = events;
	address = CreateTriggerFiringOn(stmt, NULL, m->leaf, InvalidOid, InvalidOid,
									InvalidOid, function, InvalidOid, NULL,
									true, false, TRIGGER_FIRES_ALWAYS);
	CommandCounterIncrement();
	refit_twin_tie_to_extension(TriggerRelationId, address.objectId,
								DEPENDENCY_AUTO_EXTENSION);
	return address.objectId;
}

/* The function of the triggers. */
static Oid
capture_function(void)
{
	return LookupFuncName(
		list_make2(makeString(REFIT_SCHEMA), makeString("_capture")), 0, NULL,
		false);
}

/*
 * Is this a capture trigger of this migration, by function and first argument?
 * The table's owner can give it another name.
 */
static bool
is_trigger_of(const RefitMigration *m, Relation pg_trigger, HeapTuple tuple)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	char *id = psprintf(INT64_FORMAT, m->id);
	bool isnull;
	Datum args;

	if (!form->tgisinternal || form->tgnargs == 0 ||
		form->tgfoid != capture_function())
		return false;
	args = heap_getattr(tuple, Anum_pg_trigger_tgargs,
						RelationGetDescr(pg_trigger), &isnull);
	return !isnull && strcmp(VARDATA_ANY(DatumGetByteaPP(args)), id) == 0;
}

/* The oids of this migration's triggers on the leaf, with their rows' xmin. */
static List *
find_triggers(const RefitMigration *m, TransactionId *xmin, bool *always)
{
	Relation rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple tuple;
	List *result = NIL;

	*xmin = InvalidTransactionId;
	*always = true;
	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(m->leaf));
	scan =
		systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		if (!is_trigger_of(m, rel, tuple))
			continue;
		result = lappend_oid(result, form->oid);
		*xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
		if (form->tgenabled != TRIGGER_FIRES_ALWAYS ||
			(m->rewrite.trigger_xmin != InvalidTransactionId &&
			 *xmin != m->rewrite.trigger_xmin))
			*always = false;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Makes the triggers. */
void
refit_capture_arm(RefitMigration *m)
{
	Oid function = capture_function();
	bool always;

	m->rewrite.trigger = create_trigger(
		m, true,
		TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE | TRIGGER_TYPE_DELETE,
		function);
	create_trigger(m, false, TRIGGER_TYPE_TRUNCATE, function);
	m->rewrite.trigger_xmin = InvalidTransactionId;
	find_triggers(m, &m->rewrite.trigger_xmin, &always);
}

/* Phase capture: one try to install the triggers and take the baseline. */
RefitOutcome
refit_capture_install(RefitMigration *m, RefitBudget *budget)
{
	Relation rel;
	List *locks =
		list_make1(refit_polite_lock_on(m->leaf, ShareRowExclusiveLock));

	if (!refit_polite_lock_try(m, locks))
	{
		budget->pause_ms = refit_polite_lock_backoff(m);
		return REFIT_WAIT;
	}
	REFIT_FAULT("capture.locked");
	refit_shape_check(m);
	refit_capture_arm(m);
	refit_baseline_take(&m->rewrite.baseline);

	rel = table_open(m->leaf, NoLock);
	m->rewrite.filenode = rel->rd_rel->relfilenode;
	m->rewrite.source_blocks = RelationGetNumberOfBlocks(rel);
	m->rewrite.copied_blocks = 0;
	m->rewrite.copied_rows = 0;
	table_close(rel, NoLock);
	m->rewrite.twin_blocks = 0;
	m->rewrite.toast_blocks = 0;
	refit_shape_mark_unlogged(m);
	refit_catalog_save_rewrite(m);
	REFIT_FAULT("capture.installed");
	return REFIT_NEXT;
}

/* Are the triggers as they were installed? */
void
refit_capture_check(const RefitMigration *m)
{
	TransactionId xmin;
	bool always;
	List *triggers = find_triggers(m, &xmin, &always);

	if (list_length(triggers) != 2 || !always)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the capture triggers on %s were changed while its "
						"migration was running",
						refit_qualified_name(m->leaf)),
				 errdetail("Changes of rows may have been missed."),
				 errhint("%s", refit_shape_hint(m))));
}

/* Is any of the triggers there? */
bool
refit_capture_is_there(const RefitMigration *m)
{
	TransactionId xmin;
	bool always;

	return find_triggers(m, &xmin, &always) != NIL;
}

/* Drops the triggers. */
void
refit_capture_remove(const RefitMigration *m)
{
	TransactionId xmin;
	bool always;
	ListCell *lc;

	foreach(lc, find_triggers(m, &xmin, &always))
	{
		ObjectAddress object;

		ObjectAddressSet(object, TriggerRelationId, lfirst_oid(lc));
		performDeletion(&object, DROP_RESTRICT,
						PERFORM_DELETION_INTERNAL |
							PERFORM_DELETION_SKIP_EXTENSIONS);
	}
	CommandCounterIncrement();
}

/* Entries in a range of a log's blocks. */
static int64
count_range(TableScanDesc scan, TupleTableSlot *slot, BlockNumber from,
			BlockNumber length)
{
	int64 n = 0;

	table_rescan(scan, NULL);
	heap_setscanlimits(scan, from, length);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		n++;
	return n;
}

/* Entries in a log: counted in some of its blocks, reckoned from them. */
static int64
count_entries(Relation log, Snapshot snapshot)
{
	TableScanDesc scan =
		table_beginscan_strat(log, snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(log, NULL);
	BlockNumber nblocks = ((HeapScanDesc) scan)->rs_nblocks;
	BlockNumber piece = COUNTED_BLOCKS / COUNTED_PIECES;
	int64 n = 0;

	if (nblocks > COUNTED_BLOCKS)
	{
		for (int64 i = 0; i < COUNTED_PIECES; i++)
			n += count_range(scan, slot,
							 (nblocks - piece) * i / (COUNTED_PIECES - 1),
							 piece);
		n = n * (int64) nblocks / COUNTED_BLOCKS;
	}
	else if (nblocks > 0)
		n = count_range(scan, slot, 0, nblocks);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	return n;
}

/* Entries in the logs of one leaf. */
static int64
count_leaf(const RefitRewrite *r, Snapshot snapshot)
{
	int64 result = 0;

	for (int i = 0; i < REFIT_LOGS; i++)
	{
		Relation log = table_open(r->logs[i], AccessShareLock);

		result += count_entries(log, snapshot);
		table_close(log, AccessShareLock);
	}
	return result;
}

/* Entries in the logs of all leaves that a snapshot taken now sees. */
int64
refit_capture_pending(const RefitMigration *m)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64 result = 0;
	ListCell *lc;

	if (m->nleaves == 1)
		result = count_leaf(&m->rewrite, snapshot);
	else
		foreach(lc, refit_catalog_leaves(m))
			result +=
				count_leaf(&((RefitLeaf *) lfirst(lc))->rewrite, snapshot);
	UnregisterSnapshot(snapshot);
	return result;
}

/* Has nothing been logged for this leaf since its logs were emptied? */
bool
refit_capture_is_idle(const RefitMigration *m)
{
	for (int i = 0; i < REFIT_LOGS; i++)
	{
		Relation log = table_open(m->rewrite.logs[i], AccessShareLock);
		BlockNumber length = RelationGetNumberOfBlocks(log);

		table_close(log, AccessShareLock);
		if (length > 0)
			return false;
	}
	return true;
}

/* Has a log an entry that anybody may still want? */
static bool
has_entries(Relation log)
{
	Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan =
		table_beginscan_strat(log, snapshot, 0, NULL, true, false);
	TupleTableSlot *slot = table_slot_create(log, NULL);
	bool result = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	return result;
}

/* Gives back what truncating a log has locked beside it. */
static void
unlock_toast(Oid toast)
{
	Relation rel;
	ListCell *lc;

	if (!OidIsValid(toast))
		return;
	rel = table_open(toast, NoLock);
	foreach(lc, RelationGetIndexList(rel))
		UnlockRelationOid(lfirst_oid(lc), AccessExclusiveLock);
	table_close(rel, AccessExclusiveLock);
}

/*
 * Empties a log if nobody may still want an entry of it.  The caller holds
 * ACCESS EXCLUSIVE.
 */
static void
empty_log(Oid oid)
{
	Relation log = table_open(oid, NoLock);
	Oid toast = log->rd_rel->reltoastrelid;

	if (RelationGetNumberOfBlocks(log) > 0 && !has_entries(log))
	{
		heap_truncate_one_rel(log);
		unlock_toast(toast);
	}
	table_close(log, NoLock);
}

/* Is it worth to have writers wait for a look at a log? */
static bool
seems_worked(Oid oid)
{
	Relation log = table_open(oid, AccessShareLock);
	bool result = RelationGetNumberOfBlocks(log) > 0 && !has_entries(log);

	table_close(log, AccessShareLock);
	return result;
}

/*
 * Empties logs that can be emptied.
 *
 * With ACCESS EXCLUSIVE granted at once no open transaction has written to the
 * log, so every entry is committed or aborted, and visible to a snapshot taken
 * now if it was not applied.  The truncation is physical and needs no commit;
 * therefore our own transaction must not have deleted anything, and the locks,
 * which make writers wait, are given back at once.
 */
void
refit_capture_recycle(const RefitMigration *m)
{
	for (int i = 0; i < REFIT_LOGS; i++)
	{
		Oid log = m->rewrite.logs[i];

		if (!seems_worked(log) ||
			!ConditionalLockRelationOid(log, /* private: */
										AccessExclusiveLock))
			continue;
		empty_log(log);
		UnlockRelationOid(log, AccessExclusiveLock);
	}
}
