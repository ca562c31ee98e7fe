# Everything here works in a fresh clone: each target installs what it needs into .venv first.

PYTHON ?= python3
# With PyPI alone, torch brings CUDA's libraries (some GB). For the small build without them:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := torch==2.13.0
WORKERS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_FLAGS := --quiet --disable-pip-version-check
TORCH_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format examples peers constraints clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: PYTHON (now $(PYTHON)), WORKERS of the tests (now $(WORKERS)), ARGS for pytest, TORCH_INDEX for a build of torch."

setup: $(STAMP)  ## create .venv with the pinned packages, and manent itself (editable)

demo: $(STAMP)  ## a server and four hospitals on this machine train together; a report
	$(BIN)/manent demo hospitals

test: $(STAMP)  ## run the tests; ARGS="-k sums" chooses some
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(STAMP)  ## formatting, ruff, mypy (strict) and the rule of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(STAMP)  ## put the source into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

examples: $(STAMP)  ## run every script in examples/ as it stands
	@set -e; found=; for script in examples/*.py; do \
	    [ -e "$$script" ] || continue; found=yes; \
	    echo "== $$script"; $(BIN)/python "$$script"; \
	done; [ -n "$$found" ] || { echo "examples/ holds no script."; exit 1; }

peers: .venv-peers/.installed .venv-peers-pfl/.installed  ## other libraries to compare with, each in its own environment

constraints: $(STAMP)  ## pin the versions that .venv holds now in constraints.txt
	@{ echo "# Pinned versions of everything that make setup installs (Python 3.11, Linux). Regenerate: make constraints"; \
	   $(BIN)/python -m pip freeze $(PIP_FLAGS) --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > constraints.new
	@if grep ' @ ' constraints.new; then rm constraints.new; echo "These came from a file or an address, not an index."; exit 1; fi
	@mv constraints.new constraints.txt
	@touch $(STAMP)

clean:  ## remove the environments and what tools have cached
	rm -rf .venv .venv-peers .venv-peers-pfl .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# torch comes first and alone, so that its build is the one chosen here and not what another package asks for.
# An environment that works is brought up to date; one that does not (its Python is gone) is made anew.
$(STAMP): pyproject.toml constraints.txt
	@$(call new_environment,$(VENV))
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt $(TORCH_FLAGS) $(TORCH)
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[dev]"
	@touch $@

.venv-peers/.installed: Makefile
	@$(call new_environment,.venv-peers)
	.venv-peers/bin/python -m pip install $(PIP_FLAGS) $(TORCH_FLAGS) $(TORCH)
	.venv-peers/bin/python -m pip install $(PIP_FLAGS) "flwr[simulation]==1.41.0"
	@touch $@

# pfl pins dp-accounting 0.5.1.
.venv-peers-pfl/.installed: Makefile
	@$(call new_environment,.venv-peers-pfl)
	.venv-peers-pfl/bin/python -m pip install $(PIP_FLAGS) $(TORCH_FLAGS) $(TORCH)
	.venv-peers-pfl/bin/python -m pip install $(PIP_FLAGS) "pfl==0.6.0"
	@touch $@

define new_environment
set -e; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "manent needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1). Name another: make setup PYTHON=python3.12"; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
    echo "This Python cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }; \
$(1)/bin/python -m pip --version >/dev/null 2>&1 || { \
    echo "Making $(1); its packages take some minutes."; $(PYTHON) -m venv --clear $(1); }
endef
