"""What benchmarks share: figures are written wherever they were measured."""

from benchmarks import harness


def test_the_commit_is_unknown_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert harness.environment()["commit"] == "unknown"


def test_the_commit_is_unknown_outside_of_a_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert harness.environment()["commit"] == "unknown"
