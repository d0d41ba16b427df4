# make          .venv with everything the programs in tools/ need
# make demo     the whole path on photographs that come with a dependency, in under 10 minutes: see demo/
# make test     the test suite
# make help     all targets

# Python 3.11 or newer; another one: make PYTHON=/path/to/python3.12
PYTHON ?=
VENV := .venv
STAMP := $(VENV)/installed
BIN := $(VENV)/bin
# Arguments for pytest: make test PYTEST_ARGS="tests/proto -k text"
PYTEST_ARGS ?=
# For make reproduce: the folder of bsds500/ and live1/, and what to make of it.
JPEG_DATA ?= $(if $(wildcard ../shared/data),../shared/data,.)
REPRODUCE ?= all
# Test processes: a core each, up to 4. Each computes with one thread.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -lt 4 ] && echo $$n || echo 4)
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := install
.DELETE_ON_ERROR:
.PHONY: install demo reproduce test test-slow test-all lint fuzz clean help

install: $(STAMP)  ## make .venv and install the pinned dependencies into it

# The stamp is written last: whatever interrupts this, the next make starts it again, and pip finds what it had done.
# The project itself is installed as a link to this folder, so nothing has to be installed again after an edit.
$(STAMP): requirements.lock setup.py pyproject.toml pycaffe_compat/version.py
	@set -e; python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
	    for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	        if "$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            python=$$name; break; \
	        fi; \
	    done; \
	fi; \
	if [ -z "$$python" ]; then \
	    echo "error: no Python 3.11 or newer with venv found (Debian, Ubuntu: apt install python3-venv);" \
	         "another one: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "$$($$python --version) makes $(VENV)"; \
	"$(BIN)/python" -c 'import pip' 2>/dev/null || "$$python" -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)  ## patches, training, evaluation, pictures and ONNX, into demo/
	$(BIN)/python tools/demo.py

reproduce: $(STAMP)  ## the paper's tables and figures into docs/results/ (JPEG_DATA=DIR, REPRODUCE="--train all")
	$(BIN)/python tools/reproduce.py --data $(JPEG_DATA) $(REPRODUCE)

test: $(STAMP)  ## all tests but the slow ones
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)  ## only the slow tests
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: $(STAMP)  ## every test
	$(PYTEST) $(PYTEST_ARGS)

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

# One after the other: python -m tests.fuzz.run TARGET. Stops at what it finds; the input is written beside it.
# A million inputs take a quarter of an hour at most, but for schema (a hundred a second).
FUZZ_RUNS ?= 1000000
FUZZ_SECONDS ?= 1200
FUZZ_TARGETS ?= text weights hdf5 binary_net state blob datum lmdb schema upgrade
fuzz: $(STAMP)  ## the readers of files, a million inputs that nobody wrote each, or FUZZ_SECONDS=1200
	$(BIN)/python -m pip install --quiet -r requirements-fuzz.txt
	for target in $(FUZZ_TARGETS); do \
	    echo "== $$target"; OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run $$target $(FUZZ_SECONDS) -runs=$(FUZZ_RUNS) || exit 1; \
	done

clean:  ## remove what make made: .venv, demo/, caches (not data/, snapshots, logs)
	rm -rf $(VENV) demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
