"""How deepfool ends: verified in the batch that is returned, and never at a point out of sight."""

import math

import pytest
import torch
from torch import nn

from jacfast import deepfool
from jacfast.attacks.walk import FAR
from tests.nets import draw

pytestmark = pytest.mark.usefixtures("either_loop")
CASES = pytest.mark.parametrize("case", ["untargeted", "targeted", "plain", "super"])


class Rounded(nn.Module):
    """Orthogonal rows; in a batch of exactly `size`, class 0 is a little more likely."""

    def __init__(self, size: int, more: float) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3).double()
        self.linear.weight.data = torch.linalg.qr(draw(6, 6)).Q[:3]
        self.linear.bias.data = torch.tensor([3.0, 0.0, -1.0]).double()
        self.size, self.more = size, more

    def forward(self, x):
        z = self.linear(x)
        return z + self.more * (len(x) == self.size) * z.new_tensor([1.0, 0.0, 0.0])


def attack(model: nn.Module, case: str, **options):
    """Attack 6 samples of class 0; the seventh is fooled from the start: it leaves the batch."""
    x, y = 0.3 * draw(7, 6).tanh(), torch.zeros(7, dtype=torch.int64)
    y[6] = 1
    choices = {
        "untargeted": {"y": y},
        "targeted": {"target": torch.tensor([1] * 6 + [0])},
        "plain": {"y": y, "linearize": "plain", "test": "plain"},
        "super": {"y": y, "variant": "super"},
    }[case]
    return deepfool(model, x, **{**choices, **options})


@CASES
def test_roundings_of_the_last_batch_do_not_cost_the_success(case, either_loop):
    """8 units in the last place, as roundings go: without an overshoot, the boundary is there.

    A GPU's loop runs in the batch that is returned, while that has its full size.
    """
    eps = torch.finfo(torch.float64).eps
    overshoot = 0.02 if case == "super" else 0.0
    more = 5e-3 if case == "super" else 8 * eps  # super: what bisection leaves, not the overshoot
    free = attack(Rounded(7, 0.0), case, overshoot=overshoot)
    assert bool(free.success.all())
    model = Rounded(7, more)
    moved = model(free.adversarial).argmax(dim=1)[:6]
    assert bool((moved == 0).any())  # so it does matter
    got = attack(model, case, overshoot=overshoot)
    assert bool(got.success.all())
    assert bool((model(got.adversarial).argmax(dim=1)[:6] != 0).all())
    if case != "super" and either_loop == "cpu":
        assert int((got.iterations > free.iterations).sum()) >= 1
    if case != "super":
        torch.testing.assert_close(got.norm, free.norm, rtol=1e-9, atol=0)


@pytest.mark.parametrize("case", ["untargeted", "targeted", "plain"])
def test_iterations_are_spent_and_no_more(case):
    """In the last batch nothing is ever fooled, however often it is looked at."""

    class Never(Rounded):
        def forward(self, x):
            last = len(x) == 7 and not torch.is_grad_enabled()
            self.more += 100.0 * last  # after the look at the clean samples
            return super().forward(x) if last else self.linear(x)

    got = attack(Never(7, -100.0), case, steps=7)
    assert not bool(got.success[:6].any())
    assert got.iterations[:6].tolist() == [7] * 6
    assert int(got.iterations[6]) == 0
    assert not bool(got.stalled.any())


def scale_invariant(x):
    """Class 0 everywhere; all that can be gained is the direction of x, more slowly each time."""
    u = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return torch.cat([torch.full_like(u, 1.5), x[:, :1] / u], dim=1)


@pytest.mark.parametrize("held", [{}, {"max_norm": math.inf}], ids=["free", "no cap"])
@pytest.mark.parametrize("scale", [1.0, 255.0, 2.0**-60])
def test_a_runaway_is_stalled(scale, held):
    x = scale * (1 + draw(5, 6).tanh() / 4)
    got = deepfool(scale_invariant, x, steps=200, **held)
    assert bool(got.stalled.all())
    assert not bool(got.success.any())
    assert bool(got.adversarial.isfinite().all())
    assert bool((got.norm <= 1.02 * FAR * x.norm(dim=1)).all())
    assert bool((got.iterations < 200).all())


def test_a_runaway_goes_as_far_as_alone_where_others_leave_before_it():
    x = 1 + draw(6, 6).tanh() / 4
    alone = [int(deepfool(scale_invariant, row[None], steps=200).iterations) for row in x]
    assert len(set(alone)) > 2
    assert deepfool(scale_invariant, x, steps=200).iterations.tolist() == alone


@pytest.mark.parametrize(
    "held", [{"clip": (0.5, 2)}, {"clip": (0.5, 2), "clip_steps": True}, {"max_norm": 1}]
)
def test_what_cannot_run_away_takes_all_its_steps(held):
    got = deepfool(scale_invariant, 1 + draw(5, 6).tanh() / 4, steps=60, **held)
    assert not bool(got.stalled.any())
    assert bool((got.iterations == 60).all())
    assert bool(got.adversarial.isfinite().all())


@pytest.mark.parametrize(
    "held",
    [
        lambda size: {},
        lambda size: {"max_norm": 60 * size},
        lambda size: {"clip": (-math.inf, 2 * size), "clip_steps": True},
    ],
    ids=["free", "cap", "half a box"],
)
@pytest.mark.parametrize(("dtype", "slope"), [(torch.float16, 2e-6), (torch.float32, 1e-37)])
def test_a_step_to_no_finite_point_is_not_taken(dtype, slope, held):
    """The boundary is farther than the dtype reaches; the other sample's is near."""
    size = 1e3 if dtype == torch.float16 else 1e33
    x = torch.full((2, 4), size, dtype=dtype)
    x[1, 1] = -size

    def model(z):
        far, near = z[:, :1].float() * slope + 1e3, z[:, :1].float() / size - 0.9
        return torch.cat([torch.where(z[:, 1:2] > 0, far, near), 0 * far], dim=1)

    got = deepfool(model, x, **held(size))
    assert got.stalled.tolist() == [True, False]
    assert got.success.tolist() == [False, True]
    assert not bool(got.r[0].any())
    assert bool(got.adversarial.isfinite().all())


def test_a_step_that_only_its_overshoot_leads_to_infinity_is_not_taken():
    """The boundary is at 65000, which float16 has, and 2% of the way farther it has nothing."""
    x = torch.full((1, 4), 5e3, dtype=torch.float16)
    model = lambda x: torch.stack([65 - x[:, 0].float() / 1e3, 0 * x[:, 0].float()], dim=1)  # noqa: E731
    got = deepfool(model, x)
    assert got.stalled.tolist() == [True]
    assert not bool(got.r.any())
    assert bool(deepfool(model, x, overshoot=1e-3).success)


HELD = pytest.mark.parametrize(
    "held",
    [{}, {"clip": (0.0, 1.0)}, {"clip": (0.0, 1.0), "clip_steps": True}],
    ids=["free", "box", "steps in the box"],
)


@HELD
def test_no_step_is_taken_where_a_logit_is_nan(held):
    """Of the other sample the same class is impossible, and it goes to the one that is left."""
    x = torch.tensor([[0.4, 0.2, 0.9], [0.4, 0.2, 0.1]]).double()

    def model(x):
        third = torch.where(x[:, 2] > 0.5, torch.nan, -torch.inf)
        return torch.stack([0 * x[:, 0], x[:, 0] - 0.5, third], dim=1)

    got = deepfool(model, x, torch.zeros(2, dtype=torch.int64), **held)
    assert got.success.tolist() == [False, True]
    assert not bool(got.r[0].any())
    torch.testing.assert_close(got.r[1], torch.tensor([0.102, 0, 0]).double())


@pytest.mark.parametrize("clip", [None, (0.0, 2.0)])
def test_images_in_float16_may_sum_to_more_than_its_range(clip):
    x = torch.ones(2, 1 << 17, dtype=torch.float16)
    got = deepfool(lambda x: torch.stack([x[:, 0] - 1.5, 0 * x[:, 0]], dim=1), x, clip=clip)
    assert got.success.tolist() == [True, True]


def test_an_entry_that_is_nan_and_plays_no_part():
    """Also where other samples, fooled from the start, have left before."""
    x = torch.tensor([[0.6, 0.2]] * 3 + [[0.4, math.nan], [0.4, 0.2]]).double()
    model = lambda x: torch.stack([0 * x[:, 0], x[:, 0] - 0.5], dim=1)  # noqa: E731
    for here in (slice(3, 5), slice(5)):
        y = torch.zeros(len(x[here]), dtype=torch.int64)
        got = deepfool(model, x[here], y, clip=(0.0, 1.0))
        assert bool(got.success.all())
        torch.testing.assert_close(got.r[-2:, 0], torch.full((2,), 0.102).double())


def test_the_step_to_a_boundary_far_from_a_small_x_is_taken():
    """Far, as a distance, but a million times ||x|| is in sight."""
    model = nn.Linear(3, 2).double()
    model.weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 0]]).double()
    model.bias.data = torch.tensor([1e6, 0]).double()
    got = deepfool(model, torch.tensor([[1.0, 1.0, 1.0]]).double())
    assert bool(got.success)
    assert not bool(got.stalled)
