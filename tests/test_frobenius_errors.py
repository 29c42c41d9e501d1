"""frobenius_penalty: bad input is refused in words."""

import re

import pytest
import torch
from torch import nn

from jacfast import frobenius_penalty
from tests.nets import build, draw


@pytest.fixture
def pair():
    """Return logits [4, 5] and their x [4, 6]."""
    model, x = build("mlp")
    x.requires_grad_()
    return model(x), x


def refuses(kind: type[Exception], text: str):
    return pytest.raises(kind, match=re.escape(text))


@pytest.mark.parametrize("n", [0, -1, 6])
def test_n_out_of_range(pair, n):
    rule = "in 1 .. K = 5" if n > 0 else ">= 1"
    with refuses(ValueError, f"n must be {rule}, or 'exact'; got {n}"):
        frobenius_penalty(*pair, n)


@pytest.mark.parametrize("n", [True, 1.5, "all", None])
def test_n_of_a_wrong_type(pair, n):
    with refuses(TypeError, f"n must be an integer, or 'exact'; got {n!r}"):
        frobenius_penalty(*pair, n)


@pytest.mark.parametrize("given", [{}, {"vectors": draw(1, 4, 5)}], ids=["drawn", "vectors"])
def test_a_generator_of_a_wrong_type(pair, given):
    with refuses(TypeError, "generator must be a torch.Generator; got int"):
        frobenius_penalty(*pair, generator=0, **given)


def test_x_without_requires_grad():
    model, x = build("mlp")
    with refuses(ValueError, "x must require grad before the model is called"):
        frobenius_penalty(model(x), x)


def test_x_outside_the_graph(pair):
    logits, x = pair
    for n in (1, 3):
        with refuses(ValueError, "x must be part of the graph of the outputs"):
            frobenius_penalty(logits, x.detach().clone().requires_grad_(), n)


def test_logits_without_a_graph(pair):
    with refuses(ValueError, "logits must be part of a graph"):
        frobenius_penalty(pair[0].detach(), pair[1])


def test_model_called_without_gradients():
    model, x = build("mlp")
    x.requires_grad_()
    with torch.no_grad(), refuses(ValueError, "logits must be part of a graph"):
        frobenius_penalty(model(x), x)


def test_types(pair):
    logits, x = pair
    with refuses(TypeError, "x must be float32, float64, float16 or bfloat16; got torch.int64"):
        frobenius_penalty(logits, torch.ones(4, 6, dtype=torch.int64))
    with refuses(TypeError, "logits must be float32, float64, float16 or bfloat16; got torch.bool"):
        frobenius_penalty(logits > 0, x)
    with refuses(TypeError, "logits must be a torch.Tensor; got list"):
        frobenius_penalty([1.0], x)
    with refuses(TypeError, "x must be a torch.Tensor; got NoneType"):
        frobenius_penalty(logits, None)


def test_shapes(pair):
    logits, x = pair
    with refuses(ValueError, "logits must have shape [N, ...], a row per sample; got a single"):
        frobenius_penalty(logits.sum(), x)
    with refuses(ValueError, "x must have one entry per row of logits (3); got shape [4, 6]"):
        frobenius_penalty(logits[:3], x)
    with refuses(ValueError, "x must have one entry per row of logits (4); got shape []"):
        frobenius_penalty(logits, x.sum())


def test_empty_batch():
    x = torch.zeros(0, 6, requires_grad=True)
    with refuses(ValueError, "logits and x must not be empty; got [0, 5] and [0, 6]"):
        frobenius_penalty(nn.Linear(6, 5)(x), x)


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 6), (1, 3, 5), (1, 4, 5, 1)])
def test_vectors_of_a_wrong_shape(pair, shape):
    text = f"vectors must have shape [n, N, K] = [any, 4, 5]; got {list(shape)}"
    with refuses(ValueError, text):
        frobenius_penalty(*pair, vectors=draw(*shape))


def test_no_vectors(pair):
    with refuses(ValueError, "vectors must have n >= 1; got shape [0, 4, 5]"):
        frobenius_penalty(*pair, vectors=draw(0, 4, 5))


def test_vectors_of_a_wrong_type(pair):
    with refuses(TypeError, "vectors must have the dtype of logits (torch.float64); got torch.flo"):
        frobenius_penalty(*pair, vectors=draw(1, 4, 5).float())
    with refuses(TypeError, "vectors must be float32, float64, float16 or bfloat16; got torch.int"):
        frobenius_penalty(*pair, vectors=torch.ones(1, 4, 5, dtype=torch.int64))
    with refuses(TypeError, "vectors must be a torch.Tensor; got list"):
        frobenius_penalty(*pair, vectors=[[1.0]])


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap"])
def test_torch_func_transforms_are_refused(transform):
    model, x = build("mlp")
    x.requires_grad_()

    def penalty(x):
        return frobenius_penalty(model(x), x)

    calls = {
        "grad": lambda: torch.func.grad(penalty)(x),
        "vjp": lambda: torch.func.vjp(penalty, x),
        "jvp": lambda: torch.func.jvp(penalty, (x,), (x,)),
        "vmap": lambda: torch.func.vmap(penalty)(x[None]),
    }
    with refuses(RuntimeError, "call it outside torch.func.grad/vjp/vmap/jvp"):
        calls[transform]()
