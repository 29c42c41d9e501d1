"""A module that is copied or saved while its training step is penalised; batches of other forms."""

import copy
import io
import operator

import pytest
import torch
import torch.nn.functional as F

import jacfast
from jacfast.training.schedule import Schedule
from tests.integrations import hand

pl = pytest.importorskip("lightning.pytorch")
from jacfast.integrations.lightning import JacobianPenalty  # noqa: E402
from tests.integrations.test_lightning import Module, fit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders and loggers


def saved(module):
    kept = io.BytesIO()
    torch.save(module, kept)
    kept.seek(0)
    return torch.load(kept, weights_only=False)


class Taking(pl.Callback):
    """Take a copy after the first step, and train it by one of its own."""

    def __init__(self, take):
        self.take = take

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 0:
            self.copy = self.take(pl_module)
            self.batch, self.weights = batch, copy.deepcopy(pl_module.net.state_dict())


@pytest.mark.parametrize("take", [copy.deepcopy, saved])
@pytest.mark.parametrize("own", [False, True])
def test_a_copy_of_the_module_has_its_own_training_step_without_a_penalty(take, own):
    data, taking, module = hand.batches([8] * 2), Taking(take), Module()
    if own:  # a training step of the instance itself
        module.training_step = module.training_step
    fit(module, data, JacobianPenalty(0.3, hand.EXACT), taking)
    torch.testing.assert_close(dict(taking.copy.net.state_dict()), dict(taking.weights))
    before = [parameter.grad for parameter in module.parameters()]
    taking.copy.zero_grad()
    taking.copy.training_step(taking.batch, 0).backward()
    assert [parameter.grad for parameter in module.parameters()] == before
    plain = Module().net
    plain.load_state_dict(taking.weights)
    x, y = taking.batch
    F.cross_entropy(plain(x), y).backward()
    for got, want in zip(taking.copy.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad)
    again = copy.deepcopy(taking.copy)
    assert again.training_step.__self__ is again


class Fetching(Module):
    """A training step that fetches its batches by itself."""

    def training_step(self, dataloader_iter):
        (x, y), _, _ = next(dataloader_iter)
        return F.cross_entropy(self(x), y)


def test_a_training_step_that_fetches_its_batches():
    data, module, twin = hand.batches([8] * 3), Fetching(), Module().net
    fit(module, data, JacobianPenalty(0.3, hand.EXACT))
    hand.train(twin, hand.groups(data, 1), Schedule(0.3))
    hand.assert_same(module.net, twin)


class Named(Module):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch["x"]), batch["y"])


def test_labels_that_are_not_where_they_are_looked_for():
    data = [{"x": x, "y": y} for x, y in hand.batches([8] * 2)]
    words = r"labels must map the batch to its labels \[N\]; got KeyError: 1 of a dict"
    with pytest.raises(ValueError, match=words):
        fit(Named(), data, JacobianPenalty(0.3, jacfast.InputGradient()))
    labels = operator.itemgetter("y")
    fit(Named(), data, JacobianPenalty(0.3, jacfast.InputGradient(), labels=labels))
    with pytest.raises(ValueError, match=r"labels must map .*; got TypeError: .* of a "):
        fit(Fetching(), hand.batches([8]), JacobianPenalty(0.3, jacfast.InputGradient()))
