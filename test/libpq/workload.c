/*-------------------------------------------------------------------------
 *
 * workload.c
 *	  Migrates a table under random load and compares it with its oracle.
 *
 *		workload --conninfo STRING --kind KIND --seed N [options]
 *
 * The threads: the connections of the load; a few connections whose
 * transaction began before the migration and writes during it; a reader that
 * holds ACCESS SHARE; two stall probes; a sampler of the snapshots that the
 * migration's worker holds; and the main thread, which runs the migration
 * (drive.c).
 *
 * Prints one line, "kind=… seed=… ok …" or "… FAILED …", and on standard
 * error what went wrong.  Exit status: 0 good, 1 a check failed, 2 the program
 * could not do its work.
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE /* writers first, in a lock */

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

#define PROBES 2
#define MAX_HOLDERS 16

/* The ways in which a transaction can be older than the migration. */
typedef enum OldSort
{
	OLD_TOP,   /* has an xid, has not touched the table */
	OLD_SUB,   /* likewise, and writes in a subtransaction of old */
	OLD_MANY,  /* has more subtransactions than a snapshot can hold */
	OLD_WRITER /* has written to the table */
} OldSort;

typedef struct OldClient
{
	Client client;
	OldSort sort;
	pthread_t thread;
	atomic_bool is_ready;
} OldClient;

/* The connection that holds ACCESS SHARE on the table. */
typedef struct Reader
{
	Load *load;
	pthread_t thread;
	atomic_bool is_ready;
} Reader;

/* Since when a worker has been seen with this xmin. */
typedef struct Holder
{
	char pid[16];
	char xmin[16];
	double since;
} Holder;

/* The oldest snapshot of the worker, by the phase it was in. */
typedef struct Sampler
{
	Load *load;
	pthread_t thread;
	double oldest_ms; /* outside the building of indexes */
	double index_ms;
	long oldest_xacts;
	char phase[64];
	long samples;
	bool has_view; /* refit.progress is there */
	Holder holders[MAX_HOLDERS];
} Sampler;

typedef struct Run
{
	Load load;
	Client clients[MAX_CONNECTIONS];
	pthread_t threads[MAX_CONNECTIONS];
	OldClient old[OLD_CLIENTS];
	Reader reader;
	Sampler sampler;
	Probe probes[PROBES];
	pthread_t probe_threads[PROBES];
	char probe_sql[PROBES][400];
	atomic_bool probes_stop;
	pthread_t truncator;
	pthread_t chores;
	_Atomic double truncated_at; /* clock, or 0 */
	PGconn *conn;
	Outcome outcome;
} Run;

/* Says how to call the program. */
static void
usage(void)
{
	die("usage: workload --conninfo STRING --kind KIND --seed N\n"
		"  --connections N       writing connections (8)\n"
		"  --seconds S           load for at least that long (5)\n"
		"  --rows N              rows at the start (20000)\n"
		"  --tablespace NAME     for kind set_tablespace\n"
		"  --reader-seconds S    a reader holds the table that long (10)\n"
		"  --think MS            mean think time of a connection (10)\n"
		"  --limit S             a longer migration has failed (300)\n"
		"  --max-stall MS        a longer stall is a failure (0: none is)\n"
		"  --native              the blocking ALTER TABLE instead of ours\n"
		"  --command SHELL       another tool instead of ours\n"
		"  --sabotage            change one row behind the oracle's back\n"
		"  --truncate            TRUNCATE once while the migration runs\n"
		"  --mode MODE           what is done to the migration (plain)\n"
		"  --chores              checkpoints and vacuums all the time\n"
		"  --list-kinds, --list-modes  print their names\n"
		"  --list-reverting      print the names of kinds that can be reverted\n"
		"  --verbose             say where the time went\n"
		"kinds: %s\nmodes: %s",
		zoo_kind_names(false), drive_mode_names());
}

/* Stores one option of the command line. */
static void
take_option(Options *opt, int letter)
{
	switch (letter)
	{
		case 'c':
			opt->conninfo = optarg;
			break;
		case 'k':
			opt->kind = zoo_kind(optarg);
			break;
		case 's':
			opt->seed = strtoull(optarg, NULL, 10);
			break;
		case 'n':
			opt->connections = atoi(optarg);
			break;
		case 'S':
			opt->seconds = atof(optarg);
			break;
		case 'r':
			opt->rows = atoi(optarg);
			break;
		case 't':
			opt->tablespace = optarg;
			break;
		case 'R':
			opt->reader_seconds = atof(optarg);
			break;
		case 'T':
			opt->think_ms = atof(optarg);
			break;
		case 'L':
			opt->limit_seconds = atof(optarg);
			break;
		case 'm':
			opt->max_stall_ms = atof(optarg);
			break;
		case 'N':
			opt->native = true;
			break;
		case 'C':
			opt->command = optarg;
			break;
		case 'B':
			opt->sabotage = true;
			break;
		case 'U':
			opt->truncate = true;
			break;
		case 'M':
			opt->mode = optarg;
			break;
		case 'H':
			opt->chores = true;
			break;
		case 'K':
			puts(zoo_kind_names(false));
			exit(0);
		case 'V':
			puts(zoo_kind_names(true));
			exit(0);
		case 'O':
			puts(drive_mode_names());
			exit(0);
		case 'v':
			opt->verbose = true;
			break;
		default:
			usage();
	}
}

/* Reads the command line. */
static void
read_options(int argc, char **argv, Options *opt)
{
	static const struct option names[] = {
		{"conninfo", required_argument, NULL, 'c'},
		{"kind", required_argument, NULL, 'k'},
		{"seed", required_argument, NULL, 's'},
		{"connections", required_argument, NULL, 'n'},
		{"seconds", required_argument, NULL, 'S'},
		{"rows", required_argument, NULL, 'r'},
		{"tablespace", required_argument, NULL, 't'},
		{"reader-seconds", required_argument, NULL, 'R'},
		{"think", required_argument, NULL, 'T'},
		{"limit", required_argument, NULL, 'L'},
		{"max-stall", required_argument, NULL, 'm'},
		{"native", no_argument, NULL, 'N'},
		{"command", required_argument, NULL, 'C'},
		{"sabotage", no_argument, NULL, 'B'},
		{"truncate", no_argument, NULL, 'U'},
		{"mode", required_argument, NULL, 'M'},
		{"chores", no_argument, NULL, 'H'},
		{"list-kinds", no_argument, NULL, 'K'},
		{"list-modes", no_argument, NULL, 'O'},
		{"list-reverting", no_argument, NULL, 'V'},
		{"verbose", no_argument, NULL, 'v'},
		{NULL, 0, NULL, 0}};
	int letter;

	*opt = (Options){.conninfo = "",
					 .seed = 1,
					 .mode = "plain",
					 .connections = 8,
					 .seconds = 5,
					 .rows = 20000,
					 .reader_seconds = 10,
					 .think_ms = 10,
					 .limit_seconds = 300};
	while ((letter = getopt_long(argc, argv, "", names, NULL)) != -1)
		take_option(opt, letter);
	if (optind < argc || opt->kind == NULL || opt->rows < 1 ||
		opt->connections < 1 || opt->connections > MAX_CONNECTIONS ||
		!drive_is_mode(opt->mode))
		usage();
	if (opt->kind->needs_space && opt->tablespace == NULL)
		die("kind %s needs --tablespace", opt->kind->name);
}

/* Seconds since the migration began, for messages. */
static double
since_start(const Run *run, double at)
{
	return (at - atomic_load(&run->load.started_at)) / 1000.0;
}

/* Polls until the flag is set; dies when that takes too long. */
static void
await_flag(atomic_bool *flag, const char *what)
{
	double until = clock_ms() + 60000;

	while (!atomic_load(flag))
	{
		if (clock_ms() > until)
			die("%s is not ready after a minute", what);
		pause_ms(5);
	}
}

/* True as soon as the migration has begun, or the load is over. */
static bool
has_started(Load *load)
{
	return atomic_load(&load->started_at) > 0 || atomic_load(&load->stop);
}

/* The thread that holds ACCESS SHARE on the table. */
static void *
reader_main(void *arg)
{
	Reader *reader = arg;
	Load *load = reader->load;
	PGconn *conn = connect_or_die(load->opt.conninfo, "workload reader");
	double until;

	exec_or_die(conn, "BEGIN");
	exec_or_die(conn, "SELECT count(*) FROM zoo.item");
	atomic_store(&reader->is_ready, true);
	while (!has_started(load))
		pause_ms(5);
	until = clock_ms() + load->opt.reader_seconds * 1000.0;
	while (clock_ms() < until && !atomic_load(&load->stop))
		pause_ms(20);
	exec_or_die(conn, "SELECT count(born) FROM zoo.item");
	exec_or_die(conn, "COMMIT");
	PQfinish(conn);
	return NULL;
}

/* Waits until writes of the table are captured, but not forever. */
static void
await_capture(Load *load)
{
	PGconn *conn = connect_or_die(load->opt.conninfo, "workload watch");
	double until;

	while (!has_started(load))
		pause_ms(5);
	until = clock_ms() + 3000;
	while (clock_ms() < until && !atomic_load(&load->stop) &&
		   number_or_die(conn, "SELECT count(*) FROM pg_trigger t"
							   " JOIN pg_proc p ON p.oid = tgfoid"
							   " WHERE pronamespace::regnamespace::text"
							   " = 'refit'") == 0)
		pause_ms(10);
	PQfinish(conn);
}

/*
 * The thread that empties the tables, once, while the migration runs.
 *
 * No client is in a transaction then, since each of them has to forget what
 * it knows about its rows.  The order of the tables is that of the locks which
 * the probe takes.
 */
static void *
truncate_main(void *arg)
{
	Run *run = arg;
	PGconn *conn = connect_or_die(run->load.opt.conninfo, "truncator");
	Rng rng;

	rng_seed(&rng, run->load.opt.seed, 998);
	await_capture(&run->load);
	pause_ms(rng_below(&rng, 1500));
	pthread_rwlock_wrlock(&run->load.pause);
	exec_or_die(conn, "TRUNCATE zoo.oracle, zoo.oracle_child, zoo.item,"
					  " zoo.item_child");
	for (int i = 0; i < run->load.opt.connections + OLD_CLIENTS; i++)
	{
		Client *c = i < run->load.opt.connections
						? &run->clients[i]
						: &run->old[i - run->load.opt.connections].client;

		memset(c->there, 0, c->range.slots * sizeof(bool));
	}
	pthread_rwlock_unlock(&run->load.pause);
	atomic_store(&run->truncated_at, clock_ms());
	PQfinish(conn);
	return NULL;
}

/* Gives the open transaction its xid, or many. */
static void
take_xids(OldClient *old)
{
	Client *c = &old->client;
	int savepoints = old->sort == OLD_MANY ? 90 : old->sort == OLD_SUB;

	client_run(c, "SELECT pg_current_xact_id()", false);
	for (int i = 0; i < savepoints; i++)
	{
		client_run(c, "SAVEPOINT old", false);
		/* locking a row gives the subtransaction its xid */
		client_run(c, "SELECT FROM zoo.parent WHERE id = 1 FOR KEY SHARE",
				   false);
	}
}

/* The thread of a transaction that is older than the migration. */
static void *
old_main(void *arg)
{
	OldClient *old = arg;
	Client *c = &old->client;

	client_begin(c, "");
	take_xids(old);
	if (old->sort == OLD_WRITER)
		ops_write(c, 3);
	atomic_store(&old->is_ready, true);
	if (old->sort == OLD_WRITER)
	{
		/* holds up the installation of the capture, for a moment */
		while (!has_started(c->load))
			pause_ms(5);
		pause_ms(700);
	}
	else
	{
		await_capture(c->load);
		pause_ms(rng_below(&c->rng, 300));
	}
	ops_write(c, 10);
	client_end(c, "commit");
	while (!atomic_load(&c->load->stop) && PQstatus(c->conn) == CONNECTION_OK)
	{
		client_begin(c, "");
		ops_write(c, 2);
		client_end(c, "commit");
		pause_ms(20);
	}
	return NULL;
}

/*
 * How long a worker has had the same xmin in all samples.
 *
 * A transaction can be older than its snapshot; a snapshot cannot be older
 * than the xmin it gives its backend.
 */
static double
held_ms(Sampler *sampler, const char *pid, const char *xmin)
{
	Holder *h = sampler->holders;
	int i = 0;

	while (i < MAX_HOLDERS - 1 && h[i].pid[0] && strcmp(h[i].pid, pid) != 0)
		i++;
	if (strcmp(h[i].pid, pid) != 0 || strcmp(h[i].xmin, xmin) != 0)
	{
		snprintf(h[i].pid, sizeof(h[i].pid), "%s", pid);
		snprintf(h[i].xmin, sizeof(h[i].xmin), "%s", xmin);
		h[i].since = clock_ms();
	}
	return clock_ms() - h[i].since;
}

/* Files one worker's snapshot: its age, and the phase it is in. */
static void
note_snapshot(Sampler *sampler, double ms, long xacts, const char *phase)
{
	if (strstr(phase, "index"))
	{
		if (ms > sampler->index_ms)
			sampler->index_ms = ms;
		return;
	}
	if (xacts > sampler->oldest_xacts)
		sampler->oldest_xacts = xacts;
	if (ms > sampler->oldest_ms)
	{
		sampler->oldest_ms = ms;
		snprintf(sampler->phase, sizeof(sampler->phase), "%s", phase);
	}
}

/* Looks once at the snapshots that workers of ours hold. */
static void
sample_once(Sampler *sampler, PGconn *conn)
{
	StrBuf sql = {0};
	PGresult *res;

	sb_add(&sql,
		   "SELECT pid, coalesce(backend_xmin::text, ''),"
		   " extract(epoch FROM clock_timestamp() - xact_start) * 1000,"
		   " age(backend_xmin), %s"
		   " WHERE backend_type LIKE 'pg_refit%%'",
		   sampler->has_view
			   ? "coalesce(p.phase, '') FROM pg_stat_activity a"
				 " LEFT JOIN refit.progress p ON p.worker_pid = a.pid"
			   : "'' FROM pg_stat_activity");
	res = PQexec(conn, sql.data);
	sampler->samples++;
	for (int i = 0; i < PQntuples(res); i++)
	{
		const char *xmin = PQgetvalue(res, i, 1);
		double ms = held_ms(sampler, PQgetvalue(res, i, 0), xmin);
		double xact_ms = atof(PQgetvalue(res, i, 2));

		if (*xmin != '\0')
			note_snapshot(sampler, ms < xact_ms ? ms : xact_ms,
						  atol(PQgetvalue(res, i, 3)), PQgetvalue(res, i, 4));
	}
	PQclear(res);
	sb_free(&sql);
}

/* The thread that samples snapshots, and watches for the new column. */
static void *
sampler_main(void *arg)
{
	Sampler *sampler = arg;
	Load *load = sampler->load;
	PGconn *conn = connect_or_die(load->opt.conninfo, "workload sampler");

	sampler->has_view =
		number_or_die(conn, "SELECT (to_regclass('refit.progress')"
							" IS NOT NULL)::int") == 1;
	while (!atomic_load(&load->stop))
	{
		sample_once(sampler, conn);
		if (load->opt.kind->adds_uuid)
			check_watch_uuid(conn);
		pause_ms(10);
	}
	PQfinish(conn);
	return NULL;
}

/* Starts the probes: one that reads and one that writes a quiet row. */
static void
start_probes(Run *run)
{
	Range quiet = zoo_range(&run->load, OWNER_QUIET);
	const Kind *kind = run->load.opt.kind;
	StrBuf is = {0};

	zoo_key_is(&is, kind, quiet.first, "");
	snprintf(run->probe_sql[0], sizeof(run->probe_sql[0]),
			 "SELECT note FROM zoo.item WHERE %s", is.data);
	snprintf(run->probe_sql[1], sizeof(run->probe_sql[1]),
			 "WITH other AS (UPDATE zoo.oracle SET note = 'p' WHERE %s)"
			 " UPDATE zoo.item SET note = 'p' WHERE %s",
			 is.data, is.data);
	for (int i = 0; i < PROBES; i++)
	{
		run->probes[i] = (Probe){.conninfo = run->load.opt.conninfo,
								 .name = i == 0 ? "select" : "update",
								 .sql = run->probe_sql[i],
								 .interval_ms = 5,
								 .stop = &run->probes_stop,
								 .split_at = &run->load.started_at};
		pthread_create(&run->probe_threads[i], NULL, probe_main,
					   &run->probes[i]);
	}
	sb_free(&is);
}

/* Starts the connections of the load. */
static void
start_clients(Run *run)
{
	for (int i = 0; i < run->load.opt.connections; i++)
		client_init(&run->clients[i], &run->load, i + 1);
	for (int i = 0; i < run->load.opt.connections; i++)
		pthread_create(&run->threads[i], NULL, load_main, &run->clients[i]);
}

/* Starts what must stand before the migration begins, and waits for it. */
static void
start_old(Run *run)
{
	for (int i = 0; i < OLD_CLIENTS; i++)
	{
		OldClient *old = &run->old[i];

		client_init(&old->client, &run->load,
					run->load.opt.connections + 1 + i);
		old->sort = (OldSort) i;
		/* an overflowed snapshot in every other run only */
		if (old->sort == OLD_MANY && run->load.opt.seed % 2 == 0)
			old->sort = OLD_TOP;
		pthread_create(&old->thread, NULL, old_main, old);
	}
	run->reader.load = &run->load;
	pthread_create(&run->reader.thread, NULL, reader_main, &run->reader);
	for (int i = 0; i < OLD_CLIENTS; i++)
		await_flag(&run->old[i].is_ready, "an old transaction");
	await_flag(&run->reader.is_ready, "the reader");
	run->sampler.load = &run->load;
	pthread_create(&run->sampler.thread, NULL, sampler_main, &run->sampler);
	if (run->load.opt.truncate)
		pthread_create(&run->truncator, NULL, truncate_main, run);
	if (run->load.opt.chores)
		pthread_create(&run->chores, NULL, chores_main, &run->load);
}

/* Changes one row of the table that the oracle does not hear of. */
static void
sabotage(Run *run)
{
	PGconn *conn = connect_or_die(run->load.opt.conninfo, "saboteur");
	char *key;
	StrBuf sql = {0};

	sb_add(&sql,
		   "UPDATE zoo.item SET note = 'sabotaged' WHERE born ="
		   " (SELECT max(born) FROM zoo.item WHERE owner = %d)"
		   " RETURNING concat_ws(', ', ",
		   OWNER_QUIET);
	zoo_key_columns(&sql, run->load.opt.kind);
	sb_add(&sql, ")");
	key = value_or_die(conn, sql.data);
	fprintf(stderr, "sabotage: changed the row with key %s\n", key);
	free(key);
	sb_free(&sql);
	PQfinish(conn);
}

/* Ends the load and waits for all its threads. */
static void
stop_all(Run *run)
{
	atomic_store(&run->load.stop, true);
	for (int i = 0; i < run->load.opt.connections; i++)
		pthread_join(run->threads[i], NULL);
	for (int i = 0; i < OLD_CLIENTS; i++)
		pthread_join(run->old[i].thread, NULL);
	if (run->load.opt.truncate)
		pthread_join(run->truncator, NULL);
	if (run->load.opt.chores)
		pthread_join(run->chores, NULL);
	pthread_join(run->reader.thread, NULL);
	pthread_join(run->sampler.thread, NULL);
	atomic_store(&run->probes_stop, true);
	for (int i = 0; i < PROBES; i++)
		pthread_join(run->probe_threads[i], NULL);
}

/* Adds up what a connection has seen, and closes it. */
static void
collect(Client *total, Client *c)
{
	stall_merge(&total->before, &c->before);
	stall_merge(&total->during, &c->during);
	stall_merge(&total->bulk, &c->bulk);
	total->transactions += c->transactions;
	total->rows += c->rows;
	total->errors += c->errors;
	total->retryable += c->retryable;
	total->divergences += c->divergences;
	client_close(c);
}

/* Adds up what all connections have seen. */
static void
collect_all(Run *run, Client *total)
{
	for (int i = 0; i < run->load.opt.connections; i++)
		collect(total, &run->clients[i]);
	for (int i = 0; i < OLD_CLIENTS; i++)
		collect(total, &run->old[i].client);
	for (int i = 0; i < PROBES; i++)
	{
		stall_merge(&total->before, &run->probes[i].early);
		stall_merge(&total->during, &run->probes[i].late);
		total->errors += run->probes[i].errors;
	}
}

/* Says where the longest stall and the oldest snapshot came from. */
static void
print_details(Run *run, const Client *total)
{
	fprintf(stderr,
			"longest stall %.1f ms, %.2f s after the start: %s\n"
			"longest before the start %.1f ms; large statement %.1f ms\n"
			"probes: select %.1f ms of %ld, update %.1f ms of %ld\n"
			"oldest snapshot %.1f ms in phase \"%s\" (%ld xacts), building"
			" indexes %.1f ms, %ld samples\n",
			total->during.longest, since_start(run, total->during.at),
			total->during.what, total->before.longest, total->bulk.longest,
			run->probes[0].late.longest, run->probes[0].statements,
			run->probes[1].late.longest, run->probes[1].statements,
			run->sampler.oldest_ms, run->sampler.phase,
			run->sampler.oldest_xacts, run->sampler.index_ms,
			run->sampler.samples);
}

/* Checks everything and prints the line of the run; true when all is good. */
static bool
finish(Run *run, const char *identity)
{
	const Options *opt = &run->load.opt;
	Client total = {0};
	long rows = 0;
	bool is_good = run->outcome.is_good;

	collect_all(run, &total);
	is_good &= check_all(&run->load, run->conn, identity,
						 run->outcome.is_changed, &rows);
	is_good &= total.errors == 0 && total.divergences == 0;
	if (opt->max_stall_ms > 0 && total.during.longest > opt->max_stall_ms)
	{
		fprintf(stderr, "check failed: longest stall above %.0f ms\n",
				opt->max_stall_ms);
		is_good = false;
	}
	if (opt->truncate)
		fprintf(stderr, "truncated %.1f s after the start, %s\n",
				since_start(run, atomic_load(&run->truncated_at)),
				atomic_load(&run->truncated_at) <
						atomic_load(&run->load.finished_at)
					? "during the migration"
					: "too late for the migration");
	if (opt->verbose || !is_good)
		print_details(run, &total);
	printf("kind=%s mode=%s seed=%llu %s rows=%ld transactions=%ld changes=%ld"
		   " client_errors=%ld divergences=%ld retryable=%ld"
		   " longest_stall_ms=%.1f stall_before_ms=%.1f"
		   " oldest_snapshot_ms=%.1f cutover_lock_ms=%s seconds=%s state=%s\n",
		   opt->kind->name, opt->mode, (unsigned long long) opt->seed,
		   is_good ? "ok" : "FAILED", rows, total.transactions, total.rows,
		   total.errors, total.divergences, total.retryable,
		   total.during.longest, total.before.longest, run->sampler.oldest_ms,
		   run->outcome.cutover_lock_ms, run->outcome.took, run->outcome.state);
	return is_good;
}

/* Learns what the server can do and makes the tables. */
static void
prepare(Run *run)
{
	Load *load = &run->load;
	const Options *opt = &load->opt;
	StrBuf actions = {0};
	pthread_rwlockattr_t writers_first;

	pthread_rwlockattr_init(&writers_first);
	pthread_rwlockattr_setkind_np(&writers_first,
								  PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&load->pause, &writers_first);
	run->conn = connect_or_die(opt->conninfo, "workload");
	exec_or_die(run->conn, "SET client_encoding = 'UTF8'");
	load->server_version = PQserverVersion(run->conn);
	load->has_two_phase =
		number_or_die(run->conn, "SHOW max_prepared_transactions") >=
		opt->connections;
	if (opt->kind->actions)
	{
		sb_add(&actions, "%s%s", opt->kind->actions,
			   opt->kind->needs_space ? opt->tablespace : "");
		load->actions = actions.data;
	}
	if (drive_is_ours(opt))
		exec_or_die(run->conn, "CREATE EXTENSION IF NOT EXISTS pg_refit");
	zoo_create(load, run->conn);
}

/* True when the tables, once emptied, have had the time to fill again. */
static bool
is_refilled(Run *run)
{
	double at = atomic_load(&run->truncated_at);

	return !run->load.opt.truncate || (at > 0 && clock_ms() > at + 1000);
}

/* Loads, migrates, loads on, checks. */
int
main(int argc, char **argv)
{
	static Run run;
	char *identity;
	double began;

	read_options(argc, argv, &run.load.opt);
	setvbuf(stdout, NULL, _IOLBF, 0);
	prepare(&run);
	identity = check_identity(run.conn, &run.load);
	began = clock_ms();
	start_probes(&run);
	start_clients(&run);
	while (clock_ms() < began + 1000)
		pause_ms(20);
	start_old(&run);
	if (run.load.opt.sabotage)
		sabotage(&run);
	drive_migration(&run.load, run.conn, &run.outcome);
	while (clock_ms() < atomic_load(&run.load.finished_at) + 1000 ||
		   clock_ms() < began + run.load.opt.seconds * 1000.0 ||
		   !is_refilled(&run))
		pause_ms(20);
	stop_all(&run);
	return finish(&run, identity) ? 0 : 1;
}
