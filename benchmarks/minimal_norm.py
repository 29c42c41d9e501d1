"""How near to the shortest perturbation does each attack come, and for how many passes?

python -m benchmarks.minimal_norm [CASE ...] [--images 100] [--p 1]
"""

import argparse
import contextlib
import math
import sys
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jacfast
from benchmarks.harness import environment, print_table, write
from jacfast import data, models

SEED, FIRST, RESAMPLES = 1, 500, 1000  # images and weights that no constant was chosen by
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


CASES = {
    "MLP": (models.seck_c, 8, "plain"),
    "MLP, penalised": (models.seck_c, 8, "penalised"),
    "CNN": (cnn, 12, "plain"),
    "CNN, PGD-trained": (cnn, 12, "pgd"),
}


class Counted(nn.Module):
    """A network that counts the samples that go forward and backward through it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        self.passes += len(x)
        if z.requires_grad:
            z.register_hook(self._back)
        return z

    def _back(self, g: Tensor) -> None:
        self.passes += len(g)


def trained(factory: Callable[[], nn.Module], epochs: int, kind: str) -> nn.Module:
    """Return a network of the digits, trained plainly, with the penalty or on PGD's images."""
    split = data.load(None)
    torch.manual_seed(SEED)
    model = factory()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(split.train_x)).split(100):
            x, y = split.train_x[batch], split.train_y[batch]
            penalty = torch.zeros(())
            if kind == "penalised":
                logits, penalty = jacfast.forward_with_penalty(model, x)
            elif kind == "pgd":
                model.eval()
                logits = model(jacfast.pgd(model, x, y, eps=0.15, steps=5, random_start=False))
            else:
                logits = model(x)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y) + 0.03 * penalty).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def ours(p: int) -> dict[str, Attack]:
    every = {"candidates": None, "clip": (0.0, 1.0)}
    found: dict[str, Attack] = {}
    if p == 2:
        found["DeepFool"] = lambda m, x, y: jacfast.deepfool(m, x, y, **every).adversarial
        found["SuperDeepFool"] = lambda m, x, y: (
            jacfast.deepfool(m, x, y, variant="super", **every).adversarial
        )
    for budget in (25, 50, 100, 200):
        found[f"minimal_norm, {budget}"] = lambda m, x, y, budget=budget: jacfast.minimal_norm(
            m, x, y, p=p, budget=budget
        )
    return found


def advlib(p: int) -> dict[str, Attack]:
    """Return adv-lib's, with an empty module for the plots and networks that it imports."""
    for name in ("torchvision", "visdom"):
        with contextlib.suppress(ImportError):
            __import__(name)
        sys.modules.setdefault(name, types.ModuleType(name))
    if not hasattr(sys.modules["torchvision"], "models"):
        sys.modules["torchvision"].models = types.ModuleType("models")  # type: ignore[attr-defined]
    import setuptools  # noqa: F401  # distutils, which newer Pythons lack
    from adv_lib import attacks as a

    if p == 1:
        return {
            "FMN of adv-lib, 100 steps": lambda m, x, y: a.fmn(m, x, y, norm=1, steps=100),
            "FMN of adv-lib, 1000 steps": lambda m, x, y: a.fmn(m, x, y, norm=1, steps=1000),
            "PDPGD of adv-lib, 100 steps": lambda m, x, y: a.pdpgd(m, x, y, norm=1, num_steps=100),
            "PDPGD of adv-lib, 1000 steps": lambda m, x, y: a.pdpgd(
                m, x, y, norm=1, num_steps=1000
            ),
            "FAB of adv-lib, 100 steps": lambda m, x, y: a.fab(
                m, x, y, norm=1, n_iter=100, restarts=1
            ).clamp(0, 1),  # it may leave the box by a rounding
        }
    return {
        "DDN of adv-lib, 100 steps": lambda m, x, y: a.ddn(m, x, y, steps=100, levels=None),
        "DDN of adv-lib, 1000 steps": lambda m, x, y: a.ddn(m, x, y, steps=1000, levels=None),
        "FMN of adv-lib, 1000 steps": lambda m, x, y: a.fmn(m, x, y, norm=2, steps=1000),
        "PDGD of adv-lib, 1000 steps": lambda m, x, y: a.pdgd(m, x, y, num_steps=1000),
        "PDPGD of adv-lib, 1000 steps": lambda m, x, y: a.pdpgd(m, x, y, norm=2, num_steps=1000),
    }


def foolbox(p: int) -> dict[str, Attack]:
    import foolbox as fb

    if p == 1:
        name, attack = (
            "EAD of foolbox, 9 times 200 steps",
            fb.attacks.EADAttack(steps=200, decision_rule="L1"),
        )
    else:
        name, attack = "DDN of foolbox, 1000 steps", fb.attacks.DDNAttack(steps=1000)
    return {name: lambda m, x, y: attack(fb.PyTorchModel(m, bounds=(0, 1)), x, y, epsilons=None)[1]}


def distances(
    model: nn.Module, x: Tensor, y: Tensor, attacks: dict[str, Attack], p: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return each attack's distances [N], inf where it failed, and passes per sample."""
    far, passes = {}, {}
    for name, attack in attacks.items():
        counted = Counted(model).eval()
        torch.manual_seed(SEED)
        moved = attack(counted, x, y).detach()
        if bool(((moved < 0) | (moved > 1)).any()):
            raise RuntimeError(f"{name} left the box")
        with torch.no_grad():
            fooled = model(moved).argmax(dim=1) != y
        length = (moved - x).flatten(1).double().norm(p, dim=1)
        far[name] = torch.where(fooled, length, math.inf)
        passes[name] = counted.passes / len(x)
    return far, passes


def optimality(size: Tensor, best: Tensor) -> float:
    """Return AttackBench's: 1 where all distances are the best ones, 0 where all are the largest.

    The areas below the curves of robust accuracy are means of distances, cut at the largest best
    one: what is farther, or failed, counts as that.
    """
    most = best.max()
    lost = size.clamp(max=float(most)).sum() - best.sum()
    return float(1 - lost / (most * len(best) - best.sum()))


def figures(size: Tensor, best: Tensor) -> dict[str, float | list[float]]:
    drawn = torch.randint(len(best), (RESAMPLES, len(best)), generator=torch.Generator())
    again = torch.tensor([optimality(size[some], best[some]) for some in drawn])
    ratio = size / best
    return {
        "optimality": optimality(size, best),
        "interval of 95%": [float(again.quantile(q)) for q in (0.025, 0.975)],
        "best / length, mean": float((best / size).mean()),
        "length / best, median": float(ratio.median()),
        "length / best, 95%": float(ratio.sort().values[int(0.95 * len(ratio))]),
        "length, median": float(size.median()),
        "failed": int(size.isinf().sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--p", type=int, default=2, choices=(1, 2), help="the norm")
    arguments = parser.parse_args()
    split, results, p = data.load(None), {}, arguments.p
    for case in arguments.cases:
        model = trained(*CASES[case])
        x, y = (t[FIRST : FIRST + 2 * arguments.images] for t in (split.test_x, split.test_y))
        right = (model(x).argmax(dim=1) == y).nonzero()[: arguments.images, 0]
        x, y = x[right], y[right]
        far, passes = distances(model, x, y, {**ours(p), **advlib(p), **foolbox(p)}, p)
        best = torch.stack(list(far.values())).amin(dim=0)
        rows = {name: {**figures(size, best), "passes": passes[name]} for name, size in far.items()}
        results[case] = {"images": len(x), "mean of the best": float(best.mean()), "attacks": rows}
        show(case, rows)
        name = "minimal_norm" if p == 2 else "minimal_norm-1"
        write(name, {"environment": environment("foolbox", "adv-lib"), "cases": results})


def show(case: str, rows: dict) -> None:
    table: list[tuple[str, ...]] = [("", "optimality", "95%", "ratio", "failed", "passes")]
    for name, row in rows.items():
        low, high = row["interval of 95%"]
        cells = (f"{row['optimality']:.3f}", f"{low:.3f}..{high:.3f}")
        cells += (f"{row['best / length, mean']:.3f}", str(row["failed"]), f"{row['passes']:.0f}")
        table.append((name, *cells))
    print_table(case, table)


if __name__ == "__main__":
    main()
