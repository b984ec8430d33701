# Tasks of a checkout. Needs make, and Python 3.11 or newer with venv; everything else is installed into .venv from the
# package index, pinned by hash. Another interpreter: PYTHON=python3.12 make demo
# Written for GNU make 3.81 (macOS) and any POSIX sh.

INTERPRETER := $(or $(PYTHON),python3)
BIN := .venv/bin
PEERS := .venv-peers/installed
TESTS := PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n 2
PIN = $(1)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help demo dashboard test coverage test-slow test-long test-peers mutants lint bench bench-peers docs lock clean runtime tools

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: runtime ## Backtest the bundled sample, replay it to the same digest, and explain an order
	@$(BIN)/quantagent demo

dashboard: runtime ## Open the dashboard on 127.0.0.1
	@$(BIN)/quantagent dashboard

test: tools ## Run the tests (five minutes on two cores)
	@$(TESTS) -m "not slow and not long and not peers" $(PYTEST_ARGS)

coverage: ## Run the same tests and list uncovered lines (at least 85 % are covered)
	@$(MAKE) test PYTEST_ARGS="--cov --cov-report=term"

test-slow: tools ## Run the tests that start many processes or take many seconds each
	@$(TESTS) -m slow

test-long: tools ## Run the tests that take minutes each
	@$(BIN)/pytest -m "long and not peers"

test-peers: tools $(PEERS) ## Compare fills and equity with four public engines, installed in .venv-peers
	@$(BIN)/pytest -m peers tests/peers/test_peers.py

mutants: tools ## Mutate the risk check, fills and money; the tests must fail (at least 95 %)
	@$(BIN)/python -m tests.support.mutants

lint: tools ## Check style, types, architecture, dependencies and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry .
	$(BIN)/deptry tests --exclude tests/peers/engines --ignore DEP002,DEP004
	@# There is no hadolint wheel for macOS.
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint docker/Dockerfile; fi

bench: tools ## Measure the engine and write the table of docs/benchmarks.md
	@$(BIN)/python -m tests.support.bench

bench-peers: tools $(PEERS) ## Measure the same runs in those engines and write their table of docs/benchmarks.md
	@$(BIN)/python -m tests.support.bench_peers

docs: tools ## Write the generated pages, and the outputs shown in all pages
	@$(BIN)/python -m tests.support.documents

lock: ## Pin the dependencies of pyproject.toml again in the lock files
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && trap 'exit 130' INT TERM && \
	$(INTERPRETER) -m venv "$$new" && "$$new/bin/pip" install --quiet --disable-pip-version-check uv && \
	$(call PIN,"$$new") pyproject.toml -o requirements.lock && \
	$(call PIN,"$$new") --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock && \
	$(call PIN,"$$new") --group build -o requirements-build.lock && \
	$(call PIN,"$$new") --group peers -o requirements-peers.lock

clean: ## Remove .venv and all generated files
	rm -rf .venv .venv-peers .pytest_cache .hypothesis .ruff_cache .import_linter_cache .coverage .coverage.* htmlcov dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A separate environment, because their dependencies conflict with those of the engine. The marker is written last, so
# that an interrupted installation starts again.
$(PEERS): requirements-peers.lock | tools
	@echo "installing requirements-peers.lock into .venv-peers" >&2
	@rm -rf .venv-peers && $(BIN)/python -m venv .venv-peers
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-peers.lock
	@touch $@

runtime:
	@$(call ENVIRONMENT,requirements.lock)

tools:
	@$(call ENVIRONMENT,requirements-dev.lock)

ENVIRONMENT = command -v $(INTERPRETER) >/dev/null || \
	{ echo "$(INTERPRETER) is missing: install Python 3.11 or newer (apt install python3 python3-venv)." >&2; exit 2; }; \
	$(INTERPRETER) .ci/environment.py $(1)
