/*-------------------------------------------------------------------------
 *
 * stall.c
 *	  Measures the longest wait of any client.
 *
 * Each probe is a connection that sends one small statement every few
 * milliseconds.  At the end (after --seconds, or on SIGINT or SIGTERM) the
 * longest time of each probe is printed with the moment it began:
 *
 *		stall --conninfo "dbname=app" --select "SELECT 1 FROM t WHERE id = 1"
 *			--update "UPDATE t SET n = n + 1 WHERE id = 1" --seconds 30
 *
 * With --over MS every stall above that is printed as it happens, so that
 * a script can tell the phases of a longer run apart.
 *
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "common.h"

#define MAX_PROBES 16

static atomic_bool stop_asked;

/* Ends the measurement early; the results are still printed. */
static void
handle_stop(int signo)
{
	(void) signo;
	atomic_store(&stop_asked, true);
}

/* Says how to call the program. */
static void
usage(void)
{
	die("usage: stall --conninfo STRING [--select SQL]... [--update SQL]...\n"
		"             [--seconds S] [--interval MS] [--over MS]");
}

/* Reads the command line into probes; returns how many there are. */
static int
read_options(int argc, char **argv, Probe *probes, double *seconds)
{
	static const struct option names[] = {
		{"conninfo", required_argument, NULL, 'c'},
		{"select", required_argument, NULL, 's'},
		{"update", required_argument, NULL, 'u'},
		{"seconds", required_argument, NULL, 'S'},
		{"interval", required_argument, NULL, 'i'},
		{"over", required_argument, NULL, 'o'},
		{NULL, 0, NULL, 0}};
	const char *conninfo = "";
	int interval = 5;
	double over = 0;
	int count = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1)
	{
		switch (opt)
		{
			case 'c':
				conninfo = optarg;
				break;
			case 's':
			case 'u':
				if (count == MAX_PROBES)
					die("too many probes");
				probes[count].name = opt == 's' ? "select" : "update";
				probes[count++].sql = optarg;
				break;
			case 'S':
				*seconds = atof(optarg);
				break;
			case 'i':
				interval = atoi(optarg);
				break;
			case 'o':
				over = atof(optarg);
				break;
			default:
				usage();
		}
	}
	for (int i = 0; i < count; i++)
	{
		probes[i].conninfo = conninfo;
		probes[i].interval_ms = interval;
		probes[i].report_over = over;
		probes[i].stop = &stop_asked;
	}
	return count;
}

/* Prints what a probe has seen; returns its errors. */
static long
print_probe(const Probe *probe)
{
	double ago = (clock_ms() - probe->early.at) / 1000.0;

	printf("longest %s ms=%.1f at=%.3f statements=%ld errors=%ld\n",
		   probe->name, probe->early.longest, wall_seconds() - ago,
		   probe->statements, probe->errors);
	return probe->errors;
}

/* Runs the probes; exit status 1 when one of them saw an error. */
int
main(int argc, char **argv)
{
	static Probe probes[MAX_PROBES];
	pthread_t threads[MAX_PROBES];
	double seconds = 0;
	long errors = 0;
	int count = read_options(argc, argv, probes, &seconds);
	double began = clock_ms();

	if (count == 0)
		usage();
	signal(SIGINT, handle_stop);
	signal(SIGTERM, handle_stop);
	for (int i = 0; i < count; i++)
		pthread_create(&threads[i], NULL, probe_main, &probes[i]);
	while (!atomic_load(&stop_asked) &&
		   (seconds <= 0 || clock_ms() - began < seconds * 1000.0))
		pause_ms(20);
	atomic_store(&stop_asked, true);
	for (int i = 0; i < count; i++)
	{
		pthread_join(threads[i], NULL);
		errors += print_probe(&probes[i]);
	}
	return errors > 0 ? 1 : 0;
}
