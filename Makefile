# Every target sets up what it needs by itself: the first one makes .venv, later ones find it ready.
# A machine needs Python 3.11 or newer and make, nothing else.
#
#   PYTHON=/path/to/python3    which Python makes the environment (default: the first one that is new enough)
#   VENV=folder                where the environment is (default: .venv)
#   PYTEST_ARGS="..."          passed on to pytest, e.g. PYTEST_ARGS="tests/unit -k lease"
#   DURATION=120  SEED=7       of `make chaos`: seconds of storm, and what decides its course (default: another one each time)
#   CHAOS_ARGS="..."           passed on to `make chaos`, e.g. CHAOS_ARGS="--pgbouncer --rate 2"; --help lists them
#   WORKERS=4                  how many test processes; tests wait more than they compute

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV ?= .venv
WORKERS ?= 4
PYTEST_ARGS ?=
IN = $(VENV)/bin/
export PYTHON

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## Prepare .venv (every other target does it too)
	@sh scripts/setup --venv "$(VENV)"

.PHONY: demo
demo: setup ## Run the whole product once, with sample agents and sample tasks, and stop
	@$(IN)orchestrator dev --demo

.PHONY: dev
dev: setup ## The same, and stay up until Ctrl-C
	@$(IN)orchestrator dev

.PHONY: test
test: setup ## Run every test
	$(IN)python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

.PHONY: chaos
chaos: setup ## Run a storm of faults and count what was lost or doubled (DURATION=120 SEED=7)
	@$(IN)python -m tests.chaos $(if $(DURATION),--duration $(DURATION)) $(if $(SEED),--seed $(SEED)) $(CHAOS_ARGS)

.PHONY: bench
bench: setup ## Measure what a step costs beside raw code and plain Celery; figures go to build/bench.json
	@$(IN)python -m benchmarks $(BENCH_ARGS)

.PHONY: test-kafka
test-kafka: setup ## Run the bridge's tests on Apache Kafka itself (needs Java 17 and Maven)
	@$(IN)python -m tests.kafka

.PHONY: lint
lint: setup ## Check style and import contracts
	$(IN)ruff check .
	$(IN)ruff format --check .
	$(IN)lint-imports

.PHONY: format
format: setup ## Put the code into its style
	$(IN)ruff check --fix .
	$(IN)ruff format .

.PHONY: types
types: setup ## Check types, strictly
	$(IN)mypy --strict

.PHONY: check
check: lint types test ## All of it, as CI does

.PHONY: build
build: setup ## Build the wheel and the source archive into dist/
	$(IN)python -m build --no-isolation

.PHONY: lock
lock: setup ## Resolve the dependencies anew and write the lock files
	sh scripts/lock "$(VENV)"

.PHONY: clean
clean: ## Remove the environment, caches and what was built
	rm -rf "$(VENV)" "$(VENV).lock" build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
