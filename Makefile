# make demo   the whole path once, about half a minute: meters, piles, broker, coordinator, drivers, certificates;
#             make demo KEEP=1 goes on with the dashboard open
# make demo-network   the same with four accounting nodes that run CometBFT, two operators; about two minutes
# make test   everything: style, types, tests; installs the servers the tests need
# make fuzz   the wire's decoders under libFuzzer, ten minutes each; SECONDS=60, JOBS=2, TARGETS="mqtt ocmf" or all; docs/fuzz.md
# make check  style and types only          make bench  figures with their limits, into bench/out/
# make hil    the whole fault catalogue on simulated piles, a report in hil-out/; HIL="--rig mine.yaml" for another rig
# make wheel  what is installed elsewhere, and the versions it was tested with, into dist/
# make lock   refresh requirements.lock     make clean  remove what the others made
.DEFAULT_GOAL := help
.PHONY: help demo demo-network test fuzz check hil bench lock clean wheel servers vectors
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

help:
	@sed -n '1,9s/^# //p' Makefile

$(READY): requirements.lock pyproject.toml tools/setup
	@tools/setup $(VENV) $(PYTHON)
	@touch $@

demo: $(READY)
	@$(BIN)/pilechain demo --out demo-out $(if $(KEEP),--keep)

demo-network: servers
	@$(BIN)/pilechain demo --network --out demo-out $(if $(KEEP),--keep)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

servers: $(READY)
	@tools/servers

# The tests start hundreds of processes; compiled once, even where PYTHONDONTWRITEBYTECODE keeps each from keeping it.
test: servers check
	@$(BIN)/python -m compileall -q shared edge coordinator hil
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

hil: servers
	@$(BIN)/pilechain hil run --keep-going --out hil-out $(HIL)

# Coverage, corpora and findings stay in build/fuzz/.
FUZZED := cbor cose proof abci modbus-rtu modbus-tcp
fuzz: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(or $(SECONDS),600) --jobs $(or $(JOBS),1) \
	  $(if $(filter all,$(TARGETS)),,$(or $(TARGETS),$(FUZZED)))

bench: servers
	@$(BIN)/python -m bench

# Golden vectors are written by the reference implementation and then only ever read; a change here is a wire change.
vectors: $(READY)
	@$(BIN)/python tools/make_vectors.py

wheel: $(READY)
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@sed -n 's/ *\\$$//; /^[a-zA-Z0-9]/p' requirements.lock >dist/constraints.txt
	@ls dist/*

lock:
	uv pip compile -q --universal --generate-hashes --all-extras --group dev --group firmware --python-version 3.11 --no-annotate --no-header pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) demo-out hil-out build dist bench/out
