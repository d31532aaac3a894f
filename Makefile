# `make help` lists the targets. Each one sets up .venv by itself; only the first time takes minutes.

VENV ?= .venv
PYTHON ?=# looked for when empty

VARIANT ?= convmixer_768_32
HEAD ?= classification
CHECKPOINT ?= auto
OUTPUT_DIR ?= exports
IMAGE_SIZE ?=
SEED ?=
OPERATIONS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
COMPAT_ARGS ?=

# TensorFlow's banner says nothing about our work; its errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 2
# .venv is nobody's system Python, so root may install into it.
export PIP_ROOT_USER_ACTION ?= ignore
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

SHELL = /bin/sh
python = $(VENV)/bin/python
# One shell word, whatever characters are in it.
quote = '$(subst ','\'',$(1))'
option = $(if $(2),$(1) $(call quote,$(2)))

.DEFAULT_GOAL := help
.PHONY: help setup convert test bench compat lint clean

help:
	@echo 'make setup    .venv with everything in it; PYTHON=/path/to/python3.12 chooses the interpreter (3.11 to 3.13)'
	@echo 'make convert  one model to a verified SavedModel tarball: VARIANT=convmixer_768_32 HEAD=classification|fe'
	@echo '              CHECKPOINT=auto|official|synthetic|<path> OUTPUT_DIR=exports [IMAGE_SIZE= SEED= OPERATIONS=]'
	@echo '              (auto: official where it can be downloaded, else synthetic, and it says so loudly)'
	@echo 'make test     the tests, fast ones first; PYTEST_ARGS="-m '"'not slow'"'" leaves the slow ones out'
	@echo 'make bench    speed and memory against PyTorch, ONNX Runtime, plain onnx-tf and JAX'
	@echo 'make compat   the tarballs under every TensorFlow since 2.13, each in an environment of its own'
	@echo 'make lint     ruff, formatting, and notebooks without outputs'
	@echo 'make clean    removes .venv and caches; exports and downloaded checkpoints stay'

setup:
	@sh .ci/setup $(call quote,$(VENV)) $(call quote,$(PYTHON))

convert: setup
	@$(call quote,$(python)) -m utils.convert --variant $(call quote,$(VARIANT)) --head $(call quote,$(HEAD)) \
	  --checkpoint $(call quote,$(CHECKPOINT)) --output-dir $(call quote,$(OUTPUT_DIR)) \
	  $(call option,--image-size,$(IMAGE_SIZE)) $(call option,--seed,$(SEED)) \
	  $(call option,--operations,$(OPERATIONS))

test: setup
	@$(call quote,$(python)) -m pytest $(PYTEST_ARGS)

bench: setup
	@$(call quote,$(python)) -m benchmarks.convmixer $(BENCH_ARGS)
	@$(call quote,$(python)) -m benchmarks.mixer $(BENCH_ARGS)
	@$(call quote,$(python)) -m benchmarks.training $(BENCH_ARGS)

compat: setup
	@$(call quote,$(python)) -m benchmarks.compat $(COMPAT_ARGS)

lint: setup
	@$(call quote,$(python)) -m ruff check .
	@$(call quote,$(python)) -m ruff format --check .
	@for notebook in *.ipynb; do \
	  [ ! -e "$$notebook" ] || $(call quote,$(python)) -m nbstripout --verify "$$notebook" || exit 1; \
	done

# Only what looks like a virtual environment is removed, whatever VENV says.
clean:
	@[ ! -f $(call quote,$(VENV)/pyvenv.cfg) ] || rm -rf $(call quote,$(VENV))
	@rm -rf .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name .git -prune -o -name '.venv*' -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	  -prune -exec rm -rf {} +
