# Everything happens in a virtual environment of its own, made on demand from the interpreter that PYTHON names.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --no-input

CXX_FILES := $(wildcard src_cpp/*.cpp src_cpp/*.hpp src_cpp/*.h)
FORMATTED := $(CXX_FILES) $(wildcard linfengine/backends/cuda/*.cu* benchmarks/*/*.c[up]* linfengine/backends/*.h) tests/kernels/sanitize.cpp tests/standin/cuda_on_cpu.hpp

# What the compiled modules are made from: the package is installed in place, so other edits need no new build.
SOURCES := setup.py setup.cfg pyproject.toml linfengine/_version.py $(CXX_FILES) \
           $(wildcard linfengine/*.pyx linfengine/*.pxd linfengine/*/*.pyx linfengine/*/*.pxd linfengine/*/*.def linfengine/*/*.h)

# Prints the libraries that the package needs, as pip reads them.
REQUIRES := $(BIN)/python -c 'from configparser import RawConfigParser as Parser; cfg = Parser(); cfg.read("setup.cfg"); \
              print(cfg["options"]["install_requires"])'

# The interpreter's name is part of the stamp: another PYTHON makes another environment.
MADE := $(VENV)/made-with-$(subst /,-,$(PYTHON))

PEERS_VENV := .venv-peers
PEERS      := torch==2.13.0 jax numba scikit-learn faiss-cpu

# One process for each core, and one thread in each (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

# sanitize-SANITIZER-SET.o holds the kernels of one instruction set; sanitize-SANITIZER is the program linked from them.
SANITIZED       := address,undefined thread
SANITIZED_SETS  := portable
SANITIZE        := $(CXX) -std=c++17 -O1 -g1 -fno-sanitize-recover=all -ffp-contract=fast
ifeq ($(shell uname -m),x86_64)
SANITIZED_SETS  += avx2 avx512
SANITIZE_avx2   := -mavx2 -mfma
SANITIZE_avx512 := -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma
SANITIZE_CHOICE := -DLINFENGINE_HAVE_AVX2 -DLINFENGINE_HAVE_AVX512
endif

ifneq ($(wildcard ../shared/data),)
export LINFENGINE_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
.SECONDARY:  # keeps the objects of the sanitizers
.PHONY: help demo test thorough check lint format bench bench-peers gpu-compile sanitize clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile
	@echo 'PYTHON=python3.12, say, chooses the interpreter (now $(PYTHON)).'

demo: $(VENV)/installed  ## install, then train and certify a small net (into runs/demo)
	@$(BIN)/linfengine demo --out runs/demo

test: $(VENV)/tools  ## install, then run the tests: every law with a few random draws (3 minutes)
	@$(PYTEST)

# What `make test` leaves out: the marker thorough, and random draws in full. Every test at once, on one core:
# pytest -m '' --hypothesis-profile=thorough
thorough: $(VENV)/tools  ## run the long tests, and those on random draws with ten times as many
	@$(PYTEST) -m 'thorough or hypothesis' --hypothesis-profile=thorough

# gpu-compile stands before the tests, which then hold their stand-in for CuPy against the original.
check: lint gpu-compile test thorough sanitize  ## all of these: lint, gpu-compile, test, thorough, sanitize (15 minutes)

lint: $(VENV)/tools  ## check style, formatting and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo 'make format would change these files:'; $(BIN)/ruff format --check; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

format: $(VENV)/tools  ## rewrite the sources in the house format
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet
	@$(BIN)/clang-format -i $(FORMATTED)

bench: $(VENV)/installed  ## run the benchmarks of the CPU
	@$(BIN)/python -m benchmarks cpu

# The other libraries get an environment of their own.  PyPI's torch brings a GPU's libraries along; for the CPU build
# alone: make bench-peers PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
bench-peers: $(VENV)/installed $(PEERS_VENV)/installed  ## run the benchmarks beside torch, jax, numba, scikit-learn and faiss
	@$(PEERS_VENV)/bin/python -m benchmarks cpu

# Afterwards the tests, too, find CuPy, and hold their stand-in for it against the original.
gpu-compile: $(VENV)/gpu-tools  ## compile the CUDA kernels for GPUs from Volta to Blackwell, with no GPU
	@$(BIN)/python -m benchmarks gpu-compile

sanitize: $(MADE)  ## run the kernels under the address, undefined-behaviour and thread sanitizers
	@$(MAKE) --no-print-directory --jobs=2 $(SANITIZED:%=$(VENV)/sanitize-%)
	@for each in $(SANITIZED); do echo "$$each:"; $(VENV)/sanitize-$$each || exit 1; done

clean:  ## remove the environment, builds and caches; results in runs/ stay
	@rm -rf $(VENV) $(PEERS_VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find linfengine -name '*.so' -delete

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo 'linfengine needs Python 3.10 or newer, and $(PYTHON) is none: install one, or name it (make PYTHON=...).'; exit 1; }
	@log=$$($(PYTHON) -m venv --clear $(VENV) 2>&1) || { echo "$$log"; rm -rf $(VENV); \
	  echo 'linfengine needs a virtual environment: install venv (Debian, Ubuntu: apt install python3-venv).'; exit 1; }
	@touch $@

# The libraries are installed while the package is built. Python compiles modules when it first imports them.
# The build says in one sentence what it lacks; where it does, that sentence is all there is to read.
$(VENV)/installed: $(MADE) $(SOURCES)
	@echo 'building linfengine ...'
	@$(REQUIRES) | $(PIP) --no-compile --requirement /dev/stdin >$(VENV)/requires.log 2>&1 & \
	  $(PIP) --no-compile --no-deps --verbose --editable . >$(VENV)/install.log 2>&1; built=$$?; \
	  wait $$!; required=$$?; \
	  if [ $$built != 0 ]; then grep -o 'linfengine needs .*' $(VENV)/install.log || cat $(VENV)/install.log; exit 1; fi; \
	  if [ $$required != 0 ]; then cat $(VENV)/requires.log; exit 1; fi
	@touch $@

# The package is installed in place there too, so that a new build needs no new environment.
$(PEERS_VENV)/installed: Makefile | $(VENV)/installed
	@echo 'installing the other libraries ...'
	@$(PYTHON) -m venv --clear $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-input --editable . $(PEERS)
	@touch $@

$(VENV)/sanitize-%.o: $(CXX_FILES) | $(MADE)
	@echo 'compiling for the sanitizer $(subst -,: ,$*) ...'
	@$(SANITIZE) -fsanitize=$(firstword $(subst -, ,$*)) $(SANITIZE_$(lastword $(subst -, ,$*))) \
	  -c src_cpp/kernels_$(lastword $(subst -, ,$*)).cpp -o $@

$(VENV)/sanitize-%: tests/kernels/sanitize.cpp $(foreach set,$(SANITIZED_SETS),$(VENV)/sanitize-%-$(set).o)
	@$(SANITIZE) -fsanitize=$* -pthread -DLINFENGINE_WORTH_THREADS=0 $(SANITIZE_CHOICE) $^ \
	  src_cpp/dispatch.cpp src_cpp/threads.cpp -o $@

$(VENV)/gpu-tools: setup.cfg | $(VENV)/installed
	@$(PIP) -qq --no-compile 'linfengine[gpu-compile]'
	@touch $@

$(VENV)/tools: $(MADE) setup.cfg | $(VENV)/installed
	@$(PIP) -qq --no-compile 'linfengine[test,dev]'
	@touch $@
