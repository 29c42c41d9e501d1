"""Where the gradients of lean layers go."""

import pytest
import torch
from torch import nn

from jacfast.lean import TRAINING, Lean, Sink
from tests.nets import draw


def test_values_are_added_up():
    p = nn.Parameter(draw(3))
    sink, value = Sink([p]), draw(3, seed=2)
    want = 3 * value
    sink.add(p, value)
    assert sink.gradients[p].data_ptr() == value.data_ptr()  # not copied
    sink.add(p, want - value)
    torch.testing.assert_close(sink.gradients[p], want)
    sink.scale(torch.tensor(0.5))
    torch.testing.assert_close(sink.gradients[p], want / 2)


def test_a_shared_value_is_left_alone():
    p = nn.Parameter(draw(3))
    sink, value = Sink([p]), draw(3, seed=2)
    before = value.clone()
    sink.add(p, value, shared=True)
    sink.add(p, torch.ones_like(value))
    assert torch.equal(value, before)
    assert torch.equal(sink.gradients[p], before + 1)
    spread = draw(1).expand(3)
    sink.gradients.clear()
    sink.add(p, spread, shared=True)
    sink.add(p, torch.arange(3.0))
    assert torch.equal(sink.gradients[p], spread + torch.arange(3.0))


def test_buffers_have_the_dtype_of_the_parameter():
    p = nn.Parameter(draw(4, 3, dtype=torch.float32))
    sink = Sink([p])
    a, b = draw(5, 4), draw(5, 3)
    for _ in range(2):
        sink.add(p, (a.t() @ b).bfloat16())
        sink.add_product(p, a.bfloat16(), b.bfloat16())
        sink.add_product(p, a.float(), b.float())
    assert sink.gradients[p].dtype == torch.float32
    torch.testing.assert_close(sink.gradients[p].double(), 6 * a.t() @ b, rtol=0.05, atol=0.1)


def test_products():
    p, a, b = nn.Parameter(draw(4, 3)), draw(5, 4), draw(5, 3)
    sink = Sink([p])
    sink.add_product(p, a, b)
    torch.testing.assert_close(sink.gradients[p], a.t() @ b)
    buffer = sink.gradients[p].data_ptr()
    sink.add_product(p, a, 2 * b)
    torch.testing.assert_close(sink.gradients[p], 3 * a.t() @ b)
    assert sink.gradients[p].data_ptr() == buffer


def test_what_is_not_a_parameter_is_not_kept():
    p, other = nn.Parameter(draw(4, 3)), nn.Parameter(draw(4, 3))
    sink = Sink([p])
    sink.add(other, draw(4, 3))
    sink.add(None, draw(4, 3))
    sink.add_product(other, draw(5, 4), draw(5, 3))
    assert not sink.gradients
    assert sink.knows(p)
    assert sink.knows(None)
    assert sink.knows(other.detach())
    assert not sink.knows(other)


def test_contexts():
    """The outermost one closes; an inner one gives back what was."""
    sink = Sink()
    sink.check_open()
    with sink.mine():
        for _ in range(2):
            with sink.mine(collecting=True):
                assert sink.collecting
                sink.check_open()
            assert not sink.collecting
            sink.check_open()
    with pytest.raises(RuntimeError, match="auxiliary"):
        sink.check_open()
    with pytest.raises(ZeroDivisionError), sink.mine(collecting=True):
        raise ZeroDivisionError
    assert not sink.collecting
    with pytest.raises(RuntimeError, match="auxiliary"):
        sink.check_open()


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: nn.Conv1d(2, 3, 2)])
def test_sweeps_of_others_are_errors_once_closed(make):
    layer = make().double()
    sink = Sink(layer.parameters())
    x = draw(5, 6) if isinstance(layer, nn.Linear) else draw(5, 2, 6)
    with Lean(sink, TRAINING), sink.mine():
        y = layer(x.requires_grad_())
    for create_graph in (False, True):
        with pytest.raises(RuntimeError, match="auxiliary"):
            torch.autograd.grad(y.sum(), x, retain_graph=True, create_graph=create_graph)
