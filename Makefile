# Each target works from a clean clone: it builds .venv once and is quick afterwards.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
OLDEST := $(VENV)/oldest

.PHONY: help demo study test test-full test-oldest coverage reliability audit lint types docs dist clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / - /'

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV), once (PyTorch is large: some minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[examples,dev]"
	@touch $@

demo: $(INSTALLED)  ## train alpha-CL and InfoNCE on real images, print the table, draw the picture
	$(RUN) examples/quickstart.py $(ARGS)

study: $(INSTALLED)  ## which loss helps on an image folder? (ARGS="--data-root DIR --minutes 60"; docs/study.md)
	$(RUN) examples/study.py $(ARGS)

test: $(INSTALLED)  ## the tests, under 10 minutes on two cores
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 -m "not slow" $(ARGS)

test-full: $(INSTALLED)  ## every test, the slow ones too
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 $(ARGS)

# The oldest PyTorch that is allowed is a download of some GB. Old packages warn in new ones: warnings are no errors here.
# Without solo-learn, whose tests need a clone.
test-oldest:  ## the fast tests of the core and the adapters with the oldest versions allowed, in .venv/oldest
	test -x $(OLDEST)/bin/uv || $(PYTHON) -m venv $(OLDEST)
	test -x $(OLDEST)/bin/uv || $(OLDEST)/bin/python -m pip install --quiet uv
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
		--editable ".[examples,metric-learning,open-clip,sentence-transformers]"
	$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python hypothesis pytest pytest-mock pytest-xdist
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest --numprocesses 2 -W default -m "not slow" $(or $(ARGS),\
		$(addprefix tests/alphacl_,plugins lightly timm sklearn metric_learning open_clip sentence_transformers))

coverage: $(INSTALLED)  ## which lines of the core its own tests leave out (no whole run: ARGS adds tests)
	OMP_NUM_THREADS=1 $(RUN) -m pytest --cov --cov-report term-missing -m "not slow" tests/alphacl_plugins $(ARGS)

reliability: $(INSTALLED)  ## the hard tests of the loss, whole, and their table in docs/reliability.md
	OMP_NUM_THREADS=1 RELIABILITY_RECORD=$(VENV)/reliability.json $(RUN) -m pytest tests/reliability $(ARGS)
	$(RUN) tests/reliability/report.py $(VENV)/reliability.json docs/reliability.md

audit: $(INSTALLED)  ## known vulnerabilities of the direct dependencies, from PyPI (ARGS="-s osv": from OSV)
	test -x $(VENV)/audit/bin/pip-audit || $(PYTHON) -m venv $(VENV)/audit
	test -x $(VENV)/audit/bin/pip-audit || $(VENV)/audit/bin/python -m pip install --quiet "pip-audit>=2.7"
	$(RUN) .ci/direct_dependencies.py >$(VENV)/audit/direct.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $(VENV)/audit/direct.txt $(ARGS)

lint: $(INSTALLED)  ## ruff: lint and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: $(INSTALLED)  ## mypy
	$(RUN) -m mypy

docs: $(INSTALLED)  ## the manual, into site/
	$(RUN) -m pip install --quiet --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

dist: $(INSTALLED)  ## wheel and sdist into dist/, and whether they hold what they should
	rm -rf dist
	$(RUN) -m build .
	$(RUN) -m twine check --strict dist/*
	$(RUN) .ci/check_dist.py dist

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist site .runs .mypy_cache .pytest_cache .ruff_cache
