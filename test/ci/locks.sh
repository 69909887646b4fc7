#!/bin/bash
# Rule: only src/util/polite_lock.c asks for a lock that conflicts with writers
# Everybody else takes strong locks through it, so that no client waits longer
# than the budget.  A work table that nobody else uses is opened with the
# comment /* private: why */ in the statement, after it or right before it.
strong='(ShareLock|ShareRowExclusiveLock|ExclusiveLock|AccessExclusiveLock)'
calls='(Conditional)?LockRelation(Oid)?|LockRelationIdForSession|(try_)?(table|relation|index|sequence)_open(rv)?(_extended)?|RangeVarGetRelidExtended|RangeVarGetRelid'
test/ci/code --statements $(find src -name '*.[ch]' ! -path src/util/polite_lock.c) |
  grep -E -e "\\b($calls) ?\\(.*\\b$strong\\b" \
    -e '"LOCK (TABLE )?[^"]* IN (SHARE|SHARE ROW EXCLUSIVE|EXCLUSIVE|ACCESS EXCLUSIVE) MODE' |
  grep -v '@private@' && exit 1
exit 0
