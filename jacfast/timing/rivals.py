"""The penalised training step as it is written today: each leaves ``CE + lam R`` in ``.grad``.

R is mean ||J||_F^2: exact, or estimated with one vector per sample, uniform on the sphere and
scaled by sqrt(K), which every contender draws by the same call of torch.randn, after the model.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from jacfast.ops.checks import accumulator

LIMIT = 1 << 20  # of compiled kinds of one function
Step = Callable[[nn.Module, Tensor, Tensor, float], None]


def drawn(logits: Tensor) -> Tensor:
    """Return one vector per sample [N, K]."""
    n, classes = logits.shape
    v = torch.randn(n, 1, classes, device=logits.device, dtype=accumulator(logits.dtype))[:, 0]
    return (F.normalize(v, dim=1) * classes**0.5).to(logits.dtype)


def plain(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
    """Cross-entropy alone."""
    F.cross_entropy(model(x), y).backward()


def one_vector(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
    """What a careful user writes."""
    x = x.detach().requires_grad_()
    logits = model(x)
    (g,) = torch.autograd.grad(logits, x, drawn(logits), create_graph=True)
    (F.cross_entropy(logits, y) + lam * g.square().sum() / len(x)).backward()


def jacobian_reg(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
    """The class of that name, from its formula: R/2 with n = 1, a norm that is squared."""
    x = x.detach().requires_grad_()
    logits = model(x)
    n, classes = logits.shape
    v = torch.randn(n, 1, classes, device=x.device, dtype=accumulator(logits.dtype))[:, 0]
    v = (v / v.norm(2, dim=1, keepdim=True)).to(logits.dtype)
    (g,) = torch.autograd.grad(
        logits.reshape(-1), x, v.reshape(-1), create_graph=True, retain_graph=True
    )
    half = classes * torch.norm(g) ** 2 / n / 2
    (F.cross_entropy(logits, y) + 2 * lam * half).backward()


def looped_penalty(logits: Tensor, x: Tensor) -> Tensor:
    """Return mean_i ||J(x_i)||_F^2 by the usual loop over the classes, in plain autograd."""
    total = logits.new_zeros(())
    for k in range(logits.shape[1]):
        (g,) = torch.autograd.grad(logits[:, k].sum(), x, create_graph=True)
        total = total + g.square().sum()
    return total / len(x)


def loop(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
    """The exact penalty by that loop."""
    x = x.detach().requires_grad_()
    logits = model(x)
    (F.cross_entropy(logits, y) + lam * looped_penalty(logits, x)).backward()


def compiled_func(classes: int = 10) -> Step:
    """The whole step compiled, its gradients through torch.func."""

    def loss(params: dict, model: nn.Module, x: Tensor, y: Tensor, v: Tensor, lam: float) -> Tensor:
        logits, pull = vjp(lambda z: functional_call(model, params, (z,)), x)  # type: ignore[misc]
        return F.cross_entropy(logits, y) + lam * pull(v)[0].square().sum() / len(x)

    gradient = torch.compile(torch.func.grad(loss))
    kinds: set[tuple] = set()

    def step(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        kind = model.training, x.shape, x.dtype
        if kind in kinds:
            return run(model, x, y, lam)
        # beyond eight kinds, of any models, PyTorch would run them uncompiled without a word
        limits = {"recompile_limit": LIMIT, "accumulated_recompile_limit": LIMIT}
        with torch._dynamo.config.patch(limits):
            run(model, x, y, lam)
        kinds.add(kind)

    def run(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        v = drawn(x.new_empty(len(x), classes))
        for name, g in gradient(params, model, x, y, v, lam).items():
            params[name].grad = g

    return step


def by_math(step: Step) -> Step:
    """`step`, with attention by the backend that has a second derivative."""

    def run(model: nn.Module, x: Tensor, y: Tensor, lam: float) -> None:
        with sdpa_kernel(SDPBackend.MATH):
            step(model, x, y, lam)

    return run
