"""What the tests of the traced step share."""

import torch._inductor.config
from torch import nn

import jacfast.step.traced as traced
from tests.step.steps import assert_same, fast, plain, step

# For Inductor: processes beside this one, and instruction sets to try, would only take time.
IN_THIS_PROCESS = torch._inductor.config.patch(
    {"compile_threads": 1, "cpp.simdlen": 1, "cpp.vec_isa_ok": True}
)


def plans(model: nn.Module) -> list:
    """Return what calls of a model have been traced to: None for what cannot be."""
    return list(traced._known[model].plans.values()) if model in traced._known else []


def assert_traced(model: nn.Module, times: int) -> None:
    """Check that there are that many traces, and no call that could not be traced."""
    assert len(plans(model)) == times
    assert all(plan is not None for plan in plans(model))


def assert_as_plain(model, x, y, penalty, seed: int = 0, **options) -> None:
    """Check a traced step against one-line autograd under the same seed."""
    want = step(plain, model, x, y, penalty, seed=seed)
    assert_same(step(fast, model, x, y, penalty, seed=seed, **options), want)


def update(model: nn.Module) -> None:
    """Change all parameters in place, as an optimiser does."""
    for parameter in model.parameters():
        parameter.data.mul_(1.1).add_(0.01)
