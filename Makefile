# What a contributor runs; `make` alone lists it. On Debian everything that is missing is installed first.

CARGO ?= cargo
PYTHON_CLIENTS := target/test-python
NODE_CLIENTS := target/test-node
GO_CLIENTS := target/test-go

.DEFAULT_GOAL := help
.PHONY: help run test test-tools fuzz fuzz-tools lint bench bench-failures build-tools client-tools

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: build-tools ## Start Orbit with an embedded Axon and a made-up key; it sends itself a signed dispatch
	$(CARGO) run --locked -- dev $(ARGS)

test: build-tools test-tools fuzz-tools ## Install what the tests need and run all of them; then fuzz the verifier for a moment
	$(CARGO) test --locked
	fuzz/run

fuzz: fuzz-tools ## Fuzz the verifier: five minutes for each target, or ARGS="--seconds 60 --keep head"
	fuzz/run $(or $(ARGS),--seconds 300)

lint: build-tools ## Formatting, clippy, rustdoc; advisories if cargo-deny is installed
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check advisories; \
	else echo "cargo-deny is not installed: advisories are not checked"; fi

bench: build-tools ## The micro-benchmarks, then the load comparison with nginx, HAProxy, Envoy and bare Pingora
	$(CARGO) bench --locked --bench '*'
	$(CARGO) build --locked --release
	benches/load/run setup
	benches/load/run
	benches/load/run evidence --check

bench-failures: build-tools ## What clients notice while an Axon fails, beside nginx and HAProxy; about seven minutes
	$(CARGO) build --locked --release
	benches/load/run setup
	benches/load/failures

# The AWS clients that tests/clients.rs drives: packages at pinned versions, and what Debian has.
test-tools: $(PYTHON_CLIENTS)/installed $(NODE_CLIENTS)/installed $(addprefix $(GO_CLIENTS)/,v1 v2 example)

$(PYTHON_CLIENTS)/installed: tests/clients/python/requirements.txt | client-tools
	python3 -m venv --clear $(PYTHON_CLIENTS)
	$(PYTHON_CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --no-deps --requirement $<
	touch $@

$(NODE_CLIENTS)/installed: tests/clients/node/package.json tests/clients/node/package-lock.json | client-tools
	rm -rf $(NODE_CLIENTS) && mkdir -p $(NODE_CLIENTS) && cp $^ $(NODE_CLIENTS)/
	npm ci --prefix $(NODE_CLIENTS) --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

# Debian's Go packages are sources below one GOPATH; there are no modules to fetch.
$(GO_CLIENTS)/%: tests/clients/go/%/main.go tests/clients/go/driver/driver.go | client-tools
	CGO_ENABLED=0 GO111MODULE=off GOFLAGS= GOPATH=/usr/share/gocode GOCACHE=$(abspath $(GO_CLIENTS)/cache) go build -o $@ ./$(<D)
$(GO_CLIENTS)/example: docs/clients/go/orbit.go

# zlib-ng, which Pingora compresses with, is built by cmake.
build-tools:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it with rustup, then run make again" >&2; exit 1; }
	@$(call debian,cmake)

# libFuzzer is C++.
fuzz-tools:
	@$(call debian,g++)

client-tools:
	@$(call debian,$(CLIENT_PACKAGES))

# Debian packages, and for each a command that succeeds where it is not needed.
CLIENT_PACKAGES := curl python3-venv nodejs npm golang-go \
	golang-github-aws-aws-sdk-go-dev golang-github-aws-aws-sdk-go-v2-dev
present_cmake := command -v cmake
present_g++ := command -v g++
present_curl := command -v curl
present_python3-venv := python3 -c 'import ensurepip'
present_nodejs := command -v node
present_npm := command -v npm
present_golang-go := command -v go
present_golang-github-aws-aws-sdk-go-dev := test -d /usr/share/gocode/src/github.com/aws/aws-sdk-go
present_golang-github-aws-aws-sdk-go-v2-dev := test -d /usr/share/gocode/src/github.com/aws/aws-sdk-go-v2

# $(call debian,packages): installs those that are needed.
define debian
missing=; \
$(foreach package,$(1),{ $(present_$(package)); } >/dev/null 2>&1 || missing="$$missing $(package)";) \
[ -z "$$missing" ] || { \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if ! command -v apt-get >/dev/null || { [ -n "$$sudo" ] && ! command -v sudo >/dev/null; }; then \
		echo "missing, and cannot be installed from here:$$missing; install these packages, then run make again" >&2; \
		exit 1; \
	fi; \
	echo "installing$$missing"; \
	$$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
}
endef
