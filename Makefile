# `make run`: from a fresh clone to a registered model.   `make test`: the same setup, then the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# `dvc repro` runs each stage as `python -m …`, which must be the environment's python.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONUNBUFFERED := 1
# Containers often set this. Each process would then compile again what it imports: 2 s for torch, 3 s for MLflow.
export PYTHONDONTWRITEBYTECODE :=
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

# GPU: options of the session, e.g. make gpu GPU='--call 1 --data images.zip'
.PHONY: run test test-slow gpu check format docs setup bench-setup lock clean

run: setup  ## run the whole pipeline with params.yaml, then print a report
	@$(BIN)/python -m ddpm.pipeline.running_list && $(BIN)/ddpm look && $(BIN)/dvc repro
	@$(BIN)/ddpm report

test: setup  ## run the quick tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-slow: setup  ## run the tests that take minutes
	@$(BIN)/python -m pytest -m slow

gpu: setup  ## measure a GPU and run the tests that need one; without a GPU, say so
	@$(BIN)/python benchmarks/gpu_session.py $(GPU)

check: setup  ## check formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup  ## build the pages of docs/ as a site, with a reference of commands and settings
	@$(BIN)/python docs/site/build.py

setup: $(READY)

# pip installs uv first, which installs the same lock file in a fifth of the time. If uv fails, pip installs everything.
# --no-deps: the lock file names every package, so nothing else may be installed.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
UV_INSTALL := $(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps
install = { test -x $(BIN)/uv && $(UV_INSTALL) $(1); } || { echo "uv could not install the packages, so pip does, which takes minutes"; $(PIP_INSTALL) $(1); }
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

# TORCH=cpu: the lock's versions of torch without CUDA, from TORCH_INDEX. requirements.lock has no hashes of these files:
# the first installation writes them into requirements-cpu.lock, and later ones require them.
LOCKS := requirements.lock
ifeq ($(TORCH),cpu)
LOCKS := $(VENV)/without-torch.lock requirements-cpu.lock
TORCH_FROM := --extra-index-url $(TORCH_INDEX)
# An index of torch also has some versions of other packages, for which uv would look nowhere else. The hashes decide.
export UV_INDEX_STRATEGY := unsafe-best-match
define without_cuda
	@test -n "$(TORCH_INDEX)" -o -f requirements-cpu.lock || { echo "TORCH=cpu needs TORCH_INDEX=URL, a package index with torch for CPUs"; exit 1; }
	@sed -E '/^(torch|torchvision|triton|nvidia-[^=]+|cuda-[^=]+)==/,/[^\\]$$/d' requirements.lock > $(VENV)/without-torch.lock
	@test -f requirements-cpu.lock || { grep -oE '^torch(vision)?==[^ ]+' requirements.lock | $(BIN)/uv pip compile - --no-deps \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --python $(BIN)/python --default-index $(TORCH_INDEX) --output-file requirements-cpu.lock; }
endef
endif

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("this is Python %d.%d, but 3.11 or newer is needed: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)$(if $(filter cpu,$(TORCH)),, (several GB with torch's CUDA libraries; TORCH=cpu needs fewer))"
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@$(PIP_INSTALL) --require-hashes -r $(VENV)/uv.lock || true
	$(without_cuda)
	@$(call install,$(if $(TORCH_INDEX),$(TORCH_FROM)) --require-hashes $(LOCKS:%=-r %))
	@$(call install,--no-build-isolation -e .)
	@touch $(READY)

bench-setup: setup  ## install the libraries that the benchmarks compare this project with
	@$(call install,--require-hashes -r requirements-bench.lock)

lock:  ## rebuild requirements.lock and requirements-bench.lock from pyproject.toml, for every platform
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile pyproject.toml --extra pipeline --extra dev --extra docs --extra team --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock
	@cp requirements.lock requirements-bench.lock
	@$(BIN)/uv pip compile pyproject.toml --extra pipeline --extra dev --extra docs --extra team --extra bench --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet --output-file requirements-bench.lock

clean:  ## remove everything but your images, your MLflow runs and your DVC cache
	@rm -rf $(VENV) .state build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache dvc_plots data/prepared data/generated models reports
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
