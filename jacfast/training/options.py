"""The options of a hardening run."""

import dataclasses
import hashlib
from pathlib import Path

import torch

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
    n: int | str = 1
    batch_size: int = 100
    lr: float = 1e-3
    seed: int = 0
    eval_samples: int = 1000
    chunk: int | None = None

    def options(self) -> Config:
        """Return the options that the weights depend on, for the checkpoint."""
        values = dataclasses.asdict(self)
        del values["out"], values["chunk"]  # the second changes roundings alone
        if self.weights is not None and self.weights.is_file():
            digest = hashlib.sha256(self.weights.read_bytes()).hexdigest()[:16]
            values["weights"] = f"{self.weights.name}, SHA-256 {digest}"
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()} | {
            "threads": torch.get_num_threads()
        }
