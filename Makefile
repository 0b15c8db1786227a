# Needs only Python 3.11 or newer: each target makes the environment it runs in.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed ## Harden the bundled encoder on digits: demo-output/ gets the report, model and ONNX file
	$(BIN)/genaf demo --output-dir demo-output

test: $(VENV)/.installed-dev ## Run the tests
	$(BIN)/pytest --numprocesses auto --dist loadfile

lint: $(VENV)/.installed-dev ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs ## Build the documentation into build/site/, strictly
	$(BIN)/python tools/build_docs.py

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build demo-output .mypy_cache .pytest_cache .ruff_cache *.egg-info
