# make demo    set up .venv, build the extension, run the main job
# make test    set up what is missing, run every test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CODE   := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test bench lint format clean

demo: $(VENV)/built
	$(BIN)/jacfast harden --out runs/demo

test: $(VENV)/built
	$(BIN)/python -m pytest

bench: $(VENV)/built
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.deepfool
	$(BIN)/python -m benchmarks.projections

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CODE) tests/cpp/*.cpp

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CODE) tests/cpp/*.cpp

$(VENV)/ready: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

# Editable: Python changes need no step, C++ changes rebuild here.
$(VENV)/built: $(VENV)/ready setup.py pyproject.toml $(CODE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build jacfast/_C*.so *.egg-info
