# make            build/msd and build/mscli
# make demo       five requests while the model loads, and how long it took
# make check      every test that this machine allows
# make check-faults  system calls that fail, and allocations, one at a time
# make check-model  every state of a model of the gate, and a million rounds of it with real threads
# make lint       what cppcheck, gcc's analyzer and clang-tidy find in the sources
# make check-valgrind  the system tests with msd under memcheck, and under helgrind
# make coverage   lines and branches that the tests reach, and those that they do not
# make fuzz       inputs that libFuzzer makes up, for every target or for those of TARGETS, FUZZ_SECONDS each
# make check-syscalls  every test under a tracer: what msd calls, against its SystemCallFilter=
# make check-users  who may do what, tried as other users
# make bench      the tables of README.md
# make soak       MINUTES=5 of every kind of client, and models that die at random
# make install    honours DESTDIR, PREFIX, UNITDIR, SYSUSERSDIR, MANDIR

VERSION := 0.1.0

MAKEFLAGS += --no-builtin-rules

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
SBINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
DOCDIR ?= $(PREFIX)/share/doc/msd

BUILD ?= build
CC ?= cc
PKG_CONFIG ?= pkg-config
OPTIMIZE ?= -O2 -g
# Set by check-asan and check-tsan.
SANITIZE ?=
# Of check-model.
ROUNDS ?= 1000000
# Of fuzz.
FUZZ_SECONDS ?= 60

WARNINGS := -Wall -Wextra
WARNINGS += -Wconversion # a length that is cut is a hole
WARNINGS += -Wshadow # a name means one thing in a function
WARNINGS += -Wstrict-prototypes -Wmissing-prototypes # what is not in a header is static
WARNINGS += -Wundef # a misspelt macro is not 0
WARNINGS += -Wformat=2 # formats are literals
WARNINGS += -Wvla # no array whose size a client chooses
WARNINGS += -Wimplicit-fallthrough # said where it is meant
WARNINGS += -Wpointer-arith -Wwrite-strings # no arithmetic on void, no writing to literals

# The hardening of Debian's packages; _FORTIFY_SOURCE needs an optimised build.
HARDENING := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
ifeq ($(SANITIZE),)
HARDENING += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif

override CPPFLAGS += -I. -D_GNU_SOURCE -DMSD_VERSION='"$(VERSION)"'
override CFLAGS := -std=gnu17 $(OPTIMIZE) $(WARNINGS) $(HARDENING) -pthread $(SANITIZE) $(CFLAGS)
override LDFLAGS += -pie -Wl,-z,relro -Wl,-z,now -Wl,--as-needed -pthread $(SANITIZE)

LIBS = $(shell $(PKG_CONFIG) --libs libsystemd jansson libcurl libmicrohttpd)
CLIENT_LIBS = $(shell $(PKG_CONFIG) --libs jansson)
CHECK_LIBS = $(shell $(PKG_CONFIG) --libs check)

COMMON := $(wildcard common/*.c)
DAEMON := $(wildcard daemon/*.c daemon/*/*.c)
CLIENT := $(wildcard client/*.c)
comma := ,
objects = $(patsubst %.c,$(BUILD)/%.o,$(1))

.PHONY: all
all: $(BUILD)/msd $(BUILD)/mscli

$(BUILD)/msd: $(call objects,$(DAEMON) $(COMMON))
	$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/mscli: $(call objects,$(CLIENT) $(COMMON))
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS)

# Made again when the flags change.
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS))' | cmp -s - $@ || \
		echo '$(subst ','\'',$(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS))' >$@

.PHONY: FORCE
FORCE:

# Kept, also where they are only on the way to a test.
.SECONDARY:

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# --- Tests. Each unit test links the sources of its room, and of the rooms below that it uses, and no others.

UNIT_number := common/number
UNIT_json := common/json
UNIT_LDFLAGS_json := -Wl,--wrap=malloc -Wl,--wrap=free
UNIT_line := common/line
UNIT_protocol := common/protocol common/number
UNIT_address := common/address
UNIT_client_options := client/options common/number common/protocol common/address
UNIT_session := client/session common/line common/protocol common/number common/address
UNIT_daemon_options := daemon/options common/number
UNIT_gate := daemon/loop/gate
UNIT_reactor := daemon/loop/reactor daemon/loop/timer daemon/loop/mailbox
UNIT_pool := daemon/loop/pool
UNIT_openai := daemon/model/openai common/json
UNIT_sim := daemon/model/sim daemon/model/openai daemon/loop/reactor daemon/loop/timer common/json
UNIT_status := daemon/status daemon/loop/gate daemon/loop/timer common/json
UNIT_request := common/json common/protocol daemon/front/request daemon/front/parking daemon/status daemon/log \
	daemon/model/sim daemon/model/openai daemon/model/generation daemon/loop/reactor daemon/loop/timer daemon/loop/gate daemon/loop/pool common/number
UNIT_fields := daemon/front/fields
UNIT_listener := daemon/front/listener daemon/log daemon/loop/reactor daemon/loop/timer common/address common/number
UNIT_loader := daemon/loader daemon/model/sim daemon/model/openai daemon/loop/reactor daemon/loop/timer common/json common/number
UNIT_log := daemon/log
UNIT_child := daemon/model/child daemon/loop/reactor daemon/loop/timer common/user
UNIT_fetch := daemon/model/fetch daemon/loop/reactor daemon/loop/timer common/number
UNIT_upstream := daemon/model/upstream daemon/model/upstream_session daemon/model/completion daemon/model/fetch \
	daemon/model/child daemon/loop/reactor daemon/loop/timer common/address common/json common/number common/user

UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*.c))
SYSTEM_TESTS := $(patsubst tests/system/%.c,$(BUILD)/tests/system/%,$(wildcard tests/system/*.c))

.SECONDEXPANSION:
$(UNIT_TESTS): $(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $$(addprefix $(BUILD)/,$$(addsuffix .o,$$(UNIT_$$*)))
	$(CC) $(LDFLAGS) $(UNIT_LDFLAGS_$*) -o $@ $^ $(CHECK_LIBS) $(LIBS)

$(SYSTEM_TESTS): $(BUILD)/tests/system/%: $(BUILD)/tests/system/%.o \
		$(call objects,$(wildcard tests/support/*.c) common/protocol.c common/number.c common/line.c common/address.c)
	$(CC) $(LDFLAGS) -o $@ $^ $(CHECK_LIBS) $(CLIENT_LIBS) -lutil

# The model server that the tests have.
$(BUILD)/tests/upstream/server: %: %.o $(call objects,common/number.c)
	$(CC) $(LDFLAGS) -o $@ $^ $(shell $(PKG_CONFIG) --libs libmicrohttpd jansson libsystemd)

# The gate with real threads; its own epoll_wait() counts how often they wake up.
$(BUILD)/tests/model/rounds: %: %.o $(addprefix $(BUILD)/,$(addsuffix .o,$(filter-out daemon/model/sim daemon/model/openai,\
		$(UNIT_request)) daemon/loop/mailbox))
	$(CC) $(LDFLAGS) -Wl,--wrap=epoll_wait -o $@ $^ $(LIBS)

# Fuzz targets, each with the sources it is for. In build/fuzz they are libFuzzer's (make fuzz), elsewhere plain programs
# over their corpora.
FUZZ_line := common/line
FUZZ_protocol := common/protocol common/number
FUZZ_number := common/number
FUZZ_address := common/address daemon/model/fetch daemon/loop/reactor daemon/loop/timer
FUZZ_daemon_options := daemon/options common/number
FUZZ_client_options := client/options common/number common/protocol common/address
FUZZ_session := client/session common/line common/protocol common/number common/address
FUZZ_LDFLAGS_session := -Wl,--wrap=recv
FUZZ_openai := daemon/model/openai common/json
FUZZ_upstream := daemon/model/upstream_session daemon/model/completion common/json common/number

# Those that live in a world of their own: of time, and of what a process that was killed still does.
FUZZ_WORLD := tests/fuzz/world common/json common/user common/protocol common/number common/line \
	daemon/front/request daemon/front/parking daemon/status daemon/model/generation daemon/loop/reactor daemon/loop/timer daemon/loop/gate daemon/loop/pool
FUZZ_connection := $(FUZZ_WORLD) daemon/front/connection daemon/front/parked
FUZZ_parked := $(FUZZ_WORLD) daemon/front/connection daemon/front/parked
FUZZ_LDFLAGS_parked := -Wl,--wrap=timer_now
FUZZ_http := $(FUZZ_WORLD) daemon/front/http daemon/front/http_request daemon/front/fields
FUZZ_LDFLAGS_http := -Wl,--wrap=timer_now
FUZZ_LDFLAGS_connection := $(addprefix -Wl$(comma)--wrap=,timer_now send sendmsg shutdown pwrite ftruncate)

FUZZ_MAIN ?= $(BUILD)/tests/fuzz/replay.o
FUZZ_TARGETS := $(patsubst FUZZ_%,%,$(filter-out FUZZ_SECONDS FUZZ_MAIN FUZZ_WORLD FUZZ_LDFLAGS_%,$(filter FUZZ_%,$(.VARIABLES))))
FUZZ_TESTS := $(addprefix $(BUILD)/tests/fuzz/,$(FUZZ_TARGETS))
TARGETS ?= $(FUZZ_TARGETS)

$(FUZZ_TESTS): $(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(FUZZ_MAIN) $$(addprefix $(BUILD)/,$$(addsuffix .o,$$(FUZZ_$$*)))
	$(CC) $(LDFLAGS) $(FUZZ_LDFLAGS_$*) -o $@ $^ $(LIBS)

FAULTS := $(BUILD)/tests/faults/faults $(BUILD)/tests/faults/preload.so $(BUILD)/tests/upstream/server

# Under a systemd of their own, where one can be had.
SYSTEMD_TESTS := $(filter-out tests/systemd/inside.sh,$(wildcard tests/systemd/*.sh))

# Behind the balancers of systemd/examples, where they are installed.
BALANCER_TESTS := $(filter-out tests/balancers/start.sh,$(wildcard tests/balancers/*.sh))

$(BUILD)/tests/systemd/crowd: %: %.o $(call objects,common/address.c)
	$(CC) $(LDFLAGS) -o $@ $^

# Programs that people have, as clients.
CLIENT_TESTS := $(wildcard tests/clients/*.sh)

# The sources that make no sense alone: man pages without a warning, the arrows between the rooms, the model of the gate.
SCRIPT_TESTS := tests/faults/check.sh tests/soak/check.sh tests/arrows.sh tests/manpages.sh tests/install.sh \
	tests/units.sh tests/hardening.sh tests/lint/quick.sh tests/model/check.sh

.PHONY: check check-built check-asan check-tsan
check:
	@tests/support/packages.sh check
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" check-built

check-built: all $(UNIT_TESTS) $(SYSTEM_TESTS) $(BUILD)/tests/systemd/crowd $(BUILD)/tests/upstream/server \
		$(BUILD)/tests/model/rounds $(FUZZ_TESTS) $(BUILD)/tests/soak/soak \
		$(FAULTS)
	@MSD=$(BUILD)/msd MSCLI=$(BUILD)/mscli BUILD=$(BUILD) tests/support/run-tests.sh $(BUILD)/logs \
		$(SYSTEM_TESTS) $(CLIENT_TESTS) $(SYSTEMD_TESTS) $(BALANCER_TESTS) $(UNIT_TESTS) $(FUZZ_TESTS) $(BUILD)/tests/model/rounds \
		$(SCRIPT_TESTS)

check-asan:
	@tests/support/packages.sh sanitize
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" BUILD=build/asan OPTIMIZE='-O1 -g' \
		SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer' check-built

check-tsan:
	@tests/support/packages.sh sanitize
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" BUILD=build/tsan OPTIMIZE='-O1 -g' \
		SANITIZE='-fsanitize=thread' check-built

.PHONY: check-model
check-model:
	@tests/support/packages.sh model
	@BUILD=$(BUILD) tests/model/check.sh full
	@$(MAKE) --no-print-directory -s BUILD=build/tsan OPTIMIZE='-O1 -g' SANITIZE='-fsanitize=thread' \
		build/tsan/tests/model/rounds
	@build/tsan/tests/model/rounds $(ROUNDS)

.PHONY: check-valgrind coverage
check-valgrind:
	@tests/support/packages.sh valgrind
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" all $(SYSTEM_TESTS) $(BUILD)/tests/upstream/server
	@BUILD=$(BUILD) tests/valgrind/check.sh memcheck $(TESTS)
	@BUILD=$(BUILD) tests/valgrind/check.sh helgrind $(TESTS)

coverage:
	@tests/support/packages.sh coverage
	@tests/coverage.sh

.PHONY: lint
lint:
	@tests/support/packages.sh lint
	@tests/lint/check.sh

.PHONY: fuzz fuzz-built
fuzz:
	@tests/support/packages.sh fuzz
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" BUILD=build/fuzz CC=clang OPTIMIZE='-O1 -g' FUZZ_MAIN= \
		SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all' \
		LDFLAGS=-fsanitize=fuzzer fuzz-built
	@BUILD=build/fuzz tests/fuzz/run.sh $(FUZZ_SECONDS) $(TARGETS)

fuzz-built: $(FUZZ_TESTS)

# --- Load and time. The short form is a test of "make check".

MINUTES ?= 5

$(BUILD)/tests/soak/soak: $(call objects,$(wildcard tests/soak/*.c) tests/support/port.c common/protocol.c \
		common/number.c common/line.c common/address.c)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS)

.PHONY: soak soak-built
soak:
	@tests/support/packages.sh soak
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" soak-built

soak-built: $(BUILD)/msd $(BUILD)/tests/upstream/server $(BUILD)/tests/soak/soak
	@$(BUILD)/tests/soak/soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(BUILD)/msd $(BUILD)/tests/upstream/server

# Faults from outside: system calls that fail, by strace, and memory that there is none of.
.PHONY: check-faults
check-faults:
	@tests/support/packages.sh faults
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" all $(FAULTS)
	@MSD=$(BUILD)/msd MSCLI=$(BUILD)/mscli BUILD=$(BUILD) tests/faults/check.sh full

$(BUILD)/tests/faults/faults: %: %.o \
		$(call objects,$(wildcard tests/support/*.c) common/protocol.c common/number.c common/line.c common/address.c)
	$(CC) $(LDFLAGS) -o $@ $^ $(CHECK_LIBS) $(CLIENT_LIBS) -lutil

# In front of all that the program has: no sanitizer's.
$(BUILD)/tests/faults/preload.so: tests/faults/preload.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(filter-out $(SANITIZE) -fPIE,$(CFLAGS)) -fPIC -shared -o $@ $<

# Least privilege, of which "make check" has a short form.
SCRIPT_TESTS += tests/privilege/syscalls.sh
.PHONY: check-syscalls check-users
check-syscalls check-users:
	@tests/support/packages.sh privilege
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" $@-built

.PHONY: check-syscalls-built check-users-built
check-syscalls-built: all $(SYSTEM_TESTS) $(BUILD)/tests/systemd/crowd $(BUILD)/tests/upstream/server
	@BUILD=$(BUILD) tests/privilege/syscalls.sh full

check-users-built: all $(SYSTEM_TESTS) $(BUILD)/tests/upstream/server
	@MSD=$(BUILD)/msd MSCLI=$(BUILD)/mscli BUILD=$(BUILD) tests/support/run-tests.sh $(BUILD)/logs \
		$(BUILD)/tests/system/users tests/systemd/activation.sh tests/systemd/http.sh

.PHONY: demo
demo:
	@tests/support/packages.sh demo
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" all
	@tests/support/demo.sh $(BUILD)

# --- Benchmarks: tables, not tests.

BENCH_COMMON := $(call objects,common/protocol.c common/number.c common/line.c common/address.c)

$(BUILD)/tests/bench/bench: $(call objects,$(addprefix tests/bench/,bench.c held.c loop.c server.c)) $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/bench/floor $(BUILD)/tests/bench/micro: %: %.o $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/bench/upstream $(BUILD)/tests/bench/http: %: %.o $(BUILD)/tests/bench/tool.o $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

.PHONY: bench bench-built
bench:
	@tests/support/packages.sh bench
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" bench-built

bench-built: all $(BUILD)/tests/bench/bench $(BUILD)/tests/bench/floor $(BUILD)/tests/bench/micro \
		$(BUILD)/tests/bench/upstream $(BUILD)/tests/upstream/server $(BUILD)/tests/bench/http
	$(BUILD)/tests/bench/bench $(BUILD)/msd $(BUILD)/tests/bench/floor tests/bench/reference.py
	$(BUILD)/tests/bench/upstream $(BUILD)/msd $(BUILD)/tests/upstream/server
	$(BUILD)/tests/bench/http $(BUILD)/msd
	$(BUILD)/tests/bench/micro

# --- Man pages and installation.

MANPAGES := $(BUILD)/msd.8 $(BUILD)/msd-protocol.7 $(BUILD)/mscli.1

.PHONY: man
man: $(MANPAGES)

$(BUILD)/%: daemon/%.scd
	@mkdir -p $(@D)
	scdoc <$< >$@

$(BUILD)/%: client/%.scd
	@mkdir -p $(@D)
	scdoc <$< >$@

# A unit for one model, and a template for one of several, of the same source.
UNITS := $(addprefix $(BUILD)/systemd/,msd.service msd.socket msd@.service msd@.socket)

$(BUILD)/systemd/msd.%: systemd/msd.%.in $(BUILD)/places
	@mkdir -p $(@D)
	sed -e 's|@SBINDIR@|$(SBINDIR)|; s|@INSTANCE@||; s|@SOCKET@|msd.socket|; s|@PATH@|/run/msd/msd.sock|' \
		-e 's|@ENVIRONMENT@|-/etc/default/msd|; s|@USER@|_msd|' $< >$@

$(BUILD)/systemd/msd@.%: systemd/msd.%.in $(BUILD)/places
	@mkdir -p $(@D)
	sed -e 's|@SBINDIR@|$(SBINDIR)|; s|@INSTANCE@| (%i)|; s|@SOCKET@|msd@%i.socket|; s|@PATH@|/run/msd/%i.sock|' \
		-e 's|@ENVIRONMENT@|/etc/msd/%i.env|; s|@USER@|_msd-%i|' $< >$@

# Made again when the place of the program changes.
$(BUILD)/places: FORCE
	@mkdir -p $(@D)
	@echo '$(SBINDIR)' | cmp -s - $@ || echo '$(SBINDIR)' >$@

# Source, mode and place of each file; of the directories msd shares with others, none is removed.
INSTALLED := \
	$(BUILD)/msd:755:$(SBINDIR)/msd \
	$(BUILD)/mscli:755:$(BINDIR)/mscli \
	$(BUILD)/msd.8:644:$(MANDIR)/man8/msd.8 \
	$(BUILD)/msd-protocol.7:644:$(MANDIR)/man7/msd-protocol.7 \
	$(BUILD)/mscli.1:644:$(MANDIR)/man1/mscli.1 \
	daemon/msd.bash-completion:644:$(COMPLETIONDIR)/msd \
	client/mscli.bash-completion:644:$(COMPLETIONDIR)/mscli \
	$(foreach unit,$(UNITS),$(unit):644:$(UNITDIR)/$(notdir $(unit))) \
	systemd/msd-http.socket:644:$(UNITDIR)/msd-http.socket \
	systemd/msd.sysusers:644:$(SYSUSERSDIR)/msd.conf \
	$(foreach file,$(wildcard systemd/examples/*),$(file):644:$(DOCDIR)/examples/$(notdir $(file)))

.PHONY: install uninstall
install: all man $(UNITS)
	@set -e; for file in $(INSTALLED); do \
		source=$${file%%:*} place=$${file##*:} mode=$${file#*:}; mode=$${mode%%:*}; \
		echo "install $(DESTDIR)$$place"; install -D -m $$mode $$source "$(DESTDIR)$$place"; done

uninstall:
	@for file in $(INSTALLED); do echo "rm $(DESTDIR)$${file##*:}"; rm -f "$(DESTDIR)$${file##*:}"; done

.PHONY: clean
clean:
	rm -rf $(BUILD)
