# One command each; `make setup` needs nothing but Python 3.11 or 3.12 and a package index.
# the first of these that really runs (a version manager's shim may not)
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check lint bench mutate clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and \
	    f"make: Python {v[0]}.{v[1]} found, want 3.11 or 3.12; say which with PYTHON=/path/to/python")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m dataflows.warm
	touch $@

demo: setup
	$(BIN)/utp backtest synthetic:symbols=20,days=5,seed=7 --out runs/demo

test: setup
	$(BIN)/pytest -n auto
	NUMBA_BOUNDSCHECK=1 $(BIN)/pytest -n auto tests/risk tests/operators

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

bench: setup
	$(BIN)/utp bench

mutate: setup
	$(BIN)/python -m tests.mutation

clean:
	rm -rf $(VENV) build runs *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
