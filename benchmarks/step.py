"""What does a penalised training step cost, and how much memory, against how it is written today?

python -m benchmarks.step [mlp | tf_cnn | cifar_cnn | vit ...] [--verify]
"""

import argparse
import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

import jacfast
from benchmarks.harness import environment, must_agree, print_table, take_turns, write
from benchmarks.networks import ViT
from benchmarks.rivals import batched, captured, compiled_plain, compiled_traced
from jacfast import models
from jacfast.timing import rivals
from jacfast.timing.memory import peak_bytes
from jacfast.timing.ours import one_line, ours

LAM = 0.1
# network, inputs, samples, steps timed in a row
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "mlp": (models.seck_c, (1, 28, 28), 500, 10),
    "tf_cnn": (models.tf_tutorial_cnn, (1, 28, 28), 500, 1),
    "cifar_cnn": (models.cifar_cnn, (3, 32, 32), 128, 1),
    "vit": (ViT, (3, 32, 32), 64, 1),
}
PLAIN = ("plain", "plain, compiled", "plain, captured")
EXACT = ("loop", "batched", "jacfast, exact", "jacfast, exact, captured")
# No draw to compare with: another part of the batch; a graph has its own place in the sequence.
ALONE = (
    "jacfast, n = 1, subsample 1/4",
    "one vector, autograd, captured",
    "jacfast, n = 1, captured",
    "jacfast, n = 1, cudagraphs",
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REPEATS, AT_LEAST = {"cpu": (3, 1), "cuda": (9, 5)}[DEVICE]  # rounds, and steps in a row


def contenders() -> dict[str, rivals.Step]:
    steps = {
        "plain": rivals.plain,
        "plain, compiled": compiled_plain(),
        "one vector, autograd": rivals.one_vector,
        "JacobianReg, n = 1": rivals.jacobian_reg,
        "compiled, torch.func": rivals.compiled_func(),
        "frobenius_penalty": one_line(jacfast.Frobenius()),
        "jacfast, n = 1": ours(jacfast.Frobenius()),
        "jacfast, n = 1, traced": ours(jacfast.Frobenius(), compiled="traced"),
        "jacfast, n = 1, bfloat16 sweeps": ours(jacfast.Frobenius(), precision=torch.bfloat16),
        "jacfast, n = 1, subsample 1/4": ours(jacfast.Frobenius(subsample=0.25)),
        "loop": rivals.loop,
        "batched": batched,
        "jacfast, exact": ours(jacfast.Frobenius("exact")),
    }
    if DEVICE == "cuda":
        steps["jacfast, n = 1, cudagraphs"] = ours(jacfast.Frobenius(), compiled="cudagraphs")
    if hasattr(torch._dynamo.config, "trace_autograd_ops"):  # not in every torch
        steps["compiled, autograd traced"] = compiled_traced()
    return {name: step if name in PLAIN else rivals.by_math(step) for name, step in steps.items()}


def captures(steps: dict[str, rivals.Step]) -> dict[str, rivals.Step]:
    """Return CUDA graphs of some of the steps, to be recorded at their first call."""
    names = ("plain", "one vector, autograd", "jacfast, n = 1", "jacfast, exact")
    graphs = names if DEVICE == "cuda" else ()
    return {f"{name}, captured": captured(steps[name]) for name in graphs}


def verify(steps: dict[str, rivals.Step], model: nn.Module, x: Tensor, y: Tensor) -> dict[str, str]:
    """Raise unless all who are exact, and all who estimate from the same draw, agree.

    With the first of them that runs here.

    Returns:
        Those that do not run here, with what they raised.
    """
    found, broken = {}, {}
    for name, step in steps.items():
        try:
            found[name] = gradient(step, model, x, y)
        except Exception as error:  # of whatever compiler, in whatever version
            broken[name] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            print(f"{name} does not run here: {broken[name]}")
    drawn = [name for name in steps if name not in (*EXACT, *PLAIN, *ALONE)]
    for group in (EXACT, PLAIN, drawn):
        there = [name for name in group if name in found]
        for name in there[1:]:
            most = 0.05 if "bfloat16" in name else 1e-3
            must_agree(name, found[name], there[0], found[there[0]], most)
    return broken


def gradient(step: rivals.Step, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    torch.manual_seed(0)
    model.zero_grad()
    step(model, x, y, LAM)
    return torch.cat([p.grad.detach().flatten() for p in model.parameters() if p.grad is not None])


def floor(model: nn.Module, x: Tensor) -> float:
    """Return the multiplications of a penalised step, n = 1, over those of a plain one.

    Per layer: forward and weight gradient, and, but for the first, input gradient; the penalty adds
    the input gradient of its cotangent, the tangent and a weight gradient, in every layer.
    """
    counts: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        counts.append(output[0].numel() * layer.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    handles = [layer.register_forward_hook(count) for layer in layers]
    model(x[:1])
    for handle in handles:
        handle.remove()
    plain = 3 * sum(counts) - counts[0]
    return (plain + 3 * sum(counts)) / plain


def verified(name: str) -> tuple[dict[str, rivals.Step], dict, nn.Module, Tensor, Tensor]:
    """Return a case's contenders, which agree, who does not run, and the model, x and y."""
    make, shape, samples, _ = CASES[name]
    torch.manual_seed(0)
    model, x = make().eval().to(DEVICE), torch.rand(samples, *shape, device=DEVICE)
    y, steps = torch.randint(10, (samples,), device=DEVICE), contenders()
    torch.backends.cudnn.allow_tf32 = False  # agreement is looked at in full float32
    broken = verify(steps | captures(steps), model, x, y)
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default, in which all are timed
    steps = {key: step for key, step in (steps | captures(steps)).items() if key not in broken}
    return steps, broken, model, x, y


def measure(name: str) -> dict:
    """Verify and time every contender on one network; measure the memory of each."""
    steps, broken, model, x, y = verified(name)
    count = max(CASES[name][3], AT_LEAST)

    def run(step: rivals.Step, times: int) -> None:
        for _ in range(times):
            model.zero_grad()
            step(model, x, y, LAM)

    runs = {key: functools.partial(run, step, count) for key, step in steps.items()}
    times = take_turns(runs, REPEATS)
    adam = torch.optim.Adam(model.parameters(), lr=0.0)
    times["Adam's own step"] = take_turns({"": lambda: [adam.step() for _ in range(count)]}, 9)[""]
    result = {"samples": len(x), "floor": floor(model, x), "does not run": broken, "contenders": {}}
    base = times["plain"]["median"]
    extra = times["Adam's own step"]["median"]
    for key, spent in times.items():
        row = {stat: value / count for stat, value in spent.items()}
        if key in steps:
            row["plain_steps"] = spent["median"] / base
            row["plain_steps_with_adam"] = (spent["median"] + extra) / (base + extra)
            row["peak_bytes"] = peak_bytes(functools.partial(run, steps[key], 1), x.device)
        result["contenders"][key] = row
    return result


def main() -> None:
    """Measure, print tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--verify", action="store_true", help="verify, and time nothing")
    options = parser.parse_args()
    for name in options.cases or CASES:
        if options.verify:  # what is compiled stays in torch's cache for the run that times
            verified(name)
            continue
        results = {"environment": environment()} | measure(name)
        rows = [("", "ms", "plain steps", "with Adam", "peak MB")]
        for key, row in results["contenders"].items():
            cells = [f"{1e3 * row['median']:.1f}"]
            if "plain_steps" in row:
                cells += [f"{row['plain_steps']:.2f}", f"{row['plain_steps_with_adam']:.2f}"]
                cells += [f"{row['peak_bytes'] / 1e6:.0f}"]
            rows.append((key, *cells, *[""] * (4 - len(cells))))
        print_table(f"{name}, {results['samples']} samples; floor {results['floor']:.2f}", rows)
        torch._dynamo.reset()
        print("written:", write(f"step-{name}-{DEVICE}", results))


if __name__ == "__main__":
    main()
