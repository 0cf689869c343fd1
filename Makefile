PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lgrpo-installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart study-binary-tree test test-all test-gpu lint format constraints clean

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 make setup    another interpreter (3.11 or newer)"
	@echo "  VENV=/path/to/venv make test    another environment than .venv"

setup: $(STAMP) ## Create .venv and install the package, editable, with the tested versions

quickstart: setup ## Train the tiny policy on addition: CPU only, under two minutes
	$(BIN)/lgrpo fit -c configs/quickstart.yaml

study-binary-tree: setup ## Repeat the paper's toy study: 240 small runs on two cores, under 15 minutes
	$(BIN)/lgrpo study configs/studies/binary_tree.yaml

test: setup ## Run the quick tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: setup ## Run the slow tests too
	$(BIN)/python -m pytest -m "not gpu"

test-gpu: setup ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: setup ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Rewrite the code in the project's format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: setup ## Write the versions installed in .venv to constraints.txt
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(BIN)/python -m pip freeze --exclude-editable | grep '==' \
	  | grep -v -i -E '^(nvidia-|cuda-|triton)' | sed 's/+[a-z0-9.]*$$//' >> constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove caches and build products; .venv and runs/ stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

$(STAMP): setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null \
	  || { echo "'$(PYTHON)' was not found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Creating $(VENV) and installing; this takes a few minutes the first time."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
