#!/bin/bash
# Rule: every external symbol of the library starts with refit_
# What PostgreSQL itself asks for is excepted.  Looks at the built library.
[ -f pg_refit.so ] || { echo "pg_refit.so is not built"; exit 77; }
nm -D --defined-only pg_refit.so | awk '{ print $NF }' |
  grep -vE '^(refit_.*|pg_finfo_refit_.*|_PG_init|Pg_magic_func)$' && exit 1
exit 0
