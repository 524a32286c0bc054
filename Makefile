# Everything runs in .venv (and .venv-compat); a second run installs and downloads nothing.
PYTHON ?= python3
VENV := .venv
COMPAT := .venv-compat
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-build-isolation
# The default editable install hides the package from mypy and pyright; this one is a folder of links.
EDITABLE := --config-settings editable_mode=strict --editable
# Makes the checkpoint, or only finds it, for the command that follows.
WITH_MODEL = CHATPLAN_MODEL=$$($(BIN)/python examples/smollm2.py) && export CHATPLAN_MODEL &&

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-compat check docs bench clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## install, fetch a small model (93 MB), and run examples/demo.py
	@$(WITH_MODEL) $(BIN)/python examples/demo.py
	@$(WITH_MODEL) printf 'next:\n  %s chat %s\n  %s playground %s\n' $(BIN)/chatplan "$$CHATPLAN_MODEL" $(BIN)/chatplan "$$CHATPLAN_MODEL"

test: check docs test-unit test-compat ## the checks, the site, and all tests on both transformers versions

test-unit: $(VENV)/.dev $(VENV)/.browser ## all tests, on the pinned versions
	@echo "== tests: transformers $$($(call version,$(BIN)))"
	@$(WITH_MODEL) $(BIN)/python -m pytest

test-compat: $(VENV)/.dev $(COMPAT)/.test ## the tests that apply, on the oldest transformers
	@echo "== tests: transformers $$($(call version,$(COMPAT)/bin))"
	@$(WITH_MODEL) $(COMPAT)/bin/python -m pytest -m "not slow and not dev_only"

check: $(VENV)/.dev ## lint, format, types, and the import rule
	@echo "== check: ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== check: mypy"
	@$(BIN)/mypy
	@echo "== check: pyright"
	@$(BIN)/pyright
	@echo "== check: imports"
	@$(BIN)/python -m pytest --quiet tests/test_import_rule.py

docs: $(VENV)/.dev ## the documentation site, in build/site, its links checked
	@echo "== docs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(VENV)/.dev ## run every program in tests/benchmarks
	@$(WITH_MODEL) for program in tests/benchmarks/*.py; do echo "== $$program" && $(BIN)/python "$$program" || exit 1; done

clean: ## remove the virtual environments and everything that was built
	rm -rf $(VENV) $(COMPAT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

version = $(1)/python -c "from importlib.metadata import version; print(version('transformers'))"

%/.made:
	@echo "== creating $* (installing PyTorch and Transformers takes a few minutes)"
	@$(PYTHON) -m venv $*
	@touch $@

$(VENV)/.demo: EXTRAS := demo,cli,serve
$(VENV)/.dev: EXTRAS := demo,dev
$(VENV)/.demo $(VENV)/.dev: setup.cfg pyproject.toml constraints/dev.txt $(VENV)/.files
	@echo "== installing chatplan[$(EXTRAS)]"
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints/dev.txt setuptools
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints/dev.txt $(EDITABLE) '.[$(EXTRAS)]'
	@ln -sfn "$$(cat $(VENV)/lib/python*/site-packages/__editable__.chatplan-*.pth)" build/src
	@touch $@

# The page is tested in a browser: the system's, else Debian's where we may install it, else Playwright's own.
$(VENV)/.browser: $(VENV)/.dev
	@command -v chromium || command -v google-chrome || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get -qq update && apt-get -qq --yes install chromium; } || \
		$(BIN)/python -m playwright install chromium
	@touch $@

$(COMPAT)/.test: setup.cfg pyproject.toml constraints/compat.txt | $(COMPAT)/.made
	@echo "== installing chatplan[doors,outlines,lm-format-enforcer] on the oldest transformers"
	@$(COMPAT)/bin/python $(PIP_INSTALL) --constraint constraints/compat.txt setuptools
	@$(COMPAT)/bin/python $(PIP_INSTALL) --constraint constraints/compat.txt --editable '.[doors,outlines,lm-format-enforcer]'
	@touch $@

# A strict editable install links file by file: it must run again when the list of files changes.
$(VENV)/.files: FORCE | $(VENV)/.made
	@find plugin hooks adapters -type f -not -path '*/__pycache__/*' | LC_ALL=C sort > $@.new
	@cmp -s $@.new $@ || cp $@.new $@

FORCE:
