"""The Lightning callback: what is refused."""

import pytest
from torch import nn

from tests.integrations import hand

pl = pytest.importorskip("lightning.pytorch")
from jacfast.integrations.lightning import JacobianPenalty  # noqa: E402
from tests.integrations.modules import Module, fit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, on loaders and loggers


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
