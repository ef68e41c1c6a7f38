# Everything here is also a plain command: `make -n <target>` shows it. The README has the two that matter.

PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
UV     := $(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock'

# Two processes, each with servers of its own; on one Redis for all they would hear each other.
SIDE_BY_SIDE := $(if $(REDIS_URL),,-n 2 --dist loadfile --no-loadscope-reorder)

.DEFAULT_GOAL := help
.PHONY: help run test soak outages scale bench bench-peers lint types fmt lock venv screenshots clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/installed-run  ## install what is needed and start everything (PORT, GATEWAY_DATA_DIR)
	@exec $(PY) manage.py up --with-parent $(ARGS)

test: venv  ## the whole test suite in two processes, on servers of their own (or DATABASE_URL, REDIS_URL)
	$(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

soak: venv  ## ten minutes of load in which everything fails a little (ARGS="--minutes 60 --rate 200")
	$(PY) -m tests.soak $(ARGS)

outages: venv  ## every outage of Redis and PostgreSQL for a minute each, and rolling restarts at length
	HG_FAULT_S=60 HG_ROLL_REQUESTS=30000 $(PY) -m pytest -s tests/e2e/test_faults.py tests/hazards/test_rolling.py $(ARGS)

scale: venv  ## open every page with a million requests in the last day
	$(PY) -m pytest tests/scale $(ARGS)

bench: bench-peers  ## measure us and others, into benchmarks/results (ARGS="--cases plain --peers traefik")
	$(PY) -m benchmarks --save $(ARGS)

PEERS := $(addprefix $(VENV)/,bench bench-fastapi bench-litellm)
bench-peers: $(PEERS)  ## what to compare with, apart from our own packages

lint: venv  ## style and layers
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/lint-imports

types: venv  ## mypy
	$(PY) -m mypy

fmt: venv  ## put the style right
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

lock: venv  ## renew both lock files from pyproject.toml
	$(UV) pyproject.toml -o requirements.lock
	$(UV) --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock

venv: $(VENV)/installed-dev  ## the virtual environment with the development tools

screenshots: venv  ## pictures of every page into var/screenshots, to look at them (needs chromium)
	$(PY) -m tests.browser.screenshots $(ARGS)

clean:  ## remove what was built, not your data (var/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "HydraGate needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "Python has no venv here. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# What cannot be had is no error: the report names it as absent.
$(PEERS): | venv
	-$(VENV)/bin/uv pip install -q --python $(PY) --target $@ --group $(notdir $@)

# A stamp says which lock is installed; the development lock holds everything of the other one, in the same versions.
$(VENV)/installed-run: requirements.lock | $(PY)
	@echo "Installing requirements.lock into $(VENV) …"
	@$(PIP) -r requirements.lock
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock | $(PY)
	@echo "Installing requirements-dev.lock into $(VENV) …"
	@$(PIP) --no-deps -r requirements-dev.lock
	@touch $@ $(VENV)/installed-run
