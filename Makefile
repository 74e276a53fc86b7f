# Every task of the repository, for people and for CI. `make` alone lists them.
# What a target needs it installs or starts itself (scripts/setup.sh); the second time without a network.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo

# More arguments for `cargo test`: make test ARGS='flows:: -- --nocapture'
ARGS ?=
# Tests build the server with places to crash it at (src/faults); nothing else does.
TEST_FEATURES := --features failpoints
# Rows of the table that `make bench` prints; all if empty. benches/README.md lists them.
ROWS ?=
# How many times each side of a row runs.
PAIRS ?= 10

.PHONY: help
help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Installs what the other targets need (apt, target/tools, target/venv)
	scripts/setup.sh

.PHONY: fmt
fmt: ## Formats the Rust code and the proto files
	scripts/setup.sh rust buf
	$(CARGO) fmt --all
	target/tools/bin/buf format --path proto/tasktower --write

.PHONY: lint
lint: ## Checks format, clippy without warnings, and that client and worker build without the server
	scripts/setup.sh cc rust
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --workspace --all-targets $(TEST_FEATURES) -- -D warnings
	$(CARGO) check --no-default-features --features worker

.PHONY: test
test: ## Runs every test, on SQLite and on a throwaway PostgreSQL (ARGS='filter')
	scripts/setup.sh cc rust postgres redis python buf
	TASKTOWER_TEST_REQUIRE_ALL=1 scripts/with-services.sh $(CARGO) test --workspace $(TEST_FEATURES) $(ARGS)

.PHONY: crash
crash: ## Kills, freezes and fills everything under load, about 20 minutes (CRASH_SEED=1 ARGS='crash::kills')
	scripts/setup.sh cc rust postgres redis
	scripts/with-services.sh scripts/crash.sh $(ARGS)

.PHONY: proto
proto: ## Checks the API: buf lint, format, and no break against origin/main
	scripts/setup.sh buf
	scripts/proto.sh

.PHONY: docs
docs: ## Writes the generated pages anew (docs/reference/errors.md)
	UPDATE_DOCS=1 $(CARGO) test --quiet $(TEST_FEATURES) --test it coverage::errors_doc

.PHONY: docs-check
# Module headers name private constants and types: they are for those who read the source.
docs-check: ## Checks that the generated pages are up to date and rustdoc has no warning
	$(CARGO) test --quiet $(TEST_FEATURES) --test it coverage::errors_doc
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --quiet

.PHONY: deny
deny: ## Checks licences, sources and banned crates, if cargo-deny is installed
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check bans licenses sources; \
	else \
		echo "deny: SKIPPED, cargo-deny is not installed (cargo install cargo-deny --version 0.20.2 --locked)" >&2; \
	fi

.PHONY: abuse
# One test at a time, in a release build: it measures. ABUSE_COUNT messages for each method in process, ABUSE_CALLS over
# the wire; TASKTOWER_ABUSE_SEED=… repeats a run.
ABUSE_COUNT ?= 100000
ABUSE_CALLS ?= 2000
abuse: ## Hostile messages, attacks on HTTP/2, slow readers and stops in bad company, in full (about 25 min)
	scripts/setup.sh cc rust postgres
	TASKTOWER_ABUSE_COUNT=$(ABUSE_COUNT) $(CARGO) test --release --test it abuse::conversion -- --nocapture
	TASKTOWER_TEST_REQUIRE_ALL=1 TASKTOWER_ABUSE_COUNT=$(ABUSE_CALLS) scripts/with-services.sh \
		$(CARGO) test --release --test it abuse::wire -- --nocapture
	TASKTOWER_TEST_REQUIRE_ALL=1 TASKTOWER_ABUSE_FULL=1 scripts/with-services.sh \
		$(CARGO) test --release --test it abuse:: -- --nocapture --test-threads 1 \
		--skip conversion --skip wire

.PHONY: bench
# What cannot be installed is told as not run, row by row; the others are measured.
bench: ## Compares a release build with its peers (ROWS='submit latency' PAIRS=10; all rows take about an hour)
	scripts/setup.sh cc rust postgres
	$(CARGO) build --release --quiet
	-benches/peers/setup.sh
	scripts/bench.sh --pairs $(PAIRS) $(ROWS)

.PHONY: bench-peers
bench-peers: ## Installs the peers of `make bench` into target/peers and checks the code that drives them
	scripts/setup.sh cc rust
	benches/peers/setup.sh
	$(CARGO) fmt --manifest-path benches/peers/rust/Cargo.toml -- --check
	CARGO_TARGET_DIR=target/peers/build $(CARGO) clippy --manifest-path benches/peers/rust/Cargo.toml --locked -- -D warnings
	python3 -m doctest benches/compare/stats.py

.PHONY: verify
verify: lint proto docs-check deny test ## Everything a change must pass
