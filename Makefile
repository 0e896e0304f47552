# Two commands do all the set-up by themselves: `make demo` and `make test`.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet --quiet

.PHONY: demo test test-full histories lint types check clean

# The stamps say what is installed; a change of pyproject.toml outdates them, and the installation is done again.
.venv/.core: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Seamark needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing Seamark into .venv (a minute or so) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install --editable .
	@touch $@

.venv/.dev: .venv/.core
	@echo "Installing the tools for tests, and PostgreSQL with pgvector, into .venv ..."
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install --group dev
	@touch $@

# torch alone and first, at an exact version: whatever is installed after it has to be content with that one.
.venv/.transformer: .venv/.dev
	@echo "Installing a transformer for tests into .venv ..."
	@$(PIP) install torch==2.13.0
	@$(PIP) install --group transformer
	@touch $@

demo: .venv/.core
	@$(BIN)/seamark demo

test: .venv/.transformer
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal

# The sweeps at their full size: a kill at every statement, and many more random histories. Hours, not minutes.
test-full: .venv/.transformer
	SEAMARK_KILL_STRIDE=1 SEAMARK_PROTOCOL_SEEDS=200000 SEAMARK_MACHINE_EXAMPLES=2000 SEAMARK_HISTORIES=4000 \
		SEAMARK_CHAOS_SECONDS=60 SEAMARK_OUTAGE_SECONDS=30 HF_HUB_OFFLINE=1 \
		$(BIN)/pytest -n 2 --dist worksteal --timeout 36000 tests/unit/test_protocol.py tests/agreement tests/crash \
		tests/acceptance/test_old_databases.py

# Ten thousand random histories on each database, for a night; what was reached is added to histories.log, also when one fails.
histories: .venv/.dev
	$(BIN)/python -m seamark.testing.histories --db sqlite --count 10000 --record histories.log
	$(BIN)/python -m seamark.testing.histories --db postgres --count 10000 --record histories.log

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.transformer
	$(BIN)/pyright

check: lint types test

clean:
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
