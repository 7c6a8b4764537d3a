# Each target does all its set-up from a bare clone: .venv is made and filled as far as the target needs.
# The full list holds every line of the core list, so one .venv serves all of them.
SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo entigraph research test chromium bubblewrap slurm lint bench clean

PYTHON ?= $(shell python3.11 -c 'import sys; print(sys.executable)' 2>/dev/null || echo python3)
# The pinned lists hold JAX for the CPU, and libtpu (to compile for TPUs), which complains without a TPU.
export JAX_PLATFORMS ?= cpu
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-deps

help:
	@echo 'make demo       a small model teaches itself on this machine; ends in a report'
	@echo 'make entigraph  a small model is taught a library that it has never seen; ends in a report'
	@echo 'make research   a search for a better pretraining script, confirmed by a referee; ends in a report'
	@echo 'make test       run the tests'
	@echo 'make lint       check style and types'
	@echo 'make bench      run the measurements in bench/'
	@echo 'make clean      remove .venv, caches, runs/demo, runs/entigraph and runs/research'

demo: $(VENV)/core.installed
	$(PY) -m sbp_jax.bootstrap --config=configs/laptop.py --workdir=runs/demo
	@echo 'The report: runs/demo/report/index.html'

entigraph: $(VENV)/core.installed
	$(PY) -m entigraph.study --config=configs/entigraph_laptop.py --workdir=runs/entigraph
	@echo 'The report: runs/entigraph/report/index.html'

# Ten minutes in all: as many ideas as fit beside the runs that confirm the best of them.
research: $(VENV)/core.installed bubblewrap
	$(PY) -m research_env.envs.nanogpt.prepare
	$(PY) -m research_env.search --env=nanogpt --size=laptop --workdir=runs/research \
	  --strategy=greedy:fresh=6 --ideas=100 --top=2 --max_hours=0.15
	@echo 'The report: runs/research/report/index.html'

# Real servers, clusters and kills meet a limit of time now and then where other work is on the
# machine: what fails is run again by itself, and has to pass then.
test: $(VENV)/full.installed chromium bubblewrap slurm
	$(PY) -m pytest tests -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder || \
	  $(PY) -m pytest tests --last-failed --last-failed-no-failures=none

lint: $(VENV)/full.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(VENV)/full.installed
	@set -e; for script in bench/*.py; do echo "== $$script"; $(PY) "$$script"; done

# Debian's packages, by root or whoever may be: $(call install,packages).
install = as=$$([ "$$(id -u)" = 0 ] || echo 'sudo -n'); export DEBIAN_FRONTEND=noninteractive; \
  $$as apt-get -qq update && $$as apt-get -qq --yes install --no-install-recommends $(1) || { \
  echo 'Missing: apt-get install $(1), or your system'"'"'s way' >&2; exit 1; }

# In which tests open reports.
chromium:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  $(call install,chromium); }

# In which candidates' code runs.
bubblewrap:
	@command -v bwrap || { $(call install,bubblewrap); }

# A cluster that tests start on this machine, for as long as they need it.
slurm:
	@PATH="$$PATH:/usr/sbin"; { command -v slurmctld && command -v slurmd && command -v munged; } || { \
	  $(call install,slurm-wlm munge); }

clean:
	rm -rf $(VENV) runs/demo runs/entigraph runs/research .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
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
