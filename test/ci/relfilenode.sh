#!/bin/bash
# Rule: only cutover, swap and index exchange change relfilenodes
# That is src/table/cutover.c, src/table/swap.c and src/index/exchange.c.
test/ci/code $(find src -name '*.[ch]' ! -path src/table/cutover.c \
    ! -path src/table/swap.c ! -path src/index/exchange.c) |
  grep -E -e '(->|\.) *relfilenode *=([^=]|$)' \
    -e '\b(RelationSetNewRelfile(node|number)|RelationMapUpdateMap|finish_heap_swap) *\(' && exit 1
exit 0
