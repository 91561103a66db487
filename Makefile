# Every target makes its own .venv when there is none, and nothing else need be prepared.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FILE ?=
FORMAT ?= jsonl
ONCE ?=
ARGS ?=

.PHONY: demo test check fix bench faults mutants docs clean

demo: $(VENV)/server ## The main job, told step by step: append, prove, verify, tamper, be caught.
	$(BIN)/ledger demo $(if $(ONCE),--once) $(if $(FILE),--import "$(FILE)" --format $(FORMAT))

test: $(VENV)/test ## All tests; names at its end those that this machine can't run.
	@! command -v go >/dev/null || tests/peers/install
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/check ## Format, lint, types, import contracts, docs, retired words.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m docs.retired_words
	$(BIN)/python client/generate_sync.py --check

fix: $(VENV)/check
	$(BIN)/python client/generate_sync.py
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/test ## Print the table of docs/benchmarks.md and write bench/results.json.
	$(BIN)/python -m bench $(ARGS)

faults: $(VENV)/test ## Make system calls fail, cut the power, damage files; takes an hour.
	$(BIN)/python -m tests.faults $(ARGS)

mutants: $(VENV)/mutants ## Mutation tests of the code that guards against loss; takes an hour.
	$(BIN)/python -m tests.mutants $(ARGS)

docs: $(VENV)/check ## Write the parts of docs/ that come from the code.
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/pip: pyproject.toml client/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	touch $@

$(VENV)/server: $(VENV)/pip
	$(PIP) install --editable './client[async,importers,ml-dsa]' --editable .
	touch $@

# --ignore-requires-python: see the group `peers` in pyproject.toml.
$(VENV)/test: $(VENV)/server
	$(PIP) install --group test
	$(PIP) install --ignore-requires-python --group peers
	touch $@

$(VENV)/check: $(VENV)/test
	$(PIP) install --group check
	touch $@

$(VENV)/mutants: $(VENV)/test
	$(PIP) install --group mutants
	touch $@
