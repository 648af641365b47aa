# make            build/msd and build/mscli
# make demo       five requests while the model loads, and how long it took
# make check      every test that this machine allows
# make bench      the tables of README.md
# make install    honours DESTDIR, PREFIX, UNITDIR, SYSUSERSDIR, MANDIR

VERSION := 0.1.0

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
SBINDIR ?= $(PREFIX)/sbin
MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d

BUILD ?= build
CC ?= cc
PKG_CONFIG ?= pkg-config
OPTIMIZE ?= -O2 -g
# Set by check-asan and check-tsan.
SANITIZE ?=

WARNINGS := \
	-Wall -Wextra \
	-Wconversion        `# a length that is cut is a hole` \
	-Wshadow            `# a name means one thing in a function` \
	-Wstrict-prototypes -Wmissing-prototypes `# what is not in a header is static` \
	-Wundef             `# a misspelt macro is not 0` \
	-Wformat=2          `# formats are literals` \
	-Wvla               `# no array whose size a client chooses` \
	-Wimplicit-fallthrough `# said where it is meant` \
	-Wpointer-arith -Wwrite-strings

# The hardening of Debian's packages; _FORTIFY_SOURCE needs an optimised build.
HARDENING := -fstack-protector-strong -fstack-clash-protection -fcf-protection -fPIE
ifeq ($(SANITIZE),)
HARDENING += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
endif

override CPPFLAGS += -I. -D_GNU_SOURCE -DMSD_VERSION='"$(VERSION)"'
override CFLAGS := -std=gnu17 $(OPTIMIZE) $(WARNINGS) $(HARDENING) -pthread $(SANITIZE) $(CFLAGS)
override LDFLAGS += -pie -Wl,-z,relro -Wl,-z,now -Wl,--as-needed -pthread $(SANITIZE)
