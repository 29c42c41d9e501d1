"""One seed of a table: its networks and its figures, in a folder of its own."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jacfast import data, models
from jacfast.evaluation import accuracy
from jacfast.files import write_atomically
from jacfast.models.loading import check_state
from jacfast.reproduce import parts, recipe
from jacfast.reproduce.config import Table, Training
from jacfast.reproduce.measures import Subject, find, measure
from jacfast.training import checkpoint
from jacfast.training.fit import fit
from jacfast.training.mode import set_mode
from jacfast.training.seeded import seeded


def made(model: str, seed: int) -> nn.Module:
    """Return a new network, its weights by the seed, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return models.load_factory(model)


def file_of(row: int, lams: list[float], chosen: dict[str, Any]) -> str:
    """Return the name of the checkpoint of a row's network; of several that which was chosen."""
    return f"row{row}-{lams.index(chosen['lam'])}.pt" if lams else f"row{row}.pt"


@dataclasses.dataclass(frozen=True)
class Run:
    """One seed of a table.

    Attributes:
        split: trained and tested on.
        held: the training images that weights are chosen on, as the test images of a split.
        attacked: the images that were last attacked before a phase, behind what they depend on.
    """

    table: Table
    seed: int
    split: data.Split
    held: data.Split
    folder: Path
    device: str
    attacked: list[tuple[str, Tensor, Tensor]] = dataclasses.field(default_factory=list)

    def figures(self, i: int) -> dict[str, Any]:
        """Train and measure row i, or read what an earlier call measured."""
        done = self.folder / f"row{i}.json"
        if done.exists():
            return json.loads(done.read_text())
        model = self.trained(i)
        subject = self._subject(i, model)
        figures = measure(self.table.columns, subject)
        with seeded(model, self.seed):
            curves = [subject.curve(curve) for curve in self.table.curves]
        found = {"figures": figures, "curves": curves, **self.chosen(i)}
        write_atomically(json.dumps(found).encode(), done)
        return found

    def trained(self, i: int) -> nn.Module:
        """Return the network of row i, in eval mode; what was trained before is taken over."""
        row, chosen = self.table.rows[i], self.chosen(i)
        training = row.training
        if training is not None and chosen:
            training = dataclasses.replace(training, lam=chosen["lam"])
        return self._network(i, training, file_of(i, row.lams, chosen))

    def chosen(self, i: int) -> dict[str, Any]:
        """Return which of several weights row i has, and what was seen of each; else nothing."""
        row, done = self.table.rows[i], self.folder / f"row{i}-chosen.json"
        if row.lam_of:
            like = [each.name for each in self.table.rows].index(row.lam_of)
            return {"lam": self.chosen(like)["lam"]}
        if not row.lams:
            return {}
        if done.exists():
            return json.loads(done.read_text())
        x, y = self.held.test_x, self.held.test_y
        least = 100 * accuracy(self._network(i, None, ""), x, y) - self.table.tolerance
        tried, epochs = [], self.table.trial_epochs
        for j, training in enumerate(row.candidates(epochs)):
            name = f"row{i}-{j}-trial.pt" if epochs else f"row{i}-{j}.pt"
            subject = self._subject(i, self._network(i, training, name), self.held)
            figures = [find(column)(subject) for column in ("accuracy", self.table.rank)]
            tried.append({"lam": training.lam, "accuracy": figures[0], "rank": figures[1]})
        good = [each for each in tried if each["accuracy"] >= least]
        best = max(good, key=lambda each: each["rank"], default=None)
        best = best or max(tried, key=lambda each: each["accuracy"])
        found = {"lam": best["lam"], "tried": tried}
        write_atomically(json.dumps(found).encode(), done)
        return found

    def _network(self, i: int, training: Training | None, name: str) -> nn.Module:
        """Return the base, or what `training` makes of it, or of new weights, in eval mode."""
        self.folder.mkdir(exist_ok=True)
        model = made(self.table.model, self.seed).to(self.device)
        if self.table.base is not None and not self.table.rows[i].fresh:
            self._train(model, self.table.base, self.folder / "base.pt", "base")
        if training is not None:
            self._train(model, training, self.folder / name, self.table.rows[i].name)
        return set_mode(model, training=False)

    def _subject(self, i: int, model: nn.Module, split: data.Split | None = None) -> Subject:
        x, y = (split or self.split).test_x, (split or self.split).test_y
        return Subject(model, x, y, self.table, self.table.rows[i], lambda: self.reference)

    @functools.cached_property
    def reference(self) -> Subject:
        """The row that others are measured by."""
        if not self.table.reference:
            raise ValueError("reference must name a row for columns that measure by one; got none")
        i = [row.name for row in self.table.rows].index(self.table.reference)
        return self._subject(i, self.trained(i))

    def _train(self, model: nn.Module, training: Training, save: Path, name: str) -> None:
        x, y = self.split.train_x, self.split.train_y
        config: checkpoint.Config = {
            "training": json.dumps(dataclasses.asdict(training)),
            "seed": self.seed,
        }
        if save.exists():
            state = checkpoint.read(save, config)
            if state["epoch"] == training.epochs:
                check_state(model, state["model"], f"checkpoint {save}")
                model.load_state_dict(state["model"])
                return
        if training.once:
            x = self._attacked(training, model)
        set_mode(model, training=training.mode == "train")
        optimizer = recipe.optimizer(training, model.parameters())
        steps = training.epochs * math.ceil(len(x) / training.batch_size)
        fit(
            model,
            x,
            y,
            epochs=training.epochs,
            batch_size=training.batch_size,
            optimizer=optimizer,
            scheduler=recipe.scheduler(training, optimizer, steps),
            scheduler_interval="step",
            loss=recipe.stepped(training, parts.loss(training)),
            seed=self.seed,
            save=save,
            config=config,
            resume=True,
            name=name,
        )

    def _attacked(self, training: Training, model: nn.Module) -> Tensor:
        """Return the images of a phase whose attack is made once: rows in turn often share them."""
        asked = json.dumps([training.attack, training.share])
        state = torch.cat(
            [each.detach().flatten().double() for each in model.state_dict().values()]
        )
        if self.attacked and self.attacked[0][0] == asked:
            _, before, images = self.attacked[0]
            if torch.equal(before, state):
                return images
        self.attacked.clear()  # before the next: these are as large as the data
        x, y = self.split.train_x, self.split.train_y
        with seeded(model, self.seed):
            images = parts.attacked(training, model, x, y)
        self.attacked.append((asked, state, images))
        return images
