#!/bin/bash
# Rule: the C files are as clang-format 14 writes them
# Another version lays out some things differently, so it is not asked.
# `make format` puts it right.
tool=$(command -v clang-format-14 || command -v clang-format) ||
  { echo "clang-format is not installed"; exit 77; }
"$tool" --version | grep -q 'version 14\.' || { echo "clang-format is not version 14"; exit 77; }
"$tool" --dry-run -Werror $(find src test/libpq -name '*.[ch]' 2>/dev/null) 2>&1 |
  awk -F: '/ error: / { places[$1]++ }
           END { for (file in places) print file ": " places[file] " places"; exit length(places) > 0 }'
