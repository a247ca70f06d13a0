# Everything a person or a CI machine runs here. `make` alone lists it.

PYTHON ?= python3
BIN := .venv/bin
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup browser test lint types imports pytest sim verify bench bench-peers lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## bring everything a fresh machine lacks (cold about 5 minutes, warm under a second)
	@$(PYTHON) -m infra.tools.setup

browser: setup ## a browser for the tests that look at reports, where the system is Debian's and we are root
	@$(PYTHON) -m infra.tools.browser

test: browser ## lint, types, import arrows, simulated weeks, and all tests
	@$(MAKE) --no-print-directory lint types imports sim pytest

lint: ## ruff: style and common mistakes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: ## mypy, strict
	@$(BIN)/mypy

imports: ## the arrows between the folders
	@$(BIN)/lint-imports --no-logo

pytest: ## the tests alone: on both cores what needs no servers, then one by one what does
	@$(BIN)/pytest -n 2 -m "not live" $(PYTEST_ARGS)
	@$(BIN)/pytest -m live $(PYTEST_ARGS)

sim: ## two hundred simulated weeks of the ownership protocol
	@$(BIN)/threenines sim --profile ci

verify: setup ## bring the local stack up, measure it, write reports/out/latest/
	@$(BIN)/threenines verify --profile quick

bench: setup ## the figures, side by side with their baselines
	@$(BIN)/python -m benchmarks

bench-peers: setup ## against keepalived, Redis Sentinel and Patroni (root, Debian, about an hour; see BENCHMARKS.md)
	@$(BIN)/python -m benchmarks peers

lock: ## write requirements.lock anew from pyproject.toml
	@$(PYTHON) -m infra.tools.lock

clean: ## take away what was built and brought (state of running stacks stays)
	@rm -rf .tools .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
