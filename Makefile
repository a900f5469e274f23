# `make run` and `make test` are all the set-up there is: each makes its own environment in .venv/.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
EMULATOR_PORT ?= 8085

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help
help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

.PHONY: run
run: $(VENV)/run.stamp ## Serve on port 8080 (PORT=...), with the embedded fan-out unless a topic is set
	@exec $(BIN)/python -m app

.PHONY: test
test: $(VENV)/dev.stamp ## Run all tests (ARGS="-k words" for some); finds the Pub/Sub emulator by itself
	$(BIN)/python -m pytest $(ARGS)

.PHONY: lint
lint: $(VENV)/dev.stamp ## Check style, types, the walls between the rooms, and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

.PHONY: format
format: $(VENV)/dev.stamp ## Put the code in form, and the README's tables
	$(BIN)/python -m tests.support.readme
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(VENV)/dev.stamp ## Write the lock files anew, with the newest versions that fit
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) --group dev pyproject.toml -o requirements-dev.lock
LOCK_FLAGS := --universal --python-version 3.11 --fork-strategy requires-python --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"

.PHONY: emulator
emulator: $(VENV)/dev.stamp ## Run the Pub/Sub emulator of the Google Cloud SDK (EMULATOR_PORT=8085) until Ctrl-C
	@exec $(BIN)/python -m tests.support.emulator --port $(EMULATOR_PORT)

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# An environment is made anew when PYTHON changes; a lock is installed again when it changes.
$(VENV)/python.stamp: FORCE
	@version=$$($(PYTHON) -c 'import sys; print(sys.executable, *sys.version_info[:3])') || { echo "There is no $(PYTHON): install Python 3.11 or later, or say make PYTHON=..." >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; $$version is too old. Say make PYTHON=..." >&2; exit 1; }; \
	if [ "$$version" != "$$(cat $@ 2>/dev/null)" ]; then \
		rm -rf $(VENV); \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }; \
		echo "$$version" > $@; \
	fi

$(VENV)/run.stamp: requirements.lock $(VENV)/python.stamp
	$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/python.stamp
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@ $(VENV)/run.stamp

.PHONY: FORCE
FORCE:
