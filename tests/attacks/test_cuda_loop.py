"""On a GPU: an iteration of DeepFool never waits, and can be captured in a CUDA graph."""

import pytest
import torch

from benchmarks.rivals import recorded
from tests import nets
from tests.attacks.loops import part_of
from tests.testing import missing, no_waiting

pytestmark = [
    pytest.mark.skipif(bool(missing("cuda")), reason=missing("cuda") or "on a GPU"),
    pytest.mark.usefixtures("exact_convolutions"),
    pytest.mark.parametrize("network", [nets.mlp, nets.cnn]),
    pytest.mark.parametrize(
        "options",
        [
            {},
            {"clip": (0.0, 1.0)},
            {"linearize": "plain"},
            {"p": torch.inf},
            {"max_norm": 0.3},
            {"clip": (0.0, 1.0), "clip_steps": True, "max_norm": 0.3, "p": 3.0},
        ],
        ids=str,
    ),
]
WARM = 3  # runs of `recorded` before the capture


def part(network, options):
    torch.manual_seed(0)
    x = torch.rand(16, *((2, 8, 8) if network is nets.cnn else (6,)), device="cuda")
    return part_of(network().cuda(), x, **options)


def test_a_captured_iteration_is_the_eager_one(network, options):
    eager, static = part(network, options), part(network, options)
    graph, _ = recorded(lambda: static.step(*static.evaluate()))
    for _ in range(3):
        graph.replay()
    for _ in range(WARM + 3):
        eager.step(*eager.evaluate())
    assert int(eager.iterations.sum()) > 0
    torch.testing.assert_close(static.walk.r, eager.walk.r)
    for name in ("iterations", "stalled", "running"):
        assert torch.equal(getattr(static, name), getattr(eager, name)), name


def test_an_iteration_never_waits_for_the_device(network, options):
    samples = part(network, options)
    samples.step(*samples.evaluate())
    with no_waiting():
        samples.step(*samples.evaluate())
