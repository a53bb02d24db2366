# Everything a person or a machine does with this tree, each in one command. `make` alone lists them.
#
# Whatever has to be installed first is installed by the target that needs it: `make edge` and `make test` work on a bare
# machine. What was done once leaves a stamp, so the second run starts at once.

PYTHON ?= python3
ARGS ?=
# How many tests run side by side: one more than there are cores.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
CLIENTS := .tools/venv
NODE_CLIENTS := .tools/node
JVM_CLIENTS := .tools/jvm
CAPTURE := .tools/capture
HASHED := --require-hashes --no-deps

# Programs the suite drives, each with the Debian package it comes from.
TEST_PROGRAMS := strace:strace node:nodejs npm:npm mvn:maven javac:default-jdk-headless gradle:gradle gpg:gnupg openssl:openssl h2load:nghttp2-client \
	ip:iproute2 nft:nftables systemd-analyze:systemd
BENCH_PROGRAMS := gcc:gcc taskset:util-linux
# Linkable C needs headers too, which `command -v` cannot see; they come along with gcc.
EXTRA_gcc := libc6-dev

# Which index, which proxy and which certificates pip uses is the machine's business. Where it installs to, and whether, is ours:
# these would put the libraries elsewhere, install nothing, or refuse what is pinned and built here.
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_DRY_RUN PIP_NO_INDEX PIP_REQUIREMENT PIP_CONSTRAINT PIP_EDITABLE PIP_REQUIRE_HASHES
unexport PIP_PLATFORM PIP_PYTHON_VERSION PIP_IMPLEMENTATION PIP_ABI PIP_NO_BINARY PIP_ONLY_BINARY PIP_IGNORE_INSTALLED PIP_SRC PIP_REPORT
unexport PYTHONHOME __PYVENV_LAUNCHER__

.DEFAULT_GOAL := help
.PHONY: help edge three-regions test chaos outages live check format lock bench clean test-programs bench-programs FORCE
# What is missing on the machine is told before anything is installed, also under -j.
.NOTPARALLEL:

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-13s %s\n' "$$name" "$$what"; done
	@echo '  ARGS="…" is passed on by edge, three-regions, test, chaos, outages, live and bench'

edge: .venv/.run ## set up what is missing, then serve on 127.0.0.1:8080
	@exec $(BIN)/edge serve $(ARGS)

three-regions: .venv/.run ## an origin and three edges on this machine (ports 9090, 8081 to 8083)
	@exec $(BIN)/python deploy/three_regions.py $(ARGS)

# Most tests wait more than they work, so a few run side by side; those that measure run alone, first.
test: test-programs .venv/.dev $(CLIENTS)/.done $(NODE_CLIENTS)/.done $(JVM_CLIENTS)/.done $(CAPTURE)/.done .tools/prometheus/.done ## set up what is missing, then run the whole suite
	@alone=0; rest=0; \
	$(BIN)/python -m pytest -m "alone and not live" $(ARGS) || alone=$$?; \
	$(BIN)/python -m pytest -m "not alone and not live" --numprocesses $(WORKERS) --dist worksteal $(ARGS) || rest=$$?; \
	case "$$alone $$rest" in "0 0"|"0 5"|"5 0") ;; *) echo "make test: see above for what failed" >&2; exit 1;; esac

chaos: test-programs .venv/.dev ## a fleet for 5 minutes while everything fails, and the verdict (ARGS="--seed 7 --minutes 5")
	@exec $(BIN)/python -m tests.faults.chaos $(ARGS)

outages: test-programs .venv/.dev $(CLIENTS)/.done $(NODE_CLIENTS)/.done $(JVM_CLIENTS)/.done ## pip, npm and mvn through every combination of what can be gone (10 minutes)
	@LEEWARD_OUTAGES=all exec $(BIN)/python -m pytest -s tests/end_to_end/test_fleet_outage.py $(ARGS)

live: test-programs .venv/.dev $(CLIENTS)/.done $(NODE_CLIENTS)/.done $(JVM_CLIENTS)/.done ## the tests that talk to the real registries
	@LEEWARD_LIVE=1 exec $(BIN)/python -m pytest -m live $(ARGS)

check: .venv/.dev ## formatter, linter, type checker, architecture
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: .venv/.dev ## format, and repair what the linter can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: bench-programs .venv/.dev $(CLIENTS)/.done .tools/nginx/.done ## one table: ours beside nginx, in one run
	@exec $(BIN)/python -m benchmarks $(ARGS)

lock: $(CLIENTS)/.done .venv/.dev ## pin the newest releases again, with hashes and without addresses
	$(LOCK) requirements/build.in -o requirements/build.txt
	$(LOCK) pyproject.toml -c requirements/build.txt -o requirements/run.txt
	$(LOCK) pyproject.toml --group dev -c requirements/run.txt -c requirements/build.txt -o requirements/dev.txt
	$(LOCK) requirements/tools.in -o requirements/tools.txt
	$(LOCK) requirements/capture.in -o requirements/capture.txt
	$(BIN)/python -m tests.tools.node
LOCK = $(CLIENTS)/bin/uv pip compile --quiet --upgrade --universal --python-version 3.13 --generate-hashes --no-header

clean: ## remove all that these commands made, the data of `make edge` and `make three-regions` apart
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis benchmarks/out
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# ---- set-up ----------------------------------------------------------------------------------------------------------

# An environment is sound if its interpreter is there, new enough and its own, and its scripts were written for where it stands. One that
# is not (a moved tree, an upgraded system) is made anew, whatever its stamps say: they are in it and go with it.
sound = $(1)/bin/python -Ic 'import sys; sys.exit(sys.version_info < (3, 13) or sys.prefix != sys.argv[1])' '$(CURDIR)/$(1)' 2>/dev/null \
	&& grep -qsF '$(CURDIR)/$(1)/bin/' $(1)/bin/pip
unless_sound = $(shell { $(call sound,$(1)); } || echo FORCE)

.venv/.made: requirements/build.txt $(call unless_sound,.venv)
	@$(new_enough)
	@echo "setting up .venv"
	@{ $(call sound,.venv); } || { rm -rf .venv; $(PYTHON) -m venv .venv; }
	@$(PIP) install $(HASHED) -r requirements/build.txt
	@touch $@

# The project is installed from this tree, editable; without isolation, so that no unpinned backend is downloaded.
.venv/.run: requirements/run.txt pyproject.toml .venv/.made
	@echo "installing what Leeward needs to run"
	@$(PIP) install $(HASHED) -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.run
	@echo "installing what the tests need"
	@$(PIP) install $(HASHED) -r requirements/dev.txt
	@touch $@

# pip, uv, poetry and pdm as the tests drive them, apart from our own libraries.
$(CLIENTS)/.done: requirements/tools.txt $(call unless_sound,$(CLIENTS))
	@$(new_enough)
	@echo "installing pip, uv, poetry and pdm as test clients"
	@{ $(call sound,$(CLIENTS)); } || { rm -rf $(CLIENTS); $(PYTHON) -m venv $(CLIENTS); }
	@$(CLIENTS)/bin/python -m pip --quiet --disable-pip-version-check install $(HASHED) -r requirements/tools.txt
	@touch $@

# mitmproxy, for `edge capture`. It pins old libraries, so it lives apart from ours; the command looks for it here.
$(CAPTURE)/.done: requirements/capture.txt $(call unless_sound,$(CAPTURE))
	@$(new_enough)
	@echo "installing mitmproxy for edge capture"
	@{ $(call sound,$(CAPTURE)); } || { rm -rf $(CAPTURE); $(PYTHON) -m venv $(CAPTURE); }
	@$(CAPTURE)/bin/python -m pip --quiet --disable-pip-version-check install $(HASHED) -r requirements/capture.txt
	@touch $@

# npm, pnpm, yarn 1 and 4, bun and what else speaks to npm registries, with a Node.js of their own.
$(NODE_CLIENTS)/.done: requirements/node/package.json requirements/node/package-lock.json
	@echo "installing npm, pnpm, yarn and bun as test clients"
	@mkdir -p $(NODE_CLIENTS) && cp requirements/node/package.json requirements/node/package-lock.json $(NODE_CLIENTS)/
	@npm ci --prefix $(NODE_CLIENTS) --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

# Maven 3.9 and 4, Gradle 7 and coursier; the system's own mvn fetches them.
$(JVM_CLIENTS)/.done: requirements/jvm.pins tests/tools/jvm.py
	@echo "installing Maven 3.9, Maven 4, Gradle 7 and coursier as test clients"
	@$(PYTHON) tests/tools/jvm.py $(JVM_CLIENTS)
	@touch $@

# Without a stamp: looking takes milliseconds, and a program can be removed again.
test-programs:
	@$(call need,test,$(TEST_PROGRAMS))

bench-programs:
	@$(call need,bench,$(BENCH_PROGRAMS))

# nginx and Prometheus as Debian ships them, unpacked beside us: installing them would start servers on ports 80 and 9090, and needs root.
.tools/nginx/.done:
	@$(call unpack,bench,nginx,nginx,nginx-light)

.tools/prometheus/.done:
	@$(call unpack,test,prometheus,prometheus,prometheus)

# $(call unpack,target,program,package,package to name): unpack one program's package into .tools if the machine has no such program.
define unpack
if command -v $(2) >/dev/null || [ -x /usr/sbin/$(2) ]; then mkdir -p .tools/$(2); \
elif command -v apt-get >/dev/null; then \
	echo "unpacking Debian's $(2)"; \
	( rm -rf .tools/$(2) && mkdir -p .tools/$(2) && cd .tools/$(2) && \
	{ apt-get -qq download $(3) 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq download $(3); } || { \
		echo "make $(1): $(2) is missing; install the package $(4) (or run apt-get update as root)." >&2; exit 1; }; } && \
	dpkg -x $(3)_*.deb . && rm $(3)_*.deb ) || exit 1; \
else echo "make $(1): $(2) is missing; install it with your system's package manager." >&2; exit 1; fi; \
touch .tools/$(2)/.done
endef

# $(call need,target,program:package …): install what is missing if we may, else say in one sentence what it is.
define need
missing=; for pair in $(2); do \
	PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair##*:}"; done; \
for package in $$missing; do case $$package in gcc) missing="$$missing $(EXTRA_gcc)";; esac; done; \
if [ -z "$$missing" ]; then :; \
elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "installing system packages:$$missing"; \
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 install $$missing >/dev/null 2>&1 || { \
		echo "make $(1): apt-get could not install$$missing; try it by hand to see why." >&2; exit 1; }; \
else \
	echo "make $(1) needs system packages that only root can install:$$missing (Debian: apt-get install$$missing)." >&2; exit 1; \
fi
endef

define new_enough
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 13))' 2>/dev/null || { \
	echo "Leeward needs Python 3.13 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing):" \
		"install one, or name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: python3-venv)." >&2; exit 1; }
endef
