"""A model's modules, in PyTorch's order, each once."""

import pytest
from torch import nn

from jacfast.calling import tree

SHARED = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
NESTED = nn.Sequential(nn.Sequential(nn.Sequential(SHARED, nn.Tanh()), SHARED[0]), SHARED, nn.ELU())


class Around(nn.Module):
    """Modules of which one is missing, one has an ancestor as its child, and one comes twice."""

    def __init__(self):
        super().__init__()
        self.none = None
        self.register_module("missing", None)
        self.first, self.second = NESTED, nn.ModuleDict({"a": SHARED, "b": nn.Linear(2, 2)})
        self.second.add_module("up", self)


@pytest.mark.parametrize("model", [nn.Linear(1, 1), SHARED, NESTED, Around()], ids=type)
def test_as_pytorch_has_them(model):
    assert [id(m) for m in tree(model)] == [id(m) for m in model.modules()]
