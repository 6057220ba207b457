# Every target sets itself up on a machine that has only Python 3.11 (or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-fast lint docs site lock sbom fuzz mutants setup clean trial images e2e-containers
.DEFAULT_GOAL := run

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'fedmed needs Python 3.11 or newer; name one with: make PYTHON=python3.11'; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(READY)

run: $(READY)  ## the quickstart comparison: a report of every kind of privacy
	$(BIN)/fedmed run experiments/quickstart.toml

# JOBS: processes side by side, each on one thread; TESTS: files or folders, -k and other options of pytest.
JOBS ?= auto
TESTS ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(READY)  ## the test suite
	$(PYTEST) $(TESTS)

FAST = $(addprefix tests/,base config evaluation federation library models trackers)
test-fast: $(READY)  ## the tests of what needs neither a training nor other processes
	$(PYTEST) -q -m "not slow" $(FAST)

# SEED: another seed draws other inputs; INPUTS: how many.
SEED ?= 0
INPUTS ?= 2000

fuzz: $(READY)  ## bad files and words through the command line; a failure prints how to repeat it
	PYTHONPATH=tests $(BIN)/python -m fuzz --inputs $(INPUTS) --seed $(SEED)

lint: $(READY)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)  ## the tables in the guides and the run config in pyproject.toml, from fedmed/config
	$(BIN)/python docs/make.py

# A page or a link that is missing fails the build. The variable silences a notice of the theme.
site: $(READY)  ## the guides and the API as a site, in build/site; needs no network to build or to read
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

lock: $(READY)  ## the versions and hashes of requirements.lock for what pyproject.toml names; moves no version that may stay
	$(BIN)/uv pip compile --quiet --all-extras --universal --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

sbom: $(READY)  ## every locked package with its hashes, as a CycloneDX bill of materials
	mkdir -p build
	$(BIN)/python -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible -o build/sbom.json requirements.lock

# COUNT: how many (0: all) are drawn by SEED from the files and folders of MODULE. The first run watches
# which tests run what, which takes minutes and is kept in .mutants/.
COUNT ?= 200
MODULE ?= fedmed/privacy fedmed/training fedmed/hospital
mutants: $(READY)  ## break the privacy code in one place at a time; report what no test sees
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m mutants --seed $(SEED) --count $(COUNT) --module $(MODULE)

# Docker where its daemon answers, else Podman. BUILD: more options of build, such as
# --build-arg TORCH_OPTIONS='...' (options of pip) for wheels of torch without CUDA.
ENGINE ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)
BUILD ?=
FORMAT = $(if $(findstring podman,$(ENGINE)),--format docker)

images:  ## the images of a hospital and of the server
	$(ENGINE) build $(FORMAT) $(BUILD) -f clients/Dockerfile -t localhost/fedmed-client .
	$(ENGINE) build $(FORMAT) $(BUILD) -f server/Dockerfile -t localhost/fedmed-server .

trial: $(READY)  ## certificates, keys and images for compose.yaml
	$(BIN)/python containers/trial.py trial

e2e-containers: $(READY) images  ## a federation of real containers, from nothing to a result
	ENGINE=$(ENGINE) $(BIN)/python containers/e2e.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .mutants
