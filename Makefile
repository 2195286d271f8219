# A fresh machine needs git, make and Python 3.11 or newer; everything else is put into $(VENV).
SHELL := bash
.DEFAULT_GOAL := help

VENV ?= .venv
BIN  := $(VENV)/bin
ARGS ?=
# The first of these that is new enough; `make PYTHON=/path/to/python` names another.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3.14 python3 python,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check format docs bench uncompile clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## install what it needs, then compare models on the real flights data
	$(BIN)/polytask compare flights $(ARGS)

test: $(VENV)/dev.stamp ## run the tests; ARGS="tests/systems -k multitab" narrows them
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n 2 $(ARGS)

check: $(VENV)/dev.stamp ## style, types, import directions, and generated tables that are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports.py
	@if [ -e benchmarks/render.py ]; then (set -x; $(BIN)/python benchmarks/render.py --check); fi

format: $(VENV)/dev.stamp ## repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev.stamp ## build the pages into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/dev.stamp ## measure the claims again (SYSTEM=multitab for one) and render the tables
	-$(BIN)/polytask claims $(SYSTEM)
	$(BIN)/python benchmarks/render.py

uncompile: ## remove what numba compiled; needed after editing what compiled code calls
	find src -name '*.nb[ci]' -delete

clean: uncompile ## remove the environment and everything built
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache

# --- the environment ------------------------------------------------------------------------------

$(BIN)/python:
	@py="$(PYTHON)"; \
	if ! "$${py:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "polytask needs Python 3.11 or newer: install it, or name one with make PYTHON=/path/to/python." >&2; exit 1; fi; \
	if ! "$$py" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$py has no venv module: install it (Debian, Ubuntu: apt install python3-venv) and run make again." >&2; exit 1; fi; \
	"$$py" -m venv $(VENV)

# $(call install,EXTRA): pip's lines follow each other on one line of a terminal; all are in the log.
define install
	@echo "Installing polytask[$(1)] into $(VENV); the first time takes some minutes."
	@set -o pipefail; log=$(VENV)/install.log; \
	$(BIN)/python -m pip install --progress-bar off -c constraints.txt -e '.[$(1)]' 2>&1 | tee $$log | \
	if [ -t 1 ]; then \
		while IFS= read -r line; do printf '\r\033[K  %.76s' "$$line"; done; printf '\r\033[K'; \
	else grep -E '^(Collecting|Installing|Successfully)' || true; fi || \
	{ tail -n 20 $$log >&2; echo "The install failed; $$log has all of it." >&2; exit 1; }
endef

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,demo)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,dev)
	@touch $(VENV)/demo.stamp $@
