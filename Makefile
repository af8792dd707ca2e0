# Everything is installed into .venv; a stamp says what is there, so that a second call installs nothing.
# Only Python 3.11 or newer is needed: make PYTHON=python3.12 test

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo demo-ray test test-slow check bench clean

# The main job on real pixels, with nothing but the default install.
demo: .venv/patchloom.stamp
	$(BIN)/patchloom demo

# The same on a Ray cluster of two nodes, on this machine.
demo-ray: .venv/ray.stamp
	$(BIN)/patchloom demo --cluster

# What CI runs. TensorFlow has a process of its own, and Ray one cluster.
test: .venv/test.stamp .venv/servers.stamp check
	PATCHLOOM_REQUIRE_TENSORFLOW=1 $(BIN)/python -m pytest -n $(WORKERS) tests/keras
	$(BIN)/python -m pytest tests/cluster
	PATCHLOOM_REQUIRE_SERVERS=`cat .venv/servers.stamp` $(BIN)/python -m pytest -n $(WORKERS) --ignore tests/keras --ignore tests/cluster

test-slow: .venv/test.stamp .venv/servers.stamp
	PATCHLOOM_REQUIRE_SERVERS=`cat .venv/servers.stamp` $(BIN)/python -m pytest -m slow

check: .venv/check.stamp
	$(BIN)/ruff check
	$(BIN)/mypy

bench: .venv/test.stamp
	$(BIN)/python benchmarks/efficiency.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/loading.py

clean:
	rm -rf .venv build dist patchloom-demo patchloom-demo.png

.venv/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "patchloom needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade 'pip>=25.1'
	@touch $@

.venv/patchloom.stamp: .venv/pip.stamp pyproject.toml
	$(INSTALL) --editable .
	@touch $@

.venv/ray.stamp: .venv/patchloom.stamp
	$(INSTALL) --editable '.[ray]'
	@touch $@

.venv/check.stamp: .venv/patchloom.stamp
	$(INSTALL) --group check
	@touch $@

# Database servers of the system's packages; where they cannot be installed their tests are skipped, and pytest says so.
.venv/servers.stamp: tests/install-servers | .venv/pip.stamp
	@if tests/install-servers; then echo 1 > $@; else echo > $@; fi

# One call for all of it: the pinned torch has to be known to whatever else asks for torch.
.venv/test.stamp: .venv/check.stamp
	$(INSTALL) --editable . --group test --group tensorflow
	@touch $@
