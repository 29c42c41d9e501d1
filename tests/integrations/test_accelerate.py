"""WithPenalty prepared by the real Accelerate, against a plain loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand
from tests.nets import NETS

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("accelerate_state")


def make(name):
    torch.manual_seed(0)
    return NETS[name][0]()


def train(model, data, schedule, *, clip=None, **options):
    """Train in place as a user of Accelerate does; return the penalties."""
    accelerator = accelerate.Accelerator(cpu=True, **options)
    model = jacfast.WithPenalty(model, hand.EXACT)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = torch.utils.data.DataLoader(data, batch_size=None)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    step, seen = 0, []
    for x, y in loader:
        with accelerator.accumulate(model):
            logits, penalty = model(x)
            assert logits.dtype == penalty.dtype == torch.float32
            accelerator.backward(F.cross_entropy(logits, y) + schedule(step) * penalty)
            if clip is not None and accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        step += accelerator.sync_gradients
        seen.append(penalty.item())
    return seen


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_equals_the_loop_by_hand(accumulate, clip):
    data, schedule = hand.batches([8] * 5), Schedule(0.6, warmup=2)
    model, twin = make("mlp"), make("mlp")
    got = train(model, data, schedule, clip=clip, gradient_accumulation_steps=accumulate)
    steps = hand.groups(data, accumulate)  # the last may be short, and is divided all the same
    seen = hand.train(twin, steps, schedule, divisors=[accumulate] * len(steps), clip=clip)
    hand.assert_same(model, twin)
    assert got == pytest.approx([each["penalty"] for each in seen], rel=1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_bf16(name):
    """As near to the path in float32 as autograd in bfloat16, whose roundings are others."""
    data, schedule = hand.batches([8] * 4, NETS[name][1]), Schedule(0.6)
    model, twin, exact = make(name), make(name), make(name)
    start = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
    train(model, data, schedule, mixed_precision="bf16", gradient_accumulation_steps=2)
    hand.train(twin, hand.groups(data, 2), schedule, bf16=True)
    hand.train(exact, hand.groups(data, 2), schedule)
    want = nn.utils.parameters_to_vector(exact.parameters()).detach()
    assert hand.moved(twin, want) < 0.06 * hand.moved(exact, start)  # 0.034 was seen
    assert 0 < hand.moved(model, want) < 2 * hand.moved(twin, want)


def test_the_model_inside_is_the_users():
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model = make("mlp")
    prepared = accelerator.prepare(jacfast.WithPenalty(model, hand.EXACT))
    assert accelerator.unwrap_model(prepared).model is model
    assert "forward" not in model.__dict__
