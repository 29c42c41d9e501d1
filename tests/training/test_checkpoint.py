"""What a checkpoint brings back, and which are refused."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jacfast import models
from jacfast.training import checkpoint, fit, seeded
from tests.training.test_fit import cross_entropy, problem


def train(save, samples=30, loss=cross_entropy, **options):
    model, x, y = problem()
    given = {"epochs": 1, "batch_size": 8, "lr": 0.01, "loss": loss, **options}
    fit(model, x[:samples], y[:samples], save=save, **given)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.02}, "lr was 0.01 and is now 0.02"),
        ({"batch_size": 9}, "batch_size was 8 and is now 9"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"samples": 29}, r"len\(x\) was 30 and is now 29"),
        ({"name": "other"}, "name was 'fit' and is now 'other'"),
        ({"config": {"lam": 1}}, "lam was None and is now 1"),
        ({"epochs": 0}, "epochs must be >= 1, as in .*c.pt; got 0"),
    ],
)
def test_another_run_is_refused_and_kept(tmp_path, options, message):
    path = tmp_path / "c.pt"
    train(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        train(path, resume=True, **{"epochs": 2, **options})
    assert path.read_bytes() == before


def test_a_config_that_is_left_out_is_another_one(tmp_path):
    train(tmp_path / "c.pt", config={"lam": 1})
    with pytest.raises(ValueError, match="lam was 1 and is now None"):
        train(tmp_path / "c.pt", epochs=2, resume=True)


def test_an_earlier_run_is_not_overwritten(tmp_path):
    path = tmp_path / "c.pt"
    train(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"or be continued by resume=True; .*holds an ear"):
        train(path)
    assert path.read_bytes() == before


def test_the_path_is_checked_before_the_first_step(tmp_path):
    def untouched(*_):
        raise AssertionError("a step was made")

    for path in (tmp_path / "none" / "c.pt", str(tmp_path)):
        for resume in (True, False):
            with pytest.raises(ValueError, match="save must be a file in a folder that exists"):
                train(path, loss=untouched, resume=resume)


def test_words_will_do_for_a_path(tmp_path):
    whole = train(None, epochs=2)
    train(str(tmp_path / "c.pt"), resume=True)  # there is none: it begins
    assert torch.equal(train(str(tmp_path / "c.pt"), epochs=2, resume=True), whole)


@pytest.mark.parametrize("content", [b"", bytes(100), b"some words", "half", "weights", "tensor"])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / "c.pt"
    train(path)
    match content:
        case "half":
            path.write_bytes(path.read_bytes()[:500])
        case "weights":
            torch.save(problem()[0].state_dict(), path)
        case "tensor":
            torch.save(torch.ones(3), path)
        case _:
            path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.pt must be a checkpoint"):
        train(path, resume=True)


def test_a_file_that_cannot_be_read_is_not_said_to_be_damaged(tmp_path, monkeypatch):
    load = checkpoint._load

    def refused(file):
        if isinstance(file, Path):
            raise PermissionError(13, "Permission denied", str(file))
        return load(file)

    train(tmp_path / "c.pt")
    monkeypatch.setattr(checkpoint, "_load", refused)
    with pytest.raises(PermissionError, match=r"Permission denied: .*c\.pt"):
        train(tmp_path / "c.pt", resume=True)


def test_a_checkpoint_has_all_of_its_parts(tmp_path):
    path = tmp_path / "c.pt"
    train(path)
    state = torch.load(path, weights_only=True)
    for part in state:
        torch.save({name: value for name, value in state.items() if name != part}, path)
        with pytest.raises(ValueError, match=r"c\.pt must be a checkpoint of this version"):
            train(path, epochs=2, resume=True)


def test_numbers_of_numpy_are_written_as_plain_ones(tmp_path):
    path = tmp_path / "c.pt"
    whole = train(None, epochs=2)
    train(path, epochs=np.int64(1), batch_size=np.int64(8), lr=np.float64(0.01))
    assert torch.equal(train(path, epochs=2, resume=True), whole)


@pytest.mark.parametrize("config", [{"a": "b", "c": 1, "d": 0.5, "e": True, "f": None}, {}, None])
def test_a_config_comes_back(tmp_path, config):
    train(tmp_path / "c.pt", config=config)
    assert checkpoint.read(tmp_path / "c.pt", config)["config"] == config
    train(tmp_path / "c.pt", config=config, resume=True)


@pytest.mark.parametrize("value", [np.float64(0.5), np.int64(1), Path("data"), ["a"], {"b": 1}])
def test_a_config_that_could_not_be_read_back_is_refused(tmp_path, value):
    with pytest.raises(TypeError, match=f"got 'lam': .*, a {type(value).__name__}$"):
        train(tmp_path / "c.pt", config={"seed": 1, "lam": value})
    assert not list(tmp_path.iterdir())


def test_names_in_a_config_are_words(tmp_path):
    with pytest.raises(TypeError, match=r"config must map str to str, .*; got 3: 0\.1, a float$"):
        train(tmp_path / "c.pt", config={3: 0.1})


def test_a_path_that_is_none_is_refused():
    with pytest.raises(TypeError, match="save must be a path, a str or a Path; got int"):
        train(3)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((5, 8, 4), r"3\.weight is \[3, 8\], the model's \[4, 8\]; 3\.bias is \[3\]"),
        ((5, 8, 8, 3), r"missing 5\.weight; missing 5\.bias; 3\.weight is \[3, 8\]"),
        ((5, 3), r"unexpected 3\.weight; unexpected 3\.bias; 1\.weight is \[8, 5\]"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(tmp_path, widths, message):
    path = tmp_path / "c.pt"
    train(path)
    _, x, y = problem()
    other = models.mlp(*widths)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=rf"checkpoint .*c\.pt must fit the model: {message}"):
        fit(
            other, x, y, epochs=2, batch_size=8, lr=0.01, loss=cross_entropy, save=path, resume=True
        )
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_what_a_module_keeps_beside_its_tensors_comes_back(tmp_path):
    class Noted(nn.Linear):
        note = 0

        def get_extra_state(self):
            return {"note": self.note}

        def set_extra_state(self, state):
            self.note = state["note"]

    _, x, y = problem()
    for note, resume in ((3, False), (0, True)):
        net = Noted(5, 3)
        net.note = note
        fit(
            net,
            x,
            y,
            epochs=1,
            batch_size=8,
            lr=0.01,
            loss=cross_entropy,
            save=tmp_path / "c.pt",
            resume=resume,
        )
        assert net.note == 3


@pytest.fixture
def gpu(monkeypatch):
    """Return a generator in the place of a GPU's global one."""
    found = torch.Generator().manual_seed(99)
    monkeypatch.setattr(seeded, "generators_of", lambda model: [torch.default_generator, found])
    return found


def test_the_generators_of_gpus_are_seeded_kept_and_put_back(tmp_path, gpu):
    def noisy(model, x, y):
        return cross_entropy(model, x + torch.randn(x.shape, generator=gpu), y)

    before = gpu.get_state()
    whole = train(None, epochs=3, loss=noisy)
    assert torch.equal(gpu.get_state(), before)
    before = gpu.manual_seed(4).get_state()
    train(tmp_path / "c.pt", loss=noisy)
    assert torch.equal(gpu.get_state(), before)
    gpu.manual_seed(5)
    assert torch.equal(train(tmp_path / "c.pt", epochs=3, loss=noisy, resume=True), whole)
    assert torch.equal(gpu.get_state(), torch.Generator().manual_seed(5).get_state())


def test_a_checkpoint_of_a_gpu_goes_on_without_one(tmp_path, gpu, monkeypatch):
    path = tmp_path / "c.pt"
    whole = train(None, epochs=2)
    train(path)
    assert len(torch.load(path)["gpus"]) == 1
    monkeypatch.undo()
    assert torch.equal(train(path, epochs=2, resume=True), whole)
    seen, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: seen.append(k) or load(*a, **k))
    checkpoint.read(path, None)
    assert seen[0]["map_location"] == "cpu"


def test_whose_generators_a_model_draws_from(monkeypatch):
    class Parameter:
        def __init__(self, device):
            self.device = torch.device(device)
            self.is_cuda = self.device.type == "cuda"

    monkeypatch.setattr(torch.cuda, "default_generators", ("zero", "one", "two"))
    model = nn.Module()
    model.parameters = lambda: map(Parameter, ["cuda:2", "cpu", "cuda:0", "cuda:2"])
    assert seeded.generators_of(model) == [torch.default_generator, "zero", "two"]
    assert seeded.generators_of(nn.Linear(2, 2)) == [torch.default_generator]


class Around(torch.optim.Optimizer):
    """An optimizer around another one, whose state its own leaves out, as those of SAM are.

    Args:
        links: whether what it reads from a file reaches the groups of both, as most see to.
    """

    def __init__(self, parameters, base, links, **options):
        super().__init__(parameters, options)
        self.base, self.links = base(self.param_groups, **options), links
        if links:
            self.param_groups = self.base.param_groups

    def step(self):
        self.base.step()

    def load_state_dict(self, state):
        super().load_state_dict(state)
        if self.links:
            self.base.param_groups = self.param_groups


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize(
    ("base", "options"),
    [(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (torch.optim.Adam, {"lr": 0.01})],
)
def test_an_optimizer_around_another_goes_on_where_both_were(tmp_path, base, options, links):
    path = tmp_path / "c.pt"

    def trained(epochs, **further):
        model, x, y = problem()
        optimizer = Around(model.parameters(), base, links, **options)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        given = {"loss": cross_entropy, "optimizer": optimizer, "scheduler": scheduler, **further}
        fit(model, x, y, epochs=epochs, batch_size=8, **given)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = trained(4)
    trained(2, save=path)
    assert torch.equal(trained(4, save=path, resume=True), whole)
    state = torch.load(path, weights_only=True)
    del state["inner optimizer 0"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"c\.pt must hold .*; got none of inner optimizer 0"):
        trained(5, save=path, resume=True)
