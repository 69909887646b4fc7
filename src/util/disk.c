/*-------------------------------------------------------------------------
 *
 * disk.c
 *	  Room on the file systems that a server writes to.  See disk.h.
 *
 * What root alone may use is neither free nor part of the whole, as df has it.
 * Quotas are not seen: statvfs() does not tell them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "access/xlog_internal.h"
#include "catalog/pg_tablespace.h"
#include "commands/tablespace.h"
#include "common/relpath.h"
#include "utils/builtins.h"

#include "guc.h"
#include "util/disk.h"

/* Where a place is, seen from the data directory that we stand in. */
static char *
path_of(Oid place)
{
	switch (place)
	{
		case REFIT_PLACE_WAL:
			return pstrdup(XLOGDIR);
		case DEFAULTTABLESPACE_OID:
			return pstrdup("base");
		case GLOBALTABLESPACE_OID:
			return pstrdup("global");
		default:
			return psprintf("pg_tblspc/%u/%s", place,
							TABLESPACE_VERSION_DIRECTORY);
	}
}

/* Looks how much room there is. */
bool
refit_disk_look(Oid place, RefitDisk *disk)
{
	char *path = path_of(place);
	struct stat st;
	struct statvfs vfs;
	bool seen;

	/* some file systems of a network do not tell their size */
	seen = stat(path, &st) == 0 && statvfs(path, &vfs) == 0 && vfs.f_blocks > 0;
	pfree(path);
	if (!seen)
		return false;
	disk->device = st.st_dev;
	disk->free = (int64) vfs.f_bavail * vfs.f_frsize;
	disk->total =
		(int64) (vfs.f_blocks - vfs.f_bfree + vfs.f_bavail) * vfs.f_frsize;
	return disk->total > 0;
}

/* The part that is free. */
double
refit_disk_free_percent(const RefitDisk *disk)
{
	return 100.0 * disk->free / disk->total;
}

/* Bytes that refit.min_free_disk keeps from being written. */
int64
refit_disk_kept_back(const RefitDisk *disk)
{
	return disk->total / 100 * refit_min_free_disk;
}

/* Names a place. */
char *
refit_disk_place_name(Oid place)
{
	char *name;

	if (place == REFIT_PLACE_WAL)
		return pstrdup(XLOGDIR);
	name = get_tablespace_name(place);
	return name == NULL ? psprintf("tablespace %u", place)
						: psprintf("tablespace \"%s\"", name);
}

/* Bytes for a reader. */
char *
refit_disk_pretty(int64 bytes)
{
	return text_to_cstring(DatumGetTextPP(
		DirectFunctionCall1(pg_size_pretty, Int64GetDatum(bytes))));
}
