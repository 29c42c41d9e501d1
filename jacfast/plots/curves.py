"""Robustness curves and receiver operating characteristics."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.figure import Figure

from jacfast.checks import several
from jacfast.evaluation.roc import Roc
from jacfast.plots.colours import lines
from jacfast.plots.style import (
    WIDTH,
    check_named,
    label_of,
    legend_below,
    new_figure,
    open_frame,
    panels,
    wrapped,
)

SHARES = (0.2, 0.5, 1.0)  # of eps_ref, as in Deng, Zhang & Zhao
EPS = {"JSMA": "change of a pixel in a step"}  # what eps is, where not the largest of an entry


def accuracy_figure(
    epsilons: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    reference: float | None = None,
    attack: str = "FGSM",
) -> Figure:
    """Draw accuracy against the size of an attack, a line per model.

    Args:
        epsilons: the sizes.
        curves: `accuracy_curve` at those, by model.
        reference: eps_ref of `reference_epsilon`, for vertical lines at 0.2, 0.5 and 1.0 of it.
        attack: its name, for what eps is: of JSMA the change of a pixel in a step, of any other
            the largest change of an entry.

    Raises:
        ValueError: there is no curve or no eps, or a curve has not a value for each eps.

    Source: Deng, Zhang & Zhao, figure 3.5; Jakubovitz & Giryes, figures 1 to 4.
    """
    check_named("curves", curves, Collection)
    epsilons = several("epsilons", epsilons)
    if not curves or not epsilons:
        raise ValueError(
            f"curves and epsilons must hold one each at least; got {len(curves)}, {len(epsilons)}"
        )
    for name, curve in curves.items():
        if len(curve) != len(epsilons):
            raise ValueError(
                f"curves must have a value for each of {len(epsilons)} epsilons; "
                f"{name!r} has {len(curve)}"
            )
    figure = new_figure(4.6)
    axis = figure.subplots()
    for name, style in lines(curves):
        axis.plot(epsilons, [100 * share for share in curves[name]], label=label_of(name), **style)
    axis.set_ylim(0, 101)
    axis.set_xlim(min(epsilons), max(epsilons))
    size = EPS.get(attack, "largest change of an entry")
    axis.set_xlabel(f"eps of {attack}, units of x ({size})")
    axis.set_ylabel("accuracy, %")
    if reference is not None:
        shown = [share for share in SHARES if share * reference <= max(epsilons)]
        for share in shown:
            axis.axvline(share * reference, color="0.45", linestyle=":", linewidth=1.2)
        top = axis.secondary_xaxis("top")
        top.set_xticks([share * reference for share in shown], [f"{share:g}" for share in shown])
        top.set_xlabel(f"of eps_ref = {reference:.3g}", fontsize=9)
        top.spines["top"].set_visible(False)
    open_frame(axis)
    legend_below(figure, axis)
    return figure


def roc_figure(curves: dict[str, dict[int, Roc]], classes: Sequence[int] | None = None) -> Figure:
    """Draw ROC curves of classes against the rest: a panel per class, a line per model.

    The titles have the areas under the curves, in the order of the names below.

    Args:
        curves: `roc_curves` by model.
        classes: which ones; default: all that every model has.

    Raises:
        ValueError: a class is missing from a model, or none is left.

    Source: Deng, Zhang & Zhao, figures 3.7 to 3.9.
    """
    check_named("curves", curves, Mapping)
    for of_model in curves.values():
        check_named("curves", of_model, Roc)
    common = [k for k in next(iter(curves.values()), {}) if all(k in c for c in curves.values())]
    wanted = common if classes is None else list(classes)
    if not wanted or not set(wanted) <= set(common):
        raise ValueError(f"classes must be among {common}, which every model has; got {wanted}")
    columns = min(len(wanted), 3)
    width = WIDTH / max(columns, 2) - 0.7  # of a panel
    titles = {
        k: f"class {k}: AUC " + ", ".join(f"{c[k].auc:.4f}" for c in curves.values())
        for k in wanted
    }
    titles = {k: wrapped(title, width) for k, title in titles.items()}
    more = 0.17 * max(title.count("\n") for title in titles.values())
    figure, axes = panels(len(wanted), columns, 8.4 / max(columns, 2) + 0.2 + more, 0.8)
    for axis, k in zip(axes.flat, wanted, strict=False):
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for name, style in lines(curves):
            curve = curves[name][k]
            axis.plot(curve.false_positive, curve.true_positive, label=label_of(name), **style)
        axis.set_title(titles[k], fontsize=10)
        axis.set_aspect("equal")
        axis.set_xlabel("false positive rate")
        axis.set_ylabel("true positive rate")
        open_frame(axis)
    legend_below(figure, axes[0, 0])
    return figure
