"""The figures of a hardening run, as text and as a page."""

from typing import Any

from jacfast import report


def cells(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the before/after table; the first row is the heading."""
    before, after = figures["before"], figures["after"]
    rows: list[tuple[str, ...]] = [("", "before", "after")]
    rows.append(("test accuracy, %", *(f"{100 * m['accuracy']:.2f}" for m in (before, after))))
    rows.append(
        ("rho_adv (DeepFool), x 100", *(f"{100 * m['rho_adv']:.2f}" for m in (before, after)))
    )
    for key, where in (("norm_clean", "images"), ("norm_perturbed", "DeepFool images")):
        rows.append((f"mean ||J||_F at {where}", *(f"{m[key]:.3f}" for m in (before, after))))
    for eps in before["fgsm"]:
        shares = (f"{100 * m['fgsm'][eps]:.2f}" for m in (before, after))
        rows.append((f"accuracy under FGSM, eps {eps}, %", *shares))
    worst = [m["worst"] for m in (before, after)]
    far = [w["median_distance"] for w in worst]
    rows.append(
        ("worst case: distance, median", *("unknown" if r is None else f"{r:.3f}" for r in far))
    )
    for eps in worst[0]["accuracy"]:
        shares = (f"{100 * w['accuracy'][eps]:.2f}" for w in worst)
        rows.append((f"worst case: accuracy, eps {eps}, %", *shares))
    seconds = figures["seconds"]
    rows.append(
        ("seconds of training, this call", f"{seconds['train']:.1f}", f"{seconds['harden']:.1f}")
    )
    return rows


def table(figures: dict[str, Any]) -> str:
    """Return the before/after table and the line on the step's time."""
    rows = cells(figures)
    width = max(len(row[0]) for row in rows)
    lines = [f"{label:<{width}}  {a:>8}  {b:>8}" for label, a, b in rows]
    notes = [_worst(figures), _step(figures)]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes])


def _worst(figures: dict[str, Any]) -> str:
    """Say what the worst case is of, and what may be hidden in it."""
    hidden = []
    for when in ("before", "after"):
        found = figures[when]["worst"]["findings"]
        hidden += [f"{when}: {', '.join(found)}"] if found else []
    return (
        f"worst case: of DeepFool, minimal norm and PGD in the 2-norm, images of [0, 1], the first "
        f"{figures['before']['worst']['images']}; distances of those classified correctly; signs "
        f"of masked gradients: {'; '.join(hidden) or 'none'}"
    )


def _step(figures: dict[str, Any]) -> str:
    step, options = figures["step"], figures["options"]
    if "why" in step:
        return f"one training step of {step['images']} images is not timed; {step['why']}"
    kind = "exact" if options["n"] == "exact" else f"unbiased, n = {options['n']}"
    return (
        f"one training step of {step['images']} images, median of one run: "
        f"cross-entropy alone {1e3 * step['plain']:.0f} ms; "
        f"with the penalty ({kind}) {1e3 * step['jacfast']:.0f} ms; "
        f"with the usual loop over the classes (exact) {1e3 * step['loop']:.0f} ms\n"
        f"the penalised step is {step['speedup']:.1f} times as fast as that loop, "
        f"and costs {step['jacfast'] / step['plain']:.2f} plain steps"
    )


def page(figures: dict[str, Any], picture: bytes) -> bytes:
    """Return the report: the table, the picture (a PNG), and what they depend on, as HTML."""
    shown = "images as they are, perturbed before and after hardening, and the perturbations"
    notes = [_worst(figures), *_step(figures).splitlines()]
    said = "".join(report.words(line) for line in notes)
    depends = {name: figures[name] for name in ("options", "data", "versions")}
    return report.page(
        f"Hardening of a classifier of {figures['data']['name']}",
        [
            ("Before and after", report.table(cells(figures)) + said),
            ("DeepFool", report.picture(picture, shown)),
            ("Configuration", report.values(depends)),
            ("Environment", report.values(report.environment())),
        ],
    )
