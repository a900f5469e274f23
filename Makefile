# `make run` and `make test` are all the set-up there is: each makes its own environment in .venv/.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
EMULATOR_PORT ?= 8085
MINUTES ?= 3
SEED ?=
IMAGE ?= cloud-sockets
TAG ?= latest
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
IMAGE_NETWORK ?= host
URL ?= http://localhost:8080
TERRAFORM_CHECK ?= ../shared/terraform-check/terraform-check
export TERRAFORM_CHECK

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CHECKOV_VENV := .cache/checkov
CONFORMANCE_VENV := .cache/conformance
INTEROP_VENV := .cache/interop

.PHONY: help
help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-15s %s\n' "$$name" "$$text"; done

.PHONY: run
run: $(VENV)/run.stamp ## Serve on port 8080 (PORT=...), with the embedded fan-out unless a topic is set
	@exec $(BIN)/python -m app

.PHONY: test
test: $(VENV)/dev.stamp ## Run all tests (ARGS="-k words" for some); finds the Pub/Sub emulator by itself
	$(BIN)/python -m pytest $(ARGS)

.PHONY: lint
lint: $(VENV)/dev.stamp ## Check style, types, the walls between the rooms, Dockerfiles, cloudbuild.yaml and images
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile docs/examples/handlers/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.cloudbuild cloudbuild.yaml
	$(BIN)/python .ci/images check

.PHONY: format
format: $(VENV)/dev.stamp ## Put the code in form, and the README's tables
	$(BIN)/python -m tests.support.readme
	$(BIN)/python docs/costs.py --write
	$(BIN)/python -m docs.memory --write
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(shell command -v terraform),terraform fmt -recursive terraform)

.PHONY: lock
lock: $(VENV)/dev.stamp ## Write the lock files anew, with the newest versions that fit
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) --group dev pyproject.toml -o requirements-dev.lock
	echo checkov | $(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) - -o .ci/checkov.lock
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) bench/peers/requirements.in -o bench/peers/requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) tests/conformance/requirements.in -o tests/conformance/requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FLAGS) tests/interop/requirements.in -o tests/interop/requirements.lock
LOCK_FLAGS := --universal --python-version 3.11 --fork-strategy requires-python --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock"

.PHONY: lock-terraform
lock-terraform: ## Write terraform/.terraform.lock.hcl anew, with the newest provider that fits, for all platforms
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cp terraform/*.tf "$$folder" \
		&& terraform -chdir="$$folder" providers lock $(TERRAFORM_PLATFORMS:%=-platform=%) $(ARGS) \
		&& cp "$$folder/.terraform.lock.hcl" terraform/
TERRAFORM_PLATFORMS := linux_amd64 linux_arm64 darwin_amd64 darwin_arm64 windows_amd64

.PHONY: pin-images
pin-images: ## Write the digests that the tags of the images have now (Dockerfiles, cloudbuild.yaml, terraform/)
	$(PYTHON) .ci/images pin

.PHONY: image
image: ## Build the image (IMAGE=cloud-sockets)
	docker build $(DOCKER_BUILD_FLAGS) --build-arg COMMIT=$(COMMIT) --tag $(IMAGE) .

.PHONY: image-test
image-test: $(VENV)/dev.stamp ## Build the image, run it, try it and stop it (IMAGE_NETWORK=host)
	IMAGE=$(IMAGE) COMMIT=$(COMMIT) IMAGE_NETWORK=$(IMAGE_NETWORK) .ci/with-docker $(BIN)/python -m pytest -m image -s $(ARGS)

.PHONY: chaos
chaos: $(VENV)/dev.stamp ## Break what can break, and count what is lost (MINUTES=3 SEED=...; ARGS="--only chaos", ARGS=--attackers)
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: push
push: ## Push IMAGE to its registry, as it is called and as TAG
	docker push $(IMAGE)
	docker tag $(IMAGE) $$(echo $(IMAGE) | sed 's/:[^:/]*$$//'):$(TAG)
	docker push $$(echo $(IMAGE) | sed 's/:[^:/]*$$//'):$(TAG)

.PHONY: bench
bench: $(VENV)/dev.stamp ## Measure the service beside its peers, and write docs/performance.md (ARGS=--short: only try it)
	$(BIN)/python -m bench $(ARGS)

.PHONY: conformance
conformance: $(VENV)/dev.stamp $(CONFORMANCE_VENV)/stamp ## Run Autobahn's 517 cases against the server, in each way it serves (ARGS="--messages 1000")
	$(BIN)/python -m tests.conformance --python $(CONFORMANCE_VENV)/bin/python $(ARGS)

.PHONY: interop
interop: $(VENV)/dev.stamp $(INTEROP_VENV)/stamp $(INTEROP_VENV)/node/stamp ## Try clients and proxies that others wrote, as far as they are here (ARGS="-k nginx")
	$(BIN)/python -m pytest -m interop tests/interop $(ARGS)

.PHONY: smoke
smoke: $(VENV)/dev.stamp ## Try the service at URL over real sockets
	$(BIN)/python -m tests.smoke $(URL)

.PHONY: terraform-test
terraform-test: $(CHECKOV_VENV)/stamp ## Check terraform/: form, schema, plans, and what checkov knows
	.ci/terraform-test
	$(CHECKOV_VENV)/bin/checkov --quiet --compact --skip-download --directory . --framework terraform dockerfile --skip-path .cache --skip-path .venv

.PHONY: deploy-canary deploy-smoke deploy-promote deploy-rollback
deploy-canary: ## Deploy IMAGE beside what serves, without traffic (SERVICE=... REGION=...)
	.ci/deploy canary $(IMAGE)
deploy-smoke deploy-promote: $(VENV)/dev.stamp
deploy-smoke: ## Try the canary over real sockets; roll back if it fails
	$(BIN)/python .ci/deploy smoke
deploy-promote: ## Give the canary all traffic, and try again; roll back if it fails
	$(BIN)/python .ci/deploy promote
deploy-rollback: ## Give all traffic back to the revision that had it before
	.ci/deploy rollback

.PHONY: emulator
emulator: $(VENV)/dev.stamp ## Run the Pub/Sub emulator of the Google Cloud SDK (EMULATOR_PORT=8085) until Ctrl-C
	@exec $(BIN)/python -m tests.support.emulator --port $(EMULATOR_PORT)

.PHONY: clean
clean: ## Remove what the other targets made
	rm -rf $(VENV) .cache terraform/.terraform .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

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

# checkov pins much of what it needs to old versions: it has an environment of its own.
$(CHECKOV_VENV)/stamp: .ci/checkov.lock
	$(PYTHON) -m venv $(CHECKOV_VENV)
	$(CHECKOV_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r .ci/checkov.lock
	@touch $@

# The cases' package is none of the service's: it has an environment of its own, too.
$(CONFORMANCE_VENV)/stamp: tests/conformance/requirements.lock
	$(PYTHON) -m venv $(CONFORMANCE_VENV)
	$(CONFORMANCE_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r tests/conformance/requirements.lock
	@touch $@

# So have the clients of others. Without npm those for Node are missing, and the table says so.
$(INTEROP_VENV)/stamp: tests/interop/requirements.lock
	$(PYTHON) -m venv $(INTEROP_VENV)
	$(INTEROP_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r tests/interop/requirements.lock
	@touch $@

$(INTEROP_VENV)/node/stamp: tests/interop/package-lock.json tests/interop/package.json tests/interop/.npmrc
	@mkdir -p $(@D) && cp $^ $(@D)
	@if command -v npm >/dev/null; then cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch stamp; \
		else echo "npm is not installed: clients for Node, Bun and Deno are left out"; fi

.PHONY: FORCE
FORCE:
