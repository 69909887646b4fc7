/*-------------------------------------------------------------------------
 *
 * disk.h
 *	  Room on the file systems that a server writes to.
 *
 * A place is a tablespace, by its OID, or pg_wal, which has none.  Several
 * places may be on one file system: its device tells.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFIT_DISK_H
#define REFIT_DISK_H

#include "postgres.h"

#include <sys/types.h>

/* The place that is no tablespace. */
#define REFIT_PLACE_WAL InvalidOid

/* A file system, in the figures that df shows. */
typedef struct RefitDisk
{
	dev_t device;
	int64 free;	 /* bytes that the server can still write */
	int64 total; /* those, and the ones in use */
} RefitDisk;

/* False: it cannot be told, as when the tablespace has just been dropped. */
extern bool refit_disk_look(Oid place, RefitDisk *disk);
extern double refit_disk_free_percent(const RefitDisk *disk);
/* Bytes that refit.min_free_disk keeps from being written. */
extern int64 refit_disk_kept_back(const RefitDisk *disk);

/* How a place is named in a message: tablespace "x", or pg_wal. */
extern char *refit_disk_place_name(Oid place);
/* Bytes for a reader: 12 MB. */
extern char *refit_disk_pretty(int64 bytes);

#endif /* REFIT_DISK_H */
