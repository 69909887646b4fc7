#!/bin/bash
# Rule: only src/api/ and the two triggers decode SQL calls
# PG_GETARG_* and CALLED_AS_TRIGGER stand in src/api/, src/table/capture.c and
# src/rows/mirror_trigger.c.
test/ci/code $(find src -name '*.[ch]' ! -path 'src/api/*' ! -path src/table/capture.c \
    ! -path src/rows/mirror_trigger.c) |
  grep -E '\b(PG_GETARG_|CALLED_AS_TRIGGER)' && exit 1
exit 0
