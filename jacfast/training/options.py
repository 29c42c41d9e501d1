"""The options of a hardening run."""

import dataclasses
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

    def options(self) -> Config:
        """Return the options that the weights depend on, for the checkpoint."""
        values = dataclasses.asdict(self)
        del values["out"]
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()} | {
            "threads": torch.get_num_threads()
        }
