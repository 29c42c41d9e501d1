"""Folders that belong to one run."""

import json

import pytest

from jacfast.files import check_own, claim


def test_a_folder_is_of_one_run(tmp_path):
    out = tmp_path / "a" / "b"
    claim(out, "note.json", {"eps": 0.1, "clip": (0, 1), "p": float("inf")})
    assert json.loads((out / "note.json").read_text())["clip"] == [0, 1]
    (out / "result").write_text("1")
    claim(out, "note.json", {"eps": 0.1, "clip": (0, 1), "p": float("inf")})
    files = {path: path.read_bytes() for path in out.iterdir()}
    for about, words in (
        ({"eps": 0.2, "clip": (0, 1), "p": float("inf")}, "eps was 0.1 and is now 0.2"),
        ({"eps": 0.1, "clip": (0, 1)}, "p was inf and is now None"),
        ({"eps": 0.1, "clip": (0, 1), "p": float("inf"), "x": 1}, "x was None and is now 1"),
    ):
        with pytest.raises(ValueError, match=f"belongs to another run: {words}"):
            claim(out, "note.json", about)
    with pytest.raises(ValueError, match=r"must be empty or of the same run; .* other files"):
        claim(out, "other.json", {"eps": 0.1})
    assert files == {path: path.read_bytes() for path in out.iterdir()}


def test_a_folder_without_results_is_free(tmp_path):
    claim(tmp_path, "note.json", {"eps": -1})
    (tmp_path / ".hidden").write_text("half of a file")
    claim(tmp_path, "note.json", {"eps": 1})
    assert json.loads((tmp_path / "note.json").read_text()) == {"eps": 1}
    assert check_own(tmp_path, "note.json") == {"note.json"}
    assert check_own(tmp_path / "new", "note.json") == set()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b'{"eps": 0.', b"", b'["eps"]', b"1", b"\xff\xfe"])
def test_a_damaged_note_is_named(tmp_path, content):
    note = tmp_path / "note.json"
    note.write_bytes(content)
    (tmp_path / "result").write_text("1")
    with pytest.raises(
        ValueError, match=r"note\.json must be .*: put it back, or use another folder"
    ):
        claim(tmp_path, "note.json", {"eps": 0.1})
    assert note.read_bytes() == content
