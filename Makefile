# `make train`: a fresh clone to a trained, measured detector. `make test`: a fresh clone to a green test suite.
# Both make .venv first. Override PYTHON to choose the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# `make train ARGS="--seed 1 --output runs/other"` passes options on; `make train RANKS=1` chooses how many processes train.
# one rank a GPU; without one a rank a core, at most one for each embedded category
DEFAULT_RANKS := import os, torch; print(torch.cuda.device_count() or min(6, len(os.sched_getaffinity(0))))
# tests side by side: whole modules, so that a module's cluster, browser or training is made once
JOBS ?= 2
SOURCES := pyproject.toml setup.py constraints.txt

.PHONY: train test lint install clean

install: $(VENV)/.run

$(VENV)/.run: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) --editable '.[all,test]'
	touch $@

train: $(VENV)/.run
	$(BIN)/deepspeed --num_accelerators $${RANKS:-$$($(BIN)/python -c '$(DEFAULT_RANKS)')} bikd_fast/train.py $(ARGS)

test: $(VENV)/.test lint
	-bash .ci/system-packages
	$(BIN)/python -m pytest -q -m 'not e2e' --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder
	$(BIN)/python -m pytest -q -m e2e --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
