# To be sourced, from the root: set up scripts/cuda_python.sh, and install jacfast's wheel in it, built
# from a copy of the tree, so that nothing of this build mixes with the one in the tree. Without nvcc
# the wheel has no CUDA kernels.
. scripts/cuda_python.sh

rm -rf "$source" "$work/wheel"
mkdir "$source"
cp -r setup.py pyproject.toml README.md LICENSE csrc jacfast "$source"
rm -f "$source"/jacfast/*.so
(cd "$source" && "$python" -m pip wheel --quiet --no-build-isolation --no-deps -w "$work/wheel" .)
"$python" -m pip install --quiet --no-deps --force-reinstall "$work"/wheel/*.whl
rm -rf "$source/jacfast" "$source/build"  # what runs there sees the wheel
