# The only entry. The work is done by short scripts in hack/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test chart-test e2e image soak bench bench-scale fuzz lint crds

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## Run the demo on real servers, which it leaves running
	@hack/setup.sh
	@hack/demo.sh up

demo-down: ## Stop what the demo left running
	@hack/demo.sh down

# First the program as it is shipped, for the test that looks what it lacks. Two tests at a time: each has several servers,
# and waits for them most of the time. Those that measure times run alone (tests/support/timing.rs).
test: ## Install what is missing, then run every test and print the time it took
	@hack/setup.sh
	@hack/install-postgres-majors.sh
	cargo build --locked
	@mkdir -p target/shipped && cp target/debug/tablemap target/shipped/
	cargo test --locked --features testing -- --test-threads=2

chart-test: ## Lint, unit tests and schemas of charts/tablemap, and an install on a Kubernetes API
	@hack/chart-test.sh

e2e: ## On a real cluster of one node: the chart, worker pods and the demo's story (as root on plain Linux)
	@hack/e2e.sh

image: ## Build the image as target/image/tablemap.tar, an OCI archive (TABLEMAP_IMAGE names it)
	@hack/check-toolchain.sh cargo
	@hack/install-packages.sh
	@hack/image.sh

soak: ## Random load, faults and pauses for 20 minutes (TABLEMAP_SOAK_SECONDS, TABLEMAP_SEED)
	@hack/setup.sh
	TABLEMAP_SOAK_SECONDS=$${TABLEMAP_SOAK_SECONDS:-1200} \
	  cargo test --locked --features testing --test real -- --nocapture a_while_of_random_faults

bench: ## Measure beside other tools: docs/performance.md tells what, and how to choose
	@hack/setup.sh
	@hack/bench.sh

bench-scale: ## Measure 1,000 maps in one worker, and an operator with 5,000
	@hack/setup.sh
	TABLEMAP_BENCH=s hack/bench.sh

fuzz: ## Feed hostile bytes to what parses them, a minute each (TABLEMAP_FUZZ_SECONDS)
	@hack/check-toolchain.sh cargo
	@hack/fuzz.sh

lint: ## Formatting, clippy, and cargo-deny where it is installed
	@hack/check-toolchain.sh cargo
	cargo fmt --check
	cargo clippy --locked --all-targets --features testing -- -D warnings
	@# The fuzz targets have a lock file of their own.
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml > /dev/null
	@hack/deny.sh

# By way of a second file, so that a failed build does not leave an empty one.
crds: ## Write crds/tablemap.dev.yaml from the types in src/api, and the chart's copy
	@hack/check-toolchain.sh cargo
	@mkdir -p crds target
	cargo run --locked --quiet -- crds > target/crds.yaml
	@mv target/crds.yaml crds/tablemap.dev.yaml
	@cp crds/tablemap.dev.yaml charts/tablemap/files/crds.yaml
