# `make` lists the targets. Everything is installed into .venv; nothing outside this folder is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where evometa keeps campaigns; the command line reads the same variable.
STORAGE := $(or $(EVOMETA_STORAGE),populations/runs)
QUICKSTART := $(STORAGE)/quickstart
SETUP_INPUTS := setup.cfg pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help campaign benchmark test test-gpu test-clients slow-test soak fuzz lint sdist clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

campaign: $(VENV)/installed ## evolve an optimizer on handwritten digits, draw its Pareto front, export the knee
	$(BIN)/evometa run experiments/quickstart.toml $(if $(wildcard $(QUICKSTART)/campaign.db),--resume)
	$(BIN)/evometa plot quickstart --figure pareto_front --out plots/quickstart
	$(BIN)/evometa export quickstart --knee --out $(QUICKSTART)/knee.safetensors
	@echo
	@echo 'Campaign:   $(QUICKSTART)/campaign.db   ($(BIN)/evometa show quickstart)'
	@echo 'Figure:     plots/quickstart/'
	@echo 'Optimizer:  $(QUICKSTART)/knee.safetensors   (evometa.load_optimizer loads it)'

benchmark: $(VENV)/installed-benchmark ## time inner training beside a naive loop, JAX and the machine's roofline
	$(BIN)/python -m benchmarks

# What `make test-gpu` runs, and where.
DEVICE ?= cuda
GPU_TESTS := tests/conformance tests/export tests/inner tests/meta tests/bench/test_on_a_gpu.py \
  tests/execution/test_on_a_gpu.py tests/cli/test_on_a_gpu.py tests/benchmarks/test_devices.py

# One thread for each of the two test processes: more only get in each other's way.
test test-gpu test-clients slow-test soak: export OMP_NUM_THREADS := 1

test: $(VENV)/installed-dev ## run the tests
	$(BIN)/python -m pytest -n 2

test-gpu: $(VENV)/installed-dev ## run on a GPU the tests of what computes there, DEVICE=cuda
	$(BIN)/python -m pytest -n 4 --device $(DEVICE) $(GPU_TESTS)

# Without the trainers its tests would be left out, and it would pass.
test-clients: $(VENV)/installed-clients ## run exported optimizers inside the trainers of transformers and Lightning
	$(BIN)/python -c 'import accelerate, pytorch_lightning, transformers'
	$(BIN)/python -m pytest tests/export/test_clients.py

slow-test: $(VENV)/installed-dev ## run the tests that take minutes
	$(BIN)/python -m pytest -n 2 -m slow

soak: $(VENV)/installed-dev ## kill campaigns hundreds of times; keep the outcome in docs/reliability.md
	$(BIN)/python -m pytest -n 2 --dist worksteal -m soak tests/soak --soak-report docs/reliability.md

# Minutes for each kind of file, and the kinds.
MINUTES ?= 5
TARGETS ?= genome_file genome_json weights toml override stored_config

fuzz: $(VENV)/installed-fuzz ## fuzz what reads files, MINUTES=5 a target; kept in .fuzz, findings in .fuzz/found
	for target in $(TARGETS); do \
	  $(BIN)/python tests/fuzz $$target --seconds $$(($(MINUTES) * 60)) || exit 1; \
	  $(BIN)/python tests/fuzz $$target --replay || exit 1; \
	done

lint: $(VENV)/installed-dev ## check style, types and the layers of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg --no-logo

sdist: $(VENV)/installed-dev ## build the source distribution into dist/
	$(BIN)/python -m build --sdist

clean: ## remove the virtual environment and what tools left behind; campaigns stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/installed: $(SETUP_INPUTS)
	$(call install,.)
	@touch $@

$(VENV)/installed-dev: $(SETUP_INPUTS)
	$(call install,.[dev])
	@touch $(VENV)/installed $@

$(VENV)/installed-clients: $(VENV)/installed-dev
	$(call install,.[clients])
	@touch $@

$(VENV)/installed-fuzz: $(SETUP_INPUTS)
	$(call install,.[fuzz])
	@touch $(VENV)/installed $@

$(VENV)/installed-benchmark: $(SETUP_INPUTS)
	$(call install,.[benchmark])
	@touch $(VENV)/installed $@

define install
	@command -v $(PYTHON) >/dev/null || \
	  { echo 'evometa needs Python 3.11 or newer, and there is no "$(PYTHON)": install it, or name one, as in make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "evometa needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name a newer one, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'Python lacks the venv module: install it (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '$(1)'
endef
