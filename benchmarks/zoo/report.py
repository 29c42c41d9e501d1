"""What a sweep came to: one JSON, and a page with a table by kind."""

import json
from collections import defaultdict

from benchmarks.harness import environment
from benchmarks.zoo.architectures import architectures
from benchmarks.zoo.checks import DIFFERENCES, FLOAT64, HARD_SIGMOID, LEAST, MULTIPLE

HEAD = """# Other people's architectures

`make zoo` makes networks of torchvision, timm and transformers with random weights (nothing is
downloaded), three classes and the smallest inputs that they take, and holds what the library
computes on each against plain autograd in float64. `benchmarks/zoo/` is the code,
`benchmarks/results/zoo.json` every figure; this page is written by it.

For each network, with batches of two and of one sample:

- the penalty (exact, `n="exact"`) and the gradient of cross-entropy + penalty in all parameters
  and x, both weighing the same: by `frobenius_penalty` in one line and by `forward_with_penalty`,
  in float64 and float32, in `channels_last` too where inputs are images;
- two rows of `jacobian`, and DeepFool's first step against one written out;
- a step in training mode, with `batch_norm="frozen"`, and the statistics it leaves.

In float64 {float64:.0e} of the truth is allowed ({hard:.0e} with hard-sigmoid, whose derivative in
PyTorch has float32's 1/6). In float32 {multiple} times the error of PyTorch's own double backward
there, the largest at x and at x (1 ± 1e-6), and {least:.0e}. The truth is double backward under the
math backend of attention, a single sample's taken from a batch of two, with hard-sigmoid written as
a clamp and normalisation as a division by a clamped root; it is itself held against finite
differences, within {differences:.0e}. Parts that a model computes in float32 whatever its dtype are
computed in float64 with the rest.
"""


def line(entry: dict) -> str:
    """Return what one architecture came to, in a line."""
    failures = "; ".join(f"{check}: {why}" for check, why in entry["failures"].items())
    return f"{entry['name']} ({entry.get('seconds', 0)} s): {failures or 'passes'}"


def figures(entries: list[dict], versions: dict[str, str]) -> dict:
    """Return the figures of all architectures, each by its worst errors."""
    found = {"environment": {**environment(), **versions}, "architectures": {}}
    for entry in entries:
        errors = entry["errors"]
        wide = [off for check, off in errors.items() if "float32" not in check]
        found["architectures"][entry["name"]] = {
            "kind": entry["kind"],
            "input": entry.get("shape"),
            "parameters": entry.get("parameters"),
            "float64": _rounded(max(wide, default=None)),
            "float32": _rounded(entry.get("multiple")),
            "checks": len(errors),
            "seconds": entry.get("seconds"),
            "failures": entry["failures"],
        }
    return found


def compact(found: dict) -> str:
    """Return the figures as JSON, a line per architecture."""
    lines = [
        f"  {json.dumps(name)}: {json.dumps(entry)}"
        for name, entry in found["architectures"].items()
    ]
    head = json.dumps(found["environment"], indent=1)
    return f'{{"environment": {head},\n"architectures": {{\n' + ",\n".join(lines) + "\n}}\n"


def page(found: dict) -> str:
    """Return the page: a table by kind, what failed, and which networks there were."""
    kinds = defaultdict(list)
    for name, entry in found["architectures"].items():
        kinds[entry["kind"]].append((name, entry))
    used = found["environment"]
    versions = ", ".join(
        f"{name} {used[name]}" for name in ("torch", "torchvision", "timm", "transformers")
    )
    total = len(found["architectures"])
    good = sum(not entry["failures"] for entry in found["architectures"].values())
    text = HEAD.format(
        float64=FLOAT64,
        hard=HARD_SIGMOID,
        multiple=MULTIPLE,
        least=LEAST,
        differences=DIFFERENCES,
    )
    listed = sum(1 for _ in architectures())
    text += f"\n{good} of {total} architectures pass every check ({versions})."
    if total < listed:
        text += f" The list has {listed}: {listed - total} of them have not been tried yet."
    text += "\n\n"
    text += (
        "| kind | architectures | pass | largest error, float64 | float32, of what is allowed |\n"
    )
    text += "|---|---|---|---|---|\n"
    for kind, entries in kinds.items():
        passed = sum(not entry["failures"] for _, entry in entries)
        wide, narrow = (
            max((e[key] for _, e in entries if e[key] is not None), default=float("nan"))
            for key in ("float64", "float32")
        )
        text += f"| {kind} | {len(entries)} | {passed} | {wide:.0e} | {narrow:.2f} |\n"
    return text + _failures(found["architectures"]) + _names(kinds)


def _failures(entries: dict[str, dict]) -> str:
    text = "\n## What fails\n\n"
    failed = {name: entry["failures"] for name, entry in entries.items() if entry["failures"]}
    if not failed:
        return text + "Nothing.\n"
    text += "| architecture | checks | why |\n|---|---|---|\n"
    for name, failures in failed.items():
        together = defaultdict(list)
        for check, why in failures.items():
            together[why.replace("|", "\\|")].append(check)
        for why, checks in together.items():
            text += f"| {name} | {'; '.join(checks)} | {why} |\n"
    return text


def _names(kinds: dict[str, list]) -> str:
    text = "\n## Which there are\n\n"
    for kind, entries in kinds.items():
        text += f"- {kind}: {', '.join(name for name, _ in entries)}\n"
    return text


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2e}")
