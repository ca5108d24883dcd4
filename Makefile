# Thin: every target is a line or two. PYTHON picks the interpreter that makes the environment.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/tiny_cpu
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-all matrix check .venv

demo: .venv
	$(BIN)/python -m runtime.attempts set-aside $(RUN)
	env -u CUDA_VISIBLE_DEVICES DS_ACCELERATOR=cpu PATH="$(CURDIR)/$(BIN):$$PATH" \
		$(BIN)/deepspeed --quiet --num_gpus 4 train.py --strategy ds_configs/tiny_cpu.yaml
	test -f $(RUN)/done.json
	$(BIN)/python -m runtime.generate $(RUN) --temperature 0.7

test: .venv
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv
	$(BIN)/python -m pytest

matrix: .venv
	$(BIN)/python -W ignore -m tests.support.matrix_run

bench: .venv
	$(BIN)/python -m benchmarks.calibrate

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# torch comes first: without it, DeepSpeed's own build would look for one.
.venv: .venv/installed
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools wheel
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev]'
	touch $@
