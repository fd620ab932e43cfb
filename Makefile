# Common tasks. All of them use the virtual environment .venv; PYTHON is the interpreter that creates it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := runs/demo

.PHONY: demo test test-fast test-all test-gpu dev lint format docs bench bench-training clean

demo: $(VENV)/demo
	$(BIN)/fastgan train demo --out $(DEMO) --overwrite
	$(BIN)/fastgan export $(DEMO) --out $(DEMO)/generator.onnx
	$(BIN)/fastgan sample $(DEMO) --n 64 --out $(DEMO)/samples.png --overwrite
	$(BIN)/fastgan sample $(DEMO)/generator.onnx --n 64 --out $(DEMO)/samples_onnx.png --overwrite
	@echo
	@$(BIN)/fastgan report $(DEMO)
	@echo "grids:    $(DEMO)/samples.png (PyTorch), $(DEMO)/samples_onnx.png (ONNX Runtime, from the file alone)"

# Two processes with one thread each: with more threads than cores, a busy test makes the others wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

# What a change should pass before it is committed.
test: dev
	$(PYTEST) -m '$(DEFAULT)'

# The same without what starts processes, compiles, or runs whole trainings.
test-fast: dev
	$(PYTEST) -m '$(DEFAULT)' $(FAST)

# Everything that needs no GPU: all cases and dtypes, all compile targets, studies, demo, wheel, downloads.
# Records what it passed for, so that .ci/run can tell whether a full run is due.
test-all: dev
	$(PYTEST) -m 'not gpu'
	.ci/sources > .ci/full-run

test-gpu: dev
	$(BIN)/pytest -m gpu

DEFAULT := not gpu and not full and not slow and not network
FAST := tests/_util tests/data tests/losses tests/metrics tests/models tests/nn tests/regularization tests/report tests/tasks \
	tests/ops/test_library.py tests/ops/test_autotune.py tests/ops/test_bias_act.py tests/ops/test_conv.py tests/test_imports.py

dev: $(VENV)/dev

# Files that are newer than what the environment was made from; pip does not run until that changes. The package is
# installed in one of the two forms at a time.
BUILD := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*/*.cpp csrc/*/*.cu* csrc/*/*/*.h)

$(VENV)/dev: $(BUILD) | $(BIN)/python
	rm -f $(VENV)/demo
	$(PIP) install -q -c constraints.txt -e '.[onnx,openvino,video,dev,docs]'
	touch $@

$(VENV)/demo: $(BUILD) $(shell find fastgan -type f ! -name '*.so' ! -name '*.pyc') | $(BIN)/python
	rm -f $(VENV)/dev
	$(PIP) install -q -c constraints.txt '.[onnx]'
	touch $@

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Builds the pages and the API reference into site/. Nothing is loaded from other hosts; a broken link is an error.
docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: dev
	$(BIN)/python benchmarks/run.py --whole --out benchmarks/results/cpu.csv
	$(BIN)/python benchmarks/plot.py benchmarks/results/cpu.csv benchmarks/results/cpu.svg --mode forward+backward

bench-training: dev
	$(BIN)/python benchmarks/end_to_end.py --out benchmarks/results/training.csv
	$(BIN)/python benchmarks/plot.py benchmarks/results/training.csv benchmarks/results/training.svg
	$(BIN)/python benchmarks/end_to_end.py --families --seconds 5 --out benchmarks/results/families.csv
	$(BIN)/python benchmarks/end_to_end.py --sweep --only fastgan fastgan+compile --out benchmarks/results/sweep.csv
	$(BIN)/python benchmarks/task_iterations.py --out benchmarks/results/tasks.csv
	$(BIN)/python benchmarks/plot_sweep.py benchmarks/results/sweep.csv benchmarks/results/sweep.svg

clean:
	rm -rf $(VENV) build runs site *.egg-info fastgan/*.so

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
