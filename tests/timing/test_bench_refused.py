"""jacfast.bench: arguments and models that are refused, in words."""

import pytest
import torch
from torch import nn

import jacfast
from tests import nets
from tests.timing.benching import bench


def test_who_asks_for_what_cannot_be_is_told_so():
    x = torch.rand(4, 6)
    for options, kind, rule in (
        ({"model": len}, TypeError, "model must be a torch.nn.Module; got builtin"),
        (
            {"model": jacfast.WithPenalty(nets.mlp())},
            TypeError,
            "model must not be a WithPenalty",
        ),
        ({"model": nn.Flatten()}, ValueError, "model must have parameters that require grad"),
        ({"x": torch.zeros(4, 6).long()}, TypeError, "x must be floating point"),
        ({"x": torch.rand(4, 7)}, ValueError, r"model must accept x of shape \[4, 7\]"),
        (
            {"y": torch.tensor([5, 0, 0, 0])},
            ValueError,
            r"y must lie in 0 .. K - 1 = 4; got",
        ),
        ({"penalty": "Frobenius"}, TypeError, "penalty must be a jacfast Penalty, .*; got str"),
        ({"penalty": jacfast.Frobenius(6)}, ValueError, r"n must be in 1 .. K = 5"),
        ({"penalty": jacfast.Frobenius(every=2)}, ValueError, "penalty must have every=1"),
        ({"penalty": jacfast.Frobenius(subsample=0.5)}, ValueError, "must have subsample=1.0"),
        ({"penalty": jacfast.Frobenius(reduction="none")}, ValueError, "must have reduction='mean"),
        ({"lam": 0}, ValueError, "lam must be finite and > 0; got 0"),
        ({"against": ("loops",)}, ValueError, "against must hold some of one-vector, .*loops"),
        ({"against": "loop"}, ValueError, "against must hold some of"),
        ({"seconds": -1.0}, ValueError, "seconds must be finite and >= 0"),
        ({"subsample": 1.0}, ValueError, r"subsample must be in \(0, 1\), or None; got 1.0"),
    ):
        given = {"model": nets.mlp(), "x": x} | options
        with pytest.raises(kind, match=rule):
            jacfast.bench(given.pop("model"), given.pop("x"), **given)


class Changed(nn.Linear):
    """Its backward pass needs what an operation in place has overwritten."""

    def forward(self, x):
        y = super().forward(x).sigmoid()
        y.mul_(2)
        return y


class Cut(nn.Linear):
    """No graph leads from its outputs to what is named."""

    def __init__(self, what: str) -> None:
        super().__init__(6, 5)
        self.what = what

    def forward(self, x):
        if self.what == "x":
            return super().forward(x.detach())
        with torch.no_grad():
            return super().forward(x)


class Exits(nn.Linear):
    """It can be called, and ends the process when it is trained."""

    def forward(self, x):
        if torch.is_grad_enabled():
            raise SystemExit(3)
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (Cut("x"), "the model's outputs do not depend on x: no graph leads from one to the other"),
        (Cut("all"), "the model's outputs do not depend on x: no graph leads from one to the othe"),
        (
            Changed(6, 5),
            "model must be one that can be trained; a plain step raised RuntimeError: one of the "
            "variables needed for gradient computation has been modified by an inplace operation",
        ),
        (
            Exits(6, 5),
            "model must be one that can be trained; a plain step raised SystemExit: 3",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_in_words(model, rule):
    given = model.weight.grad = torch.ones(5, 6)
    with pytest.raises(ValueError, match=rule):
        bench(model)
    assert model.weight.grad is given
    assert bool((given == 1).all())


@pytest.mark.parametrize("graph", [False, True])
def test_lack_of_memory_is_not_laid_upon_the_model(graph):
    class Large(nn.Linear):
        def forward(self, x):
            if torch.is_grad_enabled() or not graph:
                raise MemoryError
            return super().forward(x)

    with pytest.raises(MemoryError):
        bench(Large(6, 5))


def test_an_optimiser_in_a_hook_is_refused():
    model = nets.mlp()
    model[0].weight.register_post_accumulate_grad_hook(lambda p: p.data.zero_())
    with pytest.raises(ValueError, match="model must have no hooks that run once a gradient"):
        bench(model)
    assert model[0].weight.any()
