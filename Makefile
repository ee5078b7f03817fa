# The commands of this repository. `make demo` and `make test` need nothing but Python >= 3.11
# and make: they set up a private .venv first.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
PLATFORM ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/$(PLATFORM).txt
READY := $(VENV)/.ready-$(PLATFORM)

# Two threads that fight for one core make every engine here several times slower.
export OMP_NUM_THREADS := 1
export PYTHON

.PHONY: help setup demo quick test soak check format lock pictures clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv: packages and command

$(READY): $(LOCK) requirements/overrides.txt pyproject.toml scripts/setup.sh
	scripts/setup.sh $(LOCK)
	@touch $@

demo: setup  ## train the nano agent and write runs/demo/report.html
	$(BIN)/gensearcher demo

quick: setup  ## the fast tests, under five minutes
	$(BIN)/python -m pytest -m "not integration and not slow and not soak"

test: setup  ## every test but the soak
	$(BIN)/python -m pytest -m "not soak"

soak: setup  ## what runs for a long time: kills under load, other examples of the property tests
	$(BIN)/python -m pytest -m soak
	HYPOTHESIS_PROFILE=other $(BIN)/python -m pytest -m "not integration and not slow and not soak"

check: setup  ## lint, format, types, import boundaries
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup  ## sort imports and format
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

lock: setup  ## compile requirements/*.in again
	for platform in cpu gpu; do \
		$(BIN)/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --no-emit-index-url \
			--no-emit-find-links --override requirements/overrides.txt \
			requirements/$$platform.in --output-file requirements/$$platform.txt || exit 1; \
	done

pictures: setup  ## take docs/images again: a live screen, a report, an evaluation
	$(BIN)/python -m docs.pictures

clean:  ## remove caches and runs, not .venv and not models
	rm -rf runs wandb build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
