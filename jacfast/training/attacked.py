"""Attacked inputs to train on: of a batch, or made once for a whole training."""

import torch
from torch import Tensor, nn

from jacfast import checks
from jacfast.attacks.given import Attack, check_attack, perturb
from jacfast.calling import check_input, check_labels
from jacfast.evaluation.predict import BATCH
from jacfast.progress import watch


def attack_once(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, share: float = 1.0
) -> Tensor:
    """Return x with its first ``share`` attacked on `model` as it is now: ``[attack(x_a); x_b]``.

    Adversarial training on a fixed set, as in the papers' tables: the images are made against the
    network before the phase, and their labels stay. `Defence` with ``attack=`` makes them anew in
    every step, against the network of that moment, which is another defence (min-max training) and
    ``epochs`` times the work:

        x = attack_once(model, x, y, jacfast.deepfool, share=0.1)
        fit(model, x, y, epochs=2, batch_size=100, lr=1e-3, loss=Defence())

    x_a are the first ``max(1, round(share * N))`` samples, attacked 250 at a time: x should not be
    sorted by class. `fit` shuffles, so that a batch holds about that share of them.

    Args:
        model: maps [N, ...] to logits [N, K]; left as it was if the attack leaves it.
        x: [N, ...], floating point.
        y: [N] int64, true labels.
        attack: maps (model, x, y) to perturbed inputs or, as `jacfast.deepfool`, to their
            `AttackResult`.
        share: of the samples, in (0, 1].

    Returns:
        [N, ...], without a graph, of the dtype and on the device of x.

    Raises:
        TypeError: an argument has the wrong type. ValueError: a shape or the share is wrong, or the
            attack returns another shape.

    Source: Jakubovitz & Giryes 2018, appendix F, tables 11, 12 (shares, DeepFool); Deng, Zhang &
    Zhao, figure 3.4 (all, DeepFool); Yu, Liu, Wang & Chen, table 1. That the images are made once,
    and not in every step, is how `jacfast reproduce` reads them.
    """
    check_input(x)
    check_labels(y, len(x))
    check_attack(attack)
    share = checks.share("share", share)
    count = attacked_of(len(x), share)
    batches = list(zip(x[:count].split(BATCH), y[:count].split(BATCH), strict=True))
    moved = [perturb(attack, model, *batch).detach() for batch in watch(batches, desc="attack")]
    return torch.cat([*moved, x[count:].detach()])


def attacked_of(samples: int, share: float) -> int:
    """Return how many of the samples are attacked, at least one."""
    return max(1, round(share * samples))
