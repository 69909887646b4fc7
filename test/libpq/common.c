/*-------------------------------------------------------------------------
 *
 * common.c
 *	  What the client programs of the tests share.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common.h"

/* The monotonic clock in milliseconds. */
double
clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000.0 + now.tv_nsec / 1e6;
}

/* The time of day as seconds since 1970, for comparing with other logs. */
double
wall_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Stands still for that long: think time of a client, or one poll. */
void
pause_ms(double ms)
{
	struct timespec left;

	left.tv_sec = (time_t) (ms / 1000.0);
	left.tv_nsec = (long) ((ms - left.tv_sec * 1000.0) * 1e6);
	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		;
}

/* Empties the string, keeping its memory. */
void
sb_reset(StrBuf *sb)
{
	sb->len = 0;
	if (sb->data != NULL)
		sb->data[0] = '\0';
}

/* Gives the memory back; the string can be used again. */
void
sb_free(StrBuf *sb)
{
	free(sb->data);
	memset(sb, 0, sizeof(*sb));
}

/* Makes room for that many more bytes and a terminator. */
static void
sb_reserve(StrBuf *sb, size_t more)
{
	if (sb->len + more + 1 <= sb->size)
		return;
	sb->size = (sb->len + more + 1) * 2;
	sb->data = realloc(sb->data, sb->size);
	if (sb->data == NULL)
		die("out of memory");
}

/* Appends text of a known length. */
void
sb_add_text(StrBuf *sb, const char *text, size_t len)
{
	sb_reserve(sb, len);
	memcpy(sb->data + sb->len, text, len);
	sb->len += len;
	sb->data[sb->len] = '\0';
}

/* Appends formatted text. */
void
sb_vadd(StrBuf *sb, const char *fmt, va_list args)
{
	va_list copy;
	int need;

	va_copy(copy, args);
	need = vsnprintf(NULL, 0, fmt, copy);
	va_end(copy);
	sb_reserve(sb, need);
	vsnprintf(sb->data + sb->len, need + 1, fmt, args);
	sb->len += need;
}

/* Appends formatted text. */
void
sb_add(StrBuf *sb, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	sb_vadd(sb, fmt, args);
	va_end(args);
}

/* Scrambles a number; different numbers stay different (splitmix64). */
uint64_t
mix64(uint64_t value)
{
	value += UINT64_C(0x9e3779b97f4a7c15);
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

/* Starts a generator: the same seed and stream give the same numbers. */
void
rng_seed(Rng *rng, uint64_t seed, uint64_t stream)
{
	rng->state = mix64(seed * 1000003 + stream);
	if (rng->state == 0)
		rng->state = 1;
}

/* The next number (xorshift64*). */
uint64_t
rng_next(Rng *rng)
{
	rng->state ^= rng->state >> 12;
	rng->state ^= rng->state << 25;
	rng->state ^= rng->state >> 27;
	return rng->state * UINT64_C(0x2545f4914f6cdd1d);
}

/* A number from 0 to limit - 1. */
int
rng_below(Rng *rng, int limit)
{
	return (int) ((rng_next(rng) >> 33) % (uint64_t) limit);
}

/* True in that many of a hundred cases. */
bool
rng_chance(Rng *rng, int percent)
{
	return rng_below(rng, 100) < percent;
}

/* Prints a message and ends the program with status 2: the test is broken. */
void
die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	exit(2);
}

/* Drops NOTICE messages; errors are reported from the results. */
static void
ignore_notice(void *arg, const PGresult *res)
{
	(void) arg;
	(void) res;
}

/* Opens a connection that shows under this name in pg_stat_activity. */
PGconn *
connect_or_die(const char *conninfo, const char *name)
{
	const char *keys[] = {"dbname", "fallback_application_name", NULL};
	const char *values[] = {conninfo, name, NULL};
	PGconn *conn = PQconnectdbParams(keys, values, 1);

	if (PQstatus(conn) != CONNECTION_OK)
		die("could not connect: %s", PQerrorMessage(conn));
	PQsetNoticeReceiver(conn, ignore_notice, NULL);
	return conn;
}

/* Runs a query that must succeed and returns its result. */
PGresult *
query_or_die(PGconn *conn, const char *sql)
{
	PGresult *res = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(res);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK &&
		status != PGRES_EMPTY_QUERY)
		die("%sstatement: %.2000s", PQerrorMessage(conn), sql);
	return res;
}

/* Runs a statement that must succeed. */
void
exec_or_die(PGconn *conn, const char *sql)
{
	PQclear(query_or_die(conn, sql));
}

/* Runs a statement whose failure does not matter. */
void
exec_quietly(PGconn *conn, const char *sql)
{
	PQclear(PQexec(conn, sql));
}

/* The first column of the first row as a string to be freed, "" for none. */
char *
value_or_die(PGconn *conn, const char *sql)
{
	PGresult *res = query_or_die(conn, sql);
	char *value = strdup(PQntuples(res) > 0 ? PQgetvalue(res, 0, 0) : "");

	PQclear(res);
	return value;
}

/* The first column of the first row as a number, 0 for none. */
long
number_or_die(PGconn *conn, const char *sql)
{
	char *value = value_or_die(conn, sql);
	long number = atol(value);

	free(value);
	return number;
}

/* Remembers the statement when it took longer than any before it. */
void
stall_note(Stall *stall, double began, double took, const char *what)
{
	if (took <= stall->longest)
		return;
	stall->longest = took;
	stall->at = began;
	snprintf(stall->what, sizeof(stall->what), "%s", what);
}

/* Keeps the longer one of two. */
void
stall_merge(Stall *into, const Stall *from)
{
	if (from->longest > into->longest)
		*into = *from;
}

/* Runs the probe's statement once and notes how long that took. */
static void
probe_once(Probe *probe, PGconn *conn)
{
	double began = clock_ms();
	PGresult *res = PQexec(conn, probe->sql);
	double took = clock_ms() - began;
	ExecStatusType status = PQresultStatus(res);
	double split = probe->split_at ? atomic_load(probe->split_at) : 0;
	bool is_late = split > 0 && began + took >= split;

	probe->statements++;
	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
	{
		if (++probe->errors <= 5)
			fprintf(stderr, "probe %s: SQLSTATE %s: %s", probe->name,
					PQresultErrorField(res, PG_DIAG_SQLSTATE)
						? PQresultErrorField(res, PG_DIAG_SQLSTATE)
						: "-----",
					PQerrorMessage(conn));
	}
	PQclear(res);
	stall_note(is_late ? &probe->late : &probe->early, began, took, probe->sql);
	if (probe->report_over > 0 && took > probe->report_over)
	{
		printf("stall %s ms=%.1f at=%.3f\n", probe->name, took,
			   wall_seconds() - took / 1000.0);
		fflush(stdout);
	}
}

/* The thread of a probe: runs until it is told to stop. */
void *
probe_main(void *arg)
{
	Probe *probe = arg;
	PGconn *conn = connect_or_die(probe->conninfo, probe->name);

	while (!atomic_load(probe->stop) && PQstatus(conn) == CONNECTION_OK)
	{
		probe_once(probe, conn);
		pause_ms(probe->interval_ms);
	}
	PQfinish(conn);
	return NULL;
}
