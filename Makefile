# Every target makes its own .venv when there is none, and nothing else need be prepared.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
FILE ?=
FORMAT ?= jsonl
ONCE ?=
ARGS ?=
MINUTES ?= 10

.PHONY: demo test check fix bench faults mutants fuzz docs release pins clean

demo: $(VENV)/server ## The main job, told step by step: append, prove, verify, tamper, be caught.
	$(BIN)/ledger demo $(if $(ONCE),--once) $(if $(FILE),--import "$(FILE)" --format $(FORMAT))

test: $(VENV)/development ## All tests; names at its end those that this machine can't run.
	@! command -v go >/dev/null || tests/peers/install
	@! command -v mvn >/dev/null || tests/peers/install-kafka
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/development ## Format, lint, types, import contracts, docs, retired words.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check
	$(BIN)/python -m docs.check_links
	$(BIN)/python -m docs.retired_words
	$(BIN)/python client/generate_sync.py --check
	$(BIN)/python -m requirements.compile --check

fix: $(VENV)/development
	$(BIN)/python client/generate_sync.py
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/development ## Print the table of docs/benchmarks.md and write bench/results.json.
	$(BIN)/python -m bench $(ARGS)

faults: $(VENV)/development ## Make system calls fail, cut the power, damage files; takes an hour.
	$(BIN)/python -m tests.faults $(ARGS)

mutants: $(VENV)/mutants ## Mutation tests of the code that guards against loss; takes an hour.
	$(BIN)/python -m tests.mutants $(ARGS)

fuzz: $(VENV)/fuzz ## Mutated inputs to every parser, for MINUTES.
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(ARGS)

docs: $(VENV)/development ## Write the parts of docs/ that come from the code, and the site of all pages to site/.
	$(BIN)/python -m docs.generate
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs site

release: $(VENV)/development ## Both wheels, the same bytes anywhere, and what the server pulls in as CycloneDX.
	rm -rf dist && $(PYTHON) -m venv dist/server
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist ./client .
	dist/server/bin/python -m pip --quiet install --require-hashes --requirement requirements/server.txt
	dist/server/bin/python -m pip --quiet install --no-deps dist/*.whl
	$(BIN)/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json dist/server
	rm -r dist/server

pins: $(VENV)/development ## Pin the newest versions of all packages, with their hashes.
	$(PIP) install uv
	$(BIN)/python -m requirements.compile

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Every package has a pin with its hashes: see requirements/compile.py. Nothing else is fetched to
# build ours, since what builds them is pinned and installed before.
$(VENV)/server: requirements/server.txt pyproject.toml client/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --requirement requirements/server.txt
	$(PIP) install --no-deps --no-build-isolation --editable ./client --editable .
	touch $@

# --ignore-requires-python: see the group `peers` in pyproject.toml.
$(VENV)/development: $(VENV)/server requirements/development.txt requirements/peers.txt
	$(PIP) install --require-hashes --requirement requirements/development.txt
	$(PIP) install --require-hashes --ignore-requires-python --requirement requirements/peers.txt
	touch $@

$(VENV)/mutants: $(VENV)/development requirements/mutants.txt
	$(PIP) install --require-hashes --requirement requirements/mutants.txt
	touch $@

$(VENV)/fuzz: $(VENV)/development requirements/fuzz.txt
	$(PIP) install --require-hashes --requirement requirements/fuzz.txt
	touch $@
