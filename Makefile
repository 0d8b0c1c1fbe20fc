# Two commands do everything: `make demo` (set up, then the main job) and `make test` (set up, then the tests).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# torch comes first and alone: its pinned version is then what every other package finds.
TORCH  := torch==2.13.0
# TorchQuantum pins qiskit<1, so it has an environment of its own.
TQ     := .venv-torchquantum
TQ_PIN := requirements/torchquantum.txt
TQ_PIP := $(TQ)/bin/pip install --quiet --disable-pip-version-check
# Not --quiet: it would silence the very warnings that --strict fails at. The variable mutes a notice of the theme's.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.PHONY: demo test test-all test-torchquantum lint bench docs notebooks clean

demo: $(VENV)/.core
	$(BIN)/qpeft demo

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto -m "not slow"
	$(MKDOCS) --site-dir build/docs

# The slow tests too. Those of several processes start once a file; bitsandbytes is optional, without it they skip.
test-all: $(VENV)/.dev
	$(PIP) bitsandbytes || true
	$(BIN)/pytest -n auto --dist loadfile

# The tests' shared settings need packages that this environment lacks, so they stay outside (--confcutdir).
test-torchquantum: $(TQ)/.done
	$(TQ)/bin/pytest --confcutdir tests/torchquantum tests/torchquantum qpeft/qcircuits/torchquantum_engine.py qpeft/qcircuits/interop/torchquantum.py

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/circuit_speed.py
	$(BIN)/python benchmarks/engine_agreement.py
	$(BIN)/python benchmarks/noise_speed.py
	$(BIN)/python benchmarks/frame_speed.py
	$(BIN)/python benchmarks/adapter_speed.py

docs: $(VENV)/.dev
	$(MKDOCS)

# Runs them anew and writes their outputs; `make test` only checks that they run.
notebooks: $(VENV)/.dev
	$(BIN)/python scripts/run_notebooks.py

clean:
	rm -rf $(VENV) $(TQ) site build *.egg-info

$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("qpeft needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Run: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/pip pyproject.toml constraints.txt
	$(PIP) $(TORCH)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) --editable .[dev]
	touch $@

# The file names every package, so nothing is resolved; only torch brings what its build for this machine needs.
$(TQ)/.done: $(TQ_PIN)
	$(PYTHON) -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit("TorchQuantum runs here in Python 3.11; this is " + sys.version.split()[0] + ". Run: make PYTHON=python3.11 test-torchquantum")'
	$(PYTHON) -m venv --clear $(TQ)
	$(TQ_PIP) --constraint $(TQ_PIN) torch
	$(TQ_PIP) --no-deps --requirement $(TQ_PIN)
	$(TQ_PIP) --no-deps --editable .
	touch $@
