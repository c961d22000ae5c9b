# make sweep | claims | test | test-all | accept | bench | gpu | ui | nltk: each sets itself up on a bare machine.
ABLATION ?= lemoe_lora
BACKBONE ?=
# A backbone that was not made here knows nothing of the made-up world.
DATASET ?= $(if $(filter-out facts%,$(BACKBONE)),countries)
# A paper (lemoe) or single claims (lemoe.c3); none: all forty.
CLAIMS ?=
ARGS ?=
PYTHON ?= python3
STORE ?= results
PORT ?= 5000
BIN := .venv/bin

.PHONY: sweep claims test test-all accept bench gpu ui nltk lint setup
.DEFAULT_GOAL := sweep

setup: .venv/installed

# The CPU build of torch is tried first: on Linux the index's own brings gigabytes of GPU libraries.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt $(TORCH_ARGS) -e '.[dev]'
	touch $@

sweep: setup
	$(BIN)/python orchestrator/sweep.py ablation=$(ABLATION) $(if $(BACKBONE),backbone=$(BACKBONE)) \
		$(if $(DATASET),dataset=$(DATASET)) 'store="$(STORE)"' $(ARGS)

# Each ablation that tests a claim, then the verdicts. One that cannot run on these data stops no other, and is named at the end.
claims: setup
	@for each in $$($(BIN)/python analysis/claims.py $(CLAIMS) --ablations); do \
		$(MAKE) --no-print-directory sweep ABLATION=$$each || failed="$$failed $$each"; \
	done; \
	$(BIN)/python analysis/claims.py $(CLAIMS) 'store=$(STORE)' && \
	if [ "$$failed" ]; then echo "these ablations did not run to their end:$$failed" >&2; exit 1; fi

# Three on two cores: while one waits for Ray to start, the others compute.
test: setup
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

test-all: setup
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not gpu and not network" $(ARGS)

accept: setup
	$(BIN)/python tests/accept.py $(ARGS)

bench: setup
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

# Where torch sees a GPU, which the CPU build of `make setup` does not: rm -rf .venv, TORCH_ARGS= make gpu
gpu: setup
	$(BIN)/python tests/gpu.py

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests/accept.py tests/acceptance.py tests/gpu.py tests/benchmarks docs examples
	$(BIN)/lint-imports

# Named entities (MEMoE's anchors) and WordNet: a few megabytes into the cache that sweeps look in.
nltk: setup
	$(BIN)/python -m trainables.moe.nltk_data "$${XDG_CACHE_HOME:-$$HOME/.cache}/editing-sweeps/nltk_data"

ui: setup
	$(BIN)/python orchestrator/ui.py 'store=$(STORE)' port=$(PORT) $(ARGS)
