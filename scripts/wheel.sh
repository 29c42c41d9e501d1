#!/usr/bin/env bash
# Build dist/jacfast-*.whl, in the environment of check_cuda.sh, and dist/jacfast-*.tar.gz.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/cuda_env.sh
"$python" -m pip check
mkdir -p dist
cp "$work"/wheel/*.whl dist
"$python" -c 'import setuptools.build_meta as backend; print(backend.build_sdist("dist"))'
ls -l dist
