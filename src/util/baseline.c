/*-------------------------------------------------------------------------
 *
 * baseline.c
 *	  The snapshot that parts row versions in those from before and after.
 *
 * See baseline.h.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "lib/stringinfo.h"
#include "utils/snapmgr.h"

#include "util/baseline.h"

/* Copies a snapshot's view of transactions. */
void
refit_baseline_take(RefitBaseline *b)
{
	Snapshot s = GetLatestSnapshot();

	b->xmin = s->xmin;
	b->xmax = s->xmax;
	b->overflowed = s->suboverflowed;
	b->nxip = 0;
	b->xip = palloc(sizeof(TransactionId) * (s->xcnt + s->subxcnt + 1));
	for (uint32 i = 0; i < s->xcnt; i++)
		b->xip[b->nxip++] = s->xip[i];
	for (int32 i = 0; i < s->subxcnt; i++)
		b->xip[b->nxip++] = s->subxip[i];
}

/* When was this xid's work done? */
RefitAge
refit_baseline_age(const RefitBaseline *b, TransactionId xid)
{
	if (!TransactionIdIsNormal(xid) || TransactionIdPrecedes(xid, b->xmin))
		return REFIT_BEFORE_CAPTURE;
	if (TransactionIdFollowsOrEquals(xid, b->xmax))
		return REFIT_AFTER_CAPTURE;
	for (int i = 0; i < b->nxip; i++)
		if (TransactionIdEquals(xid, b->xip[i]))
			return REFIT_AFTER_CAPTURE;
	return b->overflowed ? REFIT_AMBIGUOUS : REFIT_BEFORE_CAPTURE;
}

/*
 * When was a row version written?  A frozen one that seems new was either frozen
 * since, or is exactly 2^32 transactions old.
 */
RefitAge
refit_baseline_version_age(const RefitBaseline *b, TransactionId xmin,
						   bool is_frozen, TransactionId next_xid)
{
	RefitAge age;

	if (is_frozen &&
		(!TransactionIdIsNormal(xmin) || xmin - b->xmin >= next_xid - b->xmin))
		return REFIT_BEFORE_CAPTURE;
	age = refit_baseline_age(b, xmin);
	return is_frozen && age == REFIT_AFTER_CAPTURE ? REFIT_AMBIGUOUS : age;
}

/* The next number of a list like "12 13 14". */
static uint32
next_number(char **text)
{
	return (uint32) strtoul(*text, text, 10);
}

/* Reads a baseline from its text. */
void
refit_baseline_parse(RefitBaseline *b, char *text)
{
	b->xmin = next_number(&text);
	b->xmax = next_number(&text);
	b->overflowed = next_number(&text) != 0;
	b->nxip = next_number(&text);
	b->xip = palloc(sizeof(TransactionId) * (b->nxip + 1));
	for (int i = 0; i < b->nxip; i++)
		b->xip[i] = next_number(&text);
}

/* Writes a baseline as text. */
char *
refit_baseline_print(const RefitBaseline *b)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfo(&buf, "%u %u %d %d", b->xmin, b->xmax, b->overflowed,
					 b->nxip);
	for (int i = 0; i < b->nxip; i++)
		appendStringInfo(&buf, " %u", b->xip[i]);
	return buf.data;
}
