# effdl. `make` lists what there is. Everything runs in .venv, made on first use; PYTHON picks the interpreter for it.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
.DEFAULT_GOAL := help
.PHONY: help install demo list status readme test test-slow test-gpu audit bench bench-links bench-hooks links bench-gpu lint types check same clean

help: ## this list
	@grep -hE '^[a-z% -]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv and install effdl with its test tools

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "effdl needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[vision,dev]'
	@touch $@

demo: $(VENV)/.installed ## the main job on real digits: layer-wise learning against backprop, under 90 s
	@$(PY) -m effdl run demo

list: $(VENV)/.installed ## every table, figure and choice
	@$(PY) -m effdl list

status: $(VENV)/.installed ## every artefact and claim: declared, run, held
	@$(PY) -m effdl status

ARTEFACT = @$(PY) -m effdl run $@ $(if $(SCALE),--scale $(SCALE))
# One rule each: of several patterns in one rule, make takes table-4.1 and fig-4.1, whose stems agree, for one product.
table-%: $(VENV)/.installed ## a table or figure of the theses: make table-6.1 SCALE=small
	$(ARTEFACT)
fig-%: $(VENV)/.installed
	$(ARTEFACT)
dfa-%: $(VENV)/.installed
	$(ARTEFACT)
claims-%: $(VENV)/.installed
	$(ARTEFACT)

readme: $(VENV)/.installed ## rewrite the README's results from the ledger alone
	@$(PY) scripts/readme.py

test: $(VENV)/.installed ## the suite, a quarter of an hour on 2 cores; EFFDL_DATA names the folder of the image sets
	$(PY) -m pytest -n 2 --dist worksteal --durations=40

test-slow: $(VENV)/.installed ## the slow tier: kills, two processes at once, printed costs
	$(PY) -m pytest -n 2 --dist worksteal -m "slow and not alone"
	$(PY) -m pytest -m alone

audit: $(VENV)/.installed ## every line of every ledger against declarations and code; pages and pictures against both
	$(PY) -m pytest -n 2 --dist loadgroup -m audit

bench: $(VENV)/.installed ## what the engine costs and gains beside named peers, as ratios; 20 minutes, on a quiet machine
	@$(PY) scripts/bench.py
	@$(PY) scripts/bench_memory.py
	@$(PY) scripts/bench_parts.py
	@$(PY) scripts/bench_closed_forms.py
	@$(PY) scripts/bench_data.py
	@$(PY) scripts/bench_feedback.py
	@$(PY) scripts/bench_stacks.py
	@$(PY) scripts/bench_neighbours.py
	@$(PY) scripts/bench_probes.py
	@$(PY) scripts/bench_objectives.py
	@$(PY) scripts/bench_compression.py

bench-links: $(VENV)/.installed ## averaging between two workers on shaped links, beside what plan foretells; needs root
	@$(PY) scripts/bench_links.py

links: $(VENV)/.installed ## the same on a quiet machine, kept in results/ledger/links.json, and the page of chapter 3 from it
	@$(PY) scripts/bench_links.py --keep results
	@$(PY) scripts/readme.py

bench-hooks: $(VENV)/.installed ## communication hooks of DistributedDataParallel on MNIST: ours beside fp16, bf16, PowerSGD, 8 bits
	@$(PY) scripts/bench_hooks.py

# Without a GPU the line that says so is all, and no failure.
ON_A_GPU = @$(PY) scripts/gpu_there.py $@ || { code=$$?; [ $$code -eq 3 ] && exit 0; exit $$code; } &&

test-gpu: $(VENV)/.installed ## the tests that need a GPU
	$(ON_A_GPU) $(PY) -m pytest -m gpu -rs tests/test_gpu.py

bench-gpu: $(VENV)/.installed ## what the engine costs on a GPU, images a second, the allocator's peaks
	$(ON_A_GPU) $(PY) scripts/bench.py gpu

lint: $(VENV)/.installed ## style
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(VENV)/.installed ## static types, strict
	$(PY) -m mypy

check: lint types test ## everything that must hold before a commit

same: $(VENV)/.installed ## same numbers as another commit, bit for bit: make same BASE=main
	@$(PY) scripts/same.py $(BASE)

clean: ## remove caches and the environment, not the results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
