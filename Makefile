# Everything a developer does, one word each. `make demo` and `make test` work on a fresh clone; `venv` comes by itself.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SECONDS_OF_DEMO ?= 45
ROUNDS ?= 10

.DEFAULT_GOAL := help
.PHONY: help venv demo test fuzz check format bench package manual lock clean

help:  ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

venv: $(READY)  ## the virtual environment, from requirements.lock and nothing else

# The backend (flit_core) is in the lock, so the second install needs no index and no build isolation.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## a whole world for less than a minute: vendor, server, clients, report, receipt
	$(BIN)/lls demo --seconds $(SECONDS_OF_DEMO)

test: $(READY)  ## all tests, one worker a core
	$(BIN)/python -m pytest -q -n auto --dist worksteal

# Where a round fails, the seed that pytest prints brings it back: pytest --hypothesis-seed=N tests/licensing/test_machine.py
fuzz: $(READY)  ## the machines that play with the ledger, ROUNDS times, other games each time
	for round in $$(seq $(ROUNDS)); do \
	    $(BIN)/python -m pytest -q -n auto --dist worksteal --hypothesis-seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d " ") \
	        tests/licensing/test_machine.py tests/licensing/test_restoring_anyhow.py \
	        tests/issuer/test_order_properties.py tests/issuer/intake/test_any_order.py || exit 1; \
	done

check: $(READY)  ## format, lint and types, strictly
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(READY)  ## let ruff write what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(READY)  ## figures of this machine
	$(BIN)/python -m tests.bench

# SIGN_KEY=key.pem signs; VENDOR=word VENDOR_KEYS=file brands; REVISION=n packs a version anew. See docs/packaging.md.
package: $(READY)  ## .deb, offline archive, bill of materials, checksums: into dist/
	PYTHONPATH=packaging $(BIN)/python -m parcel $(if $(SIGN_KEY),--sign-key $(SIGN_KEY)) \
	    $(if $(VENDOR),--vendor $(VENDOR)) $(if $(VENDOR_KEYS),--vendor-keys $(VENDOR_KEYS)) \
	    $(if $(REVISION),--revision $(REVISION))

# With $(BIN) in PATH, `man lls` and `man lls-issuer` find them there.
manual: $(READY)  ## manual pages and shell completions of lls and lls-issuer: into the virtual environment's share/
	PYTHONPATH=packaging $(BIN)/python -m parcel.shelf $(VENV)/share

# uv keeps the versions that the file has; delete the file first to raise them all.
lock:  ## requirements.lock from pyproject.toml: every platform, every hash
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	UV_CUSTOM_COMPILE_COMMAND='make lock' build/lock/bin/uv pip compile pyproject.toml --all-extras --universal \
	    --generate-hashes --python-version 3.11 --no-emit-package local-license-server --quiet -o requirements.lock

clean:  ## back to a fresh clone, but for the virtual environment
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis lls-demo
	find lls tests -name __pycache__ -type d -prune -exec rm -rf {} +
