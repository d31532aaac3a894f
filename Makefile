# `make help` lists the targets. Each one sets up .venv by itself; only the first time takes minutes.

VENV ?= .venv
PYTHON ?=# looked for when empty
# PyTorch's CPU build: the same version without gigabytes of CUDA. Only Linux needs to be told, only PyTorch comes from it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# GPU=1: TensorFlow's CUDA, too, for training on an NVIDIA GPU; Linux only.
GPU ?=

VARIANT ?= convmixer_768_32
HEAD ?= classification
CHECKPOINT ?= auto
OUTPUT_DIR ?= exports
IMAGE_SIZE ?=
SEED ?=
OPERATIONS ?=
LABELS ?=
USE_EMA ?=
OVERWRITE ?=
WEIGHTS ?=
ACTIVATION ?=
EPSILON ?=
MEAN ?=
STD ?=
INTERPOLATION ?=
CROP_PCT ?=
REFERENCE ?=
FORMATS ?=
VARIANTS ?= all
HEADS ?= all
JOBS ?= 1
MEMORY_MB ?=
BATCH_ARGS ?=
PYTEST_ARGS ?=
TEST_JOBS ?= 2# processes; one takes up to 5 GB, in the full tests up to 10
BENCH_ARGS ?=
COMPAT_ARGS ?=

# TensorFlow's banner says nothing about our work; its errors are raised all the same.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# .venv is nobody's system Python, so root may install into it.
export PIP_ROOT_USER_ACTION ?= ignore
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

SHELL = /bin/sh
python = $(VENV)/bin/python
# One shell word, whatever characters are in it.
quote = '$(subst ','\'',$(1))'
option = $(if $(2),$(1) $(call quote,$(2)))
# From the command line alone: systems, such as WSL, have a NAME of their own in the environment.
name = $(if $(findstring command,$(origin NAME)),$(NAME))

.DEFAULT_GOAL := help
.PHONY: help setup convert release verify.pyz test test-full bench compat lint clean

help:
	@echo 'Each target sets up .venv by itself; only the first time takes minutes.'
	@echo
	@echo 'make setup       .venv: PYTHON=/path/to/python3.12 (3.11 to 3.13); GPU=1 for training on a GPU'
	@echo 'make convert     one model to a verified SavedModel tarball:'
	@echo '                   VARIANT=convmixer_768_32 HEAD=classification|fe [IMAGE_SIZE= SEED= OPERATIONS=]'
	@echo '                   CHECKPOINT=auto|official|synthetic|<path> OUTPUT_DIR=exports'
	@echo '                   (auto: official where it can be downloaded, else synthetic, and it says so)'
	@echo '                   your own checkpoint: VARIANT=own CHECKPOINT=<path> LABELS=<file, a class name per line>'
	@echo '                   NAME= ACTIVATION=gelu|gelu_tanh|relu EPSILON= MEAN=0.5,0.5,0.5 STD= IMAGE_SIZE='
	@echo '                   INTERPOLATION= CROP_PCT= REFERENCE=<npz> WEIGHTS= USE_EMA=1 OVERWRITE=1'
	@echo '                   FORMATS="keras, onnx": files for Keras 3 and (ConvMixer) ONNX, too'
	@echo 'make release     many models, resumable:'
	@echo '                   VARIANTS="all|convmixer|mixer|<names>" HEADS=all|classification|fe JOBS=1'
	@echo '                   CHECKPOINT=official|synthetic OPERATIONS=xla|plain|all OUTPUT_DIR=exports'
	@echo '                   FORMATS="keras, onnx" MEMORY_MB= BATCH_ARGS=--dry-run'
	@echo 'make verify.pyz  the verifier of downloads as one file, for Python and TensorFlow alone'
	@echo 'make test        the tests, in minutes; PYTEST_ARGS="tests/test_make.py -k cut_off" for some'
	@echo 'make test-full   those that take longer: full-size models, notebooks, whole trainings'
	@echo 'make bench       speed and memory against PyTorch, ONNX Runtime, plain onnx-tf and JAX; Keras:'
	@echo '                   BENCH_ARGS=--quick for a try, BENCH_ARGS="--repeats 5"'
	@echo 'make compat      the tarballs under every TensorFlow since 2.13, each in its own environment'
	@echo 'make lint        ruff, formatting, imports between rooms, notebooks without outputs, workflows'
	@echo 'make clean       removes .venv and caches; exports and downloaded checkpoints stay'

setup:
	@sh .ci/setup $(call quote,$(VENV)) $(call quote,$(PYTHON)) $(call quote,$(TORCH_INDEX)) $(call quote,$(GPU))

convert: setup
	@$(call quote,$(python)) -m utils.convert --variant $(call quote,$(VARIANT)) --head $(call quote,$(HEAD)) \
	  --checkpoint $(call quote,$(CHECKPOINT)) --output-dir $(call quote,$(OUTPUT_DIR)) \
	  $(call option,--image-size,$(IMAGE_SIZE)) $(call option,--seed,$(SEED)) \
	  $(call option,--operations,$(OPERATIONS)) $(call option,--labels,$(LABELS)) $(if $(USE_EMA),--use-ema) \
	  $(call option,--formats,$(FORMATS)) $(call option,--name,$(name)) $(if $(OVERWRITE),--overwrite) \
	  $(call option,--weights,$(WEIGHTS)) $(call option,--activation,$(ACTIVATION)) \
	  $(call option,--epsilon,$(EPSILON)) $(call option,--mean,$(MEAN)) $(call option,--std,$(STD)) \
	  $(call option,--interpolation,$(INTERPOLATION)) $(call option,--crop-pct,$(CROP_PCT)) \
	  $(call option,--reference,$(REFERENCE))

# Without .venv, any Python does the same: python3 -m utils.verify.app dist/verify.pyz
verify.pyz: setup
	@$(call quote,$(python)) -m utils.verify.app dist/verify.pyz

# `auto`, the default of one conversion, would mix official and synthetic weights in one release.
release: setup
	@$(call quote,$(python)) -m utils.batch --variants $(call quote,$(VARIANTS)) --heads $(call quote,$(HEADS)) \
	  --checkpoint $(call quote,$(if $(filter auto,$(CHECKPOINT)),official,$(CHECKPOINT))) \
	  --output-dir $(call quote,$(OUTPUT_DIR)) --jobs $(call quote,$(JOBS)) \
	  $(call option,--operations,$(OPERATIONS)) $(call option,--memory-mb,$(MEMORY_MB)) \
	  $(call option,--seed,$(SEED)) $(call option,--formats,$(FORMATS)) $(BATCH_ARGS)

# A file's tests share what they make, so a file stays in one process. In their own order: xdist's leaves files with few
# tests to the end, such as the notebooks, which take longest.
test: setup
	@$(call quote,$(python)) -m pytest -m 'not slow' -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-full: setup
	@$(call quote,$(python)) -m pytest -m slow -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: setup
	@$(call quote,$(python)) -m benchmarks.conversion $(BENCH_ARGS)
	@$(call quote,$(python)) -m benchmarks.latency $(BENCH_ARGS)
	@$(call quote,$(python)) -m benchmarks.training $(BENCH_ARGS)

compat: setup
	@$(call quote,$(python)) -m benchmarks.compat $(COMPAT_ARGS)

lint: setup
	@$(call quote,$(python)) -m ruff check .
	@$(call quote,$(python)) -m ruff format --check .
	@$(call quote,$(VENV)/bin/lint-imports) --no-cache --no-logo
	@$(call quote,$(VENV)/bin/actionlint) -shellcheck= -pyflakes= .github/workflows/*.yml
	@for notebook in *.ipynb; do \
	  [ ! -e "$$notebook" ] || $(call quote,$(python)) -m nbstripout --keep-id --verify "$$notebook" || exit 1; \
	done

# Only what looks like a virtual environment is removed, whatever VENV says.
clean:
	@[ ! -f $(call quote,$(VENV)/pyvenv.cfg) ] || rm -rf $(call quote,$(VENV))
	@rm -rf .pytest_cache .ruff_cache build dist *.egg-info
	@find . -name .git -prune -o -name '.venv*' -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) \
	  -prune -exec rm -rf {} +
