# Everything runs in .venv; a second run installs and downloads nothing.
PYTHON ?= python3
# On Linux, PyTorch's CPU build: PyPI's own brings gigabytes of CUDA. `make demo TORCH_INDEX=` takes PyPI's.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# How many processes share the tests.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is written where it is first needed; compiling all of it takes half a minute.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile
# The default editable install hides the package from mypy and pyright; this one is a folder of links.
EDITABLE := --no-build-isolation --config-settings editable_mode=strict --editable
# The oldest transformers and what fits it alone; put before .venv's own by PYTHONPATH.
OLDEST := build/oldest
# What runs on it: the tests of what touches transformers, without those of grammars, which touch its tokenizers alone.
OLDEST_TESTS := tests/plugin/engine tests/adapters/endpoint tests/adapters/tgi tests/adapters/test_pipeline.py \
	$(addprefix tests/hooks/test_,$(addsuffix .py,answer beams detokenize guided length logprobs parsing real_model \
	reasoning sampling stops template tools)) \
	$(addprefix tests/plugin/test_,$(addsuffix .py,answering chat compiler generic_tools model plan templates tokens))
# Makes the checkpoint, or only finds it, for the command that follows.
WITH_MODEL = CHATPLAN_MODEL=$$($(BIN)/python examples/smollm2.py) && export CHATPLAN_MODEL &&
# Whole files to a process, the files with slow tests first; the order within a file stays.
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder

# What needs a browser, other libraries or processes of its own is left to `make test`, as are libraries' own compilers.
NOT_FAST := $(addprefix --ignore=tests/,ecosystem benchmarks docs packaging hooks/test_backends.py hooks/test_xgrammar.py \
	hooks/test_draw.py $(addprefix adapters/,playground parallel ray_serve remote tgi bench cli/terminal cli/test_doctor.py \
	batch/test_killed.py))

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-unit test-compat check lint mypy pyright docs bench mutate clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## install, fetch a small model (93 MB), and run examples/demo.py
	@$(WITH_MODEL) $(BIN)/python examples/demo.py
	@$(WITH_MODEL) printf 'next:\n  %s chat %s\n  %s playground %s\n' $(BIN)/chatplan "$$CHATPLAN_MODEL" $(BIN)/chatplan "$$CHATPLAN_MODEL"

test: check test-unit test-compat ## the checks, and all tests on both transformers versions

test-fast: $(VENV)/.dev ## after every change: what needs neither the real model nor much time
	@$(BIN)/python -m pytest --quiet $(SPREAD) $(NOT_FAST) -m "not slow and not model and not gpu"

test-unit: $(VENV)/.dev $(VENV)/.browser ## all tests, on the pinned versions
	@echo "== tests: transformers $$($(version))"
	@$(WITH_MODEL) $(BIN)/python -m pytest $(SPREAD) -m "not gpu" --junitxml=build/junit/unit.xml

test-compat: export PYTHONPATH := $(CURDIR)/$(OLDEST)
test-compat: $(VENV)/.dev $(OLDEST)/.made ## what touches transformers, on the oldest version
	@echo "== tests: transformers $$($(version))"
	@$(WITH_MODEL) $(BIN)/python -m pytest $(SPREAD) -m "not slow and not gpu and not dev_only" \
		--junitxml=build/junit/compat.xml --ignore=tests/adapters/tgi/test_gateway.py $(OLDEST_TESTS)

check: $(VENV)/.dev ## lint, format and types
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint mypy pyright

lint: $(VENV)/.dev
	@echo "== check: ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

mypy: $(VENV)/.dev
	@echo "== check: mypy"
	@$(BIN)/mypy

pyright: $(VENV)/.dev
	@echo "== check: pyright"
	@$(BIN)/pyright

docs: $(VENV)/.dev ## the documentation site, in build/site, its links checked
	@echo "== docs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

mutate: $(VENV)/.dev ## which mutants of FILE=hooks/filters.py the tests do not see; KEPT=1 for those that are kept
	@$(BIN)/python tests/mutation.py $(if $(KEPT),--kept) $(FILE)

bench: $(VENV)/.dev ## run every program in tests/benchmarks
	@$(WITH_MODEL) for program in $(filter-out %/quick.py %/test_benchmarks.py,$(wildcard tests/benchmarks/*.py)); do echo "== $$program" && $(BIN)/python "$$program" || exit 1; done

clean: ## remove the virtual environments and everything that was built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

version = $(BIN)/python -c "from importlib.metadata import version; print(version('transformers'))"
# The CPU index as an option of pip, where it is wanted and answers.
CPU_TORCH = $$([ "$$(uname -s)" = Linux ] && [ -n "$(TORCH_INDEX)" ] && $(BIN)/python -c \
	"import urllib.request as web; web.urlopen('$(TORCH_INDEX)/torch/', timeout=5)" 2>/dev/null && \
	echo --extra-index-url $(TORCH_INDEX))

$(VENV)/.made:
	@echo "== creating $(VENV) (installing PyTorch and Transformers takes a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: EXTRAS := demo,cli,serve
$(VENV)/.dev: EXTRAS := demo,dev
$(VENV)/.demo $(VENV)/.dev: setup.cfg pyproject.toml constraints/dev.txt $(VENV)/.files
	@echo "== installing chatplan[$(EXTRAS)]"
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints/dev.txt setuptools
	@$(BIN)/python $(PIP_INSTALL) --constraint constraints/dev.txt $(CPU_TORCH) $(EDITABLE) '.[$(EXTRAS)]'
	@ln -sfn "$$(cat $(VENV)/lib/python*/site-packages/__editable__.chatplan-*.pth)" build/src
	@touch $@

# The page is tested in a browser: the system's, else Debian's where we may install it, else Playwright's own.
$(VENV)/.browser: $(VENV)/.dev
	@command -v chromium || command -v google-chrome || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get -qq update && apt-get -qq --yes install chromium; } || \
		$(BIN)/python -m playwright install chromium
	@touch $@

$(OLDEST)/.made: constraints/compat.txt | $(VENV)/.dev
	@echo "== installing the oldest transformers"
	@rm -rf $(OLDEST)
	@$(BIN)/python $(PIP_INSTALL) --no-deps --target $(OLDEST) --requirement constraints/compat.txt
	@touch $@

# A strict editable install links file by file: it must run again when the list of files changes.
$(VENV)/.files: FORCE | $(VENV)/.made
	@find plugin hooks adapters -type f -not -path '*/__pycache__/*' | LC_ALL=C sort > $@.new
	@cmp -s $@.new $@ || cp $@.new $@

FORCE:
