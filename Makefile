# make profile: the main job on real input.  make test: the tests.  make test-fast: those that take no time.
# make check: everything that CI asks for.
# Each sets up .venv when it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The tests start many processes, each of which would compile every module again.
export PYTHONDONTWRITEBYTECODE :=
# $(READY) installs every package and builds the kernel, so that no test has a reason to skip.
PYTEST := $(BIN)/python -m pytest --no-skips
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

.PHONY: profile test test-fast test-without-kernel sanitize check lint types examples benches pictures docs clean

# torch comes first and alone: a range that admits a newer one would bring gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

profile: $(READY)
	$(BIN)/propscope profile --depth 20 --act relu --input digits

test: $(READY)
	$(PYTEST) $(PARALLEL)

# For the loop while one works: without what takes half a second or more.
test-fast: $(READY)
	$(PYTEST) $(PARALLEL) -m 'not slow'

# A slice of the tests on the path without the C kernel; they take less time than a second process takes to start.
test-without-kernel: $(READY)
	PROPSCOPE_KERNEL=0 $(PYTEST) -q -m 'not slow' \
		tests/measure/test_accumulators.py tests/measure/test_alike.py tests/measure/test_geometry.py \
		tests/measure/test_recorder.py tests/measure/test_saturation.py tests/measure/test_sums.py

# The kernel's tests under the sanitizers of gcc, and of clang where it is there.
sanitize: $(READY)
	.ci/sanitize $(BIN)/python

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

examples: $(READY)
	$(PYTEST) tests/test_examples.py

# Two at a time: what takes one process runs beside another, and the tests, which take the most, come last and run
# every example in its quick setting.
check: $(READY)
	$(MAKE) --jobs=2 lint types test-without-kernel test

# Numbers and pictures of the README and the docs; run them on a quiet machine.
benches: $(READY)
	$(BIN)/python benches/overhead.py
	$(BIN)/python benches/grid.py
	$(BIN)/python benches/store.py
	$(BIN)/python benches/monitored_file.py
	$(BIN)/python benches/inspect_models.py
	$(BIN)/python benches/training.py
	$(BIN)/python benches/planted.py
	$(BIN)/python benches/verdict.py
	$(BIN)/python benches/trained.py

# The site of the docs: build/site/index.html.
docs: $(READY)
	$(BIN)/python -X faulthandler -m sphinx -q -W --keep-going -E -b html -c docs . build/site
	@echo "the site of the docs: build/site/index.html"

pictures: $(READY)
	$(BIN)/python benches/pictures.py

clean:
	rm -rf $(VENV) build docs/commands docs/examples docs/reference *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
