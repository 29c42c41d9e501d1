"""To save a checkpoint changes nothing, and what it holds goes on as if there had been none."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jacfast.training import fit
from tests.training.problem import cross_entropy, problem


class Noisy(nn.Linear):
    """Draws in every mode."""

    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class Dropping(nn.Linear):
    """Dropout as a function, whose default is training=True."""

    def forward(self, x):
        return super().forward(F.dropout(x, 0.3))


class Counting(nn.Linear):
    """Changes with every call, in every mode, and does something else then."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + 0.1 * self.calls)


class ByPython(nn.Linear):
    """Draws from the numbers that all share."""

    def forward(self, x):
        return super().forward(x * (0.9 + 0.2 * random.random() * np.random.rand()))  # noqa: NPY002


class Spectral(nn.Module):
    """Power iterations in training mode."""

    def __init__(self, *sizes):
        super().__init__()
        self.net = nn.utils.parametrizations.spectral_norm(nn.Linear(*sizes))

    def forward(self, x):
        return self.net(x)


class Named(Noisy):
    """Returns its logits by name."""

    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


def loss(model, x, y):
    found = model(x)
    return F.cross_entropy(found["logits"] if isinstance(found, dict) else found, y)


def train(kind, epochs, training=True, **options):
    torch.rand(3)  # the caller's state differs each time
    _, x, y = problem()
    model = kind(5, 3).train(training)
    fit(model, x, y, epochs=epochs, batch_size=8, lr=0.05, loss=loss, **options)
    return torch.cat([value.flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", [Noisy, Dropping, Counting, Spectral, Named])
def test_alone_saved_and_resumed_are_one_run(kind, training, tmp_path):
    alone = train(kind, 2, training)
    assert torch.equal(train(kind, 2, training, save=tmp_path / "whole.pt"), alone)
    train(kind, 1, training, save=tmp_path / "parts.pt")
    assert torch.equal(
        train(kind, 2, training, save=tmp_path / "parts.pt", resume=True), alone
    )  # fmt: skip


def test_saving_leaves_the_numbers_that_all_share(tmp_path):
    """They are the caller's, and not resumed."""
    found = []
    for options in ({}, {"save": tmp_path / "c.pt"}):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        found.append(train(ByPython, 2, **options))
    assert torch.equal(*found)


def test_another_network_that_draws_or_names_its_logits_is_still_refused(tmp_path):
    class Twice(Named):
        def forward(self, x):
            return {"logits": 2 * super().forward(x)["logits"]}

    train(Named, 1, save=tmp_path / "c.pt")
    with pytest.raises(ValueError, match="belongs to another run: the model's logits"):
        train(Twice, 2, save=tmp_path / "c.pt", resume=True)


def test_a_refused_checkpoint_changes_nothing(tmp_path):
    """Not the model, the optimizer, its scheduler, nor the generators of a DataLoader."""
    path = tmp_path / "c.pt"

    def run(epochs, **options):
        model, x, y = problem()
        data = torch.utils.data.TensorDataset(x, y)
        source = torch.Generator().manual_seed(3)
        own = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        follows = torch.optim.lr_scheduler.StepLR(own, 1, 0.5)
        loader = torch.utils.data.DataLoader(data, 8, shuffle=True, generator=source)
        held = (model, own, follows)
        before = [str(one.state_dict()) for one in held], source.get_state()
        options |= {"optimizer": own, "scheduler": follows, "save": path}
        try:
            fit(model, loader, epochs=epochs, loss=cross_entropy, **options)
        finally:
            after = [str(one.state_dict()) for one in held], source.get_state()
            same = before[0] == after[0] and torch.equal(before[1], after[1])
            changed.append(not same)

    changed: list[bool] = []
    run(1)
    state = torch.load(path, weights_only=True)
    said = {  # by PyTorch
        "scheduler": (AttributeError, "'int' object has no attribute 'items'"),
        "optimizer": (ValueError, "parameter group that doesn't match the size"),
    }
    for part in ("order", "random", "loader", "scheduler", "optimizer"):
        broken = torch.zeros(3, dtype=torch.uint8)
        wrong = {"loader": [broken], "scheduler": 3, "optimizer": {**state["optimizer"]}}
        wrong["optimizer"]["param_groups"] = [{**state["optimizer"]["param_groups"][0]}]
        wrong["optimizer"]["param_groups"][0]["params"] = [0]
        torch.save({**state, part: wrong.get(part, broken)}, path)
        error, words = said.get(part, (RuntimeError, "Expected a CPUGeneratorImplState"))
        with pytest.raises(error, match=words):
            run(2, resume=True)
    assert changed == [True] + [False] * 5
