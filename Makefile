# One command each; `make setup` needs nothing but Python 3.11 or 3.12 and a package index.
# the first of these that really runs (a version manager's shim may not)
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
TRAIN := .venv-train
# torch without CUDA is a tenth of the size: make setup-train TRAIN_PIP='--extra-index-url https://download.pytorch.org/whl/cpu'
TRAIN_PIP ?=
DEMO_BARS := synthetic:symbols=8,days=38,seed=1,signal=40

.PHONY: setup setup-train demo live-demo train-demo test test-train check lint bench mutate clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and \
	    f"make: Python {v[0]}.{v[1]} found, want 3.11 or 3.12; say which with PYTHON=/path/to/python")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m dataflows.warm
	touch $@

setup-train: $(TRAIN)/ready

$(TRAIN)/ready: pyproject.toml constraints.txt
	test -x $(TRAIN)/bin/python || $(PYTHON) -m venv $(TRAIN)
	$(TRAIN)/bin/pip install --quiet --disable-pip-version-check $(TRAIN_PIP) -c constraints.txt -e '.[dev,train,lightgbm]'
	touch $@

# With the model of `make train-demo` where there is one, on a week that it has not seen.
demo: setup
	@if test -f demo/model/manifest.json; then \
	    $(BIN)/utp backtest synthetic:symbols=20,days=5,seed=7,signal=40 --set forecast.model=demo/model --out runs/demo; \
	else \
	    $(BIN)/utp backtest synthetic:symbols=20,days=5,seed=7 --out runs/demo && \
	    echo "no forecasts: there is no demo/model; make train-demo trains one, in minutes"; \
	fi

live-demo: setup
	$(BIN)/utp live-demo

test: setup
	$(BIN)/pytest -n auto
	NUMBA_BOUNDSCHECK=1 $(BIN)/pytest -n auto tests/risk tests/operators

test-train: setup-train
	OMP_NUM_THREADS=1 $(TRAIN)/bin/pytest -m train tests/models

# The model that the demonstration uses, made anew from a made-up market.
train-demo: setup-train
	rm -rf models_store/demo
	$(TRAIN)/bin/utp train $(DEMO_BARS) --settings demo/training.toml --out models_store/demo --promote
	rm -rf demo/model
	cp -r models_store/demo/bundles/tft_* demo/model

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
	rm -rf $(VENV) $(TRAIN) build runs *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
