# make demo    set up .venv, build the extension, run the main job
# make test    set up what is missing, run every test
PYTHON ?= python3
VENV   := .venv
DOCS   := .venv-docs
BIN    := $(VENV)/bin
SOURCE := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
CODE   := $(SOURCE) $(shell find tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

.PHONY: demo test docs bench bench-step bench-peers bench-track lint format mutants kernels check-kernels check-cuda check-distributed wheel zoo clean

demo: $(VENV)/built
	$(BIN)/jacfast harden --out runs/demo

# Side by side, a thread each: threads of several processes wait for each other. A worker that is
# done takes over what waits at another.
test: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -p no:benchmark

bench: $(VENV)/built
	$(BIN)/python -m benchmarks.ops
	$(BIN)/python -m benchmarks.projections
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.bounds
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.sharing
	$(BIN)/python -m benchmarks.stragglers
	$(BIN)/python -m benchmarks.deepfool classes
	$(BIN)/python -m benchmarks.deepfool mnist

# The training step alone, and the time to robustness; DATA names a folder with MNIST.
bench-step: $(VENV)/built
	$(BIN)/python -m benchmarks.sizes
	$(BIN)/python -m benchmarks.sizes --threads 2
	$(BIN)/python -m benchmarks.small
	$(BIN)/python -m benchmarks.sizes --compiled 8-16 784-200 conv1d ViT
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.robustness $(if $(DATA),--data $(DATA))

# The ops and steps by pytest-benchmark, against the last run that it saved.
bench-track: $(VENV)/built
	$(BIN)/python -m benchmarks.track

# DeepFool against every toolbox; CIFAR names a folder with CIFAR-10.
bench-peers: $(VENV)/built
	$(BIN)/python -m benchmarks.scaling --peers foolbox art torchattacks
	$(BIN)/python -m benchmarks.minimal_norm
	$(BIN)/python -m benchmarks.deepfool mnist --peers art torchattacks --images 200
	$(BIN)/python -m benchmarks.deepfool cifar --data $(CIFAR)

# The site, build/site/index.html: the pages' code runs, then they are built; it is read without a
# network. The tools have an environment of their own.
docs: $(VENV)/built $(DOCS)/ready
	$(BIN)/python scripts/docs.py
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet
	$(BIN)/python scripts/docs.py check

# Several processes: the same files as one, whoever is killed. A part of `make test`.
check-distributed: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -p no:benchmark tests/distributed

# Plant faults and races in the CUDA kernels, faults in the CPU twins and the references, and see
# tests turn red.
mutants: $(VENV)/built
	$(BIN)/python -m tests.emulation.mutate

# Registers, shared memory, spills and instructions of every CUDA kernel, and what these bound it by:
# write docs/kernels.md, or compare.
kernels:
	$(PYTHON) scripts/kernel_resources.py --write
check-kernels:
	$(PYTHON) scripts/kernel_resources.py

# Build, import, test and look into the CUDA build, in an environment of its own, without a GPU.
check-cuda: $(VENV)/ready
	scripts/check_cuda.sh

# dist/: a wheel for every torch from 2.11 on, with the CUDA kernels where nvcc is, and the source.
wheel:
	scripts/wheel.sh

# Other people's architectures against float64 autograd, in the same environment (about 5.5 GB);
# writes benchmarks/results/zoo.json and docs/zoo.md, and goes on where it was killed.
zoo:
	scripts/zoo.sh

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CODE)

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CODE)

$(VENV)/ready: requirements.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps adv-lib==0.2.8  # it asks for torchvision
	$(BIN)/python -m pip install --quiet --no-deps torchattacks==3.5.1  # it, too, and an old requests
	touch $@

$(DOCS)/ready: docs/requirements.txt Makefile
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -r docs/requirements.txt
	touch $@

# Editable: Python changes need no step, C++ changes rebuild here.
$(VENV)/built: $(VENV)/ready setup.py pyproject.toml $(SOURCE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) $(DOCS) build dist jacfast/*.so *.egg-info
