"""The rules that several ops share, one function each; a message names argument, rule and value."""

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def floating(name: str, tensor: torch.Tensor) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16; got {tensor.dtype}")


def shape(name: str, tensor: torch.Tensor, expected: str, rule: tuple[int | None, ...]) -> None:
    """Check `tensor.shape` against `rule`, where None stands for any size."""
    fits = tensor.dim() == len(rule) and all(
        want is None or have == want for have, want in zip(tensor.shape, rule, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if want is None else str(want) for want in rule)
        raise ValueError(f"{name} must have shape {expected} = [{sizes}]; got {list(tensor.shape)}")


def same(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Check that two tensors have one dtype and one device."""
    if tensor.dtype != other.dtype:
        raise TypeError(
            f"{name} must have the dtype of {other_name} ({other.dtype}); got {tensor.dtype}"
        )
    same_device(name, tensor, other_name, other)


def like_x(name: str, tensor: torch.Tensor, x: torch.Tensor) -> None:
    """Check that a tensor has the dtype, device and shape of x."""
    floating(name, tensor)
    same(name, tensor, "x", x)
    if tensor.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of x, {list(x.shape)}; got {list(tensor.shape)}"
        )


def same_device(name: str, tensor: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name} ({other.device}); got {tensor.device}"
        )


def class_index(name: str, tensor: torch.Tensor, rows: int, like: torch.Tensor) -> None:
    """Check an int64 index of one class per sample, on the device of `like`."""
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.int64:
        got = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be an int64 tensor; got {got}")
    shape(name, tensor, "[N]", (rows,))
    same_device(name, tensor, "the values", like)


def source(name: str, generator: object) -> None:
    """Check a source of random numbers; None is PyTorch's own, or a new one."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"{name} must be a torch.Generator; got {type(generator).__name__}")


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that results of accumulation have: float32 for half types, else `dtype`."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
