"""The options of a hardening run."""

import dataclasses
import hashlib
import numbers
from pathlib import Path
from typing import Any

import torch

from jacfast.penalties.checks import Count
from jacfast.training.checkpoint import Config


@dataclasses.dataclass(frozen=True)
class Harden:
    """What a hardening run depends on; see `jacfast harden --help` for each."""

    out: Path
    model: str | None = None
    weights: Path | None = None
    data: Path | None = None
    train_epochs: int = 8
    epochs: int = 10
    lam: float = 0.03
    n: Count = 1
    batch_size: int = 100
    lr: float = 1e-3
    seed: int = 0
    eval_samples: int = 1000
    chunk_size: int | None = None
    device: str = "cpu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def options(self) -> Config:
        """Return the options, as types that JSON has, and the number of threads; weights by sum."""
        values = dataclasses.asdict(self)
        del values["out"], values["chunk_size"]  # the second changes roundings alone
        values["device"] = self.device.partition(":")[0]  # each process has another GPU
        if self.weights is not None and self.weights.is_file():
            digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16]
            values["weights"] = f"{self.weights.name}, SHA-256 {digest}"
        return {k: _plain(v) for k, v in values.items()} | {"threads": torch.get_num_threads()}

    def depends(self, checksum: str) -> Config:
        """Return what the weights depend on, for the checkpoint: the data by their checksum."""
        values = self.options() | {"data": f"SHA-256 {checksum}"}
        del values["eval_samples"]
        if self.model is not None:
            del values["train_epochs"]  # it came with its weights
        return values


def _plain(value: Any) -> str | int | float | None:
    if isinstance(value, numbers.Integral):  # of NumPy, too
        return int(value)
    if isinstance(value, tuple):
        return ",".join(repr(_plain(each)) for each in value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value) if isinstance(value, Path) else value
