"""When does one batched (vmap) backward beat a loop over the rows? (`jacfast/batching.py`)

python -m benchmarks.projections

A training step of the one-line way with four projections, and ten rows of the Jacobian without a
graph, plain and of lean layers (as attacks have them), of networks of all kinds, one thread: rows
one by one, and as the library chooses. Each in a process of its own: what malloc keeps of a tensor
that is freed depends on those before, and a page that comes anew from the system is slow.
"""

import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import jacfast.vjp
from benchmarks.harness import environment, must_agree, print_table, write
from benchmarks.networks import ViT, norm_mlp, relu_cnn_1d, residual_blocks, resnet18
from benchmarks.small import lenet
from jacfast import frobenius_penalty, models
from jacfast.batching import at_a_time, together
from jacfast.graph import Graph
from jacfast.lean import lean
from jacfast.vjp import pull_back

PROJECTIONS, ROWS = 4, 10
SAMPLES = (1, 2, 4, 8, 16, 32)
KINDS = ("step", "rows", "lean rows")
REPEATS, SECONDS = 9, 0.3  # of a run, at least
FRESH = get_context("forkserver")  # processes that have imported, and done nothing else
FRESH.set_forkserver_preload(["benchmarks.small", "jacfast.lean"])


DIGITS, IMAGES = (1, 28, 28), (3, 32, 32)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "seck_c": (models.seck_c, DIGITS),
    "mlp with batch-norm": (norm_mlp, DIGITS),
    "12 residual MLP blocks": (lambda: residual_blocks(12, 64), (64,)),
    "lenet": (lenet, DIGITS),
    "tf_tutorial_cnn": (models.tf_tutorial_cnn, DIGITS),
    "1d cnn with ReLU": (relu_cnn_1d, (20, 16)),
    "ResNet-18 of 16 channels": (lambda: resnet18(16), IMAGES),
    "vision transformer": (lambda: ViT(depth=2, width=64, heads=2), IMAGES),
}


class Case:
    """A network and a batch: what is timed, and what the library chooses."""

    def __init__(self, name: str, samples: int, kind: str) -> None:
        make, shape = NETWORKS[name]
        torch.manual_seed(0)
        self.model, self.x = make().eval(), torch.rand(samples, *shape)
        self.y, self.kind = torch.randint(10, (samples,)), kind
        self.leaf = self.x.clone().requires_grad_()
        if kind == "lean rows":
            with lean(self.model.requires_grad_(False)):
                self.logits = self.model(self.leaf)
        else:
            self.logits = self.model(self.leaf)
        self.vectors = torch.randn(ROWS, *self.logits.shape)

    def run(self) -> list[Tensor]:
        """Return J^T v of each sample, of a graph that stays, or what a step has."""
        if self.kind != "step":
            return [pull_back(self.logits, self.leaf, self.vectors, create_graph=False)]
        x, generator = self.x.clone().requires_grad_(), torch.Generator().manual_seed(0)
        logits = self.model(x)
        penalty = frobenius_penalty(logits, x, PROJECTIONS, generator=generator)
        loss = F.cross_entropy(logits, self.y) + 0.1 * penalty
        return list(torch.autograd.grad(loss, list(self.model.parameters())))

    def at_once(self) -> int:
        """Return how many rows the library takes at once."""
        graph = Graph(self.logits)
        if self.kind == "step":
            return PROJECTIONS if together(PROJECTIONS, self.leaf, graph) else 1
        return min(ROWS, at_a_time(ROWS, self.leaf, graph))


def one_by_one() -> None:
    """Let no rows go back together, in this process."""
    jacfast.vjp.together = lambda *_: False
    jacfast.vjp.at_a_time = lambda *_: 1


def timed(name: str, samples: int, kind: str, chosen: bool) -> tuple[float, list]:
    """Return the median seconds in this process, and what is found, in numpy."""
    torch.set_num_threads(1)
    with sdpa_kernel(SDPBackend.MATH):
        case = Case(name, samples, kind)
        if not chosen:
            one_by_one()
        for _ in range(3):
            found = case.run()
        times: list[float] = []
        while len(times) < REPEATS or sum(times) < SECONDS:
            start = time.perf_counter()
            case.run()
            times.append(time.perf_counter() - start)
    return statistics.median(times), [one.detach().numpy() for one in found]


def measure(name: str, samples: int, kind: str) -> dict:
    """Time both ways, if they differ, each in a process of its own, and see that they agree."""
    with sdpa_kernel(SDPBackend.MATH):
        at_once = Case(name, samples, kind).at_once()
    found: dict = {"at once": at_once}
    if at_once > 1:
        results = {}
        for way in ("loop", "chosen"):
            with FRESH.Pool(1) as pool:
                given = (name, samples, kind, way == "chosen")
                found[way], results[way] = pool.apply(timed, given)
        for a, b in zip(results["loop"], results["chosen"], strict=True):
            must_agree("batched rows", torch.from_numpy(b), "a loop", torch.from_numpy(a), 1e-4)
    return found


def main() -> None:
    """Verify, time, print and write results/projections-cpu.json."""
    table, times = [("", *(f"N = {samples}" for samples in SAMPLES))], {}
    for kind in KINDS:
        for name in NETWORKS:
            row = {str(samples): measure(name, samples, kind) for samples in SAMPLES}
            times[f"{kind}, {name}"] = row
            cells = (
                f"{of['loop'] / of['chosen']:.2f}" if "loop" in of else "" for of in row.values()
            )
            table.append((f"{kind}, {name}", *cells))
    print_table(f"times as fast as a loop: {PROJECTIONS} projections, {ROWS} rows", table)
    print("written:", write("projections-cpu", {"environment": environment(), "times": times}))


if __name__ == "__main__":
    main()
