# Everything is set up by the target that needs it; each works alone on a fresh clone.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Engine environments are large and the same for every clone: they are cached outside it.
export NBGPU_ENGINES ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nbgpu/engines
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MYPYPATH := backend:magics

.PHONY: demo test lint format bench setup-demo setup-dev debian-packages engine clean help

help:
	@echo "make demo   set everything up, deploy a real model, run notebooks/quickstart.ipynb"
	@echo "make test   set everything up, lint, run all tests"
	@echo "make lint   ruff, mypy --strict, import-linter"
	@echo "make bench  the measured times of the README"

demo: setup-demo
	$(PY) -m demo

test: debian-packages setup-dev engine lint
	$(PY) -m pytest

lint: setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: setup-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup-dev engine
	$(PY) -m tests.bench

engine:
	$(PY) -m nbgpu_backend.engines.vllm.installer

setup-demo: $(VENV)/.installed-lab
setup-dev: $(VENV)/.installed-dev

# One stamp per extra; a change of pyproject.toml installs again.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing nbgpu[$*] into $(VENV) …"
	@$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[$*]' 2>&1 | { grep -v '^WARNING: Location' || true; }
	@$(PY) -c 'import nbgpu, nbgpu_backend.runtime'
	@touch $@

# Only where it can be done without asking: as root on a Debian.
debian-packages:
	@sh tests/debian-packages.sh

clean:
	rm -rf $(VENV) out .nbgpu
