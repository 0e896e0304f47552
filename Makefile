# Two commands do all the set-up by themselves: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test lint types check crash-full bench clean

.venv/.core: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --upgrade "pip>=26"
	$(PIP) install -e .
	@touch $@

.venv/.dev: .venv/.core
	$(PIP) install --group dev
	@touch $@

.venv/.transformer: .venv/.dev
	$(PIP) install --group transformer
	@touch $@

demo: .venv/.core
	$(BIN)/seamark demo

test: .venv/.transformer
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.dev
	$(BIN)/pyright

check: lint types test

clean:
	rm -rf .venv dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
