"""How much memory does DeepFool need beyond the model's own, with 1,000 classes at 224 x 224?

python -m benchmarks.memory
"""

import weakref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.harness import environment, print_table, write
from jacfast import deepfool

SAMPLES, CLASSES, SHAPE = 8, 1000, (3, 224, 224)


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once and were made inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _tensor(t)}
        out = func(*args, **(kwargs or {}))
        for tensor in filter(_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:  # else a view, or changed in place
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, size: int) -> None:
        self.live -= size


def _tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def network() -> nn.Sequential:
    """A small network: what DeepFool needs is to be seen beside what the model needs."""
    stem = nn.Conv2d(3, 64, 16, stride=16)
    head = nn.Linear(64 * 49, CLASSES)
    return nn.Sequential(stem, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), head).eval()


def main() -> None:
    """Measure, print a table and write the results."""
    torch.manual_seed(0)
    model, x = network().requires_grad_(False), torch.rand(SAMPLES, *SHAPE)
    with Peak() as own:
        leaf = (x + 0.0).requires_grad_()
        torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
        del leaf
    with Peak() as ours:
        found = deepfool(model, x, candidates=None)
    if not bool(found.success.all()):
        raise RuntimeError("every sample must be fooled")
    unit = x.numel() * x.element_size()
    results = {
        "environment": environment(),
        "samples": SAMPLES,
        "classes": CLASSES,
        "inputs": x[0].numel(),
        "vjps_per_sample": float(found.vjps.double().mean()),
        "one_batch_bytes": unit,
        "model_bytes": own.peak,
        "deepfool_bytes": ours.peak,
        "beyond_the_model": (ours.peak - own.peak) / unit,
        "all_rows_bytes": unit * (CLASSES - 1),
    }
    table = [("", "MB", "of [N, D]")]
    for name, size in (
        ("the model: forward, one backward", own.peak),
        ("deepfool, all candidates", ours.peak),
        ("difference", ours.peak - own.peak),
        ("all rows would be", unit * (CLASSES - 1)),
    ):
        table.append((name, f"{size / 1e6:.1f}", f"{size / unit:.2f}"))
    print_table(f"peak memory, N = {SAMPLES}, K = {CLASSES}, D = {x[0].numel()}", table)
    print("written:", write("memory-cpu", results))


if __name__ == "__main__":
    main()
