"""Which life of an op runs: the compiled one for the tensor's device, or the PyTorch reference.

Each native op has up to three lives here: ``reference`` (PyTorch, always there), ``cpu`` and
``cuda`` (compiled, when the extension was built with them, for the GPU's compute capability).
``JACFAST_IMPL=reference`` in the environment forces the references everywhere; it is read once, at
import.
"""

import os
import re
from pathlib import Path
from typing import Any

import torch

NAMES = (
    "orthonormal_cotangents",
    "row_norm",
    "deepfool_step",
    "deepfool_candidate",
    "max_pool",
    "max_pool_scatter",
    "max_pool_gather",
    "attention_second",
    "activation_first",
    "activation_second",
    "norm_first",
    "norm_second",
    "halfspace_projection",
)
CHOICES = ("auto", "reference")

IMPL = os.environ.get("JACFAST_IMPL", "auto")
if IMPL not in CHOICES:
    raise ImportError(f"JACFAST_IMPL must be one of {', '.join(CHOICES)}; got {IMPL!r}")


def _load() -> dict[str, str]:
    """Register the compiled ops as torch.ops.jacfast.*, and return how they were built."""
    from jacfast import _C  # type: ignore[attr-defined]

    (library,) = Path(__file__).parents[1].glob("_ops.*")
    torch.ops.load_library(library)
    return _C.build()


try:
    BUILD = _load()
    WHY_NOT = ""
except (ImportError, OSError, ValueError) as error:
    BUILD = {}
    WHY_NOT = f"the extension is not there ({error})"
BUILT = frozenset(BUILD.get("lives", "").split())


def life(device: torch.device) -> str:
    """Return the life that an op on `device` has here: ``reference``, ``cpu`` or ``cuda``."""
    if IMPL == "reference" or device.type not in BUILT:
        return "reference"
    if device.type == "cuda" and not has_kernels(device.index):
        return "reference"
    return device.type


_HAS_KERNELS: dict[int | None, bool] = {}  # by the number of the GPU


def has_kernels(gpu: int | None) -> bool:
    """Say whether the kernels were built for that GPU; without, a launch finds no kernel image."""
    if gpu not in _HAS_KERNELS:
        capability = torch.cuda.get_device_capability(gpu)
        _HAS_KERNELS[gpu] = covers(BUILD.get("architectures", ""), capability)
    return _HAS_KERNELS[gpu]


# As by torch.compiler.assume_constant_result, which would load the compiler.
vars(has_kernels)["_dynamo_marked_constant"] = True


def covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Say whether a build for `architectures`, as in TORCH_CUDA_ARCH_LIST, has code for a GPU.

    Machine code for x.y runs on x.z with z >= y; PTX on everything newer; what ends in a letter,
    on that GPU alone, or on its family.
    """
    found = re.findall(r"(\d+)\.(\d+)([a-z]?)(\+PTX)?", architectures)
    for major, minor, letter, ptx in found:
        built = int(major), int(minor)
        same = built[0] == capability[0] and built <= capability
        if built == capability or (not letter and (same or (ptx and built <= capability))):
            return True
    return not found  # names of GPUs, which only the build knows


def native(tensor: torch.Tensor) -> bool:
    """Say whether a call on `tensor` goes to the compiled op.

    torch.library ops carry no rule for torch.func transforms (an error) or forward-mode duals (a
    silent zero tangent), so under either the op steps aside for its reference, which has both.
    """
    return life(tensor.device) != "reference" and not transformed()


def has(name: str) -> bool:
    """Say whether the compiled library has an op; one that was built earlier may lack it."""
    return bool(BUILT) and hasattr(torch.ops.jacfast, name)


def call(name: str, *arguments: Any) -> Any:
    """Call the compiled op `name`.

    PyTorch's stable interface passes on no type of an error: an op for which a GPU's memory was too
    small raises PyTorch's own error for that here, by which training loops know what to do.
    """
    try:
        return getattr(torch.ops.jacfast, name)(*arguments)
    except RuntimeError as error:
        if "CUDA out of memory" not in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def transformed() -> bool:
    """Say whether a torch.func transform or forward-mode AD is at work."""
    functorch = torch._C._are_functorch_transforms_active()
    return functorch or torch.autograd.forward_ad._current_level >= 0


def reason(device: torch.device) -> str:
    """Say in words why `life(device)` is what it is."""
    if IMPL == "reference":
        return "JACFAST_IMPL=reference"
    if not BUILT:
        return WHY_NOT
    if device.type not in BUILT:
        return f"the extension was built without {device.type} kernels"
    if device.type == "cuda" and not has_kernels(device.index):
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        built = BUILD["architectures"]
        return f"the kernels were built for {built}; this GPU has compute capability {capability}"
    return f"compiled into jacfast._ops for {device.type}"
