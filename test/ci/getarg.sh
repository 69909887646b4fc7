#!/bin/bash
# Rule: only src/api/ and the capture trigger decode SQL calls
# PG_GETARG_* and CALLED_AS_TRIGGER stand in src/api/ and src/table/capture.c.
test/ci/code $(find src -name '*.[ch]' ! -path 'src/api/*' ! -path src/table/capture.c) |
  grep -E '\b(PG_GETARG_|CALLED_AS_TRIGGER)' && exit 1
exit 0
