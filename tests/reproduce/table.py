"""A table of a small network, and what a run of it has left."""

import re

import torch

from jacfast import models

TABLE = """
title = "a table"
source = "nobody"
data = "MNIST"
model = "jacfast.models:fc500"
columns = ["accuracy", "rho_adv", "fgsm 0.05", "fgsm 1.0 ref"]
reference = "penalty"
rank = "rho_adv"
samples = 20
train_samples = 400
seeds = [0, 1]
[base]
epochs = 2
batch_size = 50
[every_row]
batch_size = 50
[[rows]]
name = "no defence"
paper = [90.0, 5.0, 50.0, ""]
[[rows]]
name = "penalty"
paper = [80.0, 10.0, 60.0, ""]
penalty = { name = "Frobenius" }
lam = 0.1
[[rows]]
name = "from the start"
paper = ["", 7.0, 60.0, ""]
fresh = true
attack = { name = "fgsm", eps = 0.1 }
[[curves]]
attack = "fgsm"
epsilons = [0.0, 0.05]
samples = 20
[quick]
"""


def one_more_row(*lines, columns='"accuracy"', paper="1.0"):
    """Return TABLE with one seed, other columns, and a last row of these lines."""
    text = TABLE.replace("seeds = [0, 1]", 'pictures = ["perturbations"]\npictured = ["last"]')
    text = re.sub(r"columns = .*", f"columns = [{columns}]", text)
    text = re.sub(r"rank = .*", f"rank = {columns.split(',')[0]}", text)
    text = re.sub(r"paper = .*", f"paper = [{paper}]", text)
    head, tail = text.split("[[curves]]")
    last = "\n".join(["[[rows]]", 'name = "last"', f"paper = [{paper}]", *lines])
    return f"{head}{last}\n[[curves]]{tail}"


def trained(out, file):
    model = models.fc500()
    model.load_state_dict(torch.load(out / "seed0" / file)["model"])
    return model.eval()
