# Two steps from a clone to a trained planner: `make` is the first and the last of them.
#   make train   environment, then a quarter of an hour of training and a table
#   make test    environment, then the tests
#   make lint    ruff and mypy
#   make bench   all benchmarks, quickly
#   make results the table of the README: hours; goes on where it was stopped
# All paths are relative, because make cannot name a target with a space in it.

.DEFAULT_GOAL := help
.PHONY: help train test lint format bench results clean
SHELL := /bin/bash

# A Python that fits: the first of these that runs, unless named (make PYTHON=/path/to/python3).
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c '$(FITS)' >/dev/null 2>&1; then echo $$p; break; fi; done)
endif

RUN := .venv/bin/python
STAMP := .venv/installed
# Further flags, as in: make train ARGS='--seed 1'
ARGS ?=

help:
	@sed -n 's/^#   make/make/p' Makefile

$(STAMP): setup.py constraints.txt
	@if ! "$(or $(PYTHON),python3)" -c '$(FITS)' 2>/dev/null; then \
		found=$$("$(or $(PYTHON),python3)" --version 2>/dev/null || echo none); \
		echo "remdm needs Python 3.11, 3.12 or 3.13; found $$found." >&2; \
		echo "Name a fitting one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; fi
	@if ! "$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "$(PYTHON) lacks the venv module; on Debian and Ubuntu: apt install python3-venv" >&2; \
		exit 1; fi
	"$(PYTHON)" -m venv .venv
	$(RUN) -m pip install --disable-pip-version-check -e '.[minihack,craftax,ray,baselines,minari,dev]' -c constraints.txt
	@touch $(STAMP)

# The environment keeps large allocations; see remdm/allocator.py, which sets this at run time.
train: $(STAMP)
	$(RUN) -m remdm train --configs gin_configs/minihack_quick.gin --run_name minihack_quick $(ARGS)

# Marked `gpu`: needs an accelerator, which not every machine has. A process per core; neighbours in
# a file stay in one process, which keeps what it has compiled, until another one has nothing to do.
test: $(STAMP)
	$(RUN) -m pytest -q -m 'not gpu' -n logical --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

BENCHMARKS := $(filter-out __init__ harness,$(notdir $(basename $(wildcard benchmarks/*.py))))
bench: $(STAMP)
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(RUN) -m benchmarks.$$name --quick; done

# Flags as in: make results ARGS='--seeds 0 --only planner'
results: $(STAMP)
	$(RUN) -m benchmarks.minihack_results --out runs/results $(ARGS)

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache
