# `make demo` and `make test` each do all the set-up a fresh machine needs.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test test-slow test-aarch64 test-gpu bench bench-full chaos screenshots messages lint format docs clean

demo: $(VENV)/.ready
	$(BIN)/ubq run --preset demo

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(PYTEST) -m "not slow and not chaos" -n 2

test-slow: $(VENV)/.ready
	@echo "installing ExecuTorch, for the tests of its files"
	@$(BIN)/python -m pip install --quiet -e ".[executorch]"
	OMP_NUM_THREADS=1 $(PYTEST) -m "slow" -n 2 --dist loadfile

# Also a part of test-slow. Downloads about 150 MB once, into UBQ_AARCH64_CACHE (~/.cache/ubq/aarch64).
test-aarch64: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(PYTEST) -m "slow" tests/aarch64

# On a machine with a GPU; what it found is in gpu-check/tables.md. Eight minutes at most.
test-gpu: $(VENV)/.ready
	$(BIN)/python tests/gpu/check_gpu.py --out gpu-check

# Kills runs, and gives damaged and malicious files to every command that reads one.
chaos: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(PYTEST) -m "chaos" -s

# Of a finished run: make bench RUN=runs/mine
RUN ?= runs/demo

bench: $(VENV)/.ready
	test -f $(RUN)/exported_models/report.json || $(BIN)/ubq run --preset demo || test $$? = 5
	$(BIN)/python studies/quality.py $(RUN)
	$(BIN)/python studies/ptq_qat.py $(RUN) --out $(dir $(RUN))bench
	$(BIN)/python studies/qat_cost.py
	$(BIN)/ubq bench sample $(notdir $(RUN)) --runs-dir $(dir $(RUN))
	$(BIN)/ubq bench steps $(notdir $(RUN)) --runs-dir $(dir $(RUN))
	$(BIN)/ubq bench sample --width 512
	$(BIN)/ubq bench kernel --width 512
	$(BIN)/ubq bench train
	$(BIN)/ubq bench forward

# 24 GB of memory, 40 GB of disk: make bench-full FOLDER=/where/there/is/room
bench-full: $(VENV)/.ready
	$(BIN)/python studies/full_size.py $(if $(FOLDER),--folder $(FOLDER))

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready
	$(BIN)/ubq config docs --output docs/configuration.md
	$(BIN)/ubq config schema --output presets/schema.json
	$(BIN)/python -m ubq.tui.lookup presets

messages: $(VENV)/.ready
	$(BIN)/python tests/i18n/messages.py

screenshots: $(VENV)/.ready
	$(BIN)/python tests/tui/screenshots.py docs/img

# The stamp is newer than pyproject.toml once everything is installed.
$(VENV)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "ubq needs Python 3.11, 3.12 or 3.13 on the PATH (or: make PYTHON=/path/to/python)"; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "bringing pip in $(VENV) up to date"
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@echo "downloading and installing what ubq needs, PyTorch above all: some minutes, with nothing printed"
	@$(BIN)/python -m pip install --quiet --group dev -e ".[physics]"
	@echo "$(VENV) is ready"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
