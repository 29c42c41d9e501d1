"""Graph networks: adjacencies as sparse tensors, shared by all samples or one for each."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jacfast
from jacfast.calling import Arguments
from tests.nets import draw

SAMPLES, NODES = 6, 4


class Graphs(nn.Module):
    """x [N, nodes, 5] and an adjacency [nodes, nodes], or [N, nodes, nodes], to 3 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        h = self.into(x)
        if adjacency.dim() == 3:
            h = torch.bmm(adjacency, h)
        else:
            h = torch.stack([torch.sparse.mm(adjacency, one) for one in h])
        return self.out(h.tanh().mean(dim=1))


def graphs(shared: bool) -> torch.Tensor:
    torch.manual_seed(1)
    return (torch.rand(NODES, NODES) if shared else torch.rand(SAMPLES, NODES, NODES)).round()


def stepped(model, x, adjacency):
    logits, penalty = jacfast.forward_with_penalty(
        model, x, args=(adjacency,), penalty=jacfast.Frobenius("exact"), chunk_size=2
    )
    F.cross_entropy(logits, torch.arange(SAMPLES) % 3).add(penalty).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


CALLS = {
    "deepfool": lambda m, x, a: jacfast.deepfool(m, x, args=(a,)).adversarial,
    "minimal_norm": lambda m, x, a: jacfast.minimal_norm(m, x, args=(a,), budget=20, clip=None),
    "jacobian": lambda m, x, a: jacfast.jacobian(m, x, args=(a,)),
    "a step in chunks": stepped,
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one for each"])
@pytest.mark.parametrize("name", CALLS)
def test_a_sparse_adjacency_is_what_the_dense_one_is(name, shared):
    torch.manual_seed(0)
    model, x, adjacency = Graphs().double(), draw(SAMPLES, NODES, 5), graphs(shared).double()
    want = CALLS[name](model, x, adjacency)
    model.zero_grad()
    torch.testing.assert_close(CALLS[name](model, x, adjacency.to_sparse()), want)


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([2, 0, 2]), torch.arange(SAMPLES) % 2 == 0], ids=str
)
def test_rows_of_a_sparse_argument_go_along(index):
    every = graphs(shared=False)
    cut = Arguments((every.to_sparse(),), samples=SAMPLES).rows(index)
    for rows, want in ((cut, every[index]), (cut.rows(slice(1, 2)), every[index][1:2])):
        (passed,), _ = rows.parts()[0]
        assert passed.is_sparse
        assert torch.equal(passed.to_dense(), want)


def nested(layout: torch.layout) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(i + 1, 2) for i in range(4)], layout=layout)


UNCUT = {
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
}


@pytest.mark.parametrize("kind", UNCUT)
@pytest.mark.filterwarnings("ignore:.*(beta state|prototype stage)")
def test_what_has_no_rows_to_be_taken_is_named(kind):
    whole = Arguments((1.0,), {"graph": UNCUT[kind]()}, samples=4)
    with pytest.raises(TypeError, match=r"^'graph' must be dense .*; got "):
        whole.rows(slice(2))
