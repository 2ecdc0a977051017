# Every command a developer, a user or CI needs. `make help` lists them.
# Needs make and Python >= 3.11; each target makes its own virtual environment in .venv on demand.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
WORKERS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an interrupted installation is never taken for a complete one.
STAMP := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help setup fix lint check test test-slow quickstart examples docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON=$(PYTHON) WORKERS=$(WORKERS) CONSTRAINTS=$(CONSTRAINTS) PYTEST_ARGS= BENCH_ARGS="

$(STAMP): setup.cfg pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "quee_hf needs Python >= 3.11, but PYTHON=$(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	  echo "Name another one, for example: make PYTHON=python3.12 ..."; exit 1; }
	@# No stamp means no environment or a half-made one: start afresh. A stamp older than the files: update.
	@if [ -e $@ ]; then rm $@; else $(PYTHON) -m venv --clear $(VENV); fi
	@echo "Installing quee_hf and its development tools into $(VENV) (the first time takes minutes) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev]"
	@touch $@

setup: $(STAMP) ## environment in .venv, package installed editable, pre-commit hook
	@if [ -e .git ]; then $(BIN)/pre-commit install || echo "The pre-commit hook was not installed."; fi

fix: $(STAMP) ## repair what ruff can repair, and format
	@$(BIN)/ruff check --fix .; status=$$?; $(BIN)/ruff format . && exit $$status

lint: $(STAMP) ## format, ruff, types and import layers; changes nothing
	$(BIN)/ruff format --check --output-format concise .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports --no-logo

check: lint test ## lint, then test: what must pass before a commit

# One thread per worker: two workers do not fight for cores, and sums come out in one order.
test: $(STAMP) ## fast tests and doctests (not slow, not gpu)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

test-slow: $(STAMP) ## tests marked slow or gpu
	$(BIN)/python -m pytest -m "slow or gpu" $(PYTEST_ARGS)

quickstart: $(STAMP) ## examples/quickstart.py: from a classifier to a QuEE model, small
	@$(BIN)/python examples/quickstart.py

examples: $(STAMP) ## every script in examples/, tiny
	@set -e; for script in $(sort $(wildcard examples/[a-z0-9]*.py)); do echo "== $$script"; $(BIN)/python $$script; done

docs: $(STAMP) ## the pages in docs/ and the API reference, in build/docs; warnings are errors
	$(BIN)/typer quee_hf.cli.app utils docs --name quee --title "Command line" --output docs/command-line.md
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "Open build/docs/index.html"

# by_time.py needs a model, demo.py a browser, gpu.py a CUDA device.
bench: $(STAMP) ## every script in benchmarks/ that runs anywhere
	@set -e; for script in $(filter-out %/by_time.py %/demo.py %/gpu.py,$(sort $(wildcard benchmarks/[a-z0-9]*.py))); do \
	  echo "== $$script"; $(BIN)/python $$script $(BENCH_ARGS); done

clean: ## remove caches, builds and the quickstart's output; keep .venv and runs/
	@rm -rf build dist src/*.egg-info quickstart-output examples-output
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -path ./.git -prune -o -type d -name __pycache__ -print | xargs rm -rf
