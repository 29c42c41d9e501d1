#!/usr/bin/env bash
# The CUDA build as far as it goes without a GPU: in an environment of its own with a CUDA build of
# torch, build the wheel, import it, run the CPU and reference tests against it, and show that every
# kernel is inside for every architecture; then try twenty networks of the model zoos. Needs nvcc
# and pip.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
command -v nvcc >/dev/null || { echo "check_cuda: nvcc is not on the PATH"; exit 1; }
. scripts/cuda_env.sh

# The tests and the sweep without the tree's own package beside them.
cp -r tests benchmarks examples "$source"
cd "$source"
"$work/env/bin/jacfast" doctor
"$python" "$root/scripts/check_binary.py" "$("$python" -c 'import jacfast._C as c; print(c.__file__)')" \
  "$("$python" -c 'import nvidia, os; print(os.path.join(nvidia.__path__[0], "cu13/bin/cuobjdump"))')"
OMP_NUM_THREADS=1 "$python" -m pytest -q -n auto -p no:cacheprovider -k "not emulated" \
  --ignore=tests/emulation --ignore=tests/scripts --ignore=tests/test_build.py \
  --ignore=tests/training --ignore=tests/reproduce --ignore=tests/test_examples.py tests

# Twenty architectures of other people, against float64 autograd.
OMP_NUM_THREADS=1 "$python" -m benchmarks.zoo --few
