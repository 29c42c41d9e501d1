"""The Hugging Face Trainer with the penalty: what is refused."""

import pytest
import torch
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from tests.integrations.trainers import (  # noqa: E402
    SHAPE,
    Logits,
    a_trainer_and_a_batch,
    trainer,
    vit,
)

pytestmark = [
    pytest.mark.usefixtures("accelerate_state"),
    pytest.mark.filterwarnings("ignore"),  # of torch and of the package itself
]


def test_arguments_are_refused_in_words(tmp_path):
    for name in ("labels", "inputs_embeds"):
        run, inputs = a_trainer_and_a_batch(tmp_path, jacobian_input=name)
        with pytest.raises(ValueError, match=f"jacobian_input must name .*; got '{name}'"):
            run.compute_loss(run.model, dict(inputs))
    with pytest.raises(TypeError, match="jacobian_input must be the name of an input; got int"):
        a_trainer_and_a_batch(tmp_path, jacobian_input=1)
    with pytest.raises(TypeError, match="jacobian_options must be options by name; got str"):
        a_trainer_and_a_batch(tmp_path, jacobian_options="a")
    with pytest.raises(TypeError, match="options must be among layer"):
        a_trainer_and_a_batch(tmp_path, jacobian_options={"at": None})
    with pytest.raises(TypeError, match="penalty must be a jacfast Penalty"):
        a_trainer_and_a_batch(tmp_path, penalty=0.1)
    with pytest.raises(TypeError, match="schedule must be a number"):
        a_trainer_and_a_batch(tmp_path, schedule="0.1")


def test_what_a_penalty_learns_is_the_models_or_refused(tmp_path):
    weights = nn.Parameter(torch.ones(5))
    penalty = jacfast.Frobenius("exact", weights=weights)
    run, inputs = a_trainer_and_a_batch(tmp_path, penalty=penalty)
    with pytest.raises(ValueError, match=r"penalty must learn parameters of .* got weights of"):
        run.compute_loss(run.model, dict(inputs))
    run.model.weights = weights
    run.compute_loss(run.model, dict(inputs)).backward()
    assert bool((weights.grad > 0).all())


def test_what_a_penalty_keeps_is_the_models_or_refused(tmp_path):
    """Its second pass put the running mean back, so that it stayed where it began."""
    data = hand.batches([4] * 4, SHAPE)
    model, twin, alone = vit(), vit(), hand.Mean()
    run = trainer(model, data, tmp_path, penalty=hand.Normalised("exact", kept=alone))
    with pytest.raises(ValueError, match=r"penalty must keep buffers of ViT.* got kept.mean of"):
        run.train()
    model.kept = hand.Mean()
    penalty = hand.Normalised("exact", kept=model.kept)
    trainer(model, data, tmp_path, penalty=penalty, gradient_accumulation_steps=2).train()
    penalty = hand.Normalised("exact", kept=hand.Mean())
    hand.train(Logits(twin), hand.groups(data, 2), Schedule(0.3), penalty=penalty)
    assert model.kept.calls == penalty.kept.calls == 4
    torch.testing.assert_close(model.kept.mean, penalty.kept.mean)
    del model.kept
    hand.assert_same(model, twin)


@pytest.mark.parametrize("name", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_parameters_in_pieces_are_refused(tmp_path, monkeypatch, name):
    make = transformers.Trainer.create_accelerator_and_postprocess

    def pretend(self):
        make(self)
        setattr(self, name, True)

    monkeypatch.setattr(transformers.Trainer, "create_accelerator_and_postprocess", pretend)
    with pytest.raises(ValueError, match="must not run under FSDP or DeepSpeed"):
        a_trainer_and_a_batch(tmp_path)
