# Everything a developer does. Each target gets ready what it needs and works twice in a row.
# Paths in here are relative on purpose: the checkout's own path may have spaces in it.

# Programs that pytest runs tests in at once. Guests under emulation want a core each.
WORKERS ?= 2
# More words for pytest: make quick ARGS="-k qupfile"
ARGS ?=

PYTHON = .venv/bin/python
PYTEST = $(PYTHON) -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test quick lint format docs bench setup test-setup tools clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

demo: setup ## start a machine, look around in it, destroy it; with times
	@scripts/demo

test: test-setup lint ## every check and every test, with real guests
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

quick: tools ## the inner loop: the tests that need neither QEMU nor many processes
	$(PYTEST) -m "not vm and not qemu and not process" -q -x -n auto --maxprocesses 8 $(ARGS)

lint: tools ## ruff, mypy and import-linter
	@scripts/lint

format: tools ## let ruff write the code as it likes to read it
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format .

docs: tools ## write the generated reference pages anew
	$(PYTHON) -m scripts.docs $(ARGS)

bench: setup ## measure qup side by side with what is installed
	$(PYTHON) -m benchmarks $(ARGS)

setup: tools ## .venv, and the programs qup needs on this computer
	@scripts/setup

test-setup: tools ## as setup, and what only tests use
	@scripts/setup --tests

tools: ## .venv alone
	@scripts/setup --no-host

clean: ## remove what the targets above made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
