"""A folder of tables with one of a small network."""

import pytest

from jacfast.reproduce import config
from tests.reproduce.table import TABLE


@pytest.fixture
def tables(tmp_path, monkeypatch):
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "mine.toml").write_text(TABLE)
    monkeypatch.setattr(config, "FOLDER", folder)
    return folder
