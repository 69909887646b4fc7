/*-------------------------------------------------------------------------
 *
 * drive.c
 *	  Runs the migration under the load, and meddles with it.
 *
 * A mode is what is done to a migration while it runs:
 *
 *		plain		nothing
 *		manual		its cutover is asked for once it is ready
 *		pause		it is paused and resumed, twice
 *		cancel		it is given up; the table must be what it was
 *		retry		it is given up and started again
 *		throttle	it is slowed down for some seconds
 *		kill		its worker is terminated, three times
 *		revert		it has a revert window, and is reverted in it; the table
 *					must be what it was, with the rows of now
 *		finish		it has a revert window, which is ended
 *
 * A kind that cannot be reverted must be refused a window; it then goes without.
 * The moments are random, by the seed.  Whatever is refused because the
 * migration is over already is no failure: then it must be completed.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workload.h"

/* What the functions of this file pass on. */
typedef struct Drive
{
	Load *load;
	PGconn *conn;
	Outcome *out;
	Rng rng;
	double until;	 /* the clock at which the migration has taken too long */
	bool has_window; /* submitted with a revert window */
	bool is_reverting;
} Drive;

typedef struct Mode
{
	const char *name;
	void (*meddle)(Drive *d);
	bool is_manual;	   /* submitted with cutover => 'manual' */
	bool wants_window; /* submitted with revertible => '1 hour' */
	bool may_cancel;
} Mode;

/* Runs a native statement, again when its lock escalation has lost. */
static PGresult *
run_native(PGconn *conn, const char *sql)
{
	PGresult *res = PQexec(conn, sql);
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (state == NULL || strcmp(state, "40P01") != 0)
	{
		if (PQresultStatus(res) != PGRES_COMMAND_OK)
			die("%s", PQerrorMessage(conn));
		return res;
	}
	PQclear(res);
	return query_or_die(conn, sql);
}

/* True when it is our extension that is to migrate the table. */
bool
drive_is_ours(const Options *opt)
{
	return !opt->native && opt->command == NULL;
}

/* True for a state that a migration does not leave by itself. */
static bool
is_final(const char *state)
{
	return strcmp(state, "completed") == 0 || strcmp(state, "failed") == 0 ||
		   strcmp(state, "cancelled") == 0 || strcmp(state, "reverted") == 0;
}

/* Prints what there is to know about a migration that went wrong. */
static void
print_migration(const Drive *d)
{
	char sql[300];
	PGresult *res;

	snprintf(sql, sizeof(sql),
			 "SELECT m.*, p.phase, p.message, p.waiting_for"
			 " FROM refit.migrations m LEFT JOIN refit.progress p USING (id)"
			 " WHERE m.id = %ld",
			 d->out->id);
	res = PQexec(d->conn, sql);
	for (int i = 0; i < PQntuples(res); i++)
		for (int col = 0; col < PQnfields(res); col++)
			if (!PQgetisnull(res, i, col))
				fprintf(stderr, "  %s: %s\n", PQfname(res, col),
						PQgetvalue(res, i, col));
	PQclear(res);
	snprintf(sql, sizeof(sql),
			 "SELECT at::time(3), kind, phase, message, detail"
			 " FROM refit.events WHERE migration_id = %ld"
			 " ORDER BY at DESC LIMIT 20",
			 d->out->id);
	res = PQexec(d->conn, sql);
	for (int i = PQntuples(res) - 1; i >= 0; i--)
		fprintf(stderr, "  event %s %s %s %s %.200s\n", PQgetvalue(res, i, 0),
				PQgetvalue(res, i, 1), PQgetvalue(res, i, 2),
				PQgetvalue(res, i, 3), PQgetvalue(res, i, 4));
	PQclear(res);
}

/* Reads the migration's state; true while it has not ended nor run too long. */
static bool
is_under_way(Drive *d)
{
	Outcome *out = d->out;
	char sql[200];
	PGresult *res;

	snprintf(sql, sizeof(sql),
			 "SELECT state, coalesce(cutover_lock_ms::text, '-'),"
			 " round(extract(epoch FROM finished_at - started_at), 1)"
			 " FROM refit.migrations WHERE id = %ld",
			 out->id);
	res = query_or_die(d->conn, sql);
	snprintf(out->state, sizeof(out->state), "%s", PQgetvalue(res, 0, 0));
	snprintf(out->cutover_lock_ms, sizeof(out->cutover_lock_ms), "%s",
			 PQgetvalue(res, 0, 1));
	snprintf(out->took, sizeof(out->took), "%s", PQgetvalue(res, 0, 2));
	PQclear(res);
	return !is_final(out->state) && clock_ms() < d->until;
}

/* Lets the migration go on for a random time; false once it has ended. */
static bool
let_run(Drive *d, int most_ms)
{
	double until = clock_ms() + rng_below(&d->rng, most_ms);

	while (clock_ms() < until)
	{
		if (!is_under_way(d))
			return false;
		pause_ms(10);
	}
	return is_under_way(d);
}

/* Polls until the migration has that state or has ended. */
static bool
await_state(Drive *d, const char *state)
{
	while (is_under_way(d) && strcmp(d->out->state, state) != 0)
		pause_ms(20);
	return strcmp(d->out->state, state) == 0;
}

/*
 * Calls a function of ours.  It may refuse (55000) when the migration is over
 * or the new definition in place; anything else is an error of its own.
 */
static bool
call(Drive *d, const char *fmt, ...)
{
	StrBuf sql = {0};
	va_list args;
	PGresult *res;
	const char *state;
	bool is_done;

	va_start(args, fmt);
	sb_vadd(&sql, fmt, args);
	va_end(args);
	res = PQexec(d->conn, sql.data);
	is_done = PQresultStatus(res) == PGRES_TUPLES_OK;
	state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	if (!is_done && (state == NULL || strcmp(state, "55000") != 0))
		die("%sstatement: %s", PQerrorMessage(d->conn), sql.data);
	PQclear(res);
	sb_free(&sql);
	return is_done;
}

/* Nothing. */
static void
leave_alone(Drive *d)
{
	(void) d;
}

/* Lets the cutover happen, some time after everything else is done. */
static void
cut_over(Drive *d)
{
	if (await_state(d, "ready") && let_run(d, 1500))
		call(d, "SELECT refit.cutover(%ld)", d->out->id);
}

/* Pauses and resumes, twice. */
static void
pause_and_resume(Drive *d)
{
	for (int i = 0; i < 2; i++)
	{
		if (!let_run(d, 3000) ||
			!call(d, "SELECT refit.pause(%ld)", d->out->id))
			return;
		if (await_state(d, "paused"))
			pause_ms(rng_below(&d->rng, 1500));
		call(d, "SELECT refit.resume(%ld)", d->out->id);
	}
}

/* Gives the migration up, early or late. */
static void
give_up(Drive *d)
{
	if (let_run(d, rng_chance(&d->rng, 50) ? 1000 : 6000))
		call(d, "SELECT refit.cancel(%ld)", d->out->id);
}

/* Gives the migration up and starts it again. */
static void
give_up_and_retry(Drive *d)
{
	give_up(d);
	while (is_under_way(d))
		pause_ms(20);
	if (strcmp(d->out->state, "cancelled") == 0)
		call(d, "SELECT refit.retry(%ld)", d->out->id);
}

/* Slows the migration down for a while. */
static void
slow_down(Drive *d)
{
	if (let_run(d, 1000))
		call(d, "SELECT refit.throttle(0.%d, '4 seconds', %ld)",
			 5 + rng_below(&d->rng, 5), d->out->id);
}

/* Terminates the worker three times. */
static void
kill_worker(Drive *d)
{
	for (int i = 0; i < 3 && let_run(d, 2500); i++)
		call(d,
			 "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
			 " JOIN refit.progress ON worker_pid = pid"
			 " WHERE backend_type LIKE 'pg_refit%%' AND id = %ld",
			 d->out->id);
}

/* Waits for the revert window and lets the load go on in it. */
static bool
live_in_window(Drive *d)
{
	double until;

	if (!d->has_window || !await_state(d, "revertible"))
		return false;
	until = clock_ms() + 2000;
	while (clock_ms() < until)
		pause_ms(10);
	return let_run(d, 3000);
}

/* Asks for the old definition until nothing bars the way. */
static void
go_back(Drive *d)
{
	if (!live_in_window(d))
		return;
	while (!d->is_reverting && is_under_way(d))
	{
		d->is_reverting = call(d, "SELECT refit.revert(%ld)", d->out->id);
		pause_ms(100);
	}
}

/* Keeps the new definition. */
static void
stay(Drive *d)
{
	if (live_in_window(d))
		call(d, "SELECT refit.finish(%ld)", d->out->id);
}

static const Mode modes[] = {
	{.name = "plain", .meddle = leave_alone},
	{.name = "manual", .meddle = cut_over, .is_manual = true},
	{.name = "pause", .meddle = pause_and_resume},
	{.name = "cancel",
	 .meddle = give_up,
	 .is_manual = true,
	 .may_cancel = true},
	{.name = "retry", .meddle = give_up_and_retry},
	{.name = "throttle", .meddle = slow_down},
	{.name = "kill", .meddle = kill_worker},
	{.name = "revert", .meddle = go_back, .wants_window = true},
	{.name = "finish", .meddle = stay, .wants_window = true},
};

#define MODE_COUNT ((int) (sizeof(modes) / sizeof(modes[0])))

/* The mode of that name, or NULL. */
static const Mode *
find_mode(const char *name)
{
	for (int i = 0; i < MODE_COUNT; i++)
		if (strcmp(modes[i].name, name) == 0)
			return &modes[i];
	return NULL;
}

/* True when there is a mode of that name. */
bool
drive_is_mode(const char *name)
{
	return find_mode(name) != NULL;
}

/* The names of all modes, for the usage message. */
const char *
drive_mode_names(void)
{
	static StrBuf names;

	sb_reset(&names);
	for (int i = 0; i < MODE_COUNT; i++)
		sb_add(&names, "%s%s", i > 0 ? " " : "", modes[i].name);
	return names.data;
}

/* Appends the call that submits the migration, with more arguments or none. */
static void
add_submission(StrBuf *sql, const Load *load, const char *more)
{
	const char *order_by = load->opt.kind->order_by;
	const char *workers =
		load->opt.kind->is_partitioned ? ", options => '{\"workers\": 2}'" : "";

	if (load->actions == NULL)
	{
		sb_add(sql, "SELECT refit.repack('zoo.item', %s%s%s%s)",
			   order_by ? "'" : "", order_by ? order_by : "NULL",
			   order_by ? "'" : "", workers);
		return;
	}
	sb_add(sql, "SELECT refit.alter_table('zoo.item', $$");
	zoo_expand(sql, load->actions, "item");
	sb_add(sql, "$$, cutover => '%s'%s%s)",
		   find_mode(load->opt.mode)->is_manual ? "manual" : "auto", workers,
		   more);
}

/* Submits the migration, with a revert window where the mode wants one. */
static void
submit(Drive *d)
{
	const Kind *kind = d->load->opt.kind;
	StrBuf sql = {0};
	PGresult *res;
	const char *state;

	if (kind->actions && find_mode(d->load->opt.mode)->wants_window)
	{
		add_submission(&sql, d->load, ", revertible => '1 hour'");
		res = PQexec(d->conn, sql.data);
		state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
		d->has_window = state == NULL;
		if (d->has_window)
			d->out->id = atol(PQgetvalue(res, 0, 0));
		if (d->has_window != zoo_kind_reverts(kind) ||
			(state && strcmp(state, "0A000") != 0))
			die("a revert window was %s: %s", state ? "refused" : "granted",
				PQerrorMessage(d->conn));
		PQclear(res);
	}
	if (!d->has_window)
	{
		sb_reset(&sql);
		add_submission(&sql, d->load, "");
		d->out->id = number_or_die(d->conn, sql.data);
	}
	sb_free(&sql);
}

/* Migrates by other means than ours. */
static void
migrate_otherwise(Drive *d)
{
	const Options *opt = &d->load->opt;
	StrBuf sql = {0};
	double began = clock_ms();

	if (opt->command)
	{
		if (system(opt->command) != 0)
			die("failed: %s", opt->command);
	}
	else
	{
		sb_add(&sql, d->load->actions ? "ALTER TABLE zoo.item "
									  : "VACUUM (FULL) zoo.item");
		if (d->load->actions)
			zoo_expand(&sql, d->load->actions, "item");
		PQclear(run_native(d->conn, sql.data));
		sb_free(&sql);
	}
	strcpy(d->out->state, "completed");
	strcpy(d->out->cutover_lock_ms, "-");
	snprintf(d->out->took, sizeof(d->out->took), "%.1f",
			 (clock_ms() - began) / 1000.0);
}

/* Migrates with our extension, in the mode asked for. */
static void
migrate(Drive *d)
{
	submit(d);
	find_mode(d->load->opt.mode)->meddle(d);
	while (is_under_way(d))
		pause_ms(50);
}

/* True when the migration has ended as the mode wants it. */
static bool
is_wanted_end(const Drive *d)
{
	const char *state = d->out->state;

	if (d->is_reverting)
		return strcmp(state, "reverted") == 0;
	return strcmp(state, "completed") == 0 ||
		   (find_mode(d->load->opt.mode)->may_cancel &&
			strcmp(state, "cancelled") == 0);
}

/* What a rewrite has put in place must have been compared, and found equal. */
static bool
is_verified(const Drive *d)
{
	char sql[300];

	if (strcmp(d->out->state, "cancelled") == 0)
		return true;
	snprintf(sql, sizeof(sql),
			 "SELECT count(*) FROM refit.migrations WHERE id = %ld"
			 " AND (strategy <> 'rewrite' OR discrepancies = 0"
			 " AND verified_rows %s 0)",
			 d->out->id, d->load->opt.truncate ? ">=" : ">");
	return number_or_die(d->conn, sql) == 1;
}

/* Runs the migration from its submission to its end. */
void
drive_migration(Load *load, PGconn *conn, Outcome *out)
{
	Drive d = {.load = load, .conn = conn, .out = out};

	rng_seed(&d.rng, load->opt.seed, 997);
	atomic_store(&load->started_at, clock_ms());
	d.until = clock_ms() + load->opt.limit_seconds * 1000.0;
	if (drive_is_ours(&load->opt))
		migrate(&d);
	else
		migrate_otherwise(&d);
	out->is_changed = strcmp(out->state, "completed") == 0;
	out->is_good =
		is_wanted_end(&d) && (!drive_is_ours(&load->opt) || is_verified(&d));
	if (!out->is_good)
	{
		fprintf(stderr, "the migration is %s:\n", out->state);
		print_migration(&d);
	}
	atomic_store(&load->finished_at, clock_ms());
}
