"""The tables' files, and what is wrong with others."""

import re

import pytest
import torch
import torch.nn.functional as F

from jacfast import models
from jacfast.commands.pictures import PICTURES
from jacfast.reproduce import config, load, names, parts, show
from jacfast.reproduce.measures import find
from jacfast.training import deep_defense_penalty

MINIMAL = {
    "title": "t",
    "source": "s",
    "data": "MNIST",
    "model": "jacfast.models:seck_c",
    "columns": ["accuracy"],
    "rank": "accuracy",
    "samples": 10,
}


def table(*rows, quick=False, **other):
    return config.parse("mine", MINIMAL | {"rows": list(rows)} | other, quick)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", names())
def test_every_table_can_be_run(name, quick):
    found = load(name, quick)
    models.load_factory(found.model)
    for column in found.columns:
        find(column)
        assert show.heading(column)
    assert found.rank in found.columns
    by_reference = re.compile(r"auc|.*_zeros|.* ref$")
    assert any(map(by_reference.match, found.columns)) == bool(found.reference)
    assert set(found.pictures) <= set(PICTURES)
    assert bool(found.pictures) == bool(found.pictured)
    assert len({row.name for row in found.rows}) == len(found.rows) > 1
    for row in found.rows:
        assert len(row.paper) == len(found.columns)
        assert row.training or found.base
        assert not row.fresh or row.training
        if row.training:
            parts.loss(row.training)
        if any(column.endswith("own") for column in found.columns):
            assert row.training.attack["eps"] > 0


# the labels of MNIST's test images, as far as the first 8
FIRST = "72104149590690159734966540740131347271211742351244635560419578"


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", names())
def test_every_class_whose_roc_is_measured_is_among_the_images(name, quick):
    found = load(name, quick)
    measured = {column.split()[1] for column in found.columns if column.startswith("auc ")}
    assert measured <= {*FIRST[: found.samples]}


def test_tables_are_listed_by_number():
    listed = names()
    assert listed.index("jg-table2") < listed.index("jg-table11") < listed.index("seck-table2")


def test_rows_take_what_they_share_and_their_own_comes_first():
    plain = {"name": "plain", "paper": [1.0]}
    own = {"name": "own", "paper": [2.0], "lr": 0.5}
    found = table(
        plain,
        own,
        {"name": "fresh", "paper": [""], "fresh": True},
        every_row={"lr": 0.1, "epochs": 7},
    )
    assert found.rows[0].training is None
    assert (found.rows[1].training.lr, found.rows[1].training.epochs) == (0.5, 7)
    assert (found.rows[2].training.lr, found.rows[2].paper) == (0.1, [None])


def test_quick_comes_last_and_only_if_asked_for():
    quick = {"samples": 3, "base": {"epochs": 1}, "every_row": {"epochs": 2}}
    row = {"name": "a", "paper": [1.0], "epochs": 9}
    for asked, samples, base, epochs in ((False, 10, 5, 9), (True, 3, 1, 2)):
        found = config.parse(
            "mine", MINIMAL | {"rows": [row], "base": {"epochs": 5}, "quick": quick}, asked
        )
        assert (found.samples, found.base.epochs) == (samples, base)
        assert found.rows[0].training.epochs == epochs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: load("nope"), f"name must be one of {names()[0]}.*; got 'nope'"),
        (lambda: table(colour=1), "table mine: .*colour"),
        (lambda: table({"name": "a", "paper": [1.0], "epoch": 1}), "table mine: .*epoch"),
        (lambda: config.parse("mine", dict(MINIMAL)), "table mine: missing 'rows'"),
        (lambda: table({"paper": [1.0]}), "table mine: missing 'name'"),
        (lambda: table({"name": "a"}), "table mine: missing 'paper'"),
        (lambda: phase(optimizer="lion"), "mine: optimizer must be one of adam, .*; got 'lion'"),
        (lambda: phase(schedule="step"), "mine: schedule must be one of constant, .*; got 'step'"),
        (lambda: phase(precision="int8"), "mine: precision must be one of float32, .*; got 'int8'"),
        (
            lambda: table({"name": "a", "paper": [1.0]}, trial_epochs=-1),
            "mine: trial_epochs must be >= 0; got -1",
        ),
        (lambda: phase(mode="test"), "mine: mode must be one of train, eval; got 'test'"),
        (lambda: phase(epochs=0), "mine: epochs must be >= 1; got 0"),
        (lambda: phase(batch_size=1.5), "mine: batch_size must be an integer; got 1.5"),
        (lambda: phase(lam=-1.0), "mine: lam must be finite and >= 0; got -1.0"),
        (lambda: phase(lam=[]), "mine: lam must be a number; got list"),
        (lambda: phase(lam=[1.0, "x"]), "mine: lam must be a number; got str"),
        (lambda: phase(lr=0.0), "mine: lr must be finite and > 0; got 0.0"),
        (lambda: phase(lr="fast"), "mine: lr must be a number; got str"),
        (
            lambda: phase(optimizer="sgd", momentum=1.0),
            r"mine: momentum must be in \[0, 1\); got 1",
        ),
        (lambda: phase(optimizer="sgd", momentum=-0.1), "mine: momentum must be .* >= 0; got -0.1"),
        (lambda: phase(momentum=0.9), "mine: momentum must be left out but for sgd; got adam"),
        (lambda: phase(weight_decay=0.1), "mine: weight_decay must be left out for adam .*; got a"),
        (lambda: phase(optimizer="adamw", weight_decay=-1.0), "mine: weight_decay must be .*; got"),
        (lambda: phase(crop_padding=-1), "mine: crop_padding must be >= 0; got -1"),
        (lambda: phase(crop_padding=1.5), "mine: crop_padding must be an integer; got 1.5"),
        (lambda: phase(horizontal_flip=1), "mine: horizontal_flip must be true or false; got 1"),
        (lambda: phase(smoothing=1.0), r"mine: smoothing must be in \[0, 1\); got 1.0"),
        (lambda: phase(lam=[1.0, 2.0]), r"lam of row a may be several .*; got \[1.0, 2.0\], vali"),
        (lambda: phase(lam=[1.0, 2.0], fresh=True), "lam of row a may be several where"),
        (lambda: phase(lam="b"), r"lam of row a must be .* several \(there is none\); got 'b'"),
        (lambda: phase(lam="a"), r"lam of row a must be .* several \(there is none\); got 'a'"),
        (
            lambda: table({"name": "a", "paper": [1.0]}, reference="b"),
            "must be of the rows a; got 'b'",
        ),
        (
            lambda: table({"name": "a", "paper": [1.0]}, pictured=["c"]),
            "must be of the rows a; got 'c'",
        ),
        (
            lambda: parts.attacked(config.Training(once=True), None, None, None),
            "attack must be named",
        ),
        (
            lambda: parts.loss(config.Training(penalty={"name": "Nope"})),
            "penalty must be one of ColumnSumL1, .*, DeepDefense, .*; got 'N",
        ),
        (lambda: deep_defense(lam=0.0), "lam must be finite and > 0; got 0.0"),
        (
            lambda: deep_defense(attack={"name": "fgsm"}),
            "attack must be left out beside .*; got {'",
        ),
        (lambda: deep_defense(share=0.5), "share must be left out beside .*; got 0.5"),
        (lambda: deep_defense(once=True, twins=True), "twins must be left out beside .*; got True"),
        (lambda: deep_defense(penalise="both"), "penalise must be left out beside .*; got 'both'"),
        (lambda: deep_defense(smoothing=0.1), "smoothing must be left out beside .*; got 0.1"),
        (lambda: deep_defense(layer="8"), "layer must be left out beside .*; got '8'"),
        (lambda: parts.attack({"eps": 1}), "attack must be one of bim, .*; got None"),
        (lambda: find("speed"), "column must be one of accuracy, .*; got 'speed'"),
        (lambda: find("fgsm"), "column must be one of accuracy, .*; got 'fgsm'"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def phase(**options):
    return table({"name": "a", "paper": [1.0], **options}, base={})


def deep_defense(**options):
    penalty = {"name": "DeepDefense", "steps": 2}
    return parts.loss(config.Training(**{"penalty": penalty, "lam": 15.0, **options}))


def test_deep_defense_also_on_images_that_were_attacked_once():
    torch.manual_seed(0)
    model, x, y = models.fc500(), torch.rand(4, 1, 28, 28), torch.arange(4)
    want = F.cross_entropy(model(x), y) + 15 * deep_defense_penalty(model, x, y, steps=2)
    attack = {"name": "fgsm", "eps": 0.1}
    for loss in (deep_defense(), deep_defense(attack=attack, once=True, share=0.5)):
        assert torch.equal(loss(model, x, y), want)


def test_the_starts_of_pgd_follow_the_seed():
    model, x, y = models.fc500(), torch.rand(2, 1, 28, 28), torch.tensor([1, 2])
    attack = parts.attack({"name": "pgd", "eps": 0.1, "steps": 1, "step_size": 0.01})
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(attack(model, x, y))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
