"""The random cotangents: unbiased, with the variance of the theory.

A fixed A = J J^T stands for a Jacobian; a draw v gives the estimate sum_j v_j^T A v_j of tr A. Each
check turns a mean into a z-score and allows |z| < 6. Under a Gaussian that is one false alarm in
5e8; the file makes about 400 such checks, so less than 1e-6 in all, over the choice of the seeds;
with the seeds fixed the outcome never changes.

Variance per sample, with d the dimension drawn from (moments of a uniform unit vector): n
independent unit vectors 2d/(d+2) (||A||_F^2 - tr(A)^2/d) / n; orthonormal ones the same times
(d-n)/(d-1).
"""

import math

import pytest
import torch
from torch import Tensor, nn

from jacfast import JacobianReg, cotangents, frobenius_penalty
from tests.nets import draw

CLASSES = 6
SAMPLES = 40_000
Z = 6.0

KINDS = {
    "orthonormal": lambda draw, dtype: cotangents.orthonormal(draw, dtype),
    "unit_sphere": lambda draw, dtype: cotangents.unit_sphere(draw, dtype),
    "centred": lambda draw, dtype: cotangents.orthonormal(draw, dtype, centred=True),
}
CASES = [(kind, n) for kind in KINDS for n in (1, 2, 5)]


def z_of_mean(values: Tensor, expected: Tensor | float) -> Tensor:
    """Return the z-score of the mean over dim 0."""
    error = values.mean(dim=0) - expected
    return error / (values.std(dim=0) / math.sqrt(len(values)) + 1e-12)


def matrix(kind: str) -> tuple[Tensor, Tensor, int]:
    """Return A, the identity of the space drawn from, and its dimension."""
    j = draw(CLASSES, 8, seed=5) * torch.tensor([3.0, 2, 1, 1, 0.5, 0.1]).double()[:, None]
    eye = torch.eye(CLASSES, dtype=torch.float64)
    if kind != "centred":
        return j @ j.T, eye, CLASSES
    centre = eye - 1 / CLASSES
    return centre @ j @ j.T @ centre, centre, CLASSES - 1


def vectors_of(kind: str, n: int, seed: int = 11) -> Tensor:
    """Return SAMPLES draws [n, N, K]."""
    like, generator = draw(1, CLASSES), torch.Generator().manual_seed(seed)
    return KINDS[kind](cotangents.normal(SAMPLES, n, like, generator), torch.float64)


def variance(a: Tensor, d: int, n: int, kind: str) -> Tensor:
    sphere = 2 * d / (d + 2) * (a.square().sum() - a.trace() ** 2 / d) / n
    return sphere if kind == "unit_sphere" else sphere * (d - n) / (d - 1)


@pytest.mark.parametrize(("kind", "n"), CASES)
def test_trace_estimate_is_unbiased(kind, n):
    a, _, d = matrix(kind)
    v = vectors_of(kind, n)
    estimate = torch.einsum("nik,kl,nil->i", v, a, v)
    if n == d and kind != "unit_sphere":  # a complete basis: exact for every draw
        torch.testing.assert_close(estimate, a.trace().expand_as(estimate))
    else:
        assert abs(float(z_of_mean(estimate, a.trace()))) < Z


@pytest.mark.parametrize(("kind", "n"), CASES)
def test_second_moment_is_the_identity(kind, n):
    """E[sum_j v_j v_j^T] = I on the space drawn from, entry by entry, and E[v_j] = 0."""
    _, identity, _ = matrix(kind)
    v = vectors_of(kind, n)
    outer = torch.einsum("nik,nil->ikl", v, v)
    assert float(z_of_mean(outer, identity).abs().max()) < Z
    for one in v:
        assert float(z_of_mean(one, 0.0).abs().max()) < Z


@pytest.mark.parametrize(("kind", "n"), CASES)
def test_variance_is_that_of_the_theory(kind, n):
    a, _, d = matrix(kind)
    want = variance(a, d, n, kind)
    v = vectors_of(kind, n, seed=12)
    squares = (torch.einsum("nik,kl,nil->i", v, a, v) - a.trace()).square()
    if want == 0:
        assert float(squares.max()) < 1e-18 * float(a.trace()) ** 2
    else:
        assert abs(float(z_of_mean(squares, want))) < Z


@pytest.mark.parametrize(("kind", "n"), CASES)
def test_samples_are_independent(kind, n):
    """Neighbouring samples do not correlate, else the mean over a batch would be noisier."""
    a, _, d = matrix(kind)
    v = vectors_of(kind, n, seed=13)
    error = torch.einsum("nik,kl,nil->i", v, a, v) - a.trace()
    if n < d or kind == "unit_sphere":
        assert abs(float(z_of_mean(error[0::2] * error[1::2], 0.0))) < Z


@pytest.mark.parametrize("kind", ["orthonormal", "centred"])
def test_vectors_are_orthogonal_with_the_length_of_the_scale(kind):
    _, _, d = matrix(kind)
    v = vectors_of(kind, 3)[:, :500]
    gram = torch.einsum("nik,mik->inm", v, v)
    want = torch.eye(3, dtype=v.dtype) * d / 3
    torch.testing.assert_close(gram, want.expand_as(gram))


def test_independent_vectors_have_the_length_of_the_scale():
    v = vectors_of("unit_sphere", 3)[:, :500]
    length = v.norm(dim=2)
    torch.testing.assert_close(length, torch.full_like(length, math.sqrt(CLASSES / 3)))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("which", ["frobenius_penalty", "JacobianReg"])
def test_penalties_are_unbiased(which, n):
    """From the call of a linear model to the scalar; the standard error is that of the theory."""
    a, _, d = matrix("orthonormal")
    model = nn.Linear(CLASSES, CLASSES, bias=False).double()
    root = torch.linalg.cholesky(a)  # J J^T = A
    model.weight.data.copy_(root)
    x = torch.zeros(SAMPLES, CLASSES, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(14)
    if which == "JacobianReg":
        estimate, want, kind = 2 * JacobianReg(n)(x, model(x)), a.trace(), "unit_sphere"
    else:
        estimate, want, kind = frobenius_penalty(model(x), x, n), a.trace(), "orthonormal"
    error = variance(a, d, n, kind).sqrt() / math.sqrt(SAMPLES)
    assert abs(float((estimate.detach() - want) / error)) < Z
