"""What a CUDA graph needs of a step, seen without a GPU.

The host never looks at a number, no shape depends on one, and every call but the first, which may
measure the model on one sample, runs the same ops. On the CPU the penalties that need labels look
at their range; on any other device they must not.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jacfast import (
    CrossLipschitz,
    DecisionFunction,
    EntrywiseL1,
    Frobenius,
    InputGradient,
    Spectral,
)
from tests.step.networks import SIX, build
from tests.step.steps import fast, loss_of

LOOKS = {
    "aten._local_scalar_dense.default",
    "aten.item.default",
    "aten.is_nonzero.default",
    "aten.equal.default",
    "aten.nonzero.default",
    "aten.masked_select.default",
    "aten._unique2.default",
    "aten.repeat_interleave.Tensor",
}
WITHOUT_LABELS = {
    "frobenius": Frobenius(1),
    "exact": Frobenius("exact"),
    "part": Frobenius(1, subsample=0.5),
    "cross-lipschitz": CrossLipschitz(1),
    "l1": EntrywiseL1(2),
    "spectral": Spectral(),
}
WITH_LABELS = {"input gradient": InputGradient(), "decision": DecisionFunction("l2")}


class Recorded(TorchDispatchMode):
    """Every op that runs, with the shapes and dtypes of the tensors it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [*args, *(kwargs or {}).values()]
        tensors = [one for one in torch.utils._pytree.tree_leaves(given) if torch.is_tensor(one)]
        kinds = [(tuple(one.shape), one.dtype) for one in tensors]
        self.ops.append((str(func), kinds))
        return func(*args, **(kwargs or {}))


def training_step(model, x, y, penalty, **options):
    model.zero_grad()
    logits, value = fast(model, x, y, penalty, **options)
    loss_of(logits, value, y).backward()
    return value.detach()


def recorded(model, x, y, penalty, **options):
    with Recorded() as seen:
        value = training_step(model, x, y, penalty, **options)
    return seen.ops, value


@pytest.mark.parametrize("penalty", WITHOUT_LABELS)
@pytest.mark.parametrize("network", SIX)
def test_no_looks_no_shapes_from_data_the_same_ops(network, penalty):
    model, x, y = build(network)
    training_step(model, x, y, WITHOUT_LABELS[penalty])
    first, one = recorded(model, x, y, WITHOUT_LABELS[penalty])
    second, other = recorded(model, x.flip(0) * 3, y, WITHOUT_LABELS[penalty])
    assert first == second
    assert any("backward" in name or name == "aten.mm.default" for name, _ in first)
    assert not {name for name, _ in first} & LOOKS
    masks = [kinds for name, kinds in first if name.startswith("aten.index")]
    assert not any(dtype == torch.bool for kinds in masks for _, dtype in kinds)
    assert one != other


# A layer is of the network alone, and a draw of the penalty: each network, and each penalty twice.
WITHOUT_DATA = [
    (network, penalty)
    for network in SIX
    for penalty in [*WITHOUT_LABELS, *WITH_LABELS]
    if penalty in ("frobenius", "decision") or network in ("tutorial", "vit")
]


@pytest.mark.parametrize("options", [{}, {"at": None, "chunk_size": 3}], ids=["", "at"])
@pytest.mark.parametrize(("network", "penalty"), WITHOUT_DATA)
def test_a_step_without_data(network, penalty, options):
    """On the meta device there is nothing to look at, and what is left on the CPU shows."""
    model, x, y = (one.to("meta") for one in build(network))
    if "at" in options:
        options = options | {"at": torch.ones_like(x)}
    value = training_step(model, x, y, (WITHOUT_LABELS | WITH_LABELS)[penalty], **options)
    assert value.device.type == "meta"
    assert value.shape == ()
    for parameter in model.parameters():
        assert parameter.grad.shape == parameter.shape


@pytest.mark.parametrize("penalty", [name for name in WITHOUT_LABELS if name != "exact"])
def test_two_calls_draw_differently(penalty):
    model, x, y = build("mlp")
    one, other = (training_step(model, x, y, WITHOUT_LABELS[penalty]) for _ in range(2))
    assert one != other
