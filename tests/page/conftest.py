"""One server of the micro model for all tests of the page."""

import time

import pytest
from served import served


@pytest.fixture(scope="session")
def talking(micro_folder, tmp_path_factory):
    """(address, a function that returns what the terminal said since it was last asked)."""
    with open(tmp_path_factory.mktemp("said") / "stderr", "w+") as terminal:

        def said():
            time.sleep(0.05)
            return terminal.read()

        with served(micro_folder, stderr=terminal) as (line, _):
            yield line, said


@pytest.fixture(scope="session")
def address(talking):
    return talking[0]
