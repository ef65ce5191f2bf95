# make demo | test | check | image-test, each from a bare clone. The environment is made in .venv once and again when
# the lock changes.

SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
# One thread a process: two on busy cores wait for each other.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
# Without compiled bytecode each worker takes three times as long to import torch.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check lint format setup lock clean
.PHONY: image-test wheel-test docs-test
.DEFAULT_GOAL := help

help:
	@echo "make demo    start everything on this machine and watch it learn"
	@echo "make test    run the tests"
	@echo "make check   formatting, lint, types, tests"
	@echo "make image-test  build the image, start all services of the compose file from it and see them work (minutes)"
	@echo "make wheel-test  install the wheel by pip into empty environments and run it there (minutes, 6 GB)"
	@echo "make docs-test   run each command of README.md, docs/wire.md and docs/operations.md (minutes)"
	@echo "make setup   only make the environment (.venv)"
	@echo "make format  rewrite the files in the house format"
	@echo "make lock    resolve the versions of requirements.lock anew"
	@echo "make clean   remove all that was made or fetched"

demo: $(READY)
	@$(BIN)/tiderank demo

# Tests that start a house wait for it most of the time, so three files at a time keep two cores busy.
test: $(READY)
	@$(BIN)/pytest -q -n 3 --dist loadfile --no-loadscope-reorder

check: lint test

# Doors: what a new user meets first. Too slow for every change.
# The image, without a Docker engine: by buildah, as root. Its store and the base image stay in .cache/image.
image-test: $(READY)
	@$(BIN)/python -m tests.image.run

wheel-test: $(READY)
	@$(BIN)/python -m tests.doors.wheel

docs-test: $(READY)
	@$(BIN)/python -m tests.doors.documents

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

setup: $(READY)
	@echo "the environment is in .venv"

lock: $(BIN)/uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-header -q -o requirements.lock

clean:
	rm -rf .venv .cache .data .hypothesis .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml | $(BIN)/uv
	@echo "installing the packages of requirements.lock into .venv"
	@$(BIN)/uv pip sync -q --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m ensurepip --upgrade > /dev/null
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv

# ensurepip is what a distribution may have split off into a package of its own, without which no venv can be made.
$(BIN)/python:
	@for python in python3.11 python3.12 python3.13 python3; do \
		if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
			echo "making .venv with $$($$python --version)"; exec $$python -m venv .venv; \
		fi; \
	done; \
	echo "No Python 3.11 or later with venv found. Debian or Ubuntu: apt install python3 python3-venv;" >&2; \
	echo "else see https://www.python.org/downloads/ and put python3.11 on the PATH." >&2; exit 1
