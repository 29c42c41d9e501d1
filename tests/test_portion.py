"""What is drawn for a sample is the same in the whole batch and in a process's part of it."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import jacfast
from jacfast.portion import Portion, Share, at_hand, within
from tests.nets import build

TOTAL = 8
PARTS = {
    "portion": [(Portion(torch.arange(3), TOTAL), slice(3)), (Portion(torch.arange(3, 8), TOTAL),
        slice(3, 8))],
    "share": [(Share(0, 2), slice(4)), (Share(1, 2), slice(4, 8))],
    "dealt": [(Share(r, 4, dealt=True), slice(r, None, 4)) for r in range(4)],
}  # fmt: skip
EACH = jacfast.Frobenius(1, reduction="none")


def eager(model, x):
    return jacfast.forward_with_penalty(model, x, penalty=EACH)[1]


def traced(model, x):
    return jacfast.forward_with_penalty(model, x, penalty=EACH, compiled="traced")[1]


def in_parts(model, x):
    return jacfast.forward_with_penalty(model, x, penalty=EACH, chunk_size=2)[1]


def one_line(model, x):
    x = x.clone().requires_grad_()
    return EACH(model(x), x)


WAYS = [eager, traced, in_parts, one_line]


def seeded(way, model, x):
    torch.manual_seed(3)
    return way(model, x).detach(), torch.rand(())


@pytest.fixture
def problem():
    model, x = build("mlp", TOTAL)
    return model.double(), x.double()


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("error")  # that it runs eager
def test_a_part_has_the_values_of_the_whole(problem, way, kind):
    model, x = problem
    whole, after = seeded(way, model, x)
    for here, rows in PARTS[kind]:
        for _ in range(2):  # the second time replayed, if it is traced
            with within(here):
                values, now = seeded(way, model, x[rows])
            torch.testing.assert_close(values, whole[rows])
            assert now == after  # the processes go on alike


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("way", WAYS)
def test_a_penalty_that_draws_nothing(problem, way, kind, monkeypatch):
    model, x = problem
    monkeypatch.setitem(globals(), "EACH", jacfast.Frobenius("exact", reduction="none"))
    whole = way(model, x).detach()
    for here, rows in PARTS[kind]:
        with within(here):
            torch.testing.assert_close(way(model, x[rows]).detach(), whole[rows])


def test_what_is_drawn_for_all_is_drawn_in_the_context_of_all():
    inside = []

    @contextlib.contextmanager
    def alike():
        inside.append(True)
        yield
        inside.clear()

    def draw(samples):
        return torch.arange(samples) if inside else torch.zeros(samples)

    here = Portion(torch.tensor([1, 4, 6]), TOTAL, alike)
    assert here.drawn(draw, 3).tolist() == [1, 4, 6]
    assert here.other(torch.tensor([0, 2]), 3).drawn(draw, 2).tolist() == [0, 2]
    assert not inside


def test_terms_that_are_not_shared_out_as_the_samples_are_count_alike():
    """Two processes with 3 and 5 samples have 4 and 2 terms; each counts by its samples."""
    terms = torch.rand(6)
    found = 0.0
    for index, own in ((torch.arange(3), terms[:4]), (torch.arange(3, 8), terms[4:])):
        share = len(index) / TOTAL
        found += share * float(own.mean()) * Portion(index, TOTAL).weight(len(own), len(terms))
    assert found == pytest.approx(float(terms.mean()))


def test_after_an_error_the_samples_are_the_whole_batch_again():
    for here in (Portion(torch.arange(3), TOTAL), Share(0, 2)):
        with pytest.raises(KeyboardInterrupt), within(here):
            raise KeyboardInterrupt
        assert at_hand() is None


def test_a_trace_is_of_one_total(problem):
    """A last batch can be shorter where this process's part is as long as ever."""
    model, x = problem
    for total in (8, 7):
        with within(Portion(torch.arange(4), total)):
            values, now = seeded(traced, model, x[:4])
        whole, after = seeded(eager, model, x[:total])
        torch.testing.assert_close(values, whole[:4])
        assert now == after


def test_parts_of_some_samples_have_other_draws(problem):
    """With subsample < 1 which samples are penalised is drawn anew; their draws are not shared."""
    index = torch.arange(TOTAL)
    found = []
    for part in (index[:4], index[4:]):
        with within(Portion(part, TOTAL)):
            torch.manual_seed(3)
            found.append(EACH.drawn(2, torch.ones(1, 5), None))
    assert not torch.isclose(*found).any()


def test_other_samples_than_those_at_hand_have_draws_of_their_own():
    with within(Portion(torch.arange(2), TOTAL)):
        torch.manual_seed(3)
        found = EACH.drawn(4, torch.ones(1, 5), None)
    torch.manual_seed(3)
    torch.testing.assert_close(found, EACH.draw(4, torch.ones(1, 5), None))


@pytest.mark.parametrize("way", [eager, traced, in_parts])
def test_inside_distributed_data_parallel_it_is_the_share_of_the_rank(problem, way, monkeypatch):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return way(self.inner, x)

    model, x = problem
    whole, _ = seeded(way, model, x)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = DistributedDataParallel(Whole())
        monkeypatch.setattr(distributed, "get_rank", lambda group: 1)
        monkeypatch.setattr(distributed, "get_world_size", lambda group: 2)
        values, _ = seeded(lambda _, x: parallel(x), model, x[4:])
    finally:
        monkeypatch.undo()
        distributed.destroy_process_group()
    torch.testing.assert_close(values, whole[4:])


ROOT = jacfast.Frobenius(root=True)


@pytest.mark.parametrize(
    "way",
    [
        lambda model, x: jacfast.forward_with_penalty(model, x, penalty=ROOT),
        lambda model, x: ROOT(model(x.requires_grad_()), x),
    ],
    ids=["forward", "one line"],
)
def test_the_root_of_a_part_is_refused(problem, way):
    model, x = problem
    here = within(Portion(torch.arange(4), TOTAL))
    with here, pytest.raises(ValueError, match="root must be False where processes share"):
        way(model, x[:4].clone())


def test_the_root_of_a_share_is_its_own(problem):
    """DistributedDataParallel averages whatever the processes have."""
    model, x = problem
    with within(Share(1, 2)):
        value = jacfast.forward_with_penalty(
            model, x[4:], penalty=jacfast.Frobenius("exact", root=True)
        )[1]
    rows = jacfast.jacobian(model, x[4:])
    torch.testing.assert_close(value, rows.square().sum().sqrt())


def test_a_compiled_step_is_one_graph(problem):
    """What looks for the part at hand is no break in it."""
    model, x = problem

    def step(x, y):
        logits = model(x)
        return F.cross_entropy(logits, y) + EACH(logits, x).mean()

    x, y = x.clone().requires_grad_(), torch.arange(TOTAL) % 5
    parameters, found = list(model.parameters()), []
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for call in (step, torch.compile(step, backend="eager", fullgraph=True)):
            torch.manual_seed(3)
            found.append(torch.autograd.grad(call(x, y), parameters, materialize_grads=True))
    torch.testing.assert_close(found[1], found[0])
