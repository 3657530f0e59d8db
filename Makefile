# `make run`: from a fresh clone to a registered model.   `make test`: the same set-up, then the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# `dvc repro` starts each stage as `python -m …`, which must be the environment's python.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: run test test-slow check format setup bench-setup lock clean

run: setup  ## the whole pipeline on what params.yaml says, then what it made
	@$(BIN)/python -m ddpm.pipeline.running_list && $(BIN)/ddpm look && $(BIN)/dvc repro
	@$(BIN)/ddpm report

test: setup  ## the quick tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile

test-slow: setup  ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow

check: setup  ## formatting, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

setup: $(READY)

# uv, which pip puts there first, installs the same lock in a fifth of the time; where it cannot, pip does it all.
# --no-deps: the lock names every package, so nothing else may come in.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
UV_INSTALL := $(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps
install = { test -x $(BIN)/uv && $(UV_INSTALL) $(1); } || { echo "uv did not install it, so pip does, which takes minutes"; $(PIP_INSTALL) $(1); }
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("this is Python %d.%d, but 3.11 or newer is needed: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (several GB with torch's CUDA libraries)"
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@$(PIP_INSTALL) --require-hashes -r $(VENV)/uv.lock || true
	@$(call install,--require-hashes -r requirements.lock)
	@$(call install,--no-build-isolation -e .)
	@touch $(READY)

bench-setup: setup  ## the peers that the benchmarks run beside this project
	@$(call install,--require-hashes -r requirements-bench.lock)

lock:  ## make requirements.lock and requirements-bench.lock again, from pyproject.toml, for every platform
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock
	@cp requirements.lock requirements-bench.lock
	@$(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements-bench.lock

clean:  ## everything but your images, your MLflow runs and your DVC cache
	@rm -rf $(VENV) .state build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache dvc_plots data/prepared data/generated models reports
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
