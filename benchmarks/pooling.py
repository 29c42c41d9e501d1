"""What do the pooling ops cost, against PyTorch's and against memory bandwidth?

python -m benchmarks.pooling
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import environment, write
from benchmarks.ops import timed
from jacfast.ops import max_pool, max_pool_gather, max_pool_scatter

# The first pooling of the TF tutorial's CNN: windows of 2 x 2 beside each other.
PLANES = {"cpu": (500, 32), "cuda": (4096, 32)}
HEIGHT, WINDOW = 28, (2, 2)


def main() -> None:
    """Verify, time, print and write results/pooling-cpu.json (or pooling-cuda.json)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    shape = (*PLANES[device.type], HEIGHT, HEIGHT)
    x, t = (torch.randn(shape, device=device, generator=generator) for _ in range(2))
    y, choice = max_pool(x, WINDOW, WINDOW)
    stock, indices = F.max_pool2d(x, WINDOW, return_indices=True)

    def scatter() -> Tensor:
        return max_pool_scatter(y, choice, (HEIGHT, HEIGHT), WINDOW, WINDOW)

    def stock_scatter() -> Tensor:
        run = torch.ops.aten.max_pool2d_with_indices_backward
        return run(y, x, WINDOW, WINDOW, (0, 0), (1, 1), False, indices)

    def gather() -> Tensor:
        return max_pool_gather(t, choice, WINDOW, WINDOW)

    def stock_gather() -> Tensor:
        return t.flatten(2).gather(2, indices.flatten(2)).view_as(stock)

    assert torch.equal(y, stock)
    assert torch.equal(scatter(), stock_scatter())
    assert torch.equal(gather(), stock_gather())
    whole, part = 4 * x.numel(), 4 * y.numel()
    ours, theirs = choice.numel(), 8 * indices.numel()  # bytes of the choices
    other = torch.empty_like(x)
    runs = {
        "copy of x": (lambda: other.copy_(x), 2 * whole),
        "max_pool": (lambda: max_pool(x, WINDOW, WINDOW), whole + part + ours),
        "max_pool, PyTorch": (
            lambda: F.max_pool2d(x, WINDOW, return_indices=True),
            whole + part + theirs,
        ),
        "max_pool_scatter": (scatter, whole + part + ours),
        "max_pool_scatter, PyTorch": (stock_scatter, whole + part + theirs),
        "max_pool_gather": (gather, whole + part + ours),
        "max_pool_gather, PyTorch": (stock_gather, whole + part + theirs),
    }
    times = timed(runs, f"x {list(shape)} float32, windows of 2 x 2")
    gains = {
        name: times[f"{name}, PyTorch"]["median"] / times[name]["median"]
        for name in ("max_pool", "max_pool_scatter", "max_pool_gather")
    }
    print("PyTorch over jacfast:", {name: round(gain, 2) for name, gain in gains.items()})
    results = {"environment": environment(), "times": times, "ratios": gains}
    print("written:", write(f"pooling-{device.type}", results))


if __name__ == "__main__":
    main()
