# GNU make. `make run` and `make test` need nothing but Python 3.9 or newer; every other command is in `make help`.
# Everything is installed below this folder: .venv to run, .venv-test and .azurite to test; `make clean` takes them away.

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

RUN_VENV  := .venv
TEST_VENV ?= .venv-test
LOCK_VENV := .venv-lock

# ---- Python and virtual environments

# The first Python on the PATH that is new enough; PYTHON=... names another.
NEW_ENOUGH  := -c 'import sys; sys.exit(sys.version_info < (3, 9))'
NAMES       := python3 python3.13 python3.12 python3.11 python3.10 python3.9 python
PYTHON      ?= $(shell for name in $(NAMES); do $$name $(NEW_ENOUGH) 2>/dev/null && { echo $$name; break; }; done)
base_python := $(shell $(or $(PYTHON),false) $(NEW_ENOUGH) 2>/dev/null && echo $(PYTHON))
has          = $(shell $(base_python) -c 'import $(1)' 2>/dev/null && echo $(1))

comma     := ,
no_python  = kcistorage needs Python 3.9 or newer$(if $(PYTHON),$(comma) and $(PYTHON) is not): \
  install one (apt-get install python3 python3-venv), or name one: make $(MAKECMDGOALS) PYTHON=python3.12
no_venv    = $(base_python) cannot make virtual environments: apt-get install python3-venv \
  (elsewhere: the package with ensurepip, or virtualenv), or name another Python: make $(MAKECMDGOALS) PYTHON=python3.12

# Debian keeps ensurepip in python3-venv: without it virtualenv will do, and so will a pip that can reach into a folder.
maker = $(or $(if $(call has,ensurepip),venv), $(call has,virtualenv), \
  $(if $(shell $(base_python) -m pip --python $(base_python) --version 2>/dev/null),venv --without-pip), \
  $(error $(no_venv)))

# $(call environment,FOLDER): an empty virtual environment that has pip.
define environment
$(if $(base_python),,$(error $(no_python)))
@echo "Making $(1) with $$($(base_python) --version)"
@rm -rf $(1)
@$(base_python) -m $(maker) $(1) >$(1).log 2>&1 || { cat $(1).log >&2; rm $(1).log; exit 1; }
@rm $(1).log
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(base_python) -m pip --quiet --python $(1)/bin/python install pip
endef
pip_install := -m pip install --quiet --disable-pip-version-check

$(RUN_VENV)/installed: requirements.lock
	$(call environment,$(RUN_VENV))
	@echo "Installing $$(sed -n 's/^\([a-z-]*\)==.*/\1/p' $< | sort -u | xargs)"
	@$(RUN_VENV)/bin/python $(pip_install) -r $<
	@touch $@

# What a driver needs beside that: make run EXTRAS=azure, EXTRAS=s3, EXTRAS='azure s3'.
$(RUN_VENV)/installed-%: requirements-%.lock $(RUN_VENV)/installed
	@echo "Installing what driver = \"$*\" needs"
	@$(RUN_VENV)/bin/python $(pip_install) -r $<
	@touch $@

$(TEST_VENV)/installed: requirements-test.lock
	$(call environment,$(TEST_VENV))
	@echo "Installing what the tests need, about a minute"
	@$(TEST_VENV)/bin/python $(pip_install) -r $<
	@touch $@

# Azurite, the emulator of Azure Blob Storage, comes from npm. Where it cannot be had, its tests skip, and say so; with
# CI=true that is a failure.
AZURITE := .azurite/installed
NPM     := npm --loglevel=error --ignore-scripts --no-audit --no-fund --no-update-notifier

$(AZURITE): kcistorage_test/npm/package.json kcistorage_test/npm/package-lock.json
	@rm -rf .azurite && mkdir .azurite && cp $^ .azurite/
	@if ! command -v npm >/dev/null; then echo "There is no npm: Azurite is left out"; \
	else echo "Installing Azurite, about half a minute"; \
	  if $(NPM) --prefix .azurite ci >/dev/null; then touch $@; else echo "npm failed: Azurite is left out"; fi; fi

# ---- Commands

.PHONY: help run run-stor test check coverage lint types pythons conformance selftest bench pyz lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

# exec: the server gets the signals itself, and Ctrl-C ends it as it should end.
run: $(RUN_VENV)/installed $(EXTRAS:%=$(RUN_VENV)/installed-%)
run: ## the server on port 3000 (KCI_STORAGE_PORT), with a config.toml of its own at first; EXTRAS=azure or s3
	@$(RUN_VENV)/bin/python kcistorage.py --init $(ARGS)
	@exec $(RUN_VENV)/bin/python kcistorage.py $(ARGS)

# Its configuration, stor.json, and four folders below ./samples are made at first. Stor has extras of its own.
run-stor: $(RUN_VENV)/installed $(EXTRAS:%=$(RUN_VENV)/installed-%)
run-stor: ## the Stor server on port 3000 (KCI_STORAGE_PORT), on two pairs of folders; EXTRAS=s3 or memcached
	@CONFIG_FILE=$${CONFIG_FILE:-stor.json} $(RUN_VENV)/bin/python stor.py --init $(ARGS)
	@CONFIG_FILE=$${CONFIG_FILE:-stor.json} exec $(RUN_VENV)/bin/python stor.py $(ARGS)

# Servers of different tests have ports and folders of their own; how many at a time is decided in conftest.py.
PYTEST := -m pytest --numprocesses auto

test: $(TEST_VENV)/installed $(AZURITE) ## every test; ARGS='-k ranges' for some
	@$(TEST_VENV)/bin/python $(PYTEST) $(ARGS)

check: lint types coverage ## what has to pass before a commit: lint, types, coverage

coverage: $(TEST_VENV)/installed $(AZURITE) ## every test, and how much of the server they reach: 95 % of the branches at least
	@$(TEST_VENV)/bin/python -m coverage erase
	@$(TEST_VENV)/bin/python -m coverage run $(PYTEST) $(ARGS)
	@$(TEST_VENV)/bin/python -m coverage combine --quiet
	@$(TEST_VENV)/bin/python -m coverage report

lint: $(TEST_VENV)/installed ## ruff: rules and format
	@$(TEST_VENV)/bin/python -m ruff check --quiet .
	@$(TEST_VENV)/bin/python -m ruff format --check --quiet .

types: $(TEST_VENV)/installed ## mypy --strict
	@$(TEST_VENV)/bin/python -m mypy

PYTHONS ?= python3.9 python3.10 python3.11 python3.12 python3.13

pythons: ## the tests under each Python 3.9 to 3.13 that is on the PATH
	@for name in $(PYTHONS); do \
	  if $$name $(NEW_ENOUGH) 2>/dev/null; then \
	    $(MAKE) --no-print-directory test PYTHON=$$name TEST_VENV=$(TEST_VENV)-$${name##*/} || exit; \
	  else echo "$$name: skipped, there is none"; fi; done

conformance: $(TEST_VENV)/installed ## judges a server: make conformance URL=http://localhost:3000
	@$(TEST_VENV)/bin/python -m conformance $(or $(URL),$(error whom? make conformance URL=http://localhost:3000)) $(ARGS)

selftest: $(TEST_VENV)/installed ## judges the conformance suite by faults planted in servers
	@$(TEST_VENV)/bin/python -m conformance selftest $(ARGS)

bench: $(TEST_VENV)/installed ## speed and memory beside nginx and FastAPI; ARGS='--quick --only small,memory'
	@$(TEST_VENV)/bin/python bench/bench.py $(ARGS)

# The lock's lines for Python 3.9, without markers: those versions run on every later one too. psutil is compiled, and
# so no part of a file that has to run anywhere.
pyz: $(RUN_VENV)/installed ## build/kcistorage.pyz: the server in one file, for a host without pip
	@rm -rf build/pyz && mkdir -p build/pyz
	@sed '/^#/d; /^ /d; /^psutil/d; / >= /d; s/ *;.*//' requirements.lock >build/pyz.txt
	@$(RUN_VENV)/bin/python $(pip_install) --no-deps --no-compile --target build/pyz \
	  --platform any --python-version 3.9 --only-binary :all: -r build/pyz.txt
	@cp -R kcistorage.py kcistorage_parts build/pyz/ && rm -rf build/pyz/bin build/pyz/kcistorage_parts/__pycache__
	@echo 'import sys, kcistorage; sys.exit(kcistorage.main())' >build/pyz/__main__.py
	@$(RUN_VENV)/bin/python -m zipapp build/pyz --python '/usr/bin/env python3' --compress --output build/kcistorage.pyz
	@$(RUN_VENV)/bin/python -I -S build/kcistorage.pyz --version

lock: ## the newest versions into requirements*.lock, and of what Azurite needs
	$(call environment,$(LOCK_VENV))
	@$(LOCK_VENV)/bin/python $(pip_install) uv
	@$(lock) --output-file requirements.lock
	@$(lock) --output-file requirements-azure.lock --extra azure
	@$(lock) --output-file requirements-s3.lock --extra s3
	@$(lock) --output-file requirements-memcached.lock --extra memcached
	@$(lock) --output-file requirements-test.lock --extra azure --extra s3 --extra test
	@rm -rf $(LOCK_VENV) kcistorage_test/npm/package-lock.json
	@$(NPM) --prefix kcistorage_test/npm install --package-lock-only --omit-lockfile-registry-resolved
lock = $(LOCK_VENV)/bin/python -m uv pip compile --quiet --upgrade --universal --python-version 3.9 \
  --no-python-downloads --custom-compile-command 'make lock' pyproject.toml

clean: ## takes away what make made; config.toml and what was stored stay
	@rm -rf .venv .venv-* .azurite build *.egg-info .coverage .coverage.*
	@find . \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis \) -prune -exec rm -rf {} +
