# Two commands do everything: `make up` and `make test`. `make help` lists the others.
PY ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

up: .venv/run ## install what is missing, start Havre in the background, deliver the example from Git
	@tools/up.sh

down: ## stop it; the data stays
	@$(BIN)/havre down

dev: .venv/dev ## the environment for work on Havre

check: .venv/dev ## style, imports between floors, types
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

test: .venv/dev .venv/clients ## install what tests need, run all tiers
	tools/test.sh

generate: .venv/dev ## the packaged tables, from the sources of Kubernetes (needs go)
	$(BIN)/pip install -q --require-hashes -r requirements/generate.txt
	$(BIN)/python -m tools.generate

lock: .venv/dev ## requirements/*.txt, from pyproject.toml
	$(BIN)/pip install -q uv && PATH="$(CURDIR)/$(BIN):$$PATH" tools/lock.sh $(UP)

.venv/run .venv/dev .venv/clients: .venv/%: requirements/%.txt requirements/debian-run.txt requirements/debian-dev.txt requirements/helm.txt pyproject.toml tools/install.sh
	@PY=$(PY) tools/install.sh $*

.PHONY: help up down dev check test generate lock
