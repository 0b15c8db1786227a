# Needs only Python 3.11 or newer: each target makes the environment it runs in.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
LOWEST := build/lowest
LOWEST_BIN := $(LOWEST)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test test-slow test-lowest lint docs audit lock dist publish clean

demo: $(VENV)/.installed ## Harden the bundled encoder on digits: demo-output/ gets the report, model and ONNX file
	$(BIN)/genaf demo --output-dir demo-output

test: $(VENV)/.installed-dev ## Run the tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-slow: $(VENV)/.installed-dev ## Run the tests that take minutes each
	$(BIN)/python -m pytest -m slow

test-lowest: $(VENV)/.installed-dev ## Run the tests with the oldest versions that pyproject.toml admits
	$(BIN)/uv venv --quiet --clear $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable '.[dev]'
	$(LOWEST_BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/.installed-dev ## Style, types, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/.installed-docs ## Build the documentation into build/site/, strictly
	$(BIN)/python tools/build_docs.py

audit: $(VENV)/.installed-dev ## Look for published holes: in bounds and locks, and in what is installed
	$(BIN)/python tools/audit.py --installed

lock: $(VENV)/.installed-dev ## Write requirements.lock and the server's hashed requirements
	$(BIN)/python tools/lock.py

dist: $(VENV)/.installed-dev ## Build wheel and sdist into build/dist/, and try both
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist
	$(BIN)/python tools/check_dist.py build/dist

publish: $(VENV)/.installed-dev ## Publish build/dist/; only the release workflow may
	$(BIN)/uv publish --trusted-publishing always build/dist/*

# setuptools warns of every editable installation, aloud.
$(VENV)/.installed $(VENV)/.installed-dev $(VENV)/.installed-docs: export PYTHONWARNINGS := ignore

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
