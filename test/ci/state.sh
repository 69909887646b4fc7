#!/bin/bash
# Rule: only src/job/state.c writes state or phase of refit.migration
# Looks for UPDATE and INSERT statements in the SQL texts of the C files and in
# the install script that name one of the two columns as a target.
{
  test/ci/code --statements $(find src -name '*.[ch]' ! -path src/job/state.c)
  for file in control/*.sql; do
    sed 's/--.*//' "$file" | tr '\n' ' ' | tr ';' '\n' | sed "s,^,$file: ,"
  done
} | grep -iE \
  -e 'update (only )?refit\.migration( as)?( [a-z]+)? set ([^"]* )?[("]?(state|phase)( *=|,|\))' \
  -e 'insert into refit\.migration *\(([^)]*[ ,(])?(state|phase)[ ,)]' |
  grep -ivE 'set [^"]* where [^"]*(state|phase) *=' && exit 1
exit 0
