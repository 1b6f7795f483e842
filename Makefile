# The same verbs for a person and for CI. Needs Python 3.11+, Node 20+ and make.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
WEB := $(shell find web native -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)

# pip hands these on to the build environment, so that it is exact too.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Compiled once, and not again by every process that a test starts.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all check bench web weights train clean

demo: $(READY)
	$(BIN)/klieg explain "I love you"
	@echo
	@echo "To see it in the browser:   $(BIN)/klieg serve"

# A file of tests stays with one process; each process computes on one thread. Files come in their order and not by their number
# of tests: the page's few long ones first, and the short ones of views last, so that all processes end together.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(PYTEST)
	cd web && npm test

test-all: $(READY)
	$(PYTEST) -m "slow or not slow"
	cd web && npm test

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd web && npm run check

# These install other tools, need a trained translator or a GPU, or take hours: each is run by itself.
APART := $(addprefix benchmarks/,gpu.py peers.py alignment.py atlas.py bleu.py exports.py translation.py long_map.py)
bench: $(READY)
	@for question in $(filter-out $(APART),$(wildcard benchmarks/*.py)); do echo "== $$question"; $(BIN)/python $$question || exit 1; done

# The page is part of the package; while working on it, `klieg serve --no-browser` and `npm run dev` in web/.
web: $(READY)

# A recipe's run goes to runs/, and goes on where it was stopped: make train RECIPE=recipes/chat.toml
RECIPE ?= recipes/chat.toml
train: $(READY)
	$(BIN)/klieg train $(RECIPE)

# Train the bundled model and put it where it ships: make weights DATA=folder-of-texts (docs/data.md)
DATA ?= $(KLIEG_DATA)
weights: $(READY)
	$(BIN)/klieg train recipes/chat.toml --out runs/chat --data "$(DATA)"
	$(BIN)/python recipes/release.py runs/chat src/klieg/weights/chat --data "$(DATA)"

clean:
	rm -rf .venv build web/node_modules

$(READY): pyproject.toml constraints.txt CMakeLists.txt $(WEB)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Klieg needs Python 3.11 or newer; name one: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[serve,dev]'
	@touch $@
