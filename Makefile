# From a fresh clone: `make demo` trains a classifier, `make test` runs the tests.
# Everything is installed into .venv; PYTHON picks the interpreter (3.11 to 3.13).
PYTHON ?= python3
ENGINE ?= torch
VENV   := .venv
BIN    := $(VENV)/bin
# A worker holds two frameworks, 2 to 4 GB. The tests of a file share its fixtures.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all test-slow fuzz check format bench evidence clean

# One stamp per set of extras: reinstalled when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml
	@test -x $(BIN)/python || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing seresnext[$*] into $(VENV) (the first time takes a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

demo: $(VENV)/.installed-demo $(if $(filter mindspore,$(ENGINE)),$(VENV)/.installed-mindspore)
	@$(BIN)/python scripts/demo.py --engine $(ENGINE)

test: $(VENV)/.installed-dev
	@$(PYTEST)

# Coverage is that of the tests' own processes; commands that they start are not measured.
test-all: $(VENV)/.installed-dev
	@$(PYTEST) -m "slow or not slow" --cov --cov-report=term

test-slow: $(VENV)/.installed-dev
	@$(BIN)/python -m pytest -m slow

# Damaged files by the hundred thousand: some hours.
fuzz: $(VENV)/.installed-dev
	@FUZZ_TIMES=50 $(BIN)/python -m pytest -m slow tests/fuzz

check: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_imports.py

format: $(VENV)/.installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	@for script in benchmarks/[!eg_]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# What helps on small sets of real images, over seeds: some hours. Needs npm for two of the sets.
evidence: $(VENV)/.installed-dev
	@$(BIN)/python benchmarks/evidence.py

clean:
	rm -rf $(VENV) data/digits runs/demo build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
