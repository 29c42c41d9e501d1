#!/usr/bin/env bash
# The torch-free C++ as other compilers build it, warnings being errors: without OpenMP, by clang++,
# and for aarch64, run by an emulator; with a user's -ffast-math, which has no say. The tests pass,
# and the results have the bits of the build in build/cmake, which comes first. What is not installed
# is left out, in words.
set -euo pipefail
cd "$(dirname "$0")/.."

digest() { grep -o "digest [0-9a-f]*" "$1"; }

check() {  # NAME [CMAKE OPTION...]
  local name=$1 folder=build/cmake-$1 log=build/cmake-$1.log
  shift
  # Without a CUDA compiler: one build of the kernels is enough.
  { cmake -S . -B "$folder" -DCMAKE_CUDA_COMPILER=NOTFOUND "$@" &&
    cmake --build "$folder" --parallel 2 &&
    ctest --test-dir "$folder" --verbose; } >"$log" 2>&1 || { cat "$log"; exit 1; }
  [ "$(digest "$log")" = "$(digest build/usual.log)" ] ||
    { echo "compilers: $name has $(digest "$log"), not $(digest build/usual.log)"; exit 1; }
  echo "compilers: $name passes, with the same results"
}

build/cmake/test_twins >build/usual.log
check no-openmp -DCMAKE_DISABLE_FIND_PACKAGE_OpenMP=ON -DCMAKE_CXX_FLAGS=-ffast-math
if command -v clang++ >/dev/null; then
  check clang -DCMAKE_CXX_COMPILER=clang++
else
  echo "compilers: clang++ is not installed: left out"
fi
if command -v aarch64-linux-gnu-g++ >/dev/null && command -v qemu-aarch64 >/dev/null; then
  check aarch64 -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
    -DCMAKE_CROSSCOMPILING_EMULATOR="qemu-aarch64;-L;/usr/aarch64-linux-gnu"
else
  echo "compilers: aarch64-linux-gnu-g++ or qemu-aarch64 is not installed: aarch64 is left out"
fi
