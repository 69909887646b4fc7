/*-------------------------------------------------------------------------
 *
 * refit.h
 *	  The few types that every room of pg_refit shares.
 *
 * A migration is one row of refit.migration.  It is worked in steps; one step
 * is one transaction that does a bounded piece of work and records its
 * progress, so that both become durable together.  Nothing that a step needs
 * is kept in memory between two steps: whoever runs the next one, this
 * process or its successor after a crash, reads it from the row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_H
#define REFIT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "portability/instr_time.h"
#include "storage/block.h"
#include "utils/jsonb.h"

#include "compat.h"

#define REFIT_SCHEMA "refit"
#define REFIT_EXTENSION "pg_refit"

/* The logs that capture writes to in turn. */
#define REFIT_LOGS 2

/* What a step tells the state machine. */
typedef enum RefitOutcome
{
	REFIT_MORE,	 /* progress was made, the phase goes on */
	REFIT_NEXT,	 /* the phase is finished */
	REFIT_WAIT,	 /* nothing could be done now: look again after a pause */
	REFIT_RETURN /* go back to the phase named in m->next_phase */
} RefitOutcome;

/*
 * The snapshot taken while no transaction had an open write on the table.
 * Stored as text in refit.rewrite; see capture.h for what it proves.
 */
typedef struct RefitBaseline
{
	TransactionId xmin;
	TransactionId xmax;
	bool overflowed; /* subtransactions are missing from xip */
	int nxip;
	TransactionId *xip; /* in progress then; subtransactions too */
} RefitBaseline;

/*
 * What one rewrite works with: a row of refit.rewrite.  There is one for each
 * table that has rows, the leaves of a partition tree; and one that has nothing
 * but a twin and a fingerprint for each partitioned table above them.
 */
typedef struct RefitRewrite
{
	bool exists;
	int number;					/* of the leaf, from 1; 0: no leaf */
	Oid twin;					/* table of the new definition */
	Oid blank;					/* table of the old one; see revert.h */
	Oid target;					/* which of the two is kept in step */
	bool reversed;				/* after the cutover: it is the blank */
	Oid key_index;				/* the table's index whose key capture logs */
	Oid trigger;				/* the capture trigger, once it is there */
	TransactionId trigger_xmin; /* its catalog row's xmin: was it touched? */
	Oid logs[REFIT_LOGS];		/* logs of dirty keys */
	Oid filenode;				/* the table's storage that is being copied */
	int64 source_blocks;		/* end of the copy */
	int64 copied_blocks;		/* of those, how many are copied */
	int64 copied_rows;
	int64 twin_blocks;		   /* committed length of the twin */
	int64 toast_blocks;		   /* and of its values out of line */
	char *fingerprint;		   /* definition the plan was made for */
	RefitBaseline baseline;	   /* valid once trigger is */
	char *inverse;			   /* what undoes the actions, see inverse.h */
	Oid back_logs[REFIT_LOGS]; /* logs and suspects for the revert window */
	Oid back_suspects;
	Oid suspects;		  /* keys of rows that differed once */
	char *verify;		  /* walking | suspect | passed | failed */
	Oid verify_filenode;  /* the table's storage that is being walked */
	int64 verify_source;  /* next block of the table */
	int64 verify_twin;	  /* next block of the twin */
	int64 verify_rows;	  /* compared in this walk */
	int64 verify_skipped; /* left out in it, being dirty */
	int verify_walks;	  /* walks that compared nothing */
	int64 verified;		  /* rows compared in the last whole walk */
	int64 discrepancies;  /* rows that differed, ever */
	char *finding;		  /* the one that failed the verification */
} RefitRewrite;

/* A table of the tree with its row. */
typedef struct RefitLeaf
{
	Oid relid;
	RefitRewrite rewrite;
} RefitLeaf;

/* Counters and cursor of the present phase: refit.migration_progress. */
typedef struct RefitProgress
{
	int64 cursor; /* next block, or next item */
	int64 cursor_end;
	int64 rows_done;
	int64 rows_total;
	int64 bytes_done;
	int64 bytes_total;
	int64 pending;		/* rows in the capture logs */
	double rate;		/* rows per second, smoothed, sleeps included */
	int budget_ms;		/* present chunk budget */
	int errors;			/* failed steps at this place */
	int deaths;			/* processes that died at this place */
	bool stands_still;	/* no step is begun: whoever dies, did not at work */
	int worker_pid;		/* who wrote this last; 0: nobody works it */
	char *throttled_by; /* signal that slows us, NULL: none */
	char *waiting_for;	/* who holds the lock we want, NULL: nobody */
	char *message;
	char *said; /* the message that was saved last, as loaded */
} RefitProgress;

/* A try for locks, as refit.lock_attempts shows it.  JSON; NULL: nobody. */
typedef struct RefitLockTry
{
	bool granted;
	double waited_ms; /* all together */
	double queued_ms; /* of that, in a queue: others may have been behind us */
	double vain_ms;	  /* since the first of those that failed in a row */
	char *locks;	  /* relations and modes */
	const char *blocked_by;
	char *behind; /* who waited behind us, and for how long */
} RefitLockTry;

/* One migration while a step works on it. */
typedef struct RefitMigration
{
	int64 id;
	char *name;
	char *kind;
	Oid relid;
	Oid leaf;		  /* whose rows are being worked: relid or a partition */
	int nleaves;	  /* 1 for a plain table, once it is prepared */
	char *relation;	  /* qualified name when submitted */
	char *definition; /* actions, or order_by of a repack */
	Oid object;		  /* the index that it is about, or InvalidOid */
	char *method;	  /* of an index: auto | incremental | concurrently */
	char *strategy;	  /* NULL until planned */
	char *state;
	char *phase;
	char *request;	   /* what a control function asked for, or NULL */
	char *goal;		   /* final state, unless it is completed */
	char *cutover;	   /* auto | manual */
	char *verify;	   /* full | sample | off */
	bool revertible;   /* keep the old rows for a window */
	char *search_path; /* of the submitter, for names in definition */
	char *submitted_by;
	Jsonb *options;
	int64 cutover_attempts;
	double cutover_lock_ms; /* < 0: no cutover yet */
	RefitProgress progress;
	RefitRewrite rewrite; /* the leaf's */
	char *next_phase;	  /* with REFIT_RETURN */
	char *lock_message;	  /* of a failed try for a lock; recorded as an event */
	char *lock_detail;
	List *lock_tries; /* of RefitLockTry: those of this step */
} RefitMigration;

/* How long the present step may work, and how long to rest after it. */
typedef struct RefitBudget
{
	instr_time start;
	RefitMigration *m;
	int chunk_ms; /* the step ends itself after this much time */
	int pause_ms; /* set by the step with REFIT_WAIT */
} RefitBudget;

/* A phase's work: one step of it.  Runs in a transaction, as the owner. */
typedef RefitOutcome (*RefitStep)(RefitMigration *m, RefitBudget *budget);

#endif /* REFIT_H */
