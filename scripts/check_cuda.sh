#!/usr/bin/env bash
# The CUDA build as far as it goes without a GPU: in an environment of its own with a CUDA build of
# torch, build the wheel, import it, run every CPU test of what touches torch against it, with a part
# of its parameters, and show that every kernel is inside for every architecture; then run its op
# tests beside another torch, and try twenty networks of the model zoos at the same time. Needs nvcc,
# pip and .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
command -v nvcc >/dev/null || { echo "check_cuda: nvcc is not on the PATH"; exit 1; }
. scripts/cuda_env.sh

# The tests and the sweep without the tree's own package beside them.
cp -r tests benchmarks examples "$source"
cd "$source"
"$work/env/bin/jacfast" doctor
"$python" "$root/scripts/check_binary.py" "$("$python" -c 'import jacfast; print(*jacfast.__path__)')"/_ops*.so \
  "$("$python" -c 'import nvidia, os; print(os.path.join(nvidia.__path__[0], "cu13/bin/cuobjdump"))')"
# What csrc/ops/stream.cpp will look for is there.
"$python" -c 'import ctypes, os, torch
ctypes.CDLL("libtorch_cuda.so", os.RTLD_NOLOAD | os.RTLD_LAZY).aoti_torch_get_current_cuda_stream'
# What another version of torch and the CUDA build can show: every test of what touches torch's
# inside, each with a fifth of its parameters. The products of these, and what is Python alone
# (files, pictures, commands, other packages), are the plain test run's.
OMP_NUM_THREADS=1 "$python" -m pytest -q -n auto --dist worksteal -p no:cacheprovider -k "not emulated" \
  --one-in 5 tests/ops tests/step tests/lean tests/penalties tests/calling tests/attacks \
  tests/test_{cuda,frobenius,frobenius_errors,frobenius_modes,fused_attention,graph}.py \
  tests/test_{jacobian,jacobian_reg,layouts,memory,private,private_torch,second,vjp}.py

# Twenty architectures of other people, against float64 autograd, on a core of their own.
OMP_NUM_THREADS=1 "$python" -m benchmarks.zoo --few >"$work/zoo.log" 2>&1 &
zoo=$!
trap 'kill "$zoo" 2>/dev/null || true' EXIT  # where the tests fail

# The same wheel beside the torch of requirements.txt, which has no CUDA library: the op tests.
"$root/.venv/bin/python" -m pip install --quiet --no-deps --upgrade --target "$work/site" "$work"/wheel/*.whl
PYTHONPATH=$work/site "$root/.venv/bin/python" -c '
import jacfast, torch
from jacfast.ops import lives
print("the same wheel beside torch", torch.__version__, "from", *jacfast.__path__)
assert lives.BUILD["torch"] != torch.__version__ and "cuda" in lives.BUILT, (lives.BUILD, lives.WHY_NOT)'
PYTHONPATH=$work/site OMP_NUM_THREADS=1 "$root/.venv/bin/python" -m pytest -q -n auto \
  -p no:cacheprovider -p no:benchmark -k "not emulated" --one-in 5 tests/ops

wait "$zoo" || { cat "$work/zoo.log"; exit 1; }
cat "$work/zoo.log"
