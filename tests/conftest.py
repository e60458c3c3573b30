"""A model of a few thousand parameters with all that a checkpoint needs, for tests of behaviour, not of quality."""

import shutil

import pytest

from micro import micro_checkpoint
from published import golden_folder
from weights import save_checkpoint


@pytest.fixture(scope="session")
def micro():
    return micro_checkpoint()


@pytest.fixture(scope="session")
def micro_folder(micro, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "micro"
    save_checkpoint(folder, micro)
    return folder


@pytest.fixture(scope="session")
def janus_whole(micro, tmp_path_factory):
    return golden_folder(tmp_path_factory.mktemp("published") / "Janus-Pro", "janus_tiny", micro)


@pytest.fixture
def janus(janus_whole, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(janus_whole, tmp_path / "Janus-Pro")
