"""What several processes draw: alike for their samples, as one process does, or each by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import jacfast
from jacfast.calling.draws import Draws
from jacfast.portion import Portion, within
from jacfast.training import Defence
from jacfast.training.dropout import OfWholeBatch
from jacfast.training.streams import Streams

N = 5
PARTS = [torch.arange(3), torch.arange(3, N)]


def as_processes(call, x):
    """Return what `call` makes of each part of x, and of where the generator is afterwards."""
    for rank, index in enumerate(PARTS):
        torch.manual_seed(5)
        streams = Streams([torch.default_generator], rank)
        with within(Portion(index, N, streams.alike)), streams.apart(0), OfWholeBatch():
            found = call(x[index])
        yield index, found, torch.rand(())


def alone(call, x):
    torch.manual_seed(5)
    return call(x), torch.rand(())


def tokens(x):
    return F.dropout(x.flatten(0, 1), 0.4).reshape(x.shape)


def path(x):
    return x * x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(0.5)


def in_place(x):
    return F.dropout(x.clone(), 0.4, True, True)


def in_eval_mode(x):
    return F.dropout(x, 0.4, False)


CALLS = [F.dropout, F.dropout2d, nn.Dropout3d(0.4), tokens, path, in_place, in_eval_mode]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("call", CALLS)
def test_a_part_has_the_masks_of_the_whole(call, layout):
    x = torch.rand(N, 4, 5, 3).contiguous(memory_format=layout)
    chain = lambda z: call(F.dropout(call(z), 0.2))  # noqa: E731
    want, after = alone(chain, x)
    assert call is in_eval_mode or not torch.equal(want, x)
    for index, found, then in as_processes(chain, x):
        torch.testing.assert_close(found, want[index])
        assert then == after


OTHERS = {
    "alpha": nn.AlphaDropout(0.5),
    "tokens first": lambda x: F.dropout(x.transpose(0, 1), 0.5),
    "LSTM": nn.LSTM(3, 8, num_layers=2, dropout=0.5, batch_first=True),
    "noise": lambda x: x + torch.rand(3, 3),
    "paths of tokens": lambda x: x * torch.empty(3, 8).bernoulli_(0.5).mean(1),
    "without gradients": torch.no_grad()(lambda x: F.dropout(x, 0.5)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_else_is_drawn_is_drawn_apart(kind):
    """Of samples that are all the same the parts come out differently, in the order of before."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 3).expand(4, 3, 3)

    def call(part):
        found = OTHERS[kind](part)
        return (found if isinstance(found, torch.Tensor) else found[0]).detach(), torch.rand(3)

    found = []
    for rank in range(2):
        torch.manual_seed(5)
        streams = Streams([torch.default_generator], rank)
        index = torch.arange(2) + 2 * rank
        with within(Portion(index, 4, streams.alike)), streams.apart(0), OfWholeBatch():
            found.append(call(x[index]))
        assert torch.equal(torch.rand(()), torch.rand((), generator=generator(5)))
    assert not torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_what_has_no_samples():
    """Empty, or one number for all: whether a layer is left out."""
    with within(Portion(torch.arange(2), 4)), OfWholeBatch():
        for shape in ((0, 3), (2, 0), ()):
            assert F.dropout(torch.ones(shape)).shape == shape
            assert torch.ones(shape).bernoulli_(0.5).shape == shape


def test_a_checkpoint_draws_the_masks_again_that_it_had():
    """In a backward pass, where nobody knows of parts: else gradients were of other masks."""
    x = torch.rand(N, 64).requires_grad_()
    call = lambda z: checkpoint(lambda z: F.dropout(z, 0.5) * z, z, use_reentrant=False)  # noqa: E731
    for index, found, _ in as_processes(call, x):
        (g,) = torch.autograd.grad(found.sum(), x)
        torch.testing.assert_close(g[index] * x[index], 2 * found)


def test_probabilities_of_each_entry_are_those_of_a_part():
    x, p = torch.ones(2, 64), torch.rand(2, 64)
    with within(Portion(torch.arange(2), 4)), OfWholeBatch():
        torch.manual_seed(7)
        found = x.clone().bernoulli_(p)
    assert torch.equal(found, x.bernoulli_(p, generator=generator(7)))


def test_who_has_a_generator_draws_from_it():
    x = torch.ones(2, 64)
    with within(Portion(torch.arange(2), 4)), OfWholeBatch():
        found = x.clone().bernoulli_(0.5, generator=generator(7))
    assert torch.equal(found, x.bernoulli_(0.5, generator=generator(7)))


def test_attacked_and_other_samples_have_masks_of_their_own():
    """One process has the first, one the others: what is drawn first is not of the same samples."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    seen = []
    net[1].register_forward_hook(lambda *call: seen.append(call[2].detach().clone()))
    x, y = torch.rand(1, 3).expand(4, 3), torch.zeros(4, dtype=torch.int64)
    penalty = jacfast.Frobenius("exact")
    loss = Defence(penalty, 0.1, lambda model, x, y: x, share=0.5, penalise="attacked")
    for rank in range(2):
        torch.manual_seed(5)
        streams = Streams([torch.default_generator], rank)
        index = torch.arange(2) + 2 * rank
        with within(Portion(index, 4, streams.alike)), streams.apart(0), OfWholeBatch():
            loss(net, x[index], y[index])
    assert len(seen) == 2
    assert not torch.equal(*seen)


def test_an_attack_on_all_samples_has_the_masks_of_the_whole():
    x, seen = torch.rand(N, 3), []
    net = nn.Linear(3, 2)
    net.register_forward_hook(lambda _, given, out: seen.append(given[0].detach()))
    loss = Defence(attack=lambda model, x, y: x + F.dropout(torch.ones_like(x), 0.5))
    call = lambda z: loss(net, z, torch.zeros(len(z), dtype=torch.int64))  # noqa: E731
    _, after = alone(call, x)
    want = seen.pop()
    for index, _, then in as_processes(call, x):
        assert torch.equal(seen.pop(), want[index])
        assert then == after


@pytest.mark.parametrize("whole", [True, False])
def test_a_second_pass_has_the_masks_of_the_first(whole):
    """Or a part of it, as a checkpoint's: what comes next is drawn from where the first has got."""
    x = torch.rand(N, 4, 5, 3)

    def twice(z):
        draws = Draws(z.device)
        first = F.dropout(z, 0.4)
        last = F.dropout(first, 0.2), torch.rand(3)
        with draws.again():
            assert torch.equal(F.dropout(z, 0.4), first)
            if whole:
                assert all(map(torch.equal, (F.dropout(first, 0.2), torch.rand(3)), last))
        return F.dropout(z, 0.4)

    list(as_processes(twice, x))
    later = lambda z: [F.dropout(F.dropout(z, 0.4), 0.2), F.dropout(z, 0.4)][1]  # noqa: E731
    want, after = alone(later, x)
    for index, found, then in as_processes(twice, x):
        torch.testing.assert_close(found, want[index])
        assert then == after


def test_each_step_and_each_seed_draws_something_else_and_the_same_again():
    def drawn(step, seed=5):
        torch.manual_seed(seed)
        with Streams([torch.default_generator], 1).apart(step):
            return torch.rand(())

    assert drawn(0) == drawn(0)
    assert len({float(drawn(*which)) for which in ((0,), (1,), (0, 6))}) == 3


def test_an_error_leaves_the_generator_where_all_are():
    streams = Streams([torch.default_generator], 1)
    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt), streams.apart(0), streams.alike():
        raise KeyboardInterrupt
    assert torch.equal(torch.rand(()), torch.rand((), generator=generator(5)))


def test_places_of_a_step_are_forgotten_in_the_next():
    """They are some kilobytes each."""
    streams, kept = Streams([torch.default_generator], 1), []
    for step in range(3):
        with streams.apart(step), streams.alike():
            kept.append(len(streams._begun))
    assert kept == [1, 1, 1]


def test_what_is_written_to_is_what_was_given():
    with within(Portion(torch.arange(2), 4)), OfWholeBatch():
        x = torch.ones(2, 64)
        assert F.dropout(x, 0.5, True, True) is x
        assert set(x.flatten().tolist()) == {0, 2}
        assert x.bernoulli_(0.5) is x
        assert set(x.flatten().tolist()) == {0, 1}


def test_a_compiled_model_stays_in_one_graph():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for _, found, _ in as_processes(compiled, torch.rand(N, 3)):
        assert found.requires_grad
