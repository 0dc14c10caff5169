# `make demo` and `make test` work on a bare machine with Python 3.10 to 3.13 and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check docs
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed
	$(BIN)/longtail demo
	@echo "These commands need: source $(BIN)/activate"

test: .venv/installed
	$(BIN)/pytest

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/python tools/reference.py
	$(BIN)/zensical build --strict
