# A fresh clone needs python3 (3.11 or newer) and make; every target sets up what it needs, once, and again when
# pyproject.toml or constraints.txt change.
PYTHON ?= python3
LOWEST_TORCH ?= 2.6.0
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Containers often set it. Without bytecode each process that a test starts would compile torch's modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup dream test test-all test-lowest test-newest lint types format bench clean

help:           ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | expand -t 12

setup: $(READY) ## install everything into .venv

# --prefer-binary: a wheel of last month is better than an hour of compiling today's source.
# --no-compile: Python compiles a module when it is first imported; to compile all of them takes a minute.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("diamond-gym needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --prefer-binary -c constraints.txt -e ".[dev]"
	@touch $@

dream: $(READY) ## dream 500 steps of Breakout, four at a time, into breakout.gif
	$(BIN)/diamond-gym dream --game Breakout --steps 500 --num-envs 4 --seed 0 --out breakout.gif

# One process per core with one thread each: twice as fast on two cores as one process with two threads.
# Each takes half of the tests in order, and who is through first takes over some of the other's: files stay together.
test: $(READY)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-all: $(READY) ## the slow ones too
	$(BIN)/python -m pytest -m "not gpu and not network"

# Tests of everything that a library is used for, in a minute or two. Another Python: make test-newest PYTHON=python3.13
SHORT := tests/test_cli.py tests/test_registry_commands.py tests/test_gymnasium.py tests/test_saving.py \
	tests/test_score_files.py tests/test_hub.py tests/test_sb3.py \
	tests/test_atari.py::test_a_batch_is_a_batch_of_singles tests/test_train_agent.py::test_trains_and_saves \
	tests/test_train.py::test_from_nothing_to_an_agent_and_its_dream
INTO = test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D); $(@D)/bin/python -m pip install --quiet --no-compile --prefer-binary

test-lowest: .venv-lowest/.ready ## a short suite at the lowest versions that pyproject.toml allows
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n auto $(SHORT)

test-newest: .venv-newest/.ready ## the same at the newest versions there are
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n auto $(SHORT)

.venv-lowest/.ready: pyproject.toml constraints-lowest.txt
	$(INTO) -c constraints-lowest.txt torch==$(LOWEST_TORCH) -e ".[test]"
	@touch $@

.venv-newest/.ready: pyproject.toml
	$(INTO) --upgrade -e ".[test]"
	@touch $@

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
	rm -rf $(VENV) .venv-lowest .venv-newest build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
