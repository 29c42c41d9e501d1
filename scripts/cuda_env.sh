# To be sourced, from the root: make build/cuda/env, a CUDA build of torch with the model zoos beside
# it, unless it is there, and install jacfast's wheel in it, built from a copy of the tree, so that
# nothing of this build mixes with the one in the tree. Sets: work, source (the copy), python.
# Without nvcc the wheel has no CUDA kernels.
work=$PWD/build/cuda
source=$work/source
python=$work/env/bin/python
export TORCH_CUDA_ARCH_LIST="8.0;9.0+PTX"
mkdir -p "$work"

wanted=$work/requirements.txt
sed "s/^torch==.*/torch==2.14.1/" requirements.txt >"$wanted"
printf '%s\n' nvidia-cuda-cuobjdump==13.4.92 torchvision==0.29.1 timm==1.0.31 >>"$wanted"
if ! cmp -s "$wanted" "$work/env/installed.txt"; then
  rm -rf "$work/env"
  "${PYTHON:-python3}" -m venv "$work/env"
  "$python" -m pip install --quiet -r "$wanted"
  cp "$wanted" "$work/env/installed.txt"
fi

rm -rf "$source" "$work/wheel"
mkdir "$source"
cp -r setup.py pyproject.toml README.md LICENSE csrc jacfast "$source"
rm -f "$source"/jacfast/*.so
(cd "$source" && "$python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$work/wheel" .)
"$python" -m pip install --quiet --no-deps --force-reinstall "$work"/wheel/*.whl
rm -rf "$source/jacfast" "$source/build"  # what runs there sees the wheel
