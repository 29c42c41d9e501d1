"""frobenius_penalty: value and gradient against float64 brute force, and its arguments."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jacfast import frobenius_penalty
from tests.nets import NETS, RTOL, brute_force, build, draw, relative_error
from tests.testing import batch_rows


def assert_exact(model: nn.Module, x: Tensor, n: int | str) -> None:
    """Check the value and every parameter's gradient against brute force."""
    want, gradients = brute_force(copy.deepcopy(model), x)
    x = x.clone().requires_grad_()
    value = frobenius_penalty(model(x), x, n)
    names, params = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad(value, params, allow_unused=True)
    assert relative_error(value, want) < RTOL[x.dtype]
    scale = max(g.norm() for g in gradients.values())
    for name, gradient in zip(names, got, strict=True):
        gradient = torch.zeros_like(gradients[name]) if gradient is None else gradient.double()
        assert (gradient - gradients[name]).norm() < RTOL[x.dtype] * scale, name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETS)
def test_exact_equals_brute_force(name, dtype):
    model, x = build(name, dtype=dtype)
    assert_exact(model, x, "exact")


@pytest.mark.parametrize("name", NETS)
def test_all_projections_are_exact(name):
    model, x = build(name)
    torch.manual_seed(0)
    assert_exact(model, x, 12 if name == "grid" else 5)


@pytest.mark.parametrize("name", ["mlp", "cnn", "group_norm_silu"])
def test_batch_of_one(name):
    assert_exact(*build(name, samples=1), "exact")


@pytest.mark.parametrize("n", [1, "exact"])
def test_one_output(n):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    assert_exact(model, draw(5, 6), n)


def test_inputs_that_are_one_number_each():
    x, (v,) = draw(6).requires_grad_(), draw(1, 6, 2)
    logits = torch.stack([x.square(), 3 * x], dim=1)
    value = frobenius_penalty(logits, x, "exact")
    torch.testing.assert_close(value, (4 * x.square() + 9).mean())
    value = frobenius_penalty(logits, x, vectors=v[None])
    torch.testing.assert_close(value, (2 * x * v[:, 0] + 3 * v[:, 1]).square().mean())


@pytest.mark.parametrize("name", ["mlp", "cnn", "grid"])
def test_vectors_equal_the_hand_written_loop(name):
    model, x = build(name)
    x.requires_grad_()
    logits = model(x)
    vectors = draw(3, len(x), logits[0].numel())
    value = frobenius_penalty(logits, x, vectors=vectors)
    want = torch.zeros((), dtype=x.dtype)
    for v in vectors:
        (g,) = torch.autograd.grad(logits, x, v.view_as(logits), create_graph=True)
        want = want + g.square().sum() / len(x)
    torch.testing.assert_close(value, want)
    params = list(model.parameters())
    got = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
    torch.testing.assert_close(
        got, torch.autograd.grad(want, params, materialize_grads=True), rtol=1e-10, atol=1e-12
    )


def test_vectors_override_n():
    model, x = build("mlp")
    x.requires_grad_()
    logits, vectors = model(x), draw(2, 4, 5)
    values = [frobenius_penalty(logits, x, n, vectors=vectors) for n in (1, 4, "exact")]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("n", [2, "exact"])
@pytest.mark.parametrize("name", NETS)
def test_small_and_large_batches_agree(name, n, monkeypatch):
    """Rows in one backward pass or one by one, also where a backward pass has no batching rule."""
    model, x = build(name)
    x.requires_grad_()
    logits, results = model(x), []
    params = list(model.parameters())
    for together in (True, False):
        batch_rows(monkeypatch, together)
        generator = torch.Generator().manual_seed(3)
        value = frobenius_penalty(logits, x, n, generator=generator)
        grads = torch.autograd.grad(value, params, retain_graph=True, materialize_grads=True)
        results.append((value, *grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_generator_repeats_and_default_generator_advances():
    model, x = build("mlp")
    x.requires_grad_()
    logits = model(x)

    def drawn(generator: torch.Generator | None) -> float:
        return float(frobenius_penalty(logits, x, 2, generator=generator).detach())

    torch.manual_seed(0)
    state = torch.get_rng_state()
    seeded = [drawn(torch.Generator().manual_seed(seed)) for seed in (7, 7, 8)]
    assert seeded[0] == seeded[1] != seeded[2]
    assert torch.equal(torch.get_rng_state(), state)
    first, second = drawn(None), drawn(None)
    assert first != second
    torch.manual_seed(0)
    assert drawn(None) == first


def test_exact_draws_nothing():
    model, x = build("mlp")
    x.requires_grad_()
    logits, state = model(x), torch.get_rng_state()
    frobenius_penalty(logits, x, "exact")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_models_return_float32(dtype):
    model, x = build("mlp", dtype=dtype)
    want, _ = brute_force(copy.deepcopy(model), x)
    x.requires_grad_()
    value = frobenius_penalty(model(x), x, "exact")
    value.backward()
    assert value.dtype == torch.float32
    assert relative_error(value, want) < RTOL[dtype]
    assert model[0].weight.grad.dtype == dtype


def test_value_dtype_is_that_of_x():
    """A float32 model inside a float64 pipeline."""
    model, x = build("mlp", dtype=torch.float32)
    want, _ = brute_force(copy.deepcopy(model), x)
    model.float()
    x = x.double().requires_grad_()
    value = frobenius_penalty(model(x.float()), x, "exact")
    assert value.dtype == torch.float64
    assert relative_error(value, want) < RTOL[torch.float32]


def test_nothing_is_written_before_backward():
    model, x = build("mlp")
    x.requires_grad_()
    kept = torch.ones_like(x)
    x.grad = kept
    value = frobenius_penalty(model(x), x, 2)
    assert x.grad is kept
    assert bool((kept == 1).all())
    assert x.requires_grad
    assert all(p.grad is None for p in model.parameters())
    value.backward()
    assert model[0].weight.grad.norm() > 0


def test_x_may_be_in_the_middle_of_a_graph():
    model, leaf = build("mlp")
    want, _ = brute_force(copy.deepcopy(model), 2 * leaf)
    x = 2 * leaf.requires_grad_()
    value = frobenius_penalty(model(x), x, "exact")
    assert relative_error(value, want) < RTOL[x.dtype]
    assert leaf.grad is None


def test_graph_of_the_logits_is_kept():
    model, x = build("cnn")
    x.requires_grad_()
    logits = model(x)
    first = frobenius_penalty(logits, x, "exact")
    assert first == frobenius_penalty(logits, x, "exact")
    (F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64)) + first).backward()


def test_three_training_steps_equal_plain_autograd():
    start, x = build("cnn", samples=6)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    vectors = draw(3, 2, 6, 5)  # step, projection, sample, class

    def train(penalty) -> nn.Module:
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for v in vectors:
            leaf = x.clone().requires_grad_()
            logits = model(leaf)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + 0.3 * penalty(logits, leaf, v)).backward()
            optimizer.step()
        return model

    def by_hand(logits: Tensor, leaf: Tensor, v: Tensor) -> Tensor:
        rows = [torch.autograd.grad(logits, leaf, one, create_graph=True)[0] for one in v]
        return sum(row.flatten(1).square().sum(1).mean() for row in rows)

    got = train(lambda logits, leaf, v: frobenius_penalty(logits, leaf, vectors=v)).state_dict()
    for name, want in train(by_hand).state_dict().items():
        assert not torch.equal(want, start.state_dict()[name])
        torch.testing.assert_close(got[name], want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 4])
def test_group_norm_whose_shapes_happen_to_fit(samples):
    """PyTorch's batched second derivative of it broadcasts where H W = C, and is wrong."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.GroupNorm(1, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5)).double()
    nn.init.uniform_(model[0].weight, 0.5, 2.0)
    assert_exact(model, draw(samples, 4, 2, 2), "exact")
