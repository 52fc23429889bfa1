# What a contributor runs; `make` alone lists it. On Debian everything that is missing is installed first.

CARGO ?= cargo
VENV := target/test-venv

.DEFAULT_GOAL := help
.PHONY: help run test test-venv lint bench bench-failures build-tools test-tools

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: build-tools ## Start Orbit with an embedded Axon and a made-up key; it sends itself a signed dispatch
	$(CARGO) run --locked -- dev $(ARGS)

test: build-tools test-venv ## Install what the tests need and run all of them
	$(CARGO) test --locked

lint: build-tools ## Formatting, clippy, rustdoc; advisories if cargo-deny is installed
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check advisories; \
	else echo "cargo-deny is not installed: advisories are not checked"; fi

bench: build-tools ## The micro-benchmarks, then the load comparison with nginx and bare Pingora
	$(CARGO) bench --locked --bench '*'
	$(CARGO) build --locked --release
	benches/load/run setup
	benches/load/run

bench-failures: build-tools ## What clients notice while an Axon fails, beside nginx and HAProxy; about seven minutes
	$(CARGO) build --locked --release
	benches/load/run setup
	benches/load/failures

test-venv: $(VENV)/installed ## The AWS clients that tests/clients.rs drives, in target/test-venv

$(VENV)/installed: tests/clients/requirements.txt | test-tools
	python3 -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --requirement $<
	touch $@

# zlib-ng, which Pingora compresses with, is built by cmake.
build-tools:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it with rustup, then run make again" >&2; exit 1; }
	@$(call install,cmake,command -v cmake)

test-tools:
	@$(call install,curl,command -v curl)
	@$(call install,python3-venv,python3 -c 'import ensurepip')

# $(call install,package,command): installs the Debian package unless the command succeeds.
define install
$(2) >/dev/null 2>&1 || { \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if ! command -v apt-get >/dev/null || { [ -n "$$sudo" ] && ! command -v sudo >/dev/null; }; then \
		echo "$(1) is missing and cannot be installed from here: install the package $(1), then run make again" >&2; \
		exit 1; \
	fi; \
	echo "installing $(1)"; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); \
}
endef
