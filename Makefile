# Every target sets up what it needs in .venv; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test lint slow bench matrix gpu protos clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "zoonnx needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Run 'make PYTHON=python3.11 $(MAKECMDGOALS)'." >&2; exit 2; }
	@echo "Setting up .venv with $$($(PYTHON) -V): about 6 GB, one to two minutes on a fast line."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt 'pip>=25.1' | grep -vE 'already satisfied' || true
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
	@touch $@
	@echo "Set-up is done."

demo: .venv/installed ## train, export, serve and ask, offline, on handwritten digits
	@$(BIN)/zoonnx demo

# With worksteal a file's tests mostly stay in one process, which builds what they share once.
test: .venv/installed ## the default test suite
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/installed ## ruff, mypy, import-linter, generated code is current
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m protos.generate --check
	@$(BIN)/python -m docs.cnn.build --check

slow: .venv/installed ## the slow-marked tests; writes a dated table to bench/results/
	@$(BIN)/python -m tests.slow_report

bench: .venv/installed ## all benchmarks: serving, int8, export, training, the cached probe, transfer, label noise; writes to bench/results/
	@$(BIN)/python -m bench.serve
	@$(BIN)/python -m bench.variants
	@$(BIN)/python -m bench.export
	@$(BIN)/python -m bench.probe
	@$(BIN)/python -m bench.transfer
	@$(BIN)/python -m bench.label_noise
	@$(BIN)/python -m bench.train

# An interpreter that was named must do as it is: the machine with the GPU may have no network.
gpu: ## on a machine with CUDA: its tests, and served against raw onnxruntime; writes bench/results/gpu-*.md and .json
ifeq ($(origin PYTHON),file)
	@if $(PYTHON) -m bench.gpu --check 2>/dev/null; then exec $(PYTHON) -m bench.gpu; fi; \
	$(MAKE) .venv/installed && \
	{ $(BIN)/python -m bench.gpu --check || $(BIN)/python -m pip install -q -c constraints.txt -e '.[cuda]'; } && \
	$(BIN)/python -m bench.gpu
else
	@$(PYTHON) -m bench.gpu
endif

matrix: .venv/installed ## every network of the matrix through the export; writes docs/matrix.md; goes on where it stopped
	@$(BIN)/python -m bench.matrix --int8

protos: .venv/installed ## rebuild the generated code in protos/
	@$(BIN)/python -m protos.generate

clean: ## remove what was built, not .venv
	rm -rf build dist demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
