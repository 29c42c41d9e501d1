"""The Lightning callback: what it leaves behind, and what checkpoints and recorded steps know."""

import pytest
import torch
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand
from tests.nets import relative_error

pl = pytest.importorskip("lightning.pytorch")
from jacfast.integrations.lightning import JacobianPenalty  # noqa: E402
from tests.integrations.modules import Module, fit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders and loggers


def after_fit(own, form, through, *callbacks):
    """Fit a module; return its own training step, and the attributes of all its parts."""
    module = Module(form=form, through=through)
    if own:  # a training step of the instance itself
        module.training_step = module.training_step
    step = module.__dict__.get("training_step")
    if form == "error":
        with pytest.raises(ZeroDivisionError, match="planted"):
            fit(module, hand.batches([8] * 3), *callbacks)
    else:
        fit(module, hand.batches([8] * 3), *callbacks)
    assert module.__dict__.get("training_step") is step
    return {name: set(part.__dict__) for name, part in module.named_modules()}


@pytest.mark.parametrize("through", ["self", "net"])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("form", ["tensor", "error"])
def test_the_module_is_as_it_was(form, own, through):
    callback = JacobianPenalty(0.3, model=None if through == "self" else "net")
    plain = after_fit(own, form, through)
    assert after_fit(own, form, through, callback) == plain
    assert "forward" not in plain["net"]


def test_one_callback_serves_two_fits():
    callback, data = JacobianPenalty(0.3, hand.EXACT), hand.batches([8] * 2)
    fit(Module(form="error"), data[:1], callback)
    module, twin = Module(), Module().net
    fit(module, data, callback)
    hand.train(twin, hand.groups(data, 1), Schedule(0.3))
    hand.assert_same(module.net, twin)


def test_a_second_setup_leaves_one_way_back():
    """A fit that ended without teardown: another callback's raised."""
    module, callback = Module(), JacobianPenalty(0.3)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.callbacks.append(callback)
    for _ in range(2):
        callback.setup(trainer, module, "fit")
        assert "training_step" in module.__dict__
    callback.teardown(trainer, module, "fit")
    assert "training_step" not in module.__dict__


def test_what_a_penalty_learns_is_the_modules_or_refused():
    """Of nobody's it stood still, without a word; of the module's it takes the step by hand."""
    data, weights = hand.batches([8] * 2), nn.Parameter(torch.ones(5))
    penalty = jacfast.Frobenius("exact", weights=weights)
    with pytest.raises(ValueError, match=r"penalty must learn parameters of Module .* weights of"):
        fit(Module(), data, JacobianPenalty(0.3, penalty))
    fixed = jacfast.Frobenius("exact", weights=nn.Parameter(torch.ones(5), requires_grad=False))
    fit(Module(), data[:1], JacobianPenalty(0.3, fixed))
    module, twin = Module(), Module().net
    module.weights = weights
    fit(module, data[:1], JacobianPenalty(0.3, penalty))
    x, _ = data[0]
    rows = torch.func.vmap(torch.func.jacrev(lambda x: twin(x[None])[0]))(x)
    want = 1 - 0.1 * 0.3 * rows.square().flatten(2).sum(dim=2).mean(dim=0)
    torch.testing.assert_close(weights.detach(), want.detach())


def test_what_a_penalty_keeps_is_the_modules_or_refused():
    """No checkpoint had it, and a resumed run began it anew, without a word."""
    data, kept = hand.batches([8] * 2), hand.Mean()
    penalty = hand.Normalised("exact", kept=kept)
    with pytest.raises(ValueError, match=r"penalty must keep buffers of Module .* kept.mean of"):
        fit(Module(), data, JacobianPenalty(0.3, penalty))
    assert kept.calls == 0
    constant = hand.Mean()
    constant.register_buffer("mean", torch.ones(()), persistent=False)
    fit(Module(), data, JacobianPenalty(0.3, hand.Normalised("exact", kept=constant)))
    module, twin = Module(), Module().net
    module.kept = kept
    fit(module, data, JacobianPenalty(0.3, penalty))
    same = hand.Normalised("exact", kept=hand.Mean())
    hand.train(twin, hand.groups(data, 1), Schedule(0.3), penalty=same)
    hand.assert_same(module.net, twin)
    torch.testing.assert_close(kept.mean, same.kept.mean)


def test_a_generator_goes_on_from_a_checkpoint(tmp_path):
    data = hand.batches([8] * 3)

    def drawing():
        source = torch.Generator().manual_seed(5)
        return JacobianPenalty(0.3, jacfast.Frobenius(), generator=source)

    whole, half, resumed = Module(), Module(), Module()
    fit(whole, data, drawing(), epochs=2)
    fit(half, data, drawing()).save_checkpoint(tmp_path / "half.ckpt")
    fit(resumed, data, drawing(), epochs=2, begun=tmp_path / "half.ckpt")
    hand.assert_same(resumed, whole, rtol=0, atol=0)


class Asking(pl.LightningModule):
    """Scales its logits by what it asks its trainer, and by a hyperparameter."""

    def __init__(self, name=None, scale=2.0):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(6, 5).double()

    def forward(self, x):
        by = 1 if self.hparams.name is None else 1 + getattr(self, self.hparams.name)
        return self.net(x).tanh() * by * self.hparams.scale


@pytest.mark.filterwarnings("always:forward_with_penalty runs eager")
@pytest.mark.parametrize("name", [None, "current_epoch", "global_step"])
def test_a_recorded_step_knows_nothing_of_the_trainer(name, recwarn):
    model, x = Asking(name), torch.randn(4, 6).double()
    model.trainer = trainer = pl.Trainer(logger=False, accelerator="cpu")
    for epoch in range(3):
        trainer.fit_loop.epoch_progress.current.processed = epoch
        trainer.fit_loop.epoch_progress.current.completed = epoch
        optimizer = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer
        optimizer.step.total.completed = epoch
        logits, _ = jacfast.forward_with_penalty(model, x, compiled="traced")
        assert relative_error(logits, model(x)) < 1e-9
        assert name is None or getattr(model, name) == epoch
    assert model.trainer is trainer
    said = [str(one.message) for one in recwarn if "runs eager" in str(one.message)]
    assert len(said) == (name is not None)
    assert name is None or f"_trainer of a Asking, which is asked for its {name}" in said[0]
