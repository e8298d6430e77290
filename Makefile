# Everything a person does here; CI calls the same targets. `make` alone lists them.

# The first Python on the path that is new enough. Another one: `make clean`, then `make PYTHON=python3.13 ...`.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
# Another Python beside the first: make test VENV=.venv-3.13 PYTHON=python3.13
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Which servers the tests run on besides the memory store: make test SERVERS=all, or SERVERS=redis-7.0,redis-8.2; the
# oldest and the newest that are installed by default. In the environment, the tests read it there.
SERVERS ?=
export SERVERS
# How many processes run the tests. Four for each core, since many a test waits for a process that it has started; one of
# the four runs only such tests.
TEST_PROCESSES ?= $(shell echo $$((4 * $$(getconf _NPROCESSORS_ONLN))))
# A process gets one file after the other, as `tests/side_by_side.py` says.
SIDE_BY_SIDE = -n $(TEST_PROCESSES)
# For one's own additions: make test PYTEST_ARGS="-x -k lease"
PYTEST_ARGS ?=
# Likewise: make faults FAULTS_ARGS="--faults-seed 7"; --faults-scale 0.1 takes a tenth of the time and proves less
FAULTS_ARGS ?=
# Likewise: make bench BENCH_ARGS="--peers arq,saq --rounds 3"
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-alone test-beside coverage scale check check-style check-types check-layers check-sizes uses faults bench bench-quick clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/app.stamp ## install aioq into .venv and watch it work: embedded server, worker, jobs
	$(BIN)/aioq demo

# Those that measure times come first, with the machine to themselves.
test: $(VENV)/dev.stamp ## run all tests on the memory store and two servers; on all of them with SERVERS=all
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

# Only their files are read, where PYTEST_ARGS name no others. Exit code 5: PYTEST_ARGS choose none of them.
ALONE = $(shell grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)
test-alone: $(VENV)/dev.stamp ## of these, run those that measure times
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m alone $(or $(PYTEST_ARGS),$(ALONE)) || [ $$? = 5 ]

test-beside: $(VENV)/dev.stamp ## of these, run all others, side by side
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone" $(PYTEST_ARGS)

coverage: $(VENV)/dev.stamp ## run them with coverage, best on Python 3.12 or newer, and fail below the floor
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not alone" --cov --cov-report=term $(PYTEST_ARGS)

# `make -j2 check` takes two thirds of the time.
check: check-style check-types check-layers check-sizes ## run what needs no server: ruff, pyright, import-linter, sizes

check-style: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(VENV)/dev.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

check-layers: $(VENV)/dev.stamp
	$(BIN)/lint-imports --no-logo

check-sizes: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/architecture --noconftest -q

uses: $(VENV)/dev.stamp ## write into the header of each Lua command which keys it uses (USES:)
	$(BIN)/python -m tests.contract.uses

# At full size each command is a new Python, as users start it; otherwise it is forked (tests/forkserver.py).
faults scale: export FRESH_STARTS = 1

faults: SERVERS = all
faults: $(VENV)/dev.stamp ## break everything at full size (40 minutes), and write docs/faults.md
	$(BIN)/python -m tests.faults $(FAULTS_ARGS)

scale: SERVERS = all
scale: $(VENV)/dev.stamp ## run the tests that have a full size at that size (30 minutes)
	$(BIN)/python -m pytest -m "scale and alone" --full -rP $(PYTEST_ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "scale and not alone" --full $(PYTEST_ARGS)

bench: $(VENV)/dev.stamp ## measure aioq beside its peers: hours; results in benchmarks/results, see docs/performance.md
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: $(VENV)/dev.stamp ## the same with two peers and small sizes, in three minutes: prints the ratios
	$(BIN)/python -m benchmarks --quick --peers ardiq,blitzq --rounds 2 --scale 0.25 --seconds 2 $(BENCH_ARGS)

clean: ## remove .venv, caches and reports
	rm -rf .venv .venv-* .bench .coverage .coverage.* .hypothesis .import_linter_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/python.stamp:
	@test -n "$(PYTHON)" || { echo "aioq needs Python 3.11 or newer and found none on the path;" \
		"name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "aioq needs Python 3.11 or newer, which '$(PYTHON)' is not" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# Editable, so that a change in aioq/ needs no new installation.
$(VENV)/app.stamp: $(VENV)/python.stamp pyproject.toml
	@echo "installing aioq into $(VENV)"
	@$(PIP) install -e '.[embedded,uvloop,reload,top]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/app.stamp requirements/dev.txt
	@echo "installing the tools of requirements/dev.txt into $(VENV)"
	@$(PIP) install -r requirements/dev.txt
	@touch $@
