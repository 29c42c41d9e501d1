"""When does one batched (vmap) backward beat a loop over the projections?

python -m benchmarks.projections
"""

from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

import jacfast.batching
from benchmarks.harness import environment, print_table, take_turns, write
from jacfast import frobenius_penalty, models

PROJECTIONS = 4
BATCHES = (8, 32, 64, 128, 256)


def step(model: nn.Module, samples: int, at_once: int) -> list[torch.Tensor]:
    """Return the gradients of CE + penalty, batching the projections up to `at_once` samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(samples, 1, 28, 28, generator=generator).requires_grad_()
    y = torch.randint(10, (samples,), generator=generator)
    logits = model(x)
    most = {"BATCH_UP_TO": at_once, "TOGETHER_UP_TO": at_once}  # the latter of convolutions
    with mock.patch.multiple(jacfast.batching, **most):
        penalty = frobenius_penalty(logits, x, PROJECTIONS, generator=generator)
    loss = F.cross_entropy(logits, y) + 0.1 * penalty
    return list(torch.autograd.grad(loss, list(model.parameters())))


def main() -> None:
    """Verify, time, print and write results/projections-cpu.json."""
    table = [("", "N", "loop, ms", "batched, ms", "loop / batched")]
    times = {}
    for name in ("seck_c", "tf_tutorial_cnn"):
        torch.manual_seed(0)
        model = getattr(models, name)().eval()
        for samples in BATCHES:
            for a, b in zip(step(model, samples, 0), step(model, samples, samples), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
            found = take_turns(
                {
                    "loop": lambda m=model, n=samples: step(m, n, 0),
                    "batched": lambda m=model, n=samples: step(m, n, n),
                },
                repeats=5,
            )
            times[f"{name}, {samples}"] = found
            loop, batched = found["loop"]["median"], found["batched"]["median"]
            cells = (f"{1e3 * loop:.1f}", f"{1e3 * batched:.1f}", f"{loop / batched:.2f}")
            table.append((name, str(samples), *cells))
    print_table(f"one training step with {PROJECTIONS} projections", table)
    print("written:", write("projections-cpu", {"environment": environment(), "times": times}))


if __name__ == "__main__":
    main()
