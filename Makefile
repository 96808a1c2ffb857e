# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Calls meson and scripts, and knows nothing else.
#
#   make          build into build/
#   make demo     install what is needed, build, show an export between two snapshots and prove it
#   make check    install what is needed, build, run every test
#   make asan     the unit tests and the commands' tests under address and undefined-behaviour sanitizers;
#                 ASAN_SUITES="unit bats-asan" for fewer of them
#   make tsan     the same under the thread sanitizer; TSAN_SUITES="bats-tsan" for fewer
#   make fuzz     each fuzz target for FUZZ_SECONDS (60); make fuzz-check: a short run with a fixed seed
#   make bench    beside qemu-img and nbdcopy; BENCH=full for the large data sets
#   make install  to PREFIX (/usr/local); DESTDIR is honoured

PREFIX ?= /usr/local
BENCH ?= quick
FUZZ_SECONDS ?= 60
ASAN_SUITES ?= unit bats
TSAN_SUITES ?= unit bats

all:
	scripts/build build --prefix=$(PREFIX)

demo:
	scripts/install-packages build demo
	scripts/build build -Dtests=false
	scripts/demo build

check:
	scripts/install-packages build test qemu10
	scripts/build build -Dtests=true -Dwerror=true
	scripts/run-tests build

asan:
	scripts/install-packages build test
	scripts/build build-asan -Dwerror=true -Db_sanitize=address,undefined
	scripts/run-tests build-asan $(addprefix --suite ,$(ASAN_SUITES)) --timeout-multiplier 4

# GLib's slices are reused behind locks that the sanitizer does not see.
tsan:
	scripts/install-packages build test
	scripts/build build-tsan -Dwerror=true -Db_sanitize=thread -Dcompletion=false
	G_SLICE=always-malloc \
	    scripts/run-tests build-tsan $(addprefix --suite ,$(TSAN_SUITES)) --timeout-multiplier 4

fuzz: build-fuzz
	scripts/fuzz build-fuzz $(FUZZ_SECONDS)

fuzz-check: build-fuzz
	scripts/run-tests build-fuzz --suite fuzz

build-fuzz:
	scripts/install-packages build fuzz
	CC=clang scripts/build build-fuzz -Dwerror=true -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false

bench:
	scripts/install-packages build bench qemu10
	scripts/build build
	BENCH=$(BENCH) bench/run build

install: all
	meson install -C build --no-rebuild

clean:
	rm -rf build build-asan build-tsan build-fuzz

.PHONY: all demo check asan tsan fuzz fuzz-check build-fuzz bench install clean
