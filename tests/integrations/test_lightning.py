"""The Lightning callback against a plain loop."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand
from tests.nets import NETS, mlp

pl = pytest.importorskip("lightning.pytorch")
from jacfast.integrations.lightning import JacobianPenalty  # noqa: E402
from tests.integrations.modules import Module, Record, fit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders and loggers


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
    """By running statistics, which the loss has moved before."""
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
    data, twin, record = hand.batches([8]), copy.deepcopy(net), Record()
    with pytest.raises(RuntimeError, match="batch_norm must be 'frozen' or 'coupled'"):
        fit(Module(copy.deepcopy(net)), data, JacobianPenalty(0.1))
    fit(Module(net), data, JacobianPenalty(0.1, hand.EXACT, batch_norm="frozen"), record)
    ((x, _),) = data
    twin(x)
    leaf = x.clone().requires_grad_()
    want = hand.EXACT(twin.eval()(leaf), leaf)
    assert record.seen[0]["penalty"] == pytest.approx(want.item(), rel=1e-5)


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
