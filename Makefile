# README.md says what each is for. `make setup WORLD=gpu` builds the environment for NVIDIA GPUs.
PYTHON ?= python3.11
WORLD ?= cpu
READY := .venv/.ready-$(WORLD)

.PHONY: demo setup test nightly gpu-hour gpu-carry check lock

demo: setup
	.venv/bin/python -m posttrain_verl.pipeline recipe=demo

setup: $(READY)

$(READY): requirements/setup.sh requirements/$(WORLD).lock pyproject.toml
	bash requirements/setup.sh $(PYTHON) requirements/$(WORLD).lock
	touch $@

# tests/conftest.py says which tests share a worker.
WORKERS ?= 2
test: setup
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m "not gpu and not nightly"

nightly: setup
	.venv/bin/python -m pytest -m nightly
	POSTTRAIN_WARM_PYTHON=0 .venv/bin/python -m pytest -m e2e

# On a machine with a GPU: tests, two steps of three recipes, and the plan's memory against the allocated (docs/gpu.md).
# MINUTES are for all of it: what the set-up takes is not left for the rest.
MINUTES ?= 60
gpu-hour:
	started=$$(date +%s) && $(MAKE) setup WORLD=gpu && \
		.venv/bin/python -m posttrain_verl.first_gpu_hour minutes=$$(($(MINUTES) - ($$(date +%s) - started) / 60))

# For a machine with a GPU and without network: a folder of wheels to carry there (docs/gpu.md). CARRY_PYTHON is its Python.
CARRY_PYTHON ?= 3.12
gpu-carry: setup
	.venv/bin/python -m posttrain_verl.first_gpu_hour.carry python=$(CARRY_PYTHON)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

lock:
	.venv/bin/python requirements/lock.py cpu
	.venv/bin/python requirements/lock.py gpu
