"""deepfool_distance over every life of row_norm, against plain float64."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast.ops import deepfool_distance, deepfool_step
from tests.testing import DTYPES, Life, assert_close, layouts, not_emulated

NAN, INF = float("nan"), float("inf")


def problem(life: Life, samples: int, size: int, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return life.randn(samples, dtype=dtype), life.randn(samples, size, seed=1, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("samples", "size"), [(1, 1), (3, 2), (5, 129), (2, 8193)])
def test_value(life, dtype, samples, size):
    f, w = problem(life, samples, size, dtype)
    distance, norm = deepfool_distance(f, w)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert distance.dtype == norm.dtype == wide
    length = w.double().square().sum(dim=1).sqrt()
    assert_close(norm, length, wide)
    assert_close(distance, f.double().abs() / length, wide)


def test_three_four_five(life):
    f, w = life.tensor([-10.0, 0.0]), life.tensor([[3.0, 4.0], [3.0, 4.0]])
    distance, norm = deepfool_distance(f, w)
    assert distance.tolist() == [2.0, 0.0]
    assert norm.tolist() == [5.0, 5.0]


def test_it_is_the_distance_of_the_step(life):
    f, w = problem(life, 4, 7)
    logits = torch.stack([torch.zeros_like(f), f], dim=1)
    rows = torch.stack([torch.zeros_like(w), w], dim=1)
    origin = torch.zeros(4, dtype=torch.int64, device=life.device)
    _, _, want = deepfool_step(logits, rows, origin)
    assert_close(deepfool_distance(f, w)[0], want, torch.float64)


@pytest.mark.parametrize("layout", ["offset", "strided", "transposed"])
def test_layouts(life, layout):
    f, w = problem(life, 4, 5)
    got, want = deepfool_distance(f, layouts(w)[layout]), deepfool_distance(f, w)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, torch.float64)


def test_closed_form_derivative(life):
    f, w = (t.requires_grad_() for t in problem(life, 6, 9))
    g = life.randn(6, seed=2, dtype=torch.float64)
    distance, norm = deepfool_distance(f, w)
    df, dw = torch.autograd.grad(distance, (f, w), g)
    f, w, norm = f.detach(), w.detach(), norm.detach()
    assert_close(df, g * f.sign() / norm, torch.float64)
    assert_close(dw, -(g * f.abs() / norm**3)[:, None] * w, torch.float64)


@not_emulated
def test_differentiated_numerically(life):
    f, w = (t.requires_grad_() for t in problem(life, 3, 4))
    assert torch.autograd.gradcheck(deepfool_distance, (f, w))
    assert torch.autograd.gradgradcheck(deepfool_distance, (f, w))


# rows and differences that have no distance, and the derivative in w that they then have
UNUSABLE = {
    "w = 0": (1.0, [0.0, 0.0], [0.0, 0.0]),
    "w and f = 0": (0.0, [0.0, 0.0], [0.0, 0.0]),
    "w too short": (1.0, [1e-20, 0.0], [0.0, 0.0]),
    "w too long": (1.0, [1e20, 0.0], [0.0, 0.0]),
    "inf in w": (1.0, [INF, 1.0], [NAN, 0.0]),
    "nan in w": (1.0, [NAN, 1.0], [NAN, 0.0]),
    "f nan": (NAN, [1.0, 1.0], [0.0, 0.0]),
    "f inf": (INF, [1.0, 1.0], [0.0, 0.0]),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_samples_are_infinitely_far_and_leave_the_others_alone(life, case):
    bad_f, bad_w, slope = UNUSABLE[case]
    f = life.tensor([bad_f, -2.0]).requires_grad_()
    w = life.tensor([bad_w, [0.0, 4.0]]).requires_grad_()
    distance, norm = deepfool_distance(f, w)
    assert distance.tolist() == [INF, 0.5]
    assert norm.tolist() == [1.0, 4.0]
    df, dw = torch.autograd.grad(distance.sum() + norm.sum(), (f, w))
    assert df.tolist() == [0.0, -0.25]
    assert_close(dw, torch.tensor([slope, [0.0, 1.0 - 0.125]]), torch.float32)


def test_the_quotient_may_leave_float32(life):
    f, w = life.tensor([-1e30]).requires_grad_(), life.tensor([[1e-15, 0.0]]).requires_grad_()
    distance, _ = deepfool_distance(f, w)
    assert distance.tolist() == [INF]
    grads = torch.autograd.grad(torch.where(distance.isfinite(), distance, 0.0).sum(), (f, w))
    assert all(grad.abs().max() == 0 for grad in grads)


class Written(TorchDispatchMode):
    """Counts the results with as many entries as w: each is one write of [N, D]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        new = [t for t in (result if isinstance(result, tuple) else (result,)) if t is not None]
        views = func in (torch.ops.aten.detach.default, torch.ops.aten.view.default)
        self.count += sum(not views and t.numel() == self.size for t in new)
        return result


def test_one_write_of_rows_in_the_derivative_and_none_in_the_value(life):
    if life.name == "reference":
        pytest.skip("the reference makes what it wants")
    f, w = (t.requires_grad_() for t in problem(life, 5, 40, torch.float32))
    with Written(w.numel()) as value:
        distance, _ = deepfool_distance(f, w)
    assert value.count == 0
    with Written(w.numel()) as derivative:
        torch.autograd.grad(distance.sum(), (f, w))
    assert derivative.count == 1


F, W = torch.ones(2), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("f", "w", "error", "words"),
    [
        (F, W[0], ValueError, r"w must have shape \[N, D\] = \[2, any\]; got \[3\]"),
        (F, W[:1], ValueError, r"w must have shape \[N, D\] = \[2, any\]; got \[1, 3\]"),
        (W, W, ValueError, r"f must have shape \[N\]"),
        (F, W[:, :0], ValueError, "at least one column"),
        (F, W.double(), TypeError, r"w must have the dtype of f \(torch.float32\)"),
        (F, W.long(), TypeError, "w must be float32"),
        (F.long(), W, TypeError, "f must be float32"),
        (F, W.to("meta"), ValueError, "w must be on the device of f"),
    ],
)
def test_errors(f, w, error, words):
    with pytest.raises(error, match=words):
        deepfool_distance(f, w)
