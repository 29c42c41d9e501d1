"""Old names of arguments work as the new ones do, and say so at the user's line."""

import warnings
from functools import partial

import pytest
import torch
from torch import nn

import jacfast
from jacfast import WithPenalty, cli, deepfool, forward_with_penalty, jacobian, penalised
from jacfast.attacks import adapters
from jacfast.renamed import renamed

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
X, Y = torch.rand(6, 4), torch.arange(6) % 3


def inside(**options):
    with penalised(MODEL, penalty=jacfast.Frobenius("exact"), **options) as held:
        MODEL(X)
    return held.penalty


def with_penalty(**options):
    return forward_with_penalty(MODEL, X, penalty=jacfast.Frobenius("exact"), **options)[1]


CALLS = {
    "deepfool": (lambda **o: deepfool(MODEL, X, **o).r, "max_iter", "steps"),
    "deep_defense_penalty": (
        partial(jacfast.deep_defense_penalty, MODEL, X, Y),
        "max_iter",
        "steps",
    ),
    "for_attackbench": (partial(adapters.for_attackbench, MODEL, X, Y), "max_iter", "steps"),
    "jacobian": (partial(jacobian, MODEL, X), "chunk", "chunk_size"),
    "forward_with_penalty": (with_penalty, "chunk", "chunk_size"),
    "penalised": (inside, "chunk", "chunk_size"),
    "WithPenalty": (
        lambda **o: WithPenalty(MODEL, jacfast.Frobenius("exact"), **o)(X)[1],
        "chunk",
        "chunk_size",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_old_name(name):
    call, old, new = CALLS[name]
    with pytest.warns(DeprecationWarning, match=f"^{old} is now called {new}$") as found:
        got = call(**{old: 2})
    assert {warning.filename for warning in found} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        want = call(**{new: 2})
    assert torch.equal(got, want)
    with pytest.raises(TypeError, match=f"^{new} and {old}, its old name, are one; got both"):
        call(**{old: 2, new: 2})


def test_to_disk(tmp_path):
    with pytest.warns(DeprecationWarning, match="max_iter is now called steps"):
        got = jacfast.deepfool_to_disk(tmp_path, MODEL, [X], max_iter=2)
    again = jacfast.deepfool_to_disk(tmp_path, MODEL, [X], steps=2)  # the same run
    assert torch.equal(got.r, again.r)


def test_integrations():
    from jacfast.integrations.common import OPTIONS

    assert "chunk_size" in OPTIONS
    pytest.importorskip("lightning", reason="lightning is an optional integration")
    from jacfast.integrations.lightning import JacobianPenalty

    with pytest.warns(DeprecationWarning, match="chunk is now called chunk_size"):
        JacobianPenalty(0.1, chunk=3)


@pytest.mark.parametrize("flag", ["--steps", "--max-iter"])
def test_the_command_line(flag, capsys):
    files = ["--model", "a:b", "--weights", __file__, "--out", "there"]
    assert cli.main(["attack", "deepfool", *files, flag, "0"]) == 2
    assert "--steps must be >= 1; got 0" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--chunk-size", "--chunk"])
@pytest.mark.parametrize("command", [["attack", "deepfool"], ["harden"]])
def test_the_command_line_and_memory(command, flag, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command, flag, "0"])
    assert "argument --chunk-size: must be >= 1; got 0" in capsys.readouterr().err


def test_the_name_and_the_documentation_are_kept():
    @renamed(old="new")
    def function(new: int = 1) -> int:
        """Say what."""
        return new

    assert (function.__name__, function.__doc__) == ("function", "Say what.")
    assert function(3) == function(new=3) == 3
