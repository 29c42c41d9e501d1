# To be sourced, from the root: make build/cuda/env, a CUDA build of torch with the model zoos beside
# it, unless it is there. Sets: work, source (where a copy of the tree goes), python.
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
