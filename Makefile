# Everything a person does here; CI calls the same targets. `make` alone lists them.

# The first Python on the path that is new enough. Another one: `make clean`, then `make PYTHON=python3.13 ...`.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# For one's own additions: make test PYTEST_ARGS="-x -k lease"
PYTEST_ARGS ?=
# Likewise: make faults FAULTS_ARGS="--faults-seed 7"; --faults-scale 0.1 takes a tenth of the time and proves less
FAULTS_ARGS ?=
# Likewise: make bench BENCH_ARGS="--peers arq,saq --rounds 3"
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check faults bench bench-quick clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/app.stamp ## install aioq into .venv and watch it work: embedded server, worker, jobs
	$(BIN)/aioq demo

test: .venv/dev.stamp ## run all tests on every server that runs here, with coverage
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(PYTEST_ARGS)

check: .venv/dev.stamp ## run what needs no server: ruff, pyright, import-linter, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/architecture --noconftest -q

faults: .venv/dev.stamp ## break everything at full size (40 minutes), and write docs/faults.md
	$(BIN)/python -m tests.faults $(FAULTS_ARGS)

bench: .venv/dev.stamp ## measure aioq beside its peers: hours; results in benchmarks/results, see docs/performance.md
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: .venv/dev.stamp ## the same with two peers and small sizes, in three minutes: prints the ratios
	$(BIN)/python -m benchmarks --quick --peers ardiq,blitzq --rounds 2 --scale 0.25 --seconds 2 $(BENCH_ARGS)

clean: ## remove .venv, caches and reports
	rm -rf .venv .bench .coverage .coverage.* .hypothesis .import_linter_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/python.stamp:
	@test -n "$(PYTHON)" || { echo "aioq needs Python 3.11 or newer and found none on the path;" \
		"name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "aioq needs Python 3.11 or newer, which '$(PYTHON)' is not" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || \
		{ echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

# Editable, so that a change in aioq/ needs no new installation.
.venv/app.stamp: .venv/python.stamp pyproject.toml
	@echo "installing aioq into .venv"
	@$(PIP) install -e '.[embedded,uvloop,reload]'
	@touch $@

.venv/dev.stamp: .venv/app.stamp requirements/dev.txt
	@echo "installing the tools of requirements/dev.txt into .venv"
	@$(PIP) install -r requirements/dev.txt
	@touch $@
