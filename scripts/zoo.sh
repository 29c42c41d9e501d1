#!/usr/bin/env bash
# Sweep the architectures of torchvision, timm and transformers, in the environment of
# check_cuda.sh, and write benchmarks/results/zoo.json and docs/zoo.md. What was done is kept in
# build/zoo/lines.jsonl, where a killed sweep goes on; remove that to start anew.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
. scripts/cuda_env.sh
cp -r benchmarks "$source"
cd "$source"
OMP_NUM_THREADS=1 "$python" -m benchmarks.zoo --lines "$root/build/zoo/lines.jsonl" \
  --out "$root/benchmarks/results/zoo.json" --page "$root/docs/zoo.md"
