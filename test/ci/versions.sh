#!/bin/bash
# Rule: only src/compat.h looks at the version of PostgreSQL
test/ci/code $(find src -name '*.[ch]' ! -path src/compat.h) | grep -w PG_VERSION_NUM && exit 1
exit 0
