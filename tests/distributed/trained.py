"""Trainings in float64 that several processes must do as one does: run by torchrun, or imported."""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import jacfast
from jacfast.training import Defence, fit
from jacfast.training.learned import learned

PENALTY = jacfast.Frobenius()


def attack(model, x, y):
    return jacfast.fgsm(model, x, y, eps=0.1, clip=None)


def own(model, x, y):
    logits, penalty = jacfast.forward_with_penalty(model, x, penalty=jacfast.CrossLipschitz(n=2))
    return F.cross_entropy(logits, y) + 0.1 * penalty


def traced(model, x, y):
    logits, penalty = jacfast.forward_with_penalty(model, x, penalty=PENALTY, compiled="traced")
    return F.cross_entropy(logits, y) + 0.2 * penalty


def one_line(model, x, y):
    x = x.clone().requires_grad_()
    logits = model(x)
    return F.cross_entropy(logits, y) + 0.3 * jacfast.frobenius_penalty(logits, x)


KINDS = {
    "cross-entropy": Defence(),
    "penalty": Defence(PENALTY, 0.1),
    "dropout": Defence(PENALTY, 0.1),
    "own loss": own,
    "traced": traced,
    "one line": one_line,
    "a share attacked": Defence(PENALTY, 0.1, attack=attack, share=0.4),
    "twins": Defence(PENALTY, 0.1, attack=attack, share=0.4, twins=True, penalise="both"),
    "at the attacked": Defence(PENALTY, 0.1, attack=attack, share=0.4, penalise="attacked"),
    "LBFGS": Defence(PENALTY, 0.1),
    "a loader": Defence(PENALTY, 0.1),
}


class Headed(nn.Module):
    """A loss with a head of its own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 5, dtype=torch.float64)

    def forward(self, model, x, y):
        return F.cross_entropy(self.head(model(x)), y)


def weighted() -> Defence:
    weights = nn.Parameter(torch.linspace(1, 2, 5, dtype=torch.float64))
    return Defence(jacfast.Frobenius(weights=weights), 0.1)


def second_pass(model, x, y):
    """Penalise at other points, with the masks of the first pass."""
    options = {"penalty": PENALTY, "at": x + 0.1}
    logits, penalty = jacfast.forward_with_penalty(model, x, **options)
    return F.cross_entropy(logits, y) + 0.1 * penalty


def attacked(**options) -> Defence:
    return Defence(PENALTY, 0.1, attack=attack, share=0.4, **options)


class Dropped(nn.Module):
    """Dropout as a function, on tokens [N * T, D] and on whole paths of samples."""

    def forward(self, x):
        if not self.training:
            return x
        tokens = F.dropout(x.reshape(-1, 4), 0.3)
        return tokens.reshape(len(x), -1) * x.new_empty(len(x), 1).bernoulli_(0.8)


LEARNED = {"a loss with a head": Headed, "a learned penalty": weighted}  # made anew each time
KINDS |= LEARNED
DROPOUT = {
    "dropout": [nn.Dropout(0.3)],
    "dropout, none of its own": [Dropped()],
    "dropout, a share attacked": [nn.Dropout(0.3)],
    "dropout, twins": [Dropped(), nn.Dropout(0.3)],
    "dropout, at the attacked twins": [nn.Dropout(0.3)],
    "dropout, adversarial": [nn.Dropout(0.3)],
    "dropout, second pass": [nn.Dropout(0.3)],
}
KINDS |= {
    "dropout, none of its own": own,
    "dropout, a share attacked": attacked(),
    "dropout, twins": attacked(twins=True, penalise="both"),
    "dropout, at the attacked twins": attacked(twins=True, penalise="attacked"),
    "dropout, adversarial": Defence(attack=attack, share=0.4),
    "dropout, second pass": second_pass,
}


def train(kind: str, **options) -> dict:
    """Train for 25 steps, the last of each epoch on 2 samples, too few for three processes."""
    torch.manual_seed(0)
    drop = DROPOUT.get(kind, [])
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), *drop, nn.Linear(16, 5)).double()
    x, y = torch.rand(30, 20, dtype=torch.float64), torch.randint(5, (30,))
    options = {"epochs": 5, "batch_size": 7, **options}
    loss, own = KINDS[kind], nn.Module()
    if kind == "a loader":  # which draws from a generator of its own
        source = torch.Generator().manual_seed(2)
        x = DataLoader(TensorDataset(x, y), options.pop("batch_size"), True, generator=source)
        y = None
    if kind in LEARNED:
        loss = loss()
        own = learned(loss)
        both = [*model.parameters(), *own.parameters()]
        options["optimizer"] = torch.optim.SGD(both, 0.1, momentum=0.9)
    elif kind == "LBFGS":
        options["optimizer"] = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    else:
        options["lr"] = 0.01
    fit(model, x, y, loss=loss, **options)
    return {**model.state_dict(), **own.state_dict(prefix="loss.")}


class Ended:
    """A loss in a process that is killed in its 12th step, the first time."""

    calls = 0

    def __call__(self, model, x, y):
        Ended.calls += 1
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and os.environ["RANK"] == os.environ.get("ENDS") and Ended.calls == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return KINDS["penalty"](model, x, y)


if __name__ == "__main__":
    out, save = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None
    if save is None:
        found = {kind: train(kind) for kind in KINDS}
    else:
        KINDS["ended"] = Ended()
        found = {"ended": train("ended", save=save, resume=True)}
    if os.environ["RANK"] == "0":
        torch.save(found, out)
