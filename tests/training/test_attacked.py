"""Images attacked once, against the attack by hand."""

import pytest
import torch

import jacfast
from jacfast.training import Defence, attack_once
from tests.nets import cnn, draw


def samples(n=7):
    return draw(n, 2, 8, 8), torch.arange(n) % 5


@pytest.mark.parametrize(
    ("share", "count"), [(1.0, 7), (0.5, 4), (0.2, 1), (0.01, 1), (1, 7), (0.29, 2)]
)
def test_the_first_share_and_no_other(share, count):
    x, y = samples()
    got = attack_once(None, x, y, lambda model, x, y: x + (1 + y.view(-1, 1, 1, 1)), share)
    want = x.clone()
    want[:count] += 1 + y[:count].view(-1, 1, 1, 1)
    assert torch.equal(got, want)


def test_in_batches_with_the_labels_of_each():
    x, y = draw(600, 3), torch.arange(600)
    seen = []

    def attack(model, x, y):
        seen.append(len(x))
        return torch.where(y[:, None] % 2 == 0, x, -x)

    got = attack_once(None, x, y, attack, 0.9)
    assert seen == [250, 250, 40]
    assert torch.equal(got[540:], x[540:])
    assert torch.equal(got[:540:2], x[:540:2])
    assert torch.equal(got[1:540:2], -x[1:540:2])


def test_deepfool_and_its_images():
    model, (x, y) = cnn().double(), samples()
    want = jacfast.deepfool(model, x, y).adversarial
    assert not torch.equal(want, x)
    assert torch.equal(attack_once(model, x, y, jacfast.deepfool), want)
    images = attack_once(model, x, y, lambda m, x, y: jacfast.deepfool(m, x, y).adversarial)
    assert torch.equal(images, want)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_of_the_dtype_of_x(share):
    x, y = samples()
    x = x.float()
    got = attack_once(None, x, y, lambda model, x, y: x.double() + 1, share)
    assert got.dtype == x.dtype == torch.float32
    loss = Defence(attack=lambda model, x, y: x.double() + 1, share=share)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(x[0].numel(), 9))
    assert loss(model, x, y).dtype == torch.float32


def test_no_graph_and_nothing_changed():
    model, (x, y) = cnn().double(), samples()
    x = x.requires_grad_()
    before, mode = x.detach().clone(), model.training
    got = attack_once(model, x, y, lambda model, x, y: x * model(x).sum(), 0.5)
    assert not got.requires_grad
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training == mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [1.0]}, "x must be a torch.Tensor; got list"),
        ({"x": draw(7, 2, 8, 8)[:0], "y": torch.arange(0)}, r"x must be a non-empty batch"),
        ({"y": torch.arange(6)}, r"y must have shape \[N\] = \[7\]; got \[6\]"),
        ({"y": torch.rand(7)}, "y must be an int64 tensor of labels; got torch.float32"),
        ({"attack": None}, r"attack must be a function of \(model, x, y\); got None"),
        ({"share": 0.0}, r"share must be in \(0, 1\]; got 0.0"),
        ({"share": 1.1}, r"share must be in \(0, 1\]; got 1.1"),
        ({"share": "0.1"}, "share must be a number; got str"),
        ({"attack": lambda m, x, y: x[0]}, r"inputs shaped as x, \[7, 2, 8, 8\]; got \[2, 8, 8\]"),
        ({"attack": lambda m, x, y: (x, y)}, "attack must return perturbed inputs; got tuple"),
    ],
)
def test_errors(change, message):
    x, y = samples()
    arguments = {"model": None, "x": x, "y": y, "attack": lambda m, x, y: x, **change}
    with pytest.raises((TypeError, ValueError), match=message):
        attack_once(**arguments)
