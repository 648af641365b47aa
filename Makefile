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

# llhttp: the system's; or the sources of Debian 12's package node-llhttp, installed, or fetched by tests/support/packages.sh.
# The flags of its header and its library, and the library where it is built here.
ifeq ($(shell $(PKG_CONFIG) --exists libllhttp && echo yes),yes)
LLHTTP_CPPFLAGS := $(shell $(PKG_CONFIG) --cflags libllhttp)
LLHTTP_LIBS := $(shell $(PKG_CONFIG) --libs libllhttp)
LLHTTP :=
else
LLHTTP_ROOT := $(patsubst %/share/llhttp/llhttp.c,%,$(firstword $(wildcard \
	/usr/share/llhttp/llhttp.c build/llhttp/usr/share/llhttp/llhttp.c)))
LLHTTP_CPPFLAGS := -DLLHTTP_STRICT_MODE=1 -isystem $(or $(LLHTTP_ROOT),/usr)/share/include/llhttp
LLHTTP_LIBS :=
LLHTTP := $(BUILD)/libllhttp.a
endif
override CPPFLAGS += $(LLHTTP_CPPFLAGS)
# For the tools of tests/lint.
export LLHTTP_CPPFLAGS

LIBS = $(LLHTTP_LIBS) $(shell $(PKG_CONFIG) --libs libsystemd jansson)
CLIENT_LIBS = $(shell $(PKG_CONFIG) --libs jansson)
CHECK_LIBS = $(shell $(PKG_CONFIG) --libs check)

COMMON := $(wildcard common/*.c)
DAEMON := $(wildcard daemon/*.c daemon/*/*.c)
CLIENT := $(wildcard client/*.c)
comma := ,
objects = $(patsubst %.c,$(BUILD)/%.o,$(1))

.PHONY: all
all: $(BUILD)/msd $(BUILD)/mscli

$(BUILD)/msd: $(call objects,$(DAEMON) $(COMMON)) $(LLHTTP)
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

ifneq ($(LLHTTP_ROOT),)
# Foreign code: without the warnings of this project's own.
$(BUILD)/libllhttp/%.o: $(LLHTTP_ROOT)/share/llhttp/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(LLHTTP_CPPFLAGS) -std=gnu17 $(OPTIMIZE) -w $(HARDENING) $(SANITIZE) -c -o $@ $<

$(BUILD)/libllhttp.a: $(addprefix $(BUILD)/libllhttp/,llhttp.o api.o http.o)
	@rm -f $@
	$(AR) rcs $@ $^
else ifneq ($(LLHTTP),)
# Before anything is compiled.
$(BUILD)/flags $(LLHTTP): llhttp-missing
.PHONY: llhttp-missing
llhttp-missing:
	@echo 'llhttp is missing. This fetches its sources into build/llhttp: tests/support/packages.sh build' >&2; false
endif

# Kept, also where they are only on the way to a test.
.SECONDARY:

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

# --- Tests. Each unit test links the sources of its module, and of the modules below that it uses, and no others.

UNIT_number := common/number
UNIT_json := common/json
UNIT_LDFLAGS_json := -Wl,--wrap=malloc -Wl,--wrap=free
UNIT_line := common/line
UNIT_printable := common/printable
UNIT_protocol := common/protocol common/printable common/number
UNIT_address := common/address
UNIT_client_options := client/options common/number common/protocol common/printable common/address
UNIT_session := client/session common/line common/protocol common/printable common/number common/address
UNIT_daemon_options := daemon/options common/number
UNIT_keys := daemon/keys
UNIT_gate := daemon/loop/gate
UNIT_reactor := daemon/loop/reactor daemon/loop/timer daemon/loop/mailbox
UNIT_pool := daemon/loop/pool
UNIT_socket := daemon/net/socket daemon/loop/reactor daemon/loop/timer
UNIT_LDFLAGS_socket := $(addprefix -Wl$(comma)--wrap=,recv send epoll_ctl malloc)
UNIT_openai := daemon/model/openai daemon/net/http common/json common/number
UNIT_sim := daemon/model/sim daemon/loop/reactor daemon/loop/timer $(UNIT_openai)
UNIT_status := daemon/status daemon/loop/gate daemon/loop/timer common/json common/printable
UNIT_places := daemon/queue/places
UNIT_wait_list := daemon/queue/wait_list
LANE := daemon/queue/lane daemon/queue/lane_account daemon/queue/lane_retry daemon/queue/lane_suspects daemon/queue/lane_life daemon/queue/request daemon/queue/wait_list daemon/queue/places daemon/status daemon/log \
	daemon/model/generation daemon/loop/reactor daemon/loop/timer daemon/loop/gate daemon/loop/pool common/json common/protocol common/printable common/number
UNIT_lane := tests/unit/queue/world $(LANE)
UNIT_lane_suspects := $(UNIT_lane)
UNIT_LDFLAGS_lane := -Wl,--wrap=timer_now
UNIT_LDFLAGS_lane_suspects := $(UNIT_LDFLAGS_lane)
UNIT_unix := daemon/front/unix daemon/front/parking daemon/net/socket common/line common/user $(LANE)
UNIT_LDFLAGS_unix := $(addprefix -Wl$(comma)--wrap=,malloc calloc realloc free)
UNIT_http_front := tests/unit/front/world $(addprefix daemon/front/,http http_input http_answer http_own http_early http_parking parking) \
	daemon/queue/lane daemon/queue/lane_account daemon/queue/lane_retry daemon/queue/lane_suspects daemon/queue/lane_life daemon/queue/request daemon/queue/places daemon/queue/wait_list daemon/status daemon/log \
	daemon/model/generation daemon/net/socket daemon/net/http daemon/net/http_forward daemon/net/http_body \
	daemon/loop/reactor daemon/loop/timer daemon/loop/gate daemon/loop/pool common/json common/number common/protocol common/printable
UNIT_http_front_answers := $(UNIT_http_front)
UNIT_LDFLAGS_http_front := -Wl,--wrap=timer_now
UNIT_LDFLAGS_http_front_answers := $(UNIT_LDFLAGS_http_front)
UNIT_listener := daemon/front/listener daemon/log common/printable daemon/loop/reactor daemon/loop/timer common/address common/number
UNIT_agent := daemon/front/agent daemon/status daemon/loop/gate common/bar common/json $(UNIT_listener)
UNIT_http := daemon/net/http daemon/net/http_forward daemon/net/http_body common/number
UNIT_loader := daemon/loader daemon/model/generation daemon/loop/gate $(UNIT_sim)
UNIT_log := daemon/log common/printable
UNIT_notify := daemon/notify common/printable daemon/loop/reactor daemon/loop/timer
UNIT_reaper := daemon/loop/reaper daemon/loop/reactor daemon/loop/timer
UNIT_process := daemon/model/process
UNIT_owner := daemon/model/owner daemon/model/process
UNIT_tree := daemon/model/tree $(UNIT_owner) $(UNIT_reaper)
UNIT_LDFLAGS_tree := $(addprefix -Wl$(comma)--wrap=,process_signal process_list_read timer_now)
UNIT_cause := daemon/model/cause common/printable
UNIT_child := daemon/model/child common/user $(UNIT_cause) $(UNIT_tree)
MODEL_HTTP := daemon/net/http daemon/net/http_forward daemon/net/http_body daemon/net/socket daemon/loop/reactor daemon/loop/timer \
	common/address common/json common/number
UNIT_fetch := daemon/model/fetch daemon/model/resolver daemon/model/completion $(MODEL_HTTP)
UNIT_LDFLAGS_fetch := -Wl,--wrap=getaddrinfo
UNIT_upstream_session := daemon/model/upstream_session daemon/model/upstream_connection daemon/loop/pool daemon/loop/mailbox $(UNIT_fetch)
UNIT_freeze := daemon/model/freeze
UNIT_cgroup := daemon/model/cgroup
UNIT_listening := daemon/model/listening
UNIT_progress := daemon/model/progress daemon/model/progress_parse
UNIT_reading := daemon/model/reading
UNIT_history := daemon/history common/number
UNIT_bar := common/bar common/number
UNIT_upstream := $(addprefix daemon/model/,upstream upstream_probe upstream_judge upstream_place freeze listening cgroup look reading) common/printable \
	$(UNIT_child) $(UNIT_progress) $(UNIT_upstream_session)

UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*.c))
SYSTEM_TESTS := $(patsubst tests/system/%.c,$(BUILD)/tests/system/%,$(wildcard tests/system/*.c))

.SECONDEXPANSION:
$(UNIT_TESTS): $(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $$(addprefix $(BUILD)/,$$(addsuffix .o,$$(UNIT_$$*))) $(LLHTTP)
	$(CC) $(LDFLAGS) $(UNIT_LDFLAGS_$*) -o $@ $^ $(CHECK_LIBS) $(LIBS)

$(SYSTEM_TESTS): $(BUILD)/tests/system/%: $(BUILD)/tests/system/%.o \
		$(call objects,$(wildcard tests/support/*.c) common/protocol.c common/printable.c common/number.c common/line.c common/address.c)
	$(CC) $(LDFLAGS) -o $@ $^ $(CHECK_LIBS) $(CLIENT_LIBS) -lutil

# The model server that the tests have.
$(BUILD)/tests/upstream/server: %: %.o $(call objects,tests/upstream/load.c common/number.c)
	$(CC) $(LDFLAGS) -o $@ $^ $(shell $(PKG_CONFIG) --libs libmicrohttpd jansson libsystemd)

# Gate and places with real threads; their own epoll_wait() and epoll_pwait2() count how often they wake up.
$(BUILD)/tests/model/rounds: %: %.o $(addprefix $(BUILD)/,$(addsuffix .o,$(LANE) daemon/loop/mailbox)) $(LLHTTP)
	$(CC) $(LDFLAGS) -Wl,--wrap=epoll_wait -Wl,--wrap=epoll_pwait2 -o $@ $^ $(LIBS)

# Fuzz targets, each with the sources it is for. In build/fuzz they are libFuzzer's (make fuzz), elsewhere plain programs
# over their corpora.
FUZZ_line := common/line
FUZZ_progress := $(UNIT_progress)
FUZZ_printable := common/printable
FUZZ_protocol := common/protocol common/printable common/number
FUZZ_number := common/number
FUZZ_listening := daemon/model/listening
FUZZ_address := common/address common/number daemon/model/resolver daemon/loop/reactor daemon/loop/timer
FUZZ_daemon_options := daemon/options common/number
FUZZ_client_options := client/options common/number common/protocol common/printable common/address
FUZZ_session := client/session common/line common/protocol common/printable common/number common/address
FUZZ_LDFLAGS_session := -Wl,--wrap=recv
FUZZ_openai := $(UNIT_openai)
FUZZ_upstream := $(UNIT_upstream_session)
FUZZ_LDFLAGS_upstream := $(addprefix -Wl$(comma)--wrap=,socket connect)
# What is compared with another parser of HTTP/1.1.
FUZZ_http_heads := $(UNIT_http) tests/fuzz/reference
FUZZ_http_body := $(UNIT_http) tests/fuzz/reference
FUZZ_LDFLAGS_http_heads := -Wl,--no-as-needed -lhttp_parser -Wl,--as-needed
FUZZ_LDFLAGS_http_body := $(FUZZ_LDFLAGS_http_heads)

# Those that live in a world of their own: of time, and of what a process that was killed still does.
FUZZ_WORLD := tests/fuzz/world common/user common/line daemon/net/socket daemon/front/unix daemon/front/parking daemon/front/parked \
	$(patsubst %.c,%,$(wildcard daemon/front/http*.c)) $(UNIT_http) $(filter-out daemon/log,$(LANE))
FUZZ_connection := $(FUZZ_WORLD)
FUZZ_LDFLAGS_connection := $(addprefix -Wl$(comma)--wrap=,timer_now send sendmsg shutdown pwrite ftruncate)
FUZZ_parked := $(FUZZ_WORLD)
FUZZ_LDFLAGS_parked := $(FUZZ_LDFLAGS_connection)
FUZZ_http := $(FUZZ_WORLD)
FUZZ_LDFLAGS_http := $(FUZZ_LDFLAGS_connection)

FUZZ_MAIN ?= $(BUILD)/tests/fuzz/replay.o
FUZZ_TARGETS := $(patsubst FUZZ_%,%,$(filter-out FUZZ_SECONDS FUZZ_MAIN FUZZ_WORLD FUZZ_LDFLAGS_%,$(filter FUZZ_%,$(.VARIABLES))))
FUZZ_TESTS := $(addprefix $(BUILD)/tests/fuzz/,$(FUZZ_TARGETS))
TARGETS ?= $(FUZZ_TARGETS)

$(FUZZ_TESTS): $(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(FUZZ_MAIN) $$(addprefix $(BUILD)/,$$(addsuffix .o,$$(FUZZ_$$*))) $(LLHTTP)
	$(CC) $(LDFLAGS) $(FUZZ_LDFLAGS_$*) -o $@ $^ $(LIBS)

FAULTS := $(BUILD)/tests/faults/faults $(BUILD)/tests/faults/preload.so $(BUILD)/tests/upstream/server

# Under a systemd of their own, where one can be had.
SYSTEMD_TESTS := $(filter-out tests/systemd/inside.sh,$(wildcard tests/systemd/*.sh))

# Behind the balancers of systemd/examples, where they are installed.
BALANCER_TESTS := $(filter-out tests/balancers/start.sh,$(wildcard tests/balancers/*.sh))

SYSTEMD_CLIENTS := $(addprefix $(BUILD)/tests/systemd/,crowd steady)

$(SYSTEMD_CLIENTS): %: %.o $(call objects,common/address.c)
	$(CC) $(LDFLAGS) -o $@ $^

# Programs that people have, as clients.
CLIENT_TESTS := $(wildcard tests/clients/*.sh)

# Scripts: man pages without a warning, the arrows between the modules, the model of the gate and the like.
SCRIPT_TESTS := tests/faults/check.sh tests/soak/check.sh tests/arrows.sh tests/manpages.sh tests/install.sh \
	tests/units.sh tests/hardening.sh tests/libraries.sh tests/lint/quick.sh tests/model/check.sh

.PHONY: check check-built check-asan check-tsan
check:
	@tests/support/packages.sh check
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" check-built

check-built: all $(UNIT_TESTS) $(SYSTEM_TESTS) $(SYSTEMD_CLIENTS) $(BUILD)/tests/upstream/server \
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

$(BUILD)/tests/soak/soak: $(call objects,$(wildcard tests/soak/*.c) tests/support/port.c common/protocol.c common/printable.c \
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
		$(call objects,$(wildcard tests/support/*.c) common/protocol.c common/printable.c common/number.c common/line.c common/address.c)
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

BENCH_COMMON := $(call objects,common/protocol.c common/printable.c common/number.c common/line.c common/address.c)

$(BUILD)/tests/bench/bench: $(call objects,$(addprefix tests/bench/,bench.c held.c loop.c server.c)) $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/bench/floor $(BUILD)/tests/bench/micro: %: %.o $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/bench/upstream $(BUILD)/tests/bench/progress: %: %.o $(BUILD)/tests/bench/tool.o $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/bench/http: $(call objects,$(addprefix tests/bench/,http.c caller.c crowd.c model.c proxy.c tool.c)) $(BENCH_COMMON)
	$(CC) $(LDFLAGS) -o $@ $^

# Beside HAProxy and nginx: the least that a proxy can do.
$(BUILD)/tests/bench/relay: %: %.o $(BENCH_COMMON) $(LLHTTP)
	$(CC) $(LDFLAGS) -o $@ $^ $(LLHTTP_LIBS)

.PHONY: bench bench-built
bench:
	@tests/support/packages.sh bench
	@$(MAKE) --no-print-directory -s -j"$$(nproc)" bench-built

bench-built: all $(BUILD)/tests/bench/bench $(BUILD)/tests/bench/floor $(BUILD)/tests/bench/micro \
		$(BUILD)/tests/bench/upstream $(BUILD)/tests/upstream/server $(BUILD)/tests/bench/http $(BUILD)/tests/bench/relay \
		$(BUILD)/tests/bench/progress
	$(BUILD)/tests/bench/bench $(BUILD)/msd $(BUILD)/tests/bench/floor tests/bench/reference.py
	$(BUILD)/tests/bench/upstream $(BUILD)/msd $(BUILD)/tests/upstream/server
	$(BUILD)/tests/bench/http $(BUILD)/msd $(BUILD)/tests/bench/relay
	$(BUILD)/tests/bench/progress $(BUILD)/msd $(BUILD)/tests/upstream/server
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
		-e 's|@ENVIRONMENT@|-/etc/default/msd|; s|@USER@|_msd|; s|@STATE@|msd|' $< >$@

$(BUILD)/systemd/msd@.%: systemd/msd.%.in $(BUILD)/places
	@mkdir -p $(@D)
	sed -e 's|@SBINDIR@|$(SBINDIR)|; s|@INSTANCE@| (%i)|; s|@SOCKET@|msd@%i.socket|; s|@PATH@|/run/msd/%i.sock|' \
		-e 's|@ENVIRONMENT@|/etc/msd/%i.env|; s|@USER@|_msd-%i|; s|@STATE@|msd-%i|' $< >$@

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
	systemd/msd-agent.socket:644:$(UNITDIR)/msd-agent.socket \
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
	[ ! -d $(BUILD) ] || find $(BUILD) -mindepth 1 -maxdepth 1 ! -path build/llhttp -exec rm -rf '{}' +
