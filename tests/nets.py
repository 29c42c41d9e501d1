"""Small networks that the tests share, and the precision expected of each dtype."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

# Relative error allowed against a float64 computation of the same quantity.
RTOL = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5))


def smooth_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 5)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 5),
    )


def conv_batch_norm() -> nn.Module:
    """Return a convolution and an eval-mode batch-norm with statistics of its own."""
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    layers = [nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)]
    return nn.Sequential(*layers).eval()


def layer_norm_gelu() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 5))


def group_norm_silu() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(144, 5)]
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """One head over [N, 3, 4] tokens, with the backend that has a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            mixed = nn.functional.scaled_dot_product_attention(*self.qkv(x).chunk(3, dim=-1))
        return self.head(mixed.mean(dim=1))


class Grid(nn.Module):
    """Outputs of shape [N, 4, 3] from inputs of shape [N, 2, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1)).unflatten(1, (4, 3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "smooth_mlp": (smooth_mlp, (6,)),
    "cnn": (cnn, (2, 8, 8)),
    "conv_batch_norm": (conv_batch_norm, (2, 8, 8)),
    "layer_norm_gelu": (layer_norm_gelu, (6,)),
    "group_norm_silu": (group_norm_silu, (2, 8, 8)),
    "attention": (Attention, (3, 4)),
    "grid": (Grid, (2, 3)),
}
# Whose outputs are classes; a grid's are dense, which attacks and measures refuse.
CLASSIFIERS = [name for name in NETS if name != "grid"]


def build(
    name: str, samples: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[nn.Module, Tensor]:
    """Return the network of that name and a batch for it; the same weights in every dtype."""
    make, shape = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        x = torch.randn(samples, *shape, dtype=torch.float64)
    return model.to(dtype), x.to(dtype)


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Return a standard normal tensor of its own seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def predicted_and_distance(model: nn.Linear, x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return the classes of x [N, D] by a linear model, and how far others are, exactly."""
    z, weight = model(x).detach(), model.weight.data
    y = z.argmax(dim=1)
    slopes = torch.linalg.vector_norm(weight[y][:, None] - weight, 2.0 if p == 2 else 1.0, dim=2)
    far = ((z.gather(1, y[:, None]) - z) / slopes).scatter(1, y[:, None], torch.inf)
    return y, far.amin(dim=1)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def rows_of(model: nn.Module, params: dict[str, Tensor], sample: Tensor) -> Tensor:
    """Return J [K, D] of one sample by torch.func, the independent way to it."""
    rows = jacrev(lambda s: functional_call(model, params, s[None])[0].flatten())(sample)
    return rows.flatten(1)


def brute_force(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return mean_i ||J(x_i)||_F^2 in float64 and its gradient in every parameter."""
    model, x = model.double(), x.detach().double()

    def value(params: dict[str, Tensor]) -> Tensor:
        return sum(rows_of(model, params, sample).square().sum() for sample in x) / len(x)

    params = parameters(model)
    return value(params), torch.func.grad(value)(params)


def relative_error(got: Tensor, want: Tensor) -> float:
    """Return ||got - want|| / ||want||, computed in float64; of two zero tensors, 0."""
    got, want = got.detach().double(), want.detach().double()
    error = (got - want).norm()
    return 0.0 if error == 0 else float(error / want.norm())
