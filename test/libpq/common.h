/*-------------------------------------------------------------------------
 *
 * common.h
 *	  What the client programs of the tests share: time, random numbers,
 *	  growing strings, connections, and the stall probe.
 *
 * A stall is the time that one statement of a client took, seen from the
 * client.  It is what an application feels of a migration.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_TEST_COMMON_H
#define REFIT_TEST_COMMON_H

#include <libpq-fe.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* A string that grows as it is written to. */
typedef struct StrBuf
{
	char *data;
	size_t len;
	size_t size;
} StrBuf;

/* A xorshift generator: one per connection, so that a seed can be replayed. */
typedef struct Rng
{
	uint64_t state;
} Rng;

/* The longest statement seen, and which one it was. */
typedef struct Stall
{
	double longest; /* ms */
	double at;		/* clock_ms() when it began */
	char what[160];
} Stall;

/* A connection that sends one small statement again and again. */
typedef struct Probe
{
	const char *conninfo;
	const char *name;
	const char *sql;
	int interval_ms;
	double report_over; /* print every stall above this; 0: none */
	atomic_bool *stop;
	_Atomic double *split_at; /* stalls from here on count as "late" */

	Stall early; /* results */
	Stall late;
	long statements;
	long errors;
} Probe;

extern double clock_ms(void);
extern double wall_seconds(void);
extern void pause_ms(double ms);

extern void sb_reset(StrBuf *sb);
extern void sb_free(StrBuf *sb);
extern void sb_vadd(StrBuf *sb, const char *fmt, va_list args);
extern void sb_add(StrBuf *sb, const char *fmt, ...) PRINTF_LIKE(2, 3);
extern void sb_add_text(StrBuf *sb, const char *text, size_t len);

extern void rng_seed(Rng *rng, uint64_t seed, uint64_t stream);
extern uint64_t mix64(uint64_t value);
extern uint64_t rng_next(Rng *rng);
extern int rng_below(Rng *rng, int limit);
extern bool rng_chance(Rng *rng, int percent);

extern void die(const char *fmt, ...) PRINTF_LIKE(1, 2)
	__attribute__((noreturn));
extern PGconn *connect_or_die(const char *conninfo, const char *name);
extern void exec_or_die(PGconn *conn, const char *sql);
extern void exec_quietly(PGconn *conn, const char *sql);
extern PGresult *query_or_die(PGconn *conn, const char *sql);
extern char *value_or_die(PGconn *conn, const char *sql);
extern long number_or_die(PGconn *conn, const char *sql);

extern void stall_note(Stall *stall, double began, double took,
					   const char *what);
extern void stall_merge(Stall *into, const Stall *from);
extern void *probe_main(void *arg);

#endif
