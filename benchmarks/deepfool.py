"""How long does DeepFool take on MNIST digits, against foolbox at equal results?

python -m benchmarks.deepfool
"""

import warnings

import torch
import torch.nn.functional as F

from benchmarks.harness import environment, print_table, take_turns, write
from jacfast import data, deepfool, models
from jacfast.training import fit
from jacfast.training.measure import accuracy

IMAGES = 200
REPEATS = 5


def main() -> None:
    """Train the network, verify that the attacks agree, time them, print and write the results."""
    import foolbox

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    split = data.load(None)
    torch.manual_seed(0)
    model = models.tf_tutorial_cnn()
    fit(
        model,
        split.train_x,
        split.train_y,
        epochs=6,
        batch_size=500,
        lr=1e-3,
        loss=lambda model, x, y: F.cross_entropy(model(x), y),
    )
    model.eval().to(device)
    x, y = split.test_x[:IMAGES].to(device), split.test_y[:IMAGES].to(device)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    options = {"clip": (0.0, 1.0), "floor": 1e-4}  # foolbox's choices

    def ours():
        return deepfool(model, x, y, **options)

    def theirs():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attack(peer, x, y, epsilons=None)

    found, (_, adversarial, success) = ours(), theirs()
    norm = (adversarial - x).flatten(1).norm(dim=1)
    mean, peer_mean = float(found.norm.mean()), float(norm.mean())
    if abs(mean - peer_mean) > 0.01 * peer_mean or not bool((found.success == success).all()):
        raise RuntimeError(f"the attacks must agree; got mean ||r|| {mean} and {peer_mean}")

    times = take_turns({"jacfast": ours, "foolbox": theirs}, REPEATS)
    ratio = times["foolbox"]["median"] / times["jacfast"]["median"]
    table = [("", "seconds", "mean ||r||", "fooled")]
    for name, r, fooled in (
        ("jacfast", mean, found.success),
        ("foolbox", peer_mean, success),
    ):
        share = f"{100 * float(fooled.double().mean()):.1f}%"
        table.append((name, f"{times[name]['median']:.3f}", f"{r:.4f}", share))
    print_table(f"L2 DeepFool, {IMAGES} MNIST digits, TF-tutorial CNN, {device.type}", table)
    print(f"jacfast is {ratio:.2f} times as fast")
    results = {
        "environment": environment("foolbox"),
        "accuracy": accuracy(model, x, y),
        "mean_norm": {"jacfast": mean, "foolbox": peer_mean},
        "vjps_per_sample": float(found.vjps.double().mean()),
        "times": times,
        "ratio": ratio,
    }
    print("written:", write(f"deepfool-{device.type}", results))


if __name__ == "__main__":
    main()
