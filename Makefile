# Everything here works in a fresh clone: each target installs what it needs into .venv first.

PYTHON ?= python3
# constraints*.txt hold a SHA-256 for every file that is installed. torch has two builds: the one for CPUs alone is taken where an index
# of pip's own settings has it, or the one named here, and else PyPI's, which on Linux brings CUDA's libraries (some GB, locked as well):
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH := torch==2.13.0
WORKERS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_FLAGS := --quiet --disable-pip-version-check
# Only what the lock names, only files whose hash it holds, only wheels: nothing is built, so no package runs code while it is installed.
LOCKED := install $(PIP_FLAGS) --require-hashes --no-deps --only-binary :all:
UV_FLAGS := --quiet --no-config --universal --python-version 3.11 --no-python-downloads --generate-hashes --no-header --no-annotate
TORCH_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format examples peers constraints audit clean

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

# Versions that fit stay as they are. Every file of a version is listed, for Linux and macOS, x86-64 and ARM, and each Python.
constraints: $(BIN)/uv  ## lock what pyproject.toml asks for; ARGS=--upgrade takes the newest versions
	@cat constraints.txt constraints-torch.txt > constraints.new
	@echo "$(TORCH)" | $(BIN)/uv pip compile $(UV_FLAGS) $(ARGS) --default-index https://pypi.org/simple --fork-strategy fewest \
	    --extra dev -o constraints.new - pyproject.toml
	@echo "$(TORCH)+cpu" | $(BIN)/uv pip compile $(UV_FLAGS) --default-index $(or $(TORCH_INDEX),https://download.pytorch.org/whl/cpu) \
	    --no-deps -o constraints-torch-cpu.new - || { rm -f constraints-torch-cpu.new; \
	    grep -q "^$(TORCH)+cpu " constraints-torch-cpu.txt || { rm constraints.new; echo "No hashes of $(TORCH)+cpu."; exit 1; }; \
	    echo "constraints-torch-cpu.txt stays as it is: its index could not be read."; }
	@echo "# Everything but torch, for make setup. Made by make constraints." > constraints.txt
	@echo "# torch as PyPI has it, with CUDA's libraries for Linux. Made by make constraints." > constraints-torch.txt
	@awk '/^[a-z0-9]/ {torch = /^(torch|triton|nvidia-|cuda-)/} {print >> (torch ? "constraints-torch.txt" : "constraints.txt")}' constraints.new
	@[ ! -e constraints-torch-cpu.new ] || { echo "# torch for CPUs alone, as PyTorch's own index has it. Made by make constraints."; \
	    cat constraints-torch-cpu.new; } > constraints-torch-cpu.txt
	@rm -f constraints.new constraints-torch-cpu.new

# --strict: a package that the service does not know is a failure, not a pass.
audit: $(STAMP)  ## look the locked versions up among known vulnerabilities, at PyPI; ARGS="-s osv" asks OSV
	$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r constraints.txt -r constraints-torch.txt $(ARGS)

clean:  ## remove the environments and what tools have cached
	rm -rf .venv .venv-peers .venv-peers-pfl .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# An environment that works is brought up to date; one that does not (its Python is gone) is made anew.
$(STAMP): pyproject.toml constraints.txt constraints-torch.txt constraints-torch-cpu.txt
	@$(call new_environment,$(VENV))
	@$(call locked_torch,$(VENV))
	$(BIN)/python -m pip $(LOCKED) -r constraints.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check $(PIP_FLAGS) || { echo "The lock lacks what pyproject.toml asks for: make constraints"; exit 1; }
	@touch $@

$(BIN)/uv:
	$(MAKE) setup

# What manent is compared with is not part of it, and not locked.
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

# A wheel whose hash is wrong ends it; only where no index has a build for CPUs is PyPI's taken.
define locked_torch
set -e; \
$(1)/bin/python -m pip $(LOCKED) $(TORCH_FLAGS) -r constraints-torch-cpu.txt 2> $(1)/torch.log || { \
    [ -z "$(TORCH_INDEX)" ] && grep -q "No matching distribution" $(1)/torch.log || { cat $(1)/torch.log; exit 1; }; \
    echo "No index here has torch for CPUs alone. Taking PyPI's; on Linux that brings CUDA's libraries (some GB)."; \
    $(1)/bin/python -m pip $(LOCKED) -r constraints-torch.txt; }
endef
