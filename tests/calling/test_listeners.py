"""Models that listen to gradients of inner tensors: each row comes to them by itself, to keep."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

import jacfast.vjp
from jacfast import Frobenius, deep_defense_penalty, deepfool, forward_with_penalty, jacobian
from jacfast.calling.listeners import listens
from jacfast.graph import Graph
from tests.nets import draw


class Listens(nn.Module):
    """z = B tanh(A x), whose k-th row at the tanh is B's, and what it keeps of gradients there."""

    def __init__(self, how: str | None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8).double(), nn.Linear(8, 4).double()
        self.how, self.kept, self.inner = how, list[Tensor](), list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        if h.requires_grad and self.how == "hook":
            h.register_hook(self.kept.append)
        if h.requires_grad and self.how == "several":
            register_multi_grad_hook([h], lambda gradients: self.kept.append(*gradients))
        if h.requires_grad and self.how == "retained":
            h.retain_grad()
            self.inner.append(h)
        return self.last(h)

    def rows(self, samples: int) -> Tensor:
        """Return what comes to each sample's tanh, of each logit: [K, N, 8]."""
        return self.last.weight.detach()[:, None].expand(-1, samples, -1)


@pytest.mark.parametrize("how", ["hook", "several"])
@pytest.mark.parametrize("around", [lambda model: model, lambda model: lambda x: model(x)])
def test_rows_of_the_jacobian_come_one_by_one(how, around):
    model = Listens(how)
    jacobian(around(model), draw(3, 6))
    assert torch.equal(torch.stack(model.kept), model.rows(3))


def test_a_retained_gradient_is_the_sum_of_the_rows():
    model = Listens("retained")
    jacobian(model, draw(3, 6))
    torch.testing.assert_close(model.inner[0].grad, model.rows(3).sum(0))


def test_penalised_steps_give_each_row():
    model = Listens("hook")
    z, penalty = forward_with_penalty(model, draw(3, 6), penalty=Frobenius("exact"))
    (z.sum() + penalty).backward()
    torch.testing.assert_close(torch.stack(model.kept[:4]), model.rows(3))


@pytest.mark.parametrize("how", ["hook", "retained"])
def test_listening_changes_no_gradient_of_deep_defense(how):
    model, silent, x = Listens(how), Listens(None), draw(3, 6)
    silent.load_state_dict(model.state_dict())
    for one in (model, silent):
        deep_defense_penalty(one, x, torch.tensor([0, 1, 2])).backward()
    for p, q in zip(model.parameters(), silent.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_what_deepfool_shows_can_be_read():
    model = Listens("hook")
    deepfool(model, draw(3, 6))
    assert model.kept
    assert all(g.isfinite().all() for g in model.kept)


def test_others_have_their_rows_at_once(monkeypatch):
    x = draw(3, 6).requires_grad_()
    jacobian(Listens("hook"), x)
    assert not listens(Graph(Listens(None)(x)))
    monkeypatch.setattr(jacfast.vjp, "_looped", None)
    jacobian(Listens(None), x)
