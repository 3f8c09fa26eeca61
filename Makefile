# `make merged-v3` and `make test` do all their own set-up; `make venv` is the set-up alone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: venv lint test test-all bench fuzz faults soak
venv: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

merged-%: venv
	$(BIN)/build $@

lint: venv
	$(BIN)/ruff check buildsys tests bench corpus
	$(BIN)/ruff format --check buildsys tests bench corpus
	$(BIN)/mypy

test: venv
	$(BIN)/pytest -n 2 --dist loadfile

test-all: venv
	$(BIN)/pytest -n 2 --dist loadfile -m ''

bench: venv
	$(BIN)/python -m bench

# Longer looks for what a test run has no time for: `make faults SECONDS=600`.
SECONDS ?= 60

fuzz: venv
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

faults: venv
	$(BIN)/python -m tests.faults --seconds $(SECONDS)

soak: venv
	$(BIN)/python -m bench.soak --seconds $(SECONDS)
