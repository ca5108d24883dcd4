# Thin: every target is a line or two. PYTHON picks the interpreter that makes the environments.
PYTHON ?= python3
BIN := .venv/bin
PLAN := .venv-plan/bin
# Versions: `make .venv CONSTRAINTS=constraints-newest.txt` tries the newest. ARGS goes to pytest.
CONSTRAINTS ?= constraints.txt
ARGS ?=
RUN := runs/tiny_cpu
MISTAKES := docs/examples/five_mistakes.yaml
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help plan demo test test-fast test-all matrix bench bench-step check format generated docs-check clean \
	.venv .venv-plan

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

plan: .venv-plan ## plan the 128-GPU reference and show five mistakes; needs no torch
	$(PLAN)/python -m launch plan ds_configs/ep64_tp2_staged.yaml; test $$? = 1  # it misses limits
	@echo; echo 'Five mistakes in one file: python -m launch plan $(MISTAKES)'; echo
	@$(PLAN)/python -m launch plan $(MISTAKES); test $$? = 2

demo: .venv ## train a model of 16 layers x 64 experts on 4 CPU processes, then generate text
	$(BIN)/python -m runtime.attempts set-aside $(RUN)
	env -u CUDA_VISIBLE_DEVICES DS_ACCELERATOR=cpu PATH="$(CURDIR)/$(BIN):$$PATH" \
		$(BIN)/deepspeed --quiet --num_gpus 4 train.py --strategy ds_configs/tiny_cpu.yaml
	test -f $(RUN)/done.json
	$(BIN)/python -m runtime.generate $(RUN) --temperature 0.7

test: .venv ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-fast: .venv-plan/tests ## the tests that need neither torch nor ssh, in the light environment
	$(PLAN)/python -m pytest -m "not slow and not torch and not ssh" $(ARGS)

test-all: .venv ## every test
	$(BIN)/python -m pytest $(ARGS)

matrix: .venv ## every layout against one process: docs/matrix.md
	$(BIN)/python -W ignore -m tests.support.matrix_run

bench: .venv ## measure this machine for the planner: runs/hardware.yaml
	$(BIN)/python -m benchmarks.calibrate

bench-step: .venv ## time a training step against transformers and DeepSpeed: runs/bench_step.json
	$(BIN)/python -W ignore -m benchmarks.step

check: .venv ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv ## format and sort imports
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generated: .venv-plan ## write ds_configs/*.json, the schema, docs/strategy.md and docs/errors.md
	$(PLAN)/python -m planner.generated

docs-check: .venv-plan/tests ## links, names and printed blocks of the documents
	$(PLAN)/python -m pytest tests/project/test_docs.py -m "not torch"

clean: ## remove caches and the light environment; runs/ and .venv stay
	rm -rf .venv-plan .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv-plan: .venv-plan/installed
.venv-plan/installed: requirements-plan.txt constraints.txt
	test -x $(PLAN)/python || $(PYTHON) -m venv .venv-plan
	$(PLAN)/python -m pip install --quiet --constraint constraints.txt --requirement requirements-plan.txt
	touch $@

.venv-plan/tests: .venv-plan/installed
	$(PLAN)/python -m pip install --quiet --constraint constraints.txt pytest hypothesis prometheus_client
	touch $@

# torch comes first: without it, DeepSpeed's own build would look for one.
.venv: .venv/installed
.venv/installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint $(CONSTRAINTS) pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install -qq --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@
