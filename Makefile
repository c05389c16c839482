# Everything that a checkout can do. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# mkfs and debugfs live in /usr/sbin, which is not on everybody's PATH.
export PATH := $(PATH):/usr/sbin:/sbin

CARGO ?= cargo
DENY := $(CARGO) deny --locked
VENV := .venv
PY := $(CURDIR)/$(VENV)/bin/python
LOGS := target/logs
# The wheel that the tests are run with.
TEST_WHEEL := target/test-wheel
# What can be published.
DIST := target/dist
BENCH_ARGS ?=
# Commands killed by `make torture`, moments tried by `make powercut` on each file system, and what both are chosen by.
ROUNDS ?= 1000
COUNT ?= 200
SEED ?=
# Part of all mutants that `make mutants` tries, such as 0/8; and how many `make mutants-sample` does.
SHARD ?=
SAMPLE ?= 40
# SECONDS is one of bash's own variables, so it reaches the recipe only by being put in by make.
SECONDS ?= 60
TARGETS ?=
PYTHON_SOURCES := backy-py/python backy-py/make-stubs tests/python tests/bench

.PHONY: help test lint format api api-check public-api-installed lint-rust lint-python msrv test-rust test-python torture \
	powercut canary deny dependencies mutants mutants-sample fuzz wheel \
	sdist test-package demo bench bench-peers bench-micro build deb deb-lint deb-test deps venv stubs clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# One after the other, so that -j cannot interleave their output or their builds.
test: deps ## All checks and tests; installs what they need
	$(MAKE) --no-print-directory lint-rust
	$(MAKE) --no-print-directory msrv
	$(MAKE) --no-print-directory lint-python
	$(MAKE) --no-print-directory test-rust
	$(MAKE) --no-print-directory test-python
	$(MAKE) --no-print-directory test-package

lint: lint-rust lint-python ## Formatting, clippy, documentation, mypy, stubtest, ruff

format: # Whether the code is formatted: seconds, and nothing is built
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check

lint-rust: format
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --manifest-path fuzz/Cargo.toml -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

# What Cargo.toml promises to those who build the library, the command or the module. Into a folder of its own, and with
# nothing optimised: it only has to compile.
MSRV := $(shell sed -nE 's/^rust-version = "(.*)"$$/\1/p' Cargo.toml)

msrv: ## Check that the oldest Rust that Cargo.toml promises compiles it (needs rustup)
	@if cargo +$(MSRV) --version >/dev/null 2>&1 || rustup toolchain install $(MSRV) --profile minimal --no-self-update; then \
	    cargo +$(MSRV) check --locked --target-dir target/msrv --config 'profile.dev.package."*".opt-level=0' \
	        -p backy-lib -p backy-cli -p backy-py --lib --bins; \
	else \
	    echo "SKIPPED: msrv: there is no Rust $(MSRV), and rustup cannot install it"; [[ "$${CI:-}" != true ]]; \
	fi
# The listing depends on the version of the program, and that on the nightly compiler.
PUBLIC_API_VERSION := 0.52.0
PUBLIC_API := $(CARGO) +nightly public-api -p backy-lib --omit blanket-impls,auto-trait-impls,auto-derived-impls

api: public-api-installed ## Write the public API of the library to tests/api.txt (needs nightly Rust)
	$(PUBLIC_API) > target/api.txt
	mv target/api.txt tests/api.txt

ifeq ($(shell $(CARGO) +nightly --version >/dev/null 2>&1 && echo yes),yes)

api-check: ## Compare the public API of the library with tests/api.txt (needs nightly Rust)
	@if $(MAKE) --no-print-directory public-api-installed && $(PUBLIC_API) > target/api.txt; then \
	    diff -u tests/api.txt target/api.txt || { echo "The public API has changed: 'make api' writes it down"; exit 1; }; \
	else \
	    echo "SKIPPED: $@: cargo-public-api $(PUBLIC_API_VERSION) cannot be installed, or does not know this nightly"; \
	fi

else

api-check:
	@echo "SKIPPED: $@: nightly Rust is not installed"
	@[[ "$${CI:-}" != true ]]

endif

public-api-installed:
	@[[ "$$(cargo-public-api --version 2>/dev/null)" == *$(PUBLIC_API_VERSION) ]] || \
		$(CARGO) install cargo-public-api --version $(PUBLIC_API_VERSION) --locked --debug --quiet

# In CI the tests are built as `make canary` needs them, which then need not build them once more. A bug is planted only by a test
# program that is told to; see backy-lib/src/base/canary.rs.
TEST_FEATURES := $(if $(CI),--features backy-tests/canary)

# In CI a failure does not keep the other programs from being run: one run shows all of them.
test-rust: ## Tests of the engine, the command and the archive format
	@mkdir -p $(LOGS)
	$(CARGO) test --workspace $(TEST_FEATURES) $(if $(CI),--no-fail-fast) 2>&1 | tee $(LOGS)/test-rust.log

# In a normal run these tests kill some dozen commands, and let every second call fail or so.
torture: ## Kill commands over and over beside readers, and let every system call fail (root; ROUNDS=1000 SEED=)
	BACKY_TORTURE_ROUNDS=$(ROUNDS) $(if $(SEED),BACKY_TORTURE_SEED=$(SEED)) \
		$(CARGO) test --workspace --test real -- torture:: calls:: planted:: large::an_import --nocapture

powercut: ## Power cuts at COUNT moments on ext4 and on XFS (root; COUNT=200 SEED=)
	POWERCUT_COUNT=$(COUNT) $(if $(SEED),POWERCUT_SEED=$(SEED)) $(CARGO) test -p backy-tests --test real -- powercut:: --nocapture

# Debian packs venv apart from Python, and without root it cannot be had.
ifeq ($(shell python3 -c 'import ensurepip, venv' 2>/dev/null && echo yes),yes)

# In CI they run the command that the other tests have been built with: building it without those takes minutes.
ifdef CI
PYTHON_BUILD := test --no-run
TESTED := $(CURDIR)/target/debug/backy-under-test
else
PYTHON_BUILD := build --bin backy --bin check-archive
TESTED := $(CURDIR)/target/debug/backy
endif

test-python: venv ## Tests of the Python module, under every Python from 3.9 on that is here
	@mkdir -p $(LOGS)
	$(CARGO) $(PYTHON_BUILD) --workspace $(TEST_FEATURES)
	BACKY_BIN=$(TESTED) $(PY) -m pytest tests/python 2>&1 | tee $(LOGS)/test-python.log
	BACKY_BIN=$(TESTED) tests/pythons $(TEST_WHEEL)/*.whl

lint-python: venv
	$(PY) -m mypy --strict $(PYTHON_SOURCES)
	$(PY) -m mypy.stubtest backy
	$(PY) -m ruff check .

test-package: $(VENV)/tools-installed ## Build the sdist, check it, install from it into an empty environment, and use that
	tests/package-test

# Built as the tests are, with what has been built for them; `make wheel` is the release.
venv: $(VENV)/tools-installed
	rm -rf $(TEST_WHEEL)
	MATURIN_PEP517_ARGS="--profile dev" $(PY) -m pip wheel --quiet --no-deps --wheel-dir $(TEST_WHEEL) ./backy-py
	$(PY) -m pip install --quiet --no-deps --force-reinstall $(TEST_WHEEL)/*.whl

stubs: venv ## Write the docstrings of the Python module into its stub
	$(PY) backy-py/make-stubs

$(VENV)/tools-installed: tests/python/requirements.txt tests/python/requirements-tools.txt
	python3 -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r tests/python/requirements-tools.txt
	touch $@

else

test-python test-package lint-python wheel sdist venv stubs:
	@echo "SKIPPED: $@: python3 has no venv; make deps installs it, if it may"
	@[[ "$${CI:-}" != true ]]

endif

canary: ## Plant known bugs, one after the other: the tests have to find each
	@tests/canary

# The database of advisories is a git repository, which not every network lets one have.
deny: ## Licences, bans, sources and, where it can be had, advisories of all that is built in (needs cargo-deny)
	$(DENY) check --allow license-exception-not-encountered licenses bans sources
	$(DENY) --manifest-path fuzz/Cargo.toml check licenses bans sources
	@if why=$$(timeout 120 $(DENY) fetch db 2>&1); then \
	    $(DENY) check --disable-fetch advisories; \
	    $(DENY) --manifest-path fuzz/Cargo.toml check --disable-fetch advisories; \
	else \
	    echo "SKIPPED: advisories: the database cannot be fetched: $$(grep -m 1 -iE 'error|fail' <<<"$$why" || echo 'no answer')"; \
	fi

dependencies: deny ## The same, and which crates are there twice or have unsafe code
	tests/dependencies

mutants: ## Which changes of the library no test notices (needs cargo-mutants; SHARD=0/8 is a night on two cores)
	tests/mutants $(if $(SHARD),--shard $(SHARD))

mutants-sample: ## The same of some SAMPLE=40 changes, others each day, and the unit tests (needs cargo-mutants; SEED=)
	SEED=$(SEED) tests/mutants --sample $(SAMPLE)

fuzz: ## Fuzz (needs nightly Rust; SECONDS=60 for each target, TARGETS="manifest config" for only these)
	fuzz/run $(SECONDS) $(TARGETS)

# A wheel for the stable ABI is for every Python but the free-threaded ones, which need one each. The index takes only those that name the
# oldest C library that they run with. maturin leaves what it builds for tests in target/wheels.
wheel: $(VENV)/tools-installed ## The Python module and the command as a wheel, in target/dist; for any Python from 3.9 on
	rm -rf $(DIST)/*.whl
	MATURIN_PEP517_ARGS="--compatibility pypi" $(PY) -m pip wheel --quiet --no-deps --wheel-dir $(DIST) ./backy-py
	tests/free-threaded $(DIST)
	tests/package-check --stripped $(DIST)/*.whl
	@ls $(DIST)/*.whl

sdist: $(VENV)/tools-installed ## The sources of both, in target/dist: pip builds them where no wheel fits
	rm -rf $(DIST)/*.tar.gz
	$(PY) -m build --sdist --outdir $(DIST) backy-py
	tests/package-check $(DIST)/*.tar.gz
	@ls $(DIST)/*.tar.gz

demo: ## Back up, restore and compare a real disk image, with and without backy
	$(CARGO) build --release -p backy-cli
	tests/demo

bench: ## Measure against cp (root; BENCH_ARGS="--runs 1 --peers", see tests/bench/bench.py --help)
	$(CARGO) build --release -p backy-cli -p backy-tests --bins
	$(if $(findstring python,$(BENCH_ARGS)),$(PY) -m pip install --quiet --force-reinstall ./backy-py)
	python3 tests/bench/bench.py $(BENCH_ARGS)

bench-peers: ## Install restic, borg and virtnbdbackup, for BENCH_ARGS=--peers, from Debian (root) or, borg, PyPI into .venv
	tests/bench/install-peers

bench-micro: ## Measure digesting, comparing, compressing, deltas, chains and merges by themselves
	$(CARGO) bench -p backy-tests --bench micro

build: ## The release binary, target/release/backy
	$(CARGO) build --release -p backy-cli

# Where cargo builds, and all but the binary that the package has; cargo-deb strips that, and finds out what it depends on. It looks for
# what begins with target/release where cargo builds, so that is where the rest is put.
TARGET := $(or $(CARGO_TARGET_DIR),target)
PACKAGE := $(TARGET)/release/package
# Who makes a package maintains it: as with Debian's own tools.
DEBFULLNAME ?= The developers of backy
DEBEMAIL ?= backy@example.org

deb: build ## The Debian package, target/debian/backy_*.deb
	command -v cargo-deb >/dev/null || $(CARGO) install cargo-deb --locked
	mkdir -p $(PACKAGE)
	$(TARGET)/release/backy man | gzip -9n > $(PACKAGE)/backy.1.gz
	$(TARGET)/release/backy man backy.toml | gzip -9n > $(PACKAGE)/backy.toml.5.gz
	$(TARGET)/release/backy man fleet.toml | gzip -9n > $(PACKAGE)/fleet.toml.5.gz
	gzip -9n < dist/mount/umount.fuse.backy.8 > $(PACKAGE)/umount.fuse.backy.8.gz
	$(TARGET)/release/backy completions bash > $(PACKAGE)/backy
	$(TARGET)/release/backy completions zsh > $(PACKAGE)/_backy
	$(TARGET)/release/backy completions fish > $(PACKAGE)/backy.fish
	dist/debian/generate changelog '$(DEBFULLNAME) <$(DEBEMAIL)>' | gzip -9n > $(PACKAGE)/changelog.gz
	dist/debian/generate copyright > $(PACKAGE)/copyright
	rm -f $(TARGET)/debian/backy_*.deb
	$(CARGO) deb -p backy-cli --no-build --strip --quiet --maintainer '$(DEBFULLNAME) <$(DEBEMAIL)>'
	@ls $(TARGET)/debian/backy_*.deb
	$(MAKE) --no-print-directory deb-lint

deb-lint: # What Debian's own checks say of the package
	if command -v lintian >/dev/null; then lintian --fail-on=error,warning --tag-display-limit=0 $(TARGET)/debian/backy_*.deb; \
	else echo "SKIPPED: lintian is not installed"; fi

deb-test: deb ## Install, run and purge the package in a fresh Debian (root; fetches debootstrap's packages)
	tests/deb-test $(TARGET)/debian/backy_*.deb

deps: ## Install what the tests need, if it is missing
	.ci/deps

clean: ## Remove everything that was built
	rm -rf target fuzz/target fuzz/artifacts fuzz/corpus fuzz/coverage $(VENV) .mypy_cache .ruff_cache .pytest_cache
