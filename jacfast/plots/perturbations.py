"""Images, what an attack made of them, and the change."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from jacfast.attacks import AttackResult
from jacfast.attacks.norms import lengths
from jacfast.calling import check_labels
from jacfast.checks import count
from jacfast.evaluation.rho import check_attacked
from jacfast.plots.style import WIDTH, check_models, image, new_figure, tag, wrapped


def perturbation_figure(
    x: Tensor, y: Tensor, results: Mapping[str, AttackResult], rows: int = 6
) -> Figure:
    """Draw images, their perturbed versions for one or more models, and the differences.

    One image per row. On each difference stands ``||r||_p / ||x||_p``, with the p of the results,
    and for the second model on how many times that of the first it is; differences share one colour
    scale, and are means over the channels.

    Args:
        x: [N, 1 or 3, H, W] in [0, 1]; y: [N] true labels.
        results: what `deepfool`, or the `result` of another attack, found at x for each model, by
            its name. Those of `fgsm`, `bim` and `pgd` should be without y: given labels, they move
            images that are misclassified as they are, too, which nothing tells from the others.
        rows: how many images at most: those that all models classify correctly and the attack
            fooled in all, one of each class first.

    Raises:
        TypeError: rows is not an integer, x not floating point, or y not int64. ValueError: there
            is no result, one is not of x, or two are in different norms; rows < 1, y is not [N], or
            x does not hold images.

    Source: Lim, figures 2 and 3; Deng, Zhang & Zhao, figures 3.1 to 3.3.
    """
    check_models("results", results, AttackResult)
    shown = choose(y, list(results.values()), rows)
    side = min(7.3 / (1 + 2 * len(results)), 1.5)  # of an image, which fills its column
    figure = new_figure((side + 0.05) * len(shown) + 1.0 if shown else 2.0)
    draw_perturbations(figure, x, shown, results)
    return figure


def ratios(result: AttackResult, x: Tensor) -> Tensor:
    """Return ||r_i|| / ||x_i|| [N], both in the norm of the result, which must be of x."""
    check_attacked(result, x)
    return result.norm / lengths(x, result.p)


def choose(y: Tensor, results: Sequence[AttackResult], rows: int) -> list[int]:
    """Return the images worth showing, one of each class first."""
    count("rows", rows)
    for found in results:
        check_labels(y, len(found.before))
    right = [(found.clean_label() == y) & found.success for found in results]
    usable = torch.stack(right).all(dim=0).nonzero().flatten().tolist()
    first: dict[int, int] = {}
    for i in usable:
        first.setdefault(int(y[i]), i)
    one_each = [first[k] for k in sorted(first)]
    return (one_each + [i for i in usable if i not in one_each])[:rows]


def draw_perturbations(
    figure: Figure | SubFigure, x: Tensor, shown: list[int], results: Mapping[str, AttackResult]
) -> None:
    """Draw one row per image into a figure."""
    names, found = list(results), list(results.values())
    norms = [result.p for result in found]
    if len(set(norms)) > 1:
        raise ValueError(f"results must all be in one norm p; got {norms}")
    room = 0.85 * WIDTH / (1 + 2 * len(names)) - 0.1  # over a column, beside the bar of colours
    short = [wrapped(name, room) for name in names]
    titles = ["original", *(f"perturbed\n{name}" for name in short)]
    titles += [f"difference\n{name}" for name in short]
    axes = figure.subplots(max(len(shown), 1), len(titles), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    if not shown:
        figure.suptitle("no image is classified correctly and fooled by every model")
        return
    limit = max(float(result.r[shown].mean(dim=1).abs().max()) for result in found)
    shares = [ratios(result, x) for result in found]
    for row, i in zip(axes, shown, strict=True):
        image(row[0], x[i])
        for j, result in enumerate(found):
            image(row[1 + j], result.adversarial[i])
            tag(row[1 + j], f"read as {int(result.label[i])}")
            axis = row[1 + len(found) + j]
            r = result.r[i].mean(dim=0).numpy(force=True)
            drawn = axis.imshow(r, cmap="RdBu_r", vmin=-limit, vmax=limit)
            times = f" ({float(shares[j][i] / shares[0][i]):.3g}x)" if j else ""
            tag(axis, f"{float(shares[j][i]):.2g}{times}")
    right = axes[:, 1 + len(found) :]
    figure.colorbar(drawn, ax=right, shrink=0.6, label="change of a pixel")
    words = "on a difference: ||r|| / ||x||"
    if len(found) > 1:
        words += f", and how many times that of {names[0]} it is"
    figure.supxlabel(wrapped(words, 0.9 * WIDTH), fontsize=10)
