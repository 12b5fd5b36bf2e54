# `make` lists the targets. Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
# DVC's stages say `python`: the environment's.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
INSTALLED := .venv/.installed
# cpu spares 4 GB of CUDA libraries; empty is what the package index gives.
TORCH ?=
# Each stage is a process of its own with thousands of modules behind it: compiled once, at installation.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install checkout demo petfaces ui catalog catalog-demo test test-unit test-slow bench peers lint texts constraints clean
.NOTPARALLEL:  # with -j, too, a check comes before what it guards

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "error: Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python \
		$(if $(TORCH),--torch-backend=$(TORCH)) --constraint constraints.txt --editable '.[dev]'
	touch $@

# DVC needs git, and so does whoever rebuilds a version: looked at before a minute of installing.
checkout:
	@if grep -qs '^ *no_scm *= *[Tt]rue' .dvc/config .dvc/config.local; then exit 0; fi; \
	if test ! -e .git; then \
		echo "error: this folder is no git checkout, which DVC needs; use a clone of the project, or run here:"; \
		echo "  git init && git add -A && git commit -m Start"; exit 1; \
	elif ! git rev-parse --verify HEAD >/dev/null; then \
		echo "error: DVC needs git and a commit here; mend what is said above"; exit 1; \
	fi >&2

demo: checkout $(INSTALLED)  ## the whole pipeline on drawn faces, then the leaderboard (under five minutes)
	@petfaces config data=sample
	dvc repro
	@petfaces leaderboard
	@changed=$$(git status --porcelain 2>/dev/null); test -z "$$changed" \
		|| printf '%s\n' "$$changed" | grep -qvE '^.. (dvc\.lock|reports/sample/.*)$$' \
		|| echo "Another processor rounds otherwise: dvc.lock and reports/sample differ from the committed ones." \
			"Back to those: git checkout dvc.lock reports/sample && git clean -fdq reports/sample"

petfaces: checkout $(INSTALLED)  ## the same on the real faces; PETFACES_MIRROR=DIRECTORY_OR_URL for a copy of the archive
	@petfaces config data=petfaces
	dvc repro
	@petfaces leaderboard

ui: $(INSTALLED)  ## MLflow's page, with links to its training side
	@petfaces tracking ui

catalog: $(INSTALLED)  ## label images in the browser, with a model's help
	@petfaces catalog

catalog-demo: $(INSTALLED)  ## the same with the sample's drawn faces, to try it
	@petfaces catalog demo

test: $(INSTALLED)  ## the tests (offline, on drawn faces)
	pytest -n 2 --dist loadfile --no-loadscope-reorder

test-unit: $(INSTALLED)  ## those of them that need no finished pipeline
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not integration"

test-slow: $(INSTALLED)  ## the tests that take minutes
	pytest -m slow

bench: $(INSTALLED)  ## what reports/benchmarks.md tells of speed and memory, measured here
	python -m benchmarks.input
	python -m benchmarks.features
	python -m benchmarks.overhead
	python -m benchmarks.memory
	python -m benchmarks.layout

peers: .venv-peers/.installed  ## the environment of benchmarks.time_to_accuracy's peers

.venv-peers/.installed: $(INSTALLED)
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	uv pip install --quiet --python .venv-peers/bin/python --constraint constraints.txt fastai timm torchvision
	touch $@

lint: $(INSTALLED)  ## style and format, as pre-commit and CI check them
	ruff check .
	ruff format --check .

texts: $(INSTALLED)  ## take the catalog's texts over into its translations
	pybabel -q extract --mapping catalog/locale/babel.cfg --keyword t --keyword tn:1,2 --no-wrap \
		--add-location file --omit-header --output catalog.pot catalog
	pybabel -q update --domain catalog --output-dir catalog/locale --input-file catalog.pot --no-wrap \
		--no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date
	rm catalog.pot

constraints: $(INSTALLED)  ## raise constraints.txt to the newest versions that fit pyproject.toml
	uv pip compile --quiet --upgrade --extra dev --no-emit-index-url --no-header --no-annotate \
		--output-file constraints.new pyproject.toml
	{ head -1 constraints.txt; cat constraints.new; echo uv==$$(uv --version | cut -d' ' -f2); } > constraints.part
	mv constraints.part constraints.txt && rm constraints.new

clean:  ## delete caches of tests and tools; data, runs and MLflow's store stay
	rm -rf .pytest_cache .ruff_cache .hypothesis *.egg-info build
	find pipeline models tests -name __pycache__ -prune -exec rm -rf {} +
