/*-------------------------------------------------------------------------
 *
 * fate.c
 *	  What became of a command that runs in transactions of its own.
 *
 * See fate.h.  How each command shows its end:
 *
 *	CREATE INDEX CONCURRENTLY	its index, under a name that was free, is valid;
 *								what is there and is not valid is debris
 *	REINDEX CONCURRENTLY		the indexes that were there are gone, others have
 *								their names; what is not valid and has a name
 *								that only REINDEX gives, is debris
 *	DROP INDEX CONCURRENTLY		the index is gone; while it is there, valid or
 *								not, the command can be run again
 *	DETACH … CONCURRENTLY		pg_inherits has no row for it; a row that says
 *								"pending" is to be finished by DETACH … FINALIZE
 *
 * An index that is not valid may be being built by another session.  Then that
 * has a lock on the table, which whoever drops debris takes first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "ddl/command.h"
#include "ddl/fate.h"
#include "job/catalog.h"
#include "util/snapshots.h"
#include "util/sqlutil.h"

/* Of this migration. */
#define DEBRIS REFIT_DEBRIS_FROM " AND w.id = $1"

/* Writes the row with a query of id $1, relation $2, object $3 and name $4. */
static void
insert_row(const RefitMigration *m, const char *sql, Oid relid, Oid object,
		   const char *name)
{
	Oid types[4] = {INT8OID, OIDOID, OIDOID, TEXTOID};
	Datum values[4] = {Int64GetDatum(m->id), ObjectIdGetDatum(relid),
					   ObjectIdGetDatum(object)};
	bool nulls[4] = {false, false, false, name == NULL};

	values[3] = name != NULL ? CStringGetTextDatum(name) : (Datum) 0;
	SPI_connect();
	refit_sql(sql, 4, types, values, nulls);
	SPI_finish();
}

/* What is on these tables already is not the command's. */
static void
begin_on_table(const RefitMigration *m, Oid relid, const char *name)
{
	insert_row(m,
			   "INSERT INTO refit.command (id, relids, name, targets, known)"
			   " SELECT $1, ARRAY[$2], $4::name, '{}', ARRAY(SELECT indexrelid"
			   "  FROM pg_catalog.pg_index WHERE indrelid = $2)"
			   " WHERE $3 IS NOT NULL ON CONFLICT DO NOTHING",
			   relid, InvalidOid, name);
}

/* This object will be gone. */
static void
begin_on_object(const RefitMigration *m, Oid relid, Oid object)
{
	insert_row(m,
			   "INSERT INTO refit.command (id, relids, name, targets, known)"
			   " SELECT $1, ARRAY[$2], $4::name, ARRAY[$3],"
			   "  ARRAY(SELECT indexrelid FROM pg_catalog.pg_index"
			   "   WHERE indrelid = $2 AND NOT indisvalid)"
			   " ON CONFLICT DO NOTHING",
			   relid, object, NULL);
}

/* Other indexes will be in place of this one, or of those of the table. */
static void
begin_reindex(const RefitMigration *m, Oid relid, Oid object)
{
	insert_row(m,
			   "WITH leaf AS (SELECT coalesce(p.relid, $3) AS oid"
			   "  FROM (SELECT 1) one LEFT JOIN pg_partition_tree($3) p"
			   "  ON p.isleaf), target AS (SELECT i.indexrelid, i.indrelid"
			   "  FROM leaf JOIN pg_catalog.pg_index i"
			   "  ON i.indexrelid = leaf.oid"
			   " UNION ALL SELECT i.indexrelid, i.indrelid FROM leaf"
			   "  JOIN pg_catalog.pg_class t USING (oid)"
			   "  JOIN pg_catalog.pg_index i"
			   "  ON i.indrelid IN (t.oid, t.reltoastrelid)"
			   "  AND i.indisvalid AND NOT i.indisexclusion)"
			   " INSERT INTO refit.command (id, relids, name, targets, known)"
			   " SELECT $1, coalesce((SELECT array_agg(DISTINCT indrelid)"
			   "   FROM target), ARRAY[$2]), $4::name,"
			   "  ARRAY(SELECT indexrelid FROM target), ARRAY(SELECT indexrelid"
			   "   FROM pg_catalog.pg_index WHERE indrelid IN"
			   "   (SELECT indrelid FROM target))"
			   " ON CONFLICT DO NOTHING",
			   relid, object, NULL);
}

/* Says that the name of an index is taken. */
static void
refuse_name(const char *name, Oid taken)
{
	bool invalid =
		get_rel_relkind(taken) == RELKIND_INDEX && !get_index_isvalid(taken);

	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("relation \"%s\" already exists", name),
			 invalid ? errdetail("It is an index that is not valid, left by a "
								 "command that did not get to its end.")
					 : 0,
			 errhint(invalid ? "Drop it and submit again."
							 : "Choose another name for the index.")));
}

/*
 * Before CREATE INDEX: is its name free?  Else what has it, where the statement
 * says IF NOT EXISTS and that is fit for use.
 */
static Oid
find_index(Oid relid, const IndexStmt *stmt)
{
	Oid taken;

	if (stmt->idxname == NULL)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("the index needs a name"),
						errdetail("An index that is built in several "
								  "transactions is found by it after a crash."),
						errhint("Write CREATE INDEX CONCURRENTLY name ON "
								"...")));
	taken = get_relname_relid(stmt->idxname, get_rel_namespace(relid));
	if (OidIsValid(taken) &&
		(!stmt->if_not_exists || (get_rel_relkind(taken) == RELKIND_INDEX &&
								  !get_index_isvalid(taken))))
		refuse_name(stmt->idxname, taken);
	return taken;
}

/* An ERROR when CREATE INDEX cannot make its index. */
void
refit_fate_check_index(Oid relid, const IndexStmt *stmt)
{
	(void) find_index(relid, stmt);
}

/* Before CREATE INDEX.  False: the index is there. */
static bool
begin_index(const RefitMigration *m, Oid relid, const IndexStmt *stmt)
{
	if (OidIsValid(find_index(relid, stmt)))
		return false;
	begin_on_table(m, relid, stmt->idxname);
	return true;
}

/* An object's oid under the present search_path. */
static Oid
relation_of(const RangeVar *name)
{
	return RangeVarGetRelid(name, NoLock, false);
}

/* Before DROP INDEX.  False: there is none. */
static bool
begin_drop(const RefitMigration *m, Oid relid, const DropStmt *stmt)
{
	RangeVar *name =
		makeRangeVarFromNameList(linitial_node(List, stmt->objects));
	Oid index = RangeVarGetRelid(name, NoLock, stmt->missing_ok);

	if (!OidIsValid(index))
		return false;
	begin_on_object(m, relid, index);
	return true;
}

/* Writes down what the command is about to do. */
bool
refit_fate_begin(const RefitMigration *m, const RefitStatement *s)
{
	PartitionCmd *detached = refit_statement_detaches(s->node);

	if (IsA(s->node, IndexStmt))
		return begin_index(m, s->relid, (IndexStmt *) s->node);
	if (IsA(s->node, DropStmt))
		return begin_drop(m, s->relid, (DropStmt *) s->node);
	if (IsA(s->node, ReindexStmt))
		begin_reindex(m, s->relid,
					  relation_of(((ReindexStmt *) s->node)->relation));
	else if (detached != NULL)
		begin_on_object(m, s->relid, relation_of(detached->name));
	else
		begin_on_table(m, s->relid, NULL);
	return true;
}

/* Takes the row away. */
void
refit_fate_forget(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("DELETE FROM refit.command WHERE id = $1", 1, types, values,
			  NULL);
	SPI_finish();
}

/* Asks a query of the migration's row; a word, or NULL without one. */
static char *
ask(const RefitMigration *m, const char *sql)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};

	return refit_sql_text(sql, 1, types, values);
}

/* The state of the index that CREATE INDEX makes. */
static char *
read_index(const RefitMigration *m)
{
	return ask(m, "SELECT CASE WHEN c.oid IS NULL THEN 'open'"
				  " WHEN i.indrelid IS DISTINCT FROM t.oid"
				  "  OR c.oid = ANY (w.known) THEN 'taken'"
				  " WHEN i.indisvalid AND i.indisready AND i.indislive"
				  "  THEN 'done' ELSE 'debris' END"
				  " FROM refit.command w JOIN pg_catalog.pg_class t"
				  "  ON t.oid = w.relids[1]"
				  " LEFT JOIN pg_catalog.pg_class c"
				  "  ON c.relnamespace = t.relnamespace AND c.relname = w.name"
				  " LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid"
				  " WHERE w.id = $1");
}

/* The state of what REINDEX replaces or DROP drops. */
static char *
read_targets(const RefitMigration *m)
{
	return ask(m, "SELECT CASE WHEN EXISTS (SELECT" DEBRIS ") THEN 'debris'"
				  " WHEN EXISTS (SELECT FROM refit.command w JOIN"
				  "  pg_catalog.pg_class c ON c.oid = ANY (w.targets)"
				  "  WHERE w.id = $1) OR (SELECT targets = '{}'"
				  "  FROM refit.command WHERE id = $1) THEN 'open'"
				  " ELSE 'done' END FROM refit.command WHERE id = $1");
}

/* The state of the partition that is detached. */
static char *
read_partition(const RefitMigration *m)
{
	return ask(m, "SELECT CASE WHEN i.inhrelid IS NULL THEN 'done'"
				  " WHEN i.inhdetachpending THEN 'pending' ELSE 'open' END"
				  " FROM refit.command w LEFT JOIN pg_catalog.pg_inherits i"
				  "  ON i.inhrelid = w.targets[1]"
				  "  AND i.inhparent = w.relids[1] WHERE w.id = $1");
}

/* What became of it? */
RefitFate
refit_fate_read(const RefitMigration *m, const RefitStatement *s)
{
	char *word;

	if (IsA(s->node, IndexStmt))
		word = read_index(m);
	else if (refit_statement_detaches(s->node) != NULL)
		word = read_partition(m);
	else if (IsA(s->node, VacuumStmt))
		word = ask(m, "SELECT 'open' FROM refit.command WHERE id = $1");
	else
		word = read_targets(m);

	if (word == NULL)
		return REFIT_FATE_UNKNOWN;
	if (strcmp(word, "debris") == 0)
		return REFIT_FATE_DEBRIS;
	if (strcmp(word, "pending") == 0)
		return REFIT_FATE_PENDING;
	if (strcmp(word, "taken") == 0)
		refuse_name(((IndexStmt *) s->node)->idxname,
					get_relname_relid(((IndexStmt *) s->node)->idxname,
									  get_rel_namespace(m->relid)));
	if (strcmp(word, "done") == 0 || refit_command_returned(m->id))
		return REFIT_FATE_DONE;
	return REFIT_FATE_OPEN;
}

/* The invalid indexes that it has left. */
List *
refit_fate_debris(const RefitMigration *m)
{
	Oid types[1] = {INT8OID};
	Datum values[1] = {Int64GetDatum(m->id)};
	List *result = NIL;
	ListCell *lc;

	foreach(lc, refit_sql_list("SELECT c.oid::int8" DEBRIS, 1, types, values))
		result = lappend_oid(result, strtoul(lfirst(lc), NULL, 10));
	return result;
}

/* The index that DROP INDEX CONCURRENTLY has made invalid so far. */
List *
refit_fate_half_dropped(const RefitMigration *m)
{
	char *index =
		ask(m, "SELECT i.indexrelid::int8 FROM refit.command w"
			   " JOIN pg_catalog.pg_index i ON i.indexrelid = w.targets[1]"
			   " WHERE w.id = $1 AND NOT i.indisvalid"
			   " AND i.indexrelid <> ALL (w.known)");

	return index != NULL ? list_make1_oid(strtoul(index, NULL, 10)) : NIL;
}

/* Is a partition half detached? */
bool
refit_fate_is_pending(const RefitMigration *m)
{
	return ask(m, "SELECT 1 FROM refit.command w"
				  " JOIN pg_catalog.pg_inherits i ON i.inhrelid = w.targets[1]"
				  "  AND i.inhparent = w.relids[1] AND i.inhdetachpending"
				  " WHERE w.id = $1") != NULL;
}

/*
 * Who began before the partition was seen to be half detached, or NULL.  Not who
 * has a snapshot that DETACH ... FINALIZE does not wait for either, as refit.wait()
 * has: it may well have begun before, and waits for us.
 */
char *
refit_fate_older_transactions(const RefitMigration *m)
{
	Oid types[2] = {INT8OID, TEXTARRAYOID};
	Datum values[2] = {Int64GetDatum(m->id)};

	SPI_connect();
	refit_sql("UPDATE refit.command SET pending_at ="
			  " pg_catalog.clock_timestamp() WHERE id = $1"
			  " AND pending_at IS NULL",
			  1, types, values, NULL);
	SPI_finish();
	values[1] = PointerGetDatum(strlist_to_textarray(refit_snapshots_older(
		InvalidTransactionId, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM)));
	return refit_sql_text(
		"SELECT 'pid ' || a.pid || ', ' || coalesce(a.state, '?')"
		" || ', for ' || date_trunc('milliseconds',"
		"  clock_timestamp() - a.xact_start)"
		" FROM refit.command w, pg_catalog.pg_stat_activity a"
		" JOIN pg_catalog.pg_locks l ON l.pid = a.pid"
		"  AND l.locktype = 'virtualxid' AND l.granted"
		"  AND l.virtualxid = l.virtualtransaction"
		" WHERE w.id = $1 AND a.pid <> pg_backend_pid()"
		" AND a.datname = current_database()"
		" AND (l.virtualxid = ANY ($2) OR a.backend_xid IS NOT NULL)"
		" AND a.xact_start < w.pending_at"
		" ORDER BY a.xact_start LIMIT 1",
		2, types, values);
}
