"""The Lightning callback against a plain loop, and what it leaves behind."""

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand
from tests.nets import NETS, mlp, relative_error

pl = pytest.importorskip("lightning.pytorch")
from jacfast.integrations.lightning import JacobianPenalty  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders and loggers


class Module(pl.LightningModule):
    """A network under the name `net`, SGD, and a training step to choose from."""

    def __init__(self, net=None, form="tensor", through="self", lr=0.1):
        super().__init__()
        torch.manual_seed(0)
        self.net = mlp() if net is None else net
        self.form, self.through, self.lr = form, through, lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        calls = {"self": self, "net": self.net}
        if self.through == "none":
            return self.net[0](x).sum()
        loss = F.cross_entropy(calls[self.through](x), y)
        if self.form == "skip" and batch_idx == 1:
            return None
        if self.form == "error" and batch_idx == 1:
            raise ZeroDivisionError("planted")
        return {"loss": loss, "more": 7} if self.form == "dict" else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Record(pl.Callback):
    """Keep what is logged, batch by batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        logged = trainer.logged_metrics.items()
        self.seen.append({name.removeprefix("jacobian/"): float(v) for name, v in logged})


def fit(module, data, *callbacks, epochs=1, begun=None, **options):
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None), ckpt_path=begun)
    return trainer


@pytest.mark.parametrize("form", ["tensor", "dict"])
@pytest.mark.parametrize("through", ["self", "net"])
def test_equals_the_loop_by_hand(form, through):
    data = hand.batches([8] * 4)
    module, twin, record = Module(form=form, through=through), Module().net, Record()
    model = None if through == "self" else "net"
    fit(module, data, JacobianPenalty(0.3, hand.EXACT, model), record)
    seen = hand.train(twin, hand.groups(data, 1), Schedule(0.3))
    hand.assert_same(module.net, twin)
    assert len(record.seen) == 4
    for logged, want in zip(record.seen, seen, strict=True):
        assert set(logged) == {"penalty", "lam", "norm", "seconds"}
        assert logged["penalty"] == pytest.approx(want["penalty"], rel=1e-4)
        assert logged["norm"] == pytest.approx(want["penalty"] ** 0.5, rel=1e-4)
        assert logged["lam"] == pytest.approx(0.3)
        assert 0 < logged["seconds"] < 10


def test_the_penalty_matters():
    data = hand.batches([8] * 4)
    module, plain = Module(), Module()
    start = nn.utils.parameters_to_vector(Module().parameters())
    fit(module, data, JacobianPenalty(0.3, hand.EXACT))
    fit(plain, data)
    distance = hand.moved(module, nn.utils.parameters_to_vector(plain.parameters()))
    assert distance > 0.1 * hand.moved(plain, start)


def test_accumulation_clipping_and_a_schedule_of_optimiser_steps():
    data = hand.batches([8] * 7)
    schedule = Schedule(2.0, start=1, warmup=2)
    module, twin, record = Module(), Module().net, Record()
    options = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    fit(module, data, JacobianPenalty(schedule, hand.EXACT), record, epochs=2, **options)
    # the last batch of an epoch steps alone, and Lightning divides it by 2 all the same
    steps = hand.groups(data, 2) * 2
    seen = hand.train(twin, steps, schedule, divisors=[2] * 8, clip=0.5)
    hand.assert_same(module.net, twin)
    assert [logged["lam"] for logged in record.seen] == [want["lam"] for want in seen]
    assert [want["lam"] for want in seen][:6] == [0, 0, 1, 1, 2, 2]
    assert set(record.seen[0]) == {"lam"}  # nothing was computed


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_bf16_mixed(net):
    make, shape = NETS[net]
    data = hand.batches([8] * 4, shape)
    torch.manual_seed(0)
    module = Module(make())
    torch.manual_seed(0)
    twin, exact = make(), make()
    exact.load_state_dict(twin.state_dict())
    start = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
    fit(module, data, JacobianPenalty(0.3, hand.EXACT), precision="bf16-mixed")
    hand.train(twin, hand.groups(data, 1), Schedule(0.3), bf16=True)
    hand.train(exact, hand.groups(data, 1), Schedule(0.3))
    want = nn.utils.parameters_to_vector(twin.parameters()).detach()
    assert hand.moved(module.net, want) < 0.03 * hand.moved(exact, start)
    assert all(p.dtype == torch.float32 for p in module.parameters())


def test_every_other_optimiser_step():
    data = hand.batches([8] * 8)
    penalty = jacfast.Frobenius("exact", every=2)
    module, twin, record = Module(), Module().net, Record()
    fit(module, data, JacobianPenalty(0.3, penalty), record, accumulate_grad_batches=2)
    seen = hand.train(twin, hand.groups(data, 2), lambda step: 0.6 * (step % 2 == 0))
    hand.assert_same(module.net, twin)
    for index in (0, 1, 4, 5):
        assert record.seen[index]["penalty"] == pytest.approx(2 * seen[index]["penalty"], rel=1e-4)
        assert record.seen[index]["norm"] == pytest.approx(seen[index]["penalty"] ** 0.5, rel=1e-4)


@pytest.mark.parametrize("named", [False, True])
def test_labels(named):
    data, penalty = hand.batches([8] * 3), jacfast.InputGradient()
    module, twin, record = Module(), Module().net, Record()
    labels = {"labels": lambda batch: batch[1]} if named else {}
    fit(module, data, JacobianPenalty(5.0, penalty, **labels), record)
    hand.train(twin, hand.groups(data, 1), Schedule(5.0), penalty=penalty)
    hand.assert_same(module.net, twin)
    assert "norm" not in record.seen[-1]


def test_options_reach_the_penalty():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
    data = hand.batches([8] * 2)
    with pytest.raises(RuntimeError, match="batch_norm must be 'frozen' or 'coupled'"):
        fit(Module(net), data, JacobianPenalty(0.1))
    record = Record()
    fit(Module(net), data, JacobianPenalty(0.1, batch_norm="frozen"), record)
    assert record.seen[-1]["penalty"] > 0


class Masked(nn.Module):
    """A mask before x, and the logits among other outputs."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, mask, x):
        return {"z": self.net(mask * x), "norm": x.norm()}


class Calling(Module):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net((x > 0).float(), x=x)["z"], y)


def test_further_arguments_and_outputs():
    record, data = Record(), hand.batches([8])
    module = Calling(Masked(), lr=0.0)
    options = {"model": "net", "argument": "x", "output": "z"}
    fit(module, data, JacobianPenalty(0.1, hand.EXACT, **options), record)
    ((x, _),) = data
    leaf = x.clone().requires_grad_()
    logits = module.net((x > 0).float(), leaf)["z"]
    want = hand.EXACT(logits, leaf)
    assert record.seen[0]["penalty"] == pytest.approx(want.item(), rel=1e-5)


def test_a_skipped_batch_is_passed_through():
    data = hand.batches([8] * 3)
    module, twin = Module(form="skip"), Module().net
    fit(module, data, JacobianPenalty(0.3, hand.EXACT))
    hand.train(twin, [[data[0]], [data[2]]], lambda step: 0.3)
    hand.assert_same(module.net, twin)


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


class Manual(Module):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Twice(Module):
    def training_step(self, batch, batch_idx):
        return self(batch[0]).sum() + self(batch[0]).mean()


class FSDPStrategy(pl.strategies.SingleDeviceStrategy):
    """By its name one that shards."""


def test_refusals():
    data, callback = hand.batches([4] * 2), JacobianPenalty(0.1)
    manual = Manual()
    with pytest.raises(ValueError, match="automatic_optimization must be True"):
        fit(manual, data, callback)
    assert "training_step" not in manual.__dict__
    with pytest.raises(ValueError, match="callbacks must hold one JacobianPenalty"):
        fit(Module(), data, callback, JacobianPenalty(0.2))
    with pytest.raises(RuntimeError, match=r"must call the penalised model, self\(x\), once"):
        fit(Module(through="net"), data, callback)
    with pytest.raises(RuntimeError, match="the model was called twice"):
        fit(Twice(), data, callback)
    with pytest.raises(ValueError, match="strategy must leave the parameters whole"):
        fit(Module(), data, callback, strategy=FSDPStrategy("cpu"))
    with pytest.raises(RuntimeError, match=r"self.net\(x\), once"):
        fit(Module(through="none"), data, JacobianPenalty(0.1, model="net"))
    with pytest.raises(ValueError, match=r"model must name a submodule .*\(net, .*; got 'body'"):
        fit(Module(), data, JacobianPenalty(0.1, model="body"))
    with pytest.raises(TypeError, match="options must be among layer"):
        JacobianPenalty(0.1, step=3)
    with pytest.raises(TypeError, match="schedule must be a number"):
        JacobianPenalty("0.1")
    with pytest.raises(TypeError, match="chunk_size must be an integer; got 'a'"):
        JacobianPenalty(0.1, chunk_size="a")
    with pytest.raises(TypeError, match="argument must be a name, an index or None; got "):
        JacobianPenalty(0.1, argument=1.5)
    with pytest.raises(TypeError, match="model must be the name of a submodule; got Linear"):
        JacobianPenalty(0.1, model=nn.Linear(2, 3))
    with pytest.raises(TypeError, match="labels must be a function of the batch; got int"):
        JacobianPenalty(0.1, labels=1)


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


def test_the_arguments_of_the_training_step_are_still_seen():
    class Short(Module):
        def training_step(self, batch):
            return F.cross_entropy(self(batch[0]), batch[1])

    data = hand.batches([8] * 2)
    module, twin = Short(), Module().net
    fit(module, data, JacobianPenalty(0.3, hand.EXACT))
    hand.train(twin, hand.groups(data, 1), Schedule(0.3))
    hand.assert_same(module.net, twin)


def test_ddp(monkeypatch):
    from lightning.fabric.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    data = hand.batches([8] * 4)
    module, twin = Module(), Module().net
    strategy = DDPStrategy(process_group_backend="gloo", cluster_environment=LightningEnvironment())
    options = {"strategy": strategy, "devices": 1, "accumulate_grad_batches": 2}
    try:
        fit(module, data, JacobianPenalty(0.3, hand.EXACT), **options)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    hand.train(twin, hand.groups(data, 2), Schedule(0.3))
    hand.assert_same(module.net, twin)


def test_the_older_package_will_do(monkeypatch):
    older = pytest.importorskip("pytorch_lightning")
    name = "jacfast.integrations.lightning"
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, name)
    assert issubclass(importlib.import_module(name).JacobianPenalty, older.Callback)


def test_without_lightning_the_error_says_what_to_install(monkeypatch):
    name = "jacfast.integrations.lightning"
    for package in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"run pip install 'jacfast\[lightning\]'$"):
        importlib.import_module(name)


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
