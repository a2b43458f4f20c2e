# `make check` is what to run before a commit: format, lint, types, fast tests. No network.
PYTHON ?= .venv/bin/python

.PHONY: check
check:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy clipjax/config clipjax/checkpoints.py clipjax/cli
	$(PYTHON) -m pytest -q -n auto
