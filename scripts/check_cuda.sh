#!/usr/bin/env bash
# The CUDA build as far as it goes without a GPU: in an environment of its own with a CUDA build of
# torch, build the wheel, import it, run the CPU and reference tests against it, and show that every
# kernel is inside for every architecture. Needs nvcc and pip.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$root/build/cuda
torch=2.14.1
export TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX"

command -v nvcc >/dev/null || { echo "check_cuda: nvcc is not on the PATH"; exit 1; }
mkdir -p "$work"

wanted=$work/requirements.txt
sed "s/^torch==.*/torch==$torch/" requirements.txt >"$wanted"
echo "nvidia-cuda-cuobjdump==13.4.92" >>"$wanted"
if ! cmp -s "$wanted" "$work/env/installed.txt"; then
  rm -rf "$work/env"
  "${PYTHON:-python3}" -m venv "$work/env"
  "$work/env/bin/python" -m pip install --quiet -r "$wanted"
  cp "$wanted" "$work/env/installed.txt"
fi
python=$work/env/bin/python

# From a copy, so that nothing of this build mixes with the one in the tree.
source=$work/source
rm -rf "$source" "$work/wheel"
mkdir "$source"
cp -r setup.py pyproject.toml README.md LICENSE csrc jacfast "$source"
rm -f "$source"/jacfast/_C*.so
(cd "$source" && "$python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$work/wheel" .)
"$python" -m pip install --quiet --no-deps --force-reinstall "$work"/wheel/*.whl

# The tests without the tree's own package beside them.
cp -r tests "$source"
rm -rf "$source/jacfast" "$source/build"
cd "$source"
"$work/env/bin/jacfast" doctor
"$python" "$root/scripts/check_binary.py" "$("$python" -c 'import jacfast._C as c; print(c.__file__)')" \
  "$("$python" -c 'import nvidia, os; print(os.path.join(nvidia.__path__[0], "cu13/bin/cuobjdump"))')"
"$python" -m pytest -q -p no:cacheprovider -k "not emulated" \
  --ignore=tests/emulation --ignore=tests/scripts --ignore=tests/test_build.py \
  --ignore=tests/training --ignore=tests/reproduce --ignore=tests/test_examples.py tests
