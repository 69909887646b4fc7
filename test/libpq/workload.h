/*-------------------------------------------------------------------------
 *
 * workload.h
 *	  The random workload and its oracle: what its files share.
 *
 * Three tables of one making live in schema "zoo":
 *
 *		item	the table that is migrated
 *		oracle	its twin, never migrated; every client transaction writes
 *				the same change to both
 *		model	empty; the native ALTER TABLE is run on it at the end, and
 *				its catalog rows say what those of "item" should look like
 *
 * SQL is written once for all of them: '@' stands for the qualified name of
 * the table and '#' for its bare name, so neither may stand in a literal.
 *
 * Conflicts between connections are excluded by design, so that an error is
 * never theirs: each connection owns a range of rows (column "owner") and
 * alone writes it; the shared hot rows are written under a lock on a row of
 * zoo.guard, at most one such lock per transaction.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_TEST_WORKLOAD_H
#define REFIT_TEST_WORKLOAD_H

#include <pthread.h>

#include "common.h"

#define MAX_CONNECTIONS 64
#define OLD_CLIENTS 4

/* Owners of rows; those from 1 on are connections. */
#define OWNER_HOT 0
#define OWNER_QUIET 1000

#define HOT_SLOTS 80
#define HOT_GUARDS 4
#define PARENT_ROWS 50
#define TEAMS 4 /* rows of zoo.team for each connection */

typedef enum KeyType
{
	KEY_INT,
	KEY_UUID,
	KEY_TEXT, /* a uuid, as text */
	KEY_COMPOSITE
} KeyType;

/* One kind of migration, and the table it is tried on. */
typedef struct Kind
{
	const char *name;
	KeyType key;
	const char *actions;	 /* of ALTER TABLE, '#' as above; NULL: repack */
	const char *order_by;	 /* of a repack */
	const char *retyped;	 /* "{…}", the columns whose type changes */
	const char *persistence; /* UNLOGGED: table and child; … CHILD: the child */
	bool lacks_code_key;	 /* column code is not unique from the start */
	bool force_rls;			 /* FORCE ROW LEVEL SECURITY with a policy */
	bool adds_uuid;			 /* column u comes with the migration */
	bool needs_space;		 /* the actions name a tablespace */
	bool is_partitioned;	 /* a tree of partitions; see zoo.c */
	bool is_one_way;		 /* the actions cannot be reverted */
} Kind;

typedef struct Options
{
	const char *conninfo;
	const Kind *kind;
	const char *tablespace;
	uint64_t seed;
	int connections;
	double seconds;
	int rows;
	double reader_seconds;
	double think_ms;
	double limit_seconds; /* a migration that takes longer has failed */
	double max_stall_ms;  /* 0: only printed */
	const char *command;  /* a shell command that migrates, or NULL */
	bool native;
	bool sabotage;
	bool truncate;
	bool chores;
	const char *mode; /* of drive.c */
	bool verbose;
} Options;

/* A run of keys that belongs to one owner. */
typedef struct Range
{
	int owner;
	long first; /* ordinal of the first slot */
	int slots;
	int filled; /* that many are there at the start */
} Range;

/* What all threads see. */
typedef struct Load
{
	Options opt;
	char *actions; /* of the migration, '#' not yet replaced */
	int server_version;
	bool has_two_phase;
	bool has_view; /* false where the native ALTER would refuse it */
	bool has_rule; /* the table has a rule, so no MERGE */
	char *key_collation;
	atomic_bool stop;
	_Atomic double started_at;	/* clock when the migration began, or 0 */
	_Atomic double finished_at; /* clock when it ended, or 0 */
	atomic_long errors_printed;
	pthread_rwlock_t pause; /* read: in a transaction; write: none is */
} Load;

/* How the migration ended. */
typedef struct Outcome
{
	long id;
	char state[32];
	char cutover_lock_ms[32];
	char took[32];
	bool is_good;
	bool is_changed; /* the table has the new definition */
} Outcome;

typedef struct Undo
{
	int slot;
	bool was_there;
} Undo;

/* One connection of the load. */
typedef struct Client
{
	Load *load;
	PGconn *conn;
	int number;
	Rng rng;
	Range range;
	bool *there; /* which slots of the range hold a row */
	Undo *undo;	 /* what a rollback restores in "there" */
	int undo_used;
	int undo_size;

	bool failed;   /* a statement of this transaction failed */
	bool is_bulk;  /* statements now are long by nature: no stall */
	bool has_hold; /* a WITH HOLD cursor is open */
	int guard;	   /* the guard locked in this transaction, or 0 */
	long serial;   /* makes values unique */

	StrBuf text;   /* a statement with '@' and '#' */
	StrBuf sql;	   /* the same, for one table */
	StrBuf values; /* scratch of the row writers */

	/* results */
	Stall before; /* statements that ended before the migration began */
	Stall during; /* all others */
	Stall bulk;
	long transactions;
	long rows;
	long errors;
	long retryable;
	long divergences;
} Client;

/* kinds.c: the kinds of migration */
extern const Kind *zoo_kind(const char *name);
extern bool zoo_kind_reverts(const Kind *kind);
extern const char *zoo_kind_names(bool reverting);

/* zoo.c: the tables */
extern void zoo_expand(StrBuf *out, const char *text, const char *table);
extern void zoo_create(Load *load, PGconn *conn);
extern Range zoo_range(const Load *load, int owner);
extern void zoo_key_columns(StrBuf *out, const Kind *kind);
extern void zoo_key_values(StrBuf *out, const Kind *kind, long ordinal);
extern void zoo_key_is(StrBuf *out, const Kind *kind, long ordinal,
					   const char *alias);
extern int zoo_key_params(char out[2][48], const Kind *kind, long ordinal);
extern void zoo_key_set(StrBuf *out, const Kind *kind, long ordinal);
extern void zoo_key_casts(StrBuf *out, const Kind *kind);
extern void zoo_columns(StrBuf *out, const Kind *kind);
extern void zoo_compared(StrBuf *out, const Kind *kind);
extern void zoo_random_note(StrBuf *out, Rng *rng);
extern void zoo_random_label(StrBuf *out, Rng *rng);
extern void zoo_random_doc(StrBuf *out, Rng *rng);
extern void zoo_random_tags(StrBuf *out, Rng *rng);
extern void zoo_row(StrBuf *out, Client *c, long ordinal, bool is_copy);

/* client.c: statements and transactions of one connection */
extern void client_init(Client *c, Load *load, int number);
extern void client_close(Client *c);
extern bool client_query(Client *c, const char *sql, bool waits,
						 PGresult **result);
extern bool client_run(Client *c, const char *sql, bool waits);
extern bool client_change(Client *c, long expected, const char *fmt, ...)
	PRINTF_LIKE(3, 4);
extern bool client_copy(Client *c, const char *data);
extern void client_mark(Client *c, int slot, bool is_there);
extern void client_unmark(Client *c, int down_to);
extern bool client_prepared(Client *c, const char *name, int count,
							const char *const *values, PGresult **result);
extern int client_pick(Client *c, bool is_there);
extern void client_begin(Client *c, const char *mode);
extern void client_end(Client *c, const char *how);
extern void client_diverged(Client *c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ops.c: what a connection does at random */
extern const char *ops_compared(Client *c);
extern const char *ops_key_columns(Client *c);
extern void ops_prepare(Client *c);
extern void ops_change_hot(Client *c);
extern void ops_write(Client *c, int count);

/* load.c: its transactions */
extern void *load_main(void *arg);

/* drive.c: the migration */
extern bool drive_is_ours(const Options *opt);
extern bool drive_is_mode(const char *name);
extern const char *drive_mode_names(void);
extern void drive_migration(Load *load, PGconn *conn, Outcome *out);

/* chores.c: maintenance meanwhile */
extern void *chores_main(void *arg);

/* check.c: what must hold at the end */
extern char *check_identity(PGconn *conn, const Load *load);
extern void check_watch_uuid(PGconn *conn);
extern bool check_all(Load *load, PGconn *conn, const char *identity,
					  bool is_changed, long *rows);

/* shape.c: what the catalogs say of a table */
extern char *shape_of(PGconn *conn, const char *table, const char *partition);

#endif
