# make help says what there is.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON_BASE ?= python3
PYTHON_BASE_CLASSIC ?= python3

SETUP := scripts/setup_env.py
SETUP_FILES := $(SETUP) setup.py $(filter-out requirements/docs.txt,$(wildcard requirements/*.txt))
CLASSIC := .venv-classic/bin/python

# Threads that spin long while they wait make everything many times slower on a busy machine; those
# that do not spin at all make small models slower than one thread does.
export GOMP_SPINCOUNT ?= 5000

# With PYTHON=/path/to/python an environment of the user's is used as it is; without, .venv is set up.
ifdef PYTHON
PY := $(PYTHON)
READY_DEMO := check
READY_TEST := check-tests
READY_DOCS := check
else
PY := .venv/bin/python
READY_DEMO := .venv/ready
READY_TEST := .venv/ready
READY_DOCS := .venv/docs-ready
endif

# Where mmcv's operators were built for the CPU alone, a model on a GPU could not use them.
cpu_only = $(if $(filter %_cpu,$(shell cat $(1)/mmcv-build 2>/dev/null)),CUDA_VISIBLE_DEVICES=)
run = $(if $(PYTHON),,$(call cpu_only,.venv)) $(PY)

.PHONY: help demo test test-slow test-gpu test-classic test-rows lint format docs clean check check-tests

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22
	@echo '  with PYTHON=/path/to/python: demo and the tests in an environment that you have'

demo: $(READY_DEMO) ## set up .venv and run the demo
	$(run) demo/run.py

test: $(READY_TEST) ## set up .venv and run all tests
	$(run) -m pytest

test-slow: $(READY_TEST) ## only the tests that take long, most by training
	$(run) -m pytest -m slow

test-gpu: $(READY_TEST) ## what needs a GPU: CUDA, --amp, two GPUs where there are two; skips without
	$(PY) -m pytest tests/test_gpu.py

test-classic: .venv-classic/ready ## the quick tests on OpenMMLab's own last releases, in .venv-classic
	$(call cpu_only,.venv-classic) $(CLASSIC) -m pytest -m "not slow"

test-rows: .venv/ready .venv-classic/ready ## every row of the paper at full size, on both lines; writes docs/rows.md
	@mkdir -p work_dirs && rm -f work_dirs/rows_*.jsonl
	ROWS_OUT=work_dirs/rows_default.jsonl $(call cpu_only,.venv) .venv/bin/python -m pytest tests/test_rows.py
	ROWS_OUT=work_dirs/rows_classic.jsonl $(call cpu_only,.venv-classic) $(CLASSIC) -m pytest tests/test_rows.py
	.venv/bin/python scripts/write_rows_table.py default=work_dirs/rows_default.jsonl classic=work_dirs/rows_classic.jsonl

lint: $(READY_TEST) ## ruff check, ruff format --check and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY_TEST) ## what ruff can fix by itself
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(READY_DOCS) ## the documentation, into work_dirs/docs; warnings are errors
	$(run) -m sphinx -E -a -q -W --keep-going -b html docs work_dirs/docs

clean: ## remove the environments and all caches but mmcv's wheels
	rm -rf .venv .venv-classic build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Sphinx, of which only the documentation has need.
.venv/docs-ready: .venv/ready requirements/docs.txt
	.venv/bin/python -m pip --disable-pip-version-check install -q -r requirements/docs.txt
	@touch $@

.venv/ready: $(SETUP_FILES)
	$(PYTHON_BASE) $(SETUP) create .venv
	@touch $@

.venv-classic/ready: $(SETUP_FILES)
	$(PYTHON_BASE_CLASSIC) $(SETUP) create .venv-classic --line classic
	@touch $@

check:
	$(PY) $(SETUP) check

check-tests:
	$(PY) $(SETUP) check --tests
