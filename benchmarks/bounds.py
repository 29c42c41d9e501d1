"""How tight are the first-order bounds of the distance to the decision boundary?

python -m benchmarks.bounds
"""

import torch
from torch import Tensor, nn

from benchmarks.deepfool import trained
from benchmarks.harness import environment, print_table, write
from jacfast import data, deepfool, distance_bounds, models

IMAGES = 500


def of(model: nn.Module, x: Tensor) -> dict:
    """Compare each bound with the shortest adversarial r that SuperDeepFool finds."""
    found = deepfool(model, x, candidates=None, variant="super")
    if not bool(found.success.all()):
        raise RuntimeError("every sample must be fooled")
    bounds, rows = distance_bounds(model, x, batch_size=100), {}
    winner = bounds.boundary.argmin(dim=1)
    for name, bound in (("Corollary 2", bounds.nearest), ("Proposition 3", bounds.frobenius)):
        ratio = (found.norm / bound).double()
        quantiles = ratio.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
        rows[name] = {
            "quantiles": quantiles.tolist(),
            "exceeded": float((ratio < 1).double().mean()),
        }
    rows["Lemma 1"] = {"same_class": float((winner == found.label).double().mean())}
    return rows


def main() -> None:
    """Train two networks, compare, print and write the results."""
    torch.manual_seed(0)
    split, results = data.load(None), {"environment": environment(), "images": IMAGES}
    table = [("||r|| / bound", "5%", "median", "95%", "||r|| < bound")]
    for name, make in (("tf_tutorial_cnn", models.tf_tutorial_cnn), ("seck_c", models.seck_c)):
        case = trained(name, make(), split, IMAGES, 6)
        results[name] = case.about | of(case.model, case.x)
        for bound in ("Corollary 2", "Proposition 3"):
            row = results[name][bound]
            cells = [f"{q:.2f}" for q in row["quantiles"]]
            table.append((f"{name}, {bound}", *cells, f"{100 * row['exceeded']:.1f}%"))
        share = results[name]["Lemma 1"]["same_class"]
        table.append((f"{name}, Lemma 1 names the class of r", "", "", "", f"{100 * share:.1f}%"))
    print_table(f"{IMAGES} MNIST digits", table)
    print("written:", write("bounds-cpu", results))


if __name__ == "__main__":
    main()
