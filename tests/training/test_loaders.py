"""`fit` by a DataLoader: its generators and its workers, and what a checkpoint has of them."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler

from jacfast.training import fit, seeded
from tests.training.problem import cross_entropy, problem


class Augmented(Dataset):
    """Samples with noise that is drawn where they are loaded, in a worker say."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + 0.1 * torch.randn(5), self.y[i]


def train(epochs, source=None, loss=cross_entropy, **options):
    torch.rand(3)  # the caller's state differs each time
    model, x, y = problem()
    workers = {
        name: options.pop(name) for name in ("num_workers", "persistent_workers") if name in options
    }
    own = None if source is None else torch.Generator().manual_seed(source)
    loader = DataLoader(Augmented(x, y), 8, shuffle=True, generator=own, **workers)
    fit(model, loader, epochs=epochs, lr=0.01, loss=loss, **options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("source", [None, 3], ids=["global generator", "own generator"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_workers_draw_is_resumed(source, num_workers, tmp_path):
    options = {"source": source, "num_workers": num_workers}
    whole = train(3, **options)
    assert torch.equal(train(3, save=tmp_path / "whole.pt", **options), whole)
    train(1, save=tmp_path / "c.pt", **options)
    assert torch.equal(train(3, save=tmp_path / "c.pt", resume=True, **options), whole)


def test_workers_that_draw_on_are_refused_where_a_run_is_saved(tmp_path):
    options = {"num_workers": 1, "persistent_workers": True}
    with pytest.raises(ValueError, match="x must have persistent_workers=False beside save"):
        train(1, save=tmp_path / "c.pt", **options)
    assert not list(tmp_path.iterdir())
    train(1, **options)


@pytest.fixture
def gpu(monkeypatch):
    """Return a generator in the place of a GPU's global one."""
    found = torch.Generator().manual_seed(99)
    monkeypatch.setattr(seeded, "generators_of", lambda model: [torch.default_generator, found])
    return found


@pytest.mark.usefixtures("gpu")
def test_a_loader_of_a_gpu_run_goes_on_without_one(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    whole = train(3, source=3)
    train(1, source=3, save=path)
    monkeypatch.undo()
    assert torch.equal(train(3, source=3, save=path, resume=True), whole)


def test_a_loader_goes_on_with_a_gpu(tmp_path, monkeypatch):
    path = tmp_path / "c.pt"
    whole = train(3, source=3)
    train(1, source=3, save=path)
    gpu = torch.Generator()
    monkeypatch.setattr(seeded, "generators_of", lambda model: [torch.default_generator, gpu])
    assert torch.equal(train(3, source=3, save=path, resume=True), whole)


@pytest.mark.parametrize("sources", [(None, 3), (3, None)])
def test_a_loader_with_other_generators_is_another_run(tmp_path, sources):
    train(1, source=sources[0], save=tmp_path / "c.pt")
    with pytest.raises(ValueError, match="belongs to another run: generators of x was '"):
        train(2, source=sources[1], save=tmp_path / "c.pt", resume=True)


def test_a_loader_in_the_place_of_tensors_is_another_run(tmp_path):
    (model, x, y), options = problem(), {"lr": 0.01, "loss": cross_entropy}
    fit(model, x, y, epochs=1, batch_size=8, save=tmp_path / "c.pt", **options)
    with pytest.raises(ValueError, match="belongs to another run: generators of x was None"):
        train(2, save=tmp_path / "c.pt", resume=True)


def test_a_loader_of_other_batches_is_another_run(tmp_path):
    """The run would go on with another number of steps in an epoch."""

    def run(size, epochs):
        model, x, y = problem()
        loader = DataLoader(Augmented(x, y), size)
        options = {"loss": cross_entropy, "lr": 0.01, "save": tmp_path / "c.pt", "resume": True}
        fit(model, loader, epochs=epochs, **options)

    run(8, 1)
    with pytest.raises(ValueError, match="belongs to another run: steps was 4 and is now 6"):
        run(5, 2)
    run(8, 2)


def test_the_generators_of_a_loader_and_of_its_sampler_are_both_kept(tmp_path):
    model, x, y = problem()
    own = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    sampler = RandomSampler(x, generator=own[1])
    loader = DataLoader(Augmented(x, y), 8, sampler=sampler, generator=own[0])
    fit(model, loader, epochs=1, lr=0.01, loss=cross_entropy, save=tmp_path / "c.pt")
    kept = torch.load(tmp_path / "c.pt", weights_only=True)["loader"]
    assert [state.tolist() for state in kept] == [one.get_state().tolist() for one in own]


def test_what_a_sampler_draws_from_may_be_of_numpy(tmp_path):
    """PyTorch cannot bring it back, and it is no reason to stop."""

    class Own(Sampler):
        def __init__(self, size):
            self.size, self.generator = size, np.random.default_rng(0)

        def __len__(self):
            return self.size

        def __iter__(self):
            return iter(self.generator.permutation(self.size).tolist())

    model, x, y = problem()
    loader = DataLoader(Augmented(x, y), 8, sampler=Own(30))
    fit(model, loader, epochs=1, lr=0.01, loss=cross_entropy, save=tmp_path / "c.pt")
    assert (tmp_path / "c.pt").exists()
