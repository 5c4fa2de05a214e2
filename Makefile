# Everything is set up by the target that needs it; each works alone on a fresh clone.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Engine environments are large and the same for every clone: they are cached outside it.
export NBGPU_ENGINES ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/nbgpu/engines
EXT := extension
BUILT := $(EXT)/nbgpu_lab/labextension/package.json
FRONT_END_TESTED := $(EXT)/node_modules/.tested
FRONT_END_SOURCES := $(shell find $(EXT)/src $(EXT)/style $(EXT)/schema -type f 2>/dev/null) $(EXT)/package.json $(EXT)/package-lock.json
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MYPYPATH := backend:magics:extension
# Modules that are compiled anew take half as long again to load, in each of a thousand processes.
unexport PYTHONDONTWRITEBYTECODE
# Files of tests run beside each other: they wait more than they compute.
TESTERS ?= 2

.PHONY: demo test test-browser test-front-end lab front-end lint format bench setup-demo setup-dev debian-packages engine clean help

help:
	@echo "make demo   set everything up, deploy a real model, run notebooks/quickstart.ipynb"
	@echo "make test   set everything up, lint, run all tests"
	@echo "make lab    JupyterLab with the example notebooks and the panel"
	@echo "make lint   ruff, mypy --strict, import-linter; eslint and tsc where the front end was built"
	@echo "make bench  the measured times of the README"

demo: setup-demo
	$(PY) -m demo

test: debian-packages setup-dev engine lint front-end test-front-end
	$(PY) -m pytest --numprocesses $(TESTERS) --dist loadfile || { \
	    echo "what failed beside other work is run once more by itself:"; \
	    $(PY) -m pytest --last-failed --last-failed-no-failures none; }

# The panel's tests in a real browser alone; they are part of `make test`.
test-browser: debian-packages setup-dev engine front-end
	$(PY) -m pytest tests/browser

test-front-end: $(FRONT_END_TESTED)

lab: setup-dev front-end
	@mkdir -p $(VENV)/labextensions && ln -sfn $(CURDIR)/$(EXT)/nbgpu_lab/labextension $(VENV)/labextensions/nbgpu
	NBGPU_HOME=$${NBGPU_HOME:-$(CURDIR)/.nbgpu} $(VENV)/bin/jupyter lab --notebook-dir=notebooks \
	    $(if $(filter 0,$(shell id -u)),--allow-root) \
	    --ServerApp.jpserver_extensions="{'nbgpu_lab': True}" \
	    --LabApp.extra_labextensions_path=$(CURDIR)/$(VENV)/labextensions

# Where there is no npm there is no front end: the tests that need it are skipped and say so.
front-end: $(BUILT)

lint: setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	@if [ -d $(EXT)/node_modules ] && command -v npm >/dev/null; then cd $(EXT) && npm run --silent lint; fi

format: setup-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup-dev engine front-end
	$(PY) -m tests.bench

engine:
	$(PY) -m nbgpu_backend.engines.vllm.installer

setup-demo: $(VENV)/.installed-lab
setup-dev: $(VENV)/.installed-dev

$(EXT)/node_modules/.installed: $(EXT)/package-lock.json
	@command -v npm >/dev/null || { echo "no npm: the panel is not built"; exit 0; }; \
	cd $(EXT) && npm ci --no-audit --no-fund --loglevel=error && touch node_modules/.installed

$(BUILT): $(FRONT_END_SOURCES) | setup-dev
	@command -v npm >/dev/null || { echo "no npm: the panel is not built"; exit 0; }; \
	$(MAKE) --no-print-directory $(EXT)/node_modules/.installed && \
	cd $(EXT) && PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm run --silent build:prod

$(FRONT_END_TESTED): $(FRONT_END_SOURCES)
	@command -v npm >/dev/null || { echo "no npm: the panel's own tests are skipped"; exit 0; }; \
	$(MAKE) --no-print-directory $(EXT)/node_modules/.installed && \
	cd $(EXT) && npm run --silent lint && npm test --silent && touch node_modules/.tested

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
