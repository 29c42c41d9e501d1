"""The Hessian of the decision function, and its eigenvalues without it where it is large."""

from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from jacfast.calling import AnyModel, Call, Further, check_labels, takes_model
from jacfast.checks import count
from jacfast.evaluation.decision import check_step, hessian_product
from jacfast.evaluation.predict import batches

FULL_UP_TO = 64  # entries of a sample up to which a few eigenvalues are cut from the whole matrix
COPIES = 64  # products at a time for the whole matrix
IMAGE_STEP = 0.05  # a step for images in [0, 1]: differences over it count the bends of a ReLU


@takes_model
def decision_hessian(
    model: AnyModel, x: Tensor, y: Tensor, *, step: float | None = None, **further: Unpack[Further]
) -> Tensor:
    """Return the Hessian of S in x of every sample, D x D in the order of the flattened sample.

    ``S = z_y - max_{k != y} z_k``; by D products ``H v`` from double backward, or with a `step` by
    central differences, as `hessian_eigenvalues` says. The result takes 8 N D^2 bytes: 4.9 MB for
    an image of 28 x 28, 75 MB for one of 3 x 32 x 32.

    Args:
        model, x, y, step: as for `hessian_eigenvalues`.

    Returns:
        [N, D, D] float64, symmetric, on the CPU.

    Raises:
        TypeError, ValueError: an argument is wrong. FloatingPointError: a product is not finite.

    Source: Yu, Liu, Wang & Chen, eq. 7 and figure 8.
    """
    check_labels(y, len(x))
    check_step(step)
    each = batches(model, x, 1)
    found = [
        _matrix(call, one, label, step) for (call, one), label in zip(each, y.split(1), strict=True)
    ]
    return torch.from_numpy(np.stack(found))


@takes_model
def hessian_eigenvalues(
    model: AnyModel,
    x: Tensor,
    y: Tensor,
    k: int | None = None,
    *,
    step: float | None = None,
    **further: Unpack[Further],
) -> Tensor:
    """Return the eigenvalues of the Hessian of S in x, largest magnitude first, of every sample.

    ``S = z_y - max_{k != y} z_k``. Products ``H v`` are computed by double backward; all D
    eigenvalues come from the whole matrix (D products, in batches; D x D memory), k of them by the
    Lanczos method (`scipy.sparse.linalg.eigsh`), to machine precision, in O(D) memory.

    **Of a piecewise-linear network (ReLU, max-pooling, affine layers) the Hessian of S is zero
    almost everywhere**, and zeros are what this returns: the bends sit on the boundaries between
    the linear pieces. Yu et al. report Hessians of such networks that are not zero, and do not say
    how they computed them. With a `step` h the matrix is instead
    ``(G + G^T)/2``, column j of G being ``(grad S(x + h e_j) - grad S(x - h e_j)) / (2 h)``:
    the curvature seen at the scale h, which counts the boundaries within it, and tends to the exact
    one as h -> 0 where S is smooth. It needs 2 D gradients and the whole matrix, also for k.

    Args:
        model: maps [N, ...] to logits [N, K], K >= 2, each sample by itself; evaluated in eval mode
            and left as it was. Without `step` it must have second derivatives.
        x: [N, ...], floating point; float32 and float64 are meant.
        y: [N] int64, true labels.
        k: how many, 1 .. D; default: all D.
        step: None: exact second derivatives; else h, in units of x, > 0.

    Returns:
        [N, k] float64, on the CPU.

    Raises:
        TypeError, ValueError: an argument is not as above. ImportError: no scipy, where k needs it.
        FloatingPointError: a product is not finite.

    Source: Yu, Liu, Wang & Chen, eq. 8-9 and section 4.3.
    """
    check_labels(y, len(x))
    check_step(step)
    size = x[0].numel()
    if k is not None:
        count("k", k)
        if k > size:
            raise ValueError(f"k must be in 1 .. D = {size}, or None; got {k}")
    found = []
    each = batches(model, x, 1)
    for (call, sample), label in zip(each, y.split(1), strict=True):
        if k is None or step is not None or size <= FULL_UP_TO or k == size:
            values = np.linalg.eigvalsh(_matrix(call, sample, label, step))
        else:
            values = _lanczos(call, sample, label, k)
        order = np.argsort(-np.abs(values), kind="stable")
        found.append(torch.from_numpy(values[order][:k].copy()))
    return torch.stack(found)


def _matrix(model: Call, x: Tensor, y: Tensor, step: float | None) -> np.ndarray:
    eye = torch.eye(x.numel(), dtype=x.dtype, device=x.device)
    rows = torch.cat([_products(model, x, y, part, step) for part in eye.split(COPIES)])
    whole = rows.double().cpu().numpy()
    return (whole + whole.T) / 2


def _lanczos(model: Call, x: Tensor, y: Tensor, k: int) -> np.ndarray:
    try:
        from scipy.sparse.linalg import LinearOperator, eigsh
    except ImportError as error:
        raise ImportError(
            "k eigenvalues need scipy: run pip install 'jacfast[evaluation]'"
        ) from error

    def product(v: np.ndarray) -> np.ndarray:
        vectors = torch.from_numpy(np.ascontiguousarray(v)).to(x).view(1, -1)
        return _products(model, x, y, vectors, None).double().cpu().numpy()[0]

    start = np.random.default_rng(0).standard_normal(x.numel())
    if not product(start).any():  # of probability 0 unless H = 0, on which eigsh cannot start
        return np.zeros(k)
    operator = LinearOperator((x.numel(), x.numel()), matvec=product, dtype=np.float64)
    return eigsh(operator, k, which="LM", v0=start, return_eigenvectors=False)


def _products(model: Call, x: Tensor, y: Tensor, vectors: Tensor, step: float | None) -> Tensor:
    """Return H v for each of n vectors [n, D], at n copies of the one sample x."""
    n = len(vectors)
    model = model.rows(torch.zeros(n, dtype=torch.int64, device=x.device))
    product = hessian_product(model, x.expand(n, *x.shape[1:]), y.expand(n), vectors, step)
    if not bool(product.isfinite().all()):
        raise FloatingPointError("the Hessian of S must be finite at x; got NaN or inf")
    return product
