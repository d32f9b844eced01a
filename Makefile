# Needs Python >= 3.11, make and a package index; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/demo
# Processes that share the suite's files.
WORKERS ?= 2
# Where torch is already installed this saves the download: make test VENV_FLAGS=--system-site-packages
VENV_FLAGS ?=

.PHONY: help demo test slow check check-tensorrt dist device-test soak docs schemas options screenshots clean

help:
	@echo "make demo    distil, export and bench the MNIST teacher in examples/ (2 to 10 minutes)"
	@echo "make test    set up, ruff, mypy, the suite"
	@echo "make slow    the tests that take minutes each: killed runs, the tutorial"
	@echo "make check   ruff and mypy"
	@echo "make check-tensorrt  hold every name of TensorRT that is used against its real bindings"
	@echo "make dist    build the wheel and try it in a clean environment"
	@echo "make device-test  a bench over ssh on an emulated aarch64 board (needs root, debootstrap, qemu-user-static)"
	@echo "make soak    what is too long for CI"
	@echo "make docs    build the pages of docs/ as HTML into out/docs"
	@echo "make options write the options of the commands into docs/commands, and docs/api.md"
	@echo "make schemas write docs/schema from the records"
	@echo "make screenshots  docs/images from the report.html of the demo (needs chromium)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "edgekd needs Python 3.11 or newer; choose one with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/.user: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.user
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(VENV)/.user
	$(BIN)/edgekd compress examples/mnist/teacher.pt --target jetson --steps 120 \
		--eval examples/mnist/test-1000.npz --out $(OUT) --force

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Wheels go into a cache outside the repository; without an index this says so and passes.
check-tensorrt: $(VENV)/.dev
	$(BIN)/python -m tests.bindings
	$(BIN)/pytest -q tests/bindings

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist load -m slow

# An aarch64 userland with its own sshd; it is kept outside the repository. Needs root and Debian's packages.
device-test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -v -rs --device -m device tests/device

# Atheris has no wheel for every Python: without it the fuzzing of readers skips, and says so.
soak: $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[soak]'
	$(BIN)/pytest --soak -m soak

dist: $(VENV)/.dev
	rm -rf dist build
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	$(BIN)/python tests/try_wheel.py dist

schemas: $(VENV)/.user
	$(BIN)/python -m edgekd.schemas docs/schema

screenshots: $(VENV)/.user
	$(BIN)/python docs/screenshots.py $(OUT) docs/images

options: $(VENV)/.user
	$(BIN)/python -m edgekd.cli.generate.commands docs/commands
	$(BIN)/python -m edgekd.cli.generate.api docs/api.md

# Warnings are errors: a link inside the pages that leads nowhere is one.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs out/docs
	@echo "out/docs/index.html"

clean:
	rm -rf $(VENV) build dist out .mypy_cache .pytest_cache .ruff_cache
