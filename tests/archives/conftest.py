"""Every test stands in a folder of its own."""

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The default cache, out/cache, is relative to where one stands."""
    (tmp_path / "stand").mkdir()
    monkeypatch.chdir(tmp_path / "stand")
