# A fresh clone needs python3 (3.11 or newer) and make; every target sets up what it needs, once, and again when
# pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup dream test test-all lint types format bench clean

help:           ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | expand -t 12

setup: $(READY) ## install everything into .venv

# --prefer-binary: a wheel of last month is better than an hour of compiling today's source.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("diamond-gym needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --prefer-binary -c constraints.txt -e ".[dev]"
	@touch $@

dream: $(READY) ## dream 500 steps of Breakout, four at a time, into breakout.gif
	$(BIN)/diamond-gym dream --game Breakout --steps 500 --num-envs 4 --seed 0 --out breakout.gif

# One process per core with one thread each: twice as fast on two cores as one process with two threads.
test: $(READY)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(READY) ## the slow ones too
	$(BIN)/python -m pytest -m "not gpu and not network"

lint: $(READY)  ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## ruff: put right what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## the benchmarks
	$(BIN)/python -m pytest benchmarks --benchmark-enable

.PHONY: docs notebooks
docs: $(READY)  ## the documentation's site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(READY) ## run the notebooks of examples/
	$(BIN)/python -m pytest -m slow tests/test_examples.py

clean:          ## everything that can be made again, .venv included
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
