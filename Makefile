# Each target does all its set-up from a bare clone: .venv is made and filled as far as the target needs.
# The full list holds every line of the core list, so one .venv serves all of them.
SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3)
# The pinned lists hold JAX for the CPU, and libtpu (to compile for TPUs), which complains without a TPU.
export JAX_PLATFORMS ?= cpu
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-deps

help:
	@echo 'make demo    train a small model on the embedded corpus on this machine'
	@echo 'make test    run the tests'
	@echo 'make lint    check style and types'
	@echo 'make bench   run the measurements in bench/'
	@echo 'make clean   remove .venv, caches and runs/demo'

demo: $(VENV)/core.installed
	$(PY) -m sbp_jax.train --config=configs/laptop.py --workdir=runs/demo

test: $(VENV)/full.installed
	$(PY) -m pytest tests

lint: $(VENV)/full.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/full.installed
	@set -e; for script in bench/*.py; do echo "== $$script"; $(PY) "$$script"; done

clean:
	rm -rf $(VENV) runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/core.installed $(VENV)/full.installed: $(VENV)/%.installed: requirements/%.txt \
  pyproject.toml | $(VENV)/created
	@echo "Installing the $$(wc -l < $<) packages of $< into $(VENV)"
	@$(PIP) -r $<
	@$(PIP) --no-build-isolation --editable .
	@touch $@ $(VENV)/core.installed
