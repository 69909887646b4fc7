# pg_refit: build with PGXS.
#
#   make                 build the library        make install     install it
#   make test            every test layer from nothing, on servers of its own
#   make installcheck    pg_regress and isolation against the installed library
#   make test-<layer>    regress, isolation, pgtap or tap alone
#   make test-assert     the tests on a PostgreSQL built with assertions
#   make test-valgrind   some tests under valgrind
#   make test-faults     every fault at every point of every kind of migration
#   make bench          figures beside other tools', docs/benchmarks.md
#   make bench-short    the same in five minutes, on the terminal only
#   make soak            random migrations under load until stopped
#   make lint            the rule scripts of test/ci, format among them
#   make format          rewrite the C files as clang-format wants them
#
# Variables: PG_CONFIG chooses the PostgreSQL; FAULTS=1 compiles the fault
# points in; WERROR= lets warnings pass, for a compiler newer than the code.

MODULE_big = pg_refit
EXTENSION = control/pg_refit
DATA = control/pg_refit--1.0.sql

# $(wildcard) does not follow VPATH, so it is given the folder of this file.
top := $(dir $(lastword $(MAKEFILE_LIST)))
sources := $(sort $(wildcard $(top)src/*.c $(top)src/*/*.c))
headers := $(sort $(wildcard $(top)src/*.h $(top)src/*/*.h))
OBJS = $(patsubst $(top)%.c,%.o,$(sources))

WERROR ?= -Werror
clang_flags = $(if $(findstring clang,$(shell $(CC) --version)), \
	-Wno-unknown-warning-option -Wno-ignored-attributes \
	-Wno-ignored-optimization-argument)
PG_CPPFLAGS = -I$(srcdir)/src $(if $(filter 1,$(FAULTS)),-DREFIT_FAULTS)
PG_CFLAGS = -Wall -Wextra $(WERROR) -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers -Wno-clobbered $(clang_flags)

REGRESS := $(patsubst $(top)sql/%.sql,%,$(sort $(wildcard $(top)sql/*.sql)))
REGRESS_OPTS = --temp-instance=tmp_check --temp-config=$(srcdir)/test/regress.conf \
	--load-extension=pg_refit
ISOLATION := $(patsubst $(top)test/isolation/specs/%.spec,%, \
	$(sort $(wildcard $(top)test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test/isolation \
	--temp-instance=tmp_check_iso --temp-config=$(srcdir)/test/regress.conf \
	--load-extension=pg_refit

EXTRA_CLEAN = .build-flags results regression.diffs regression.out log \
	output_iso tmp_check tmp_check_iso

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# PGXS does not track headers.  The stamp changes when FAULTS does, so that a
# library never mixes objects of both kinds.
bitcode := $(OBJS:.o=.bc)
$(OBJS) $(bitcode): $(headers) $(top)Makefile .build-flags
$(shell mkdir -p $(sort $(dir $(OBJS))) && \
	echo 'FAULTS=$(FAULTS)' | cmp -s - .build-flags || \
	echo 'FAULTS=$(FAULTS)' > .build-flags)

test:
	$(top)test/run

test-regress test-isolation test-pgtap test-tap:
	$(top)test/run --only $(@:test-%=%)

test-faults:
	$(top)test/faults/run

bench-short:
	$(top)test/bench/run --short

lint:
	$(top)test/ci/run

format:
	$(shell command -v clang-format-14 || echo clang-format) -i $(sources) $(headers) $(wildcard $(top)test/libpq/*.[ch])

check-format:
	$(top)test/ci/format.sh

.PHONY: test test-regress test-isolation test-pgtap test-tap test-faults bench-short lint format check-format

# Verbs whose script is in the tree.
define script_verb
.PHONY: $(1)
$(1): ; $(top)test/$(1:test-%=%)/run
endef
$(foreach verb,demo bench soak test-assert test-valgrind, \
	$(if $(wildcard $(top)test/$(verb:test-%=%)/run), \
	$(eval $(call script_verb,$(verb)))))
