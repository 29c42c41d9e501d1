"""deepfool over a data set: results on disk, and nothing lost or repeated after a kill."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset

from jacfast import DeepFoolResult, deepfool, deepfool_to_disk
from jacfast.attacks import stream
from jacfast.attacks.result import TENSORS
from jacfast.cli import main
from tests.nets import build


@pytest.fixture
def problem():
    model, x = build("cnn", 10)
    y = model(x).argmax(dim=1)
    y[3] = (y[3] + 1) % 5
    return model.eval(), x, y


@pytest.fixture
def attacked(monkeypatch) -> list[int]:
    """Count the samples of every call of deepfool."""
    counts: list[int] = []

    def counting(model, x, y=None, **options):
        counts.append(len(x))
        return deepfool(model, x, y, **options)

    monkeypatch.setattr(stream, "deepfool", counting)
    return counts


def loader(x, y, size=4):
    return DataLoader(TensorDataset(x, y), batch_size=size)


def same(got: DeepFoolResult, want: DeepFoolResult) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(got, name), getattr(want, name)), name


@pytest.mark.parametrize("labels", [False, True])
def test_the_joined_result_is_that_of_one_call(tmp_path, problem, attacked, labels):
    model, x, y = problem
    found = deepfool_to_disk(tmp_path / "a", model, loader(x, y), labels=labels, p=3.0)
    want = DeepFoolResult.cat(
        [deepfool(model, x[i : i + 4], y[i : i + 4] if labels else None, p=3.0) for i in (0, 4, 8)]
    )
    same(found, want)
    assert found.p == 3.0
    assert attacked == [4, 4, 2]
    same(
        DeepFoolResult.load(tmp_path / "a" / "000001.safetensors"),
        deepfool(model, x[4:8], y[4:8] if labels else None, p=3.0),
    )


def test_it_goes_on_where_it_stopped(tmp_path, problem, attacked):
    model, x, y = problem
    whole = list(loader(x, y))

    def broken():
        yield from whole[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deepfool_to_disk(tmp_path, model, broken())
    (tmp_path / ".000002.safetensors.half").write_bytes(b"what a kill leaves of a write")
    assert attacked == [4, 4]
    found = deepfool_to_disk(tmp_path, model, whole)
    assert attacked == [4, 4, 2]
    again = deepfool_to_disk(tmp_path, model, whole)
    assert attacked == [4, 4, 2]
    same(again, found)
    same(found, DeepFoolResult.cat([deepfool(model, batch) for batch, _ in whole]))


def test_with_less_memory_it_goes_on(tmp_path, problem, attacked, monkeypatch):
    model, x, y = problem
    counting = stream.deepfool

    def hungry(model, x, y=None, *, batch_size=None, **options):
        if (batch_size or len(x)) > 2 and len(attacked) == 1:
            raise torch.OutOfMemoryError
        return counting(model, x, y, batch_size=batch_size, **options)

    monkeypatch.setattr(stream, "deepfool", hungry)
    with pytest.raises(torch.OutOfMemoryError):
        deepfool_to_disk(tmp_path, model, loader(x, y), batch_size=4)
    found = deepfool_to_disk(tmp_path, model, loader(x, y), batch_size=2)
    assert attacked == [4, 4, 2]
    torch.testing.assert_close(found.r, deepfool(model, x).r)


def test_batches_of_x_alone(tmp_path, problem):
    model, x, _ = problem
    same(
        deepfool_to_disk(tmp_path, model, [x[:5], x[5:]]),
        DeepFoolResult.cat([deepfool(model, x[:5]), deepfool(model, x[5:])]),
    )
    with pytest.raises(ValueError, match=r"labels=True needs batches of \(x, y\); batch 0"):
        deepfool_to_disk(tmp_path / "b", model, [x], labels=True)
    with pytest.raises(ValueError, match="at least one batch; got none"):
        deepfool_to_disk(tmp_path / "c", model, [])


@pytest.mark.parametrize("change", ["options", "model", "order", "foreign", "mask"])
def test_another_attack_is_refused_and_nothing_changes(tmp_path, problem, change):
    model, x, y = problem
    out = tmp_path / "out"
    mask = torch.ones(2, 8, 8)
    if change == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        deepfool_to_disk(out, model, loader(x, y), clip=(-9, 9), mask=mask)
    files = {path: path.read_bytes() for path in out.iterdir()}
    options = {"clip": (-9, 9), "mask": mask}
    if change == "options":
        options["overshoot"] = 0.5
    if change == "mask":
        options["mask"] = mask.clone().index_fill_(0, torch.tensor([0]), 0)
    if change == "model":
        next(model.parameters()).data[0] += 1
    message = {
        "order": "batches must come in the same order",
        "foreign": "out must be empty or of the same run",
    }.get(change, f"belongs to another run: {change if change == 'model' else 'options'}")
    with pytest.raises(ValueError, match=message):
        deepfool_to_disk(out, model, loader(x.flip(0) if change == "order" else x, y), **options)
    assert files == {path: path.read_bytes() for path in out.iterdir()}


def test_command(tmp_path, capsys):
    from jacfast import models

    torch.manual_seed(0)
    save_file(models.seck_c().state_dict(), tmp_path / "w.safetensors")
    command = ["attack", "deepfool", "--model", "jacfast.models:seck_c"]
    command += ["--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out")]
    command += ["--samples", "30", "--batch-size", "20", "--preset", "advlib", "--p", "inf"]
    pytest.importorskip("mlxtend")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "||r||_inf, mean" in said
    assert "written: 2 files" in said
    about = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert about["options"]["clip_steps"] is True
    first = (tmp_path / "out" / "000000.safetensors").read_bytes()
    (tmp_path / "out" / "000001.safetensors").unlink()
    assert main([*command, "--chunk", "7"]) == 0
    assert (tmp_path / "out" / "000001.safetensors").exists()
    assert (tmp_path / "out" / "000000.safetensors").read_bytes() == first
    capsys.readouterr()
    assert main([*command, "--labels"]) == 2
    assert "belongs to another run: labels was False" in capsys.readouterr().err
    assert main([*command, "--samples", "0"]) == 2
    assert "--samples must be >= 1; got 0" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jacfast.models.load_factory", interrupted)
    command = ["attack", "deepfool", "--model", "a:b", "--weights", "w.pt", "--out", str(tmp_path)]
    assert main(command) == 130
    assert "interrupted; the same command starts anew" in capsys.readouterr().err
    (tmp_path / "attack.json").touch()
    assert main(command) == 130
    assert f"interrupted; the same command goes on from {tmp_path}" in capsys.readouterr().err
