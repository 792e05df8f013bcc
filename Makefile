# `make train`: a fresh clone to a trained, measured detector. `make test`: a fresh clone to a green test suite.
# Both make .venv first. Override PYTHON to choose the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
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
	$(BIN)/python bikd_fast/train.py

test: $(VENV)/.test lint
	-bash .ci/system-packages
	$(BIN)/python -m pytest -q

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
