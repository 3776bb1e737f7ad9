# Every target creates .venv first if it needs it; nothing is installed twice.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help demo test lint slow bench matrix backbones gpu images protos clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "zoonnx needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Run 'make PYTHON=python3.11 $(MAKECMDGOALS)'." >&2; exit 2; }
	@echo "Creating .venv with $$($(PYTHON) -V): about 6 GB, one to two minutes on a fast connection."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt 'pip>=25.1' | grep -vE 'already satisfied' || true
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[all]' --group dev
	@touch $@
	@echo "Setup done."

demo: .venv/installed ## train, export, serve and query on handwritten digits, offline
	@$(BIN)/zoonnx demo

# worksteal keeps most tests of a file in one process, so that shared fixtures are built once. COVERAGE_FLOOR is in
# percent of the lines that run in the test processes; code that only runs in server processes does not count.
COVERAGE_FLOOR := 90
test: .venv/installed ## the default test suite; COVERAGE=1 also measures its coverage, which takes longer
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal \
		$(if $(COVERAGE),--cov --cov-report=term --cov-fail-under=$(COVERAGE_FLOOR))

lint: .venv/installed ## ruff, mypy, import-linter; generated files are current
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m protos.generate --check
	@$(BIN)/python -m docs.cnn.build --check

slow: .venv/installed ## the tests marked slow; writes a dated table to bench/results/
	@$(BIN)/python -m tests.slow_report

bench: .venv/installed ## all benchmarks; writes to bench/results/
	@$(BIN)/python -m bench.serve
	@$(BIN)/python -m bench.request_path
	@$(BIN)/python -m bench.variants
	@$(BIN)/python -m bench.export
	@$(BIN)/python -m bench.probe
	@$(BIN)/python -m bench.transfer
	@$(BIN)/python -m bench.label_noise
	@$(BIN)/python -m bench.train
	@$(BIN)/python -m bench.foreign_files

backbones: .venv/installed ## exports and serves backbones of other families, compares each layer; continues where it stopped
	@$(BIN)/python -m bench.backbones

# With PYTHON given, that interpreter is used as it is: a machine with a GPU may have no network.
gpu: ## on a machine with CUDA: tests marked gpu, and the server against raw onnxruntime; writes bench/results/gpu-*
ifeq ($(origin PYTHON),file)
	@if $(PYTHON) -m bench.gpu --check 2>/dev/null; then exec $(PYTHON) -m bench.gpu; fi; \
	$(MAKE) .venv/installed && \
	{ $(BIN)/python -m bench.gpu --check || $(BIN)/python -m pip install -q -c constraints.txt -e '.[cuda]'; } && \
	$(BIN)/python -m bench.gpu
else
	@$(PYTHON) -m bench.gpu
endif

matrix: .venv/installed ## export every network of bench/networks.py; writes docs/matrix.md; continues where it stopped
	@$(BIN)/python -m bench.matrix --large --int8

images: .venv/installed ## remake the images of README and docs; needs chromium
	@$(BIN)/python -m docs.images

protos: .venv/installed ## regenerate the code in protos/
	@$(BIN)/python -m protos.generate

clean: ## remove build products and caches, not .venv
	rm -rf build dist demo .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
