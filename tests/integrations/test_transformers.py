"""The Hugging Face Trainer with the penalty against a plain loop."""

import pytest
import torch
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand
from tests.step.writing import WRITING

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.integrations.trainers import (  # noqa: E402
    SHAPE,
    Logits,
    trainer,
    vit,
)

pytestmark = [
    pytest.mark.usefixtures("accelerate_state"),
    pytest.mark.filterwarnings("ignore"),  # of torch and of the package itself
]


def test_equals_the_loop_by_hand(tmp_path):
    data, schedule = hand.batches([4] * 4, SHAPE), Schedule(0.3, start=1, warmup=2)
    model, twin = vit(), vit()
    run = trainer(model, data, tmp_path, schedule=schedule, max_grad_norm=0.5)
    run.train()
    seen = hand.train(Logits(twin), hand.groups(data, 1), schedule, clip=0.5)
    hand.assert_same(model, twin)
    history = run.state.log_history[:4]
    assert "jacobian/penalty" not in history[0]
    for logged, want in zip(history, seen, strict=True):
        total = want["loss"] + want["lam"] * want["penalty"]
        assert logged["loss"] == pytest.approx(total, rel=1e-3)
        assert logged["jacobian/lam"] == pytest.approx(want["lam"])
        if want["lam"]:
            assert logged["jacobian/penalty"] == pytest.approx(want["penalty"], rel=1e-3)
            assert logged["jacobian/norm"] == pytest.approx(want["penalty"] ** 0.5, rel=1e-3)


def mean_loss(outputs, labels, num_items_in_batch=None):
    return nn.functional.cross_entropy(outputs.logits, labels) / 3


@pytest.mark.parametrize("way", ["by items", "by the Trainer", "by a function", "label smoother"])
def test_accumulation(tmp_path, way):
    """The penalty is the mean over micro-batches, whoever normalises the loss."""
    data = hand.batches([4] * 5 + [2], SHAPE)
    model, twin = vit(), vit()
    options = {"by a function": {"compute_loss_func": mean_loss}}.get(way, {})
    run = trainer(model, data, tmp_path, gradient_accumulation_steps=3, **options)
    steps = hand.groups(data, 3)
    if way == "by the Trainer":
        run.model_accepts_loss_kwargs = False
        weights = [[1 / 3] * 3] * 2
    elif way == "by a function":  # the Trainer leaves its result as it is
        weights = [[1 / 3] * 3] * 2
    else:  # by the number of labels in the step
        weights = [[1 / 3] * 3, [0.4, 0.4, 0.2]]
    if way == "label smoother":
        run.label_smoother = transformers.trainer_pt_utils.LabelSmoother(epsilon=0.0)
    assert run.model_accepts_loss_kwargs == (way != "by the Trainer")
    run.train()
    hand.train(Logits(twin), steps, Schedule(0.3), weights=weights)
    hand.assert_same(model, twin)


class Own(nn.Module):
    """A model of one's own, as the Trainer calls it."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.net = WRITING[name]()
        self.net.norm = nn.Identity()

    def forward(self, pixel_values, labels=None):
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


@pytest.mark.parametrize(
    "name", ["momentum, assigned", "momentum, in place", "spectral norm", "first values"]
)
def test_parameters_that_the_model_writes_to(tmp_path, name):
    data = hand.batches([4] * 4, (6,), classes=3)
    model, twin = Own(name), Own(name)
    trainer(model, data, tmp_path).train()
    hand.train(twin.net, hand.groups(data, 1), Schedule(0.3))
    hand.assert_same(model, twin)


def test_logging_means(tmp_path):
    data = hand.batches([4] * 5, SHAPE)
    model, twin = vit(), vit()
    penalty = jacfast.Frobenius("exact", every=2)
    run = trainer(model, data, tmp_path, penalty=penalty, logging_steps=2)
    run.train()
    seen = hand.train(Logits(twin), hand.groups(data, 1), lambda step: 0.6 * (step % 2 == 0))
    hand.assert_same(model, twin)
    first, second, last = run.state.log_history
    for logged, index in ((first, 0), (second, 2)):  # the penalised one of each two
        assert logged["jacobian/penalty"] == pytest.approx(2 * seen[index]["penalty"], rel=1e-3)
        assert logged["jacobian/norm"] == pytest.approx(seen[index]["penalty"] ** 0.5, rel=1e-3)
    assert "train_loss" in last
    assert not [name for name in last if name.startswith("jacobian")]
    assert run._total is None  # the fifth batch's is not for the next training


def test_bf16(tmp_path):
    data = hand.batches([4] * 4, SHAPE)
    model, twin, exact = vit(), vit(), vit()
    start = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
    trainer(model, data, tmp_path, bf16=True, gradient_accumulation_steps=2).train()
    hand.train(Logits(twin), hand.groups(data, 2), Schedule(0.3), bf16=True)
    hand.train(Logits(exact), hand.groups(data, 2), Schedule(0.3))
    want = nn.utils.parameters_to_vector(twin.parameters()).detach()
    assert hand.moved(model, want) < 0.05 * hand.moved(exact, start)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("penalty", [jacfast.InputGradient(), hand.EXACT])
def test_labels_and_attention_that_has_no_second_derivative(tmp_path, penalty, checkpoints):
    data = hand.batches([4] * 2, SHAPE)
    model, twin = vit("sdpa"), vit()
    trainer(model, data, tmp_path, penalty=penalty, gradient_checkpointing=checkpoints).train()
    hand.train(Logits(twin), hand.groups(data, 1), Schedule(0.3), penalty=penalty)
    hand.assert_same(model, twin)


def test_labels_that_the_trainer_takes_away(tmp_path):
    data, penalty = hand.batches([4] * 2, SHAPE), jacfast.InputGradient()
    model, twin = vit(), vit()
    trainer(model, data, tmp_path, penalty=penalty, compute_loss_func=mean_loss).train()
    steps, weights = hand.groups(data, 1), [[1 / 3]] * 2
    hand.train(Logits(twin), steps, Schedule(0.3), penalty=penalty, weights=weights)
    hand.assert_same(model, twin)


def test_evaluation_is_left_alone(tmp_path):
    data = hand.batches([4], SHAPE)
    plain = trainer(vit(), data, tmp_path, schedule=0).evaluate()["eval_loss"]
    assert trainer(vit(), data, tmp_path, schedule=9.0).evaluate()["eval_loss"] == plain
