"""`python -m phantoms`."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from phantoms.__main__ import main
from phantoms.dataset import phantom

ROOT = Path(__file__).parent.parent.parent


def run(*arguments):
    command = [sys.executable, "-m", "phantoms", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_command_writes_what_it_says(tmp_path):
    done = run("--n", 3, "--out", tmp_path / "new", "--size", 64)
    assert done.returncode == 0 and "3 images of 64 px" in done.stdout
    lines = [json.loads(line) for line in (tmp_path / "new" / "phantoms.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    for index, line in enumerate(lines):
        sample = phantom(0, index, 64)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / line["image"])), sample.image)
        assert (line["report"], line["impression"], line["view"]) == (sample.report, sample.impression, sample.view)
        assert line["labels"] == sample.labels()
        assert line["truth"] == [dataclasses.asdict(finding) for finding in sample.findings]
    assert not list((tmp_path / "new").glob("*.tmp"))


@pytest.mark.parametrize(("flag", "value"), [("--n", "0"), ("--size", "100"), ("--size", "0"), ("--seed", "-1")])
def test_a_bad_number_is_refused_in_one_line(tmp_path, flag, value):
    arguments = {"--n": "1", "--out": str(tmp_path), flag: value}
    with pytest.raises(UserError, match=flag) as refused:
        main([word for pair in arguments.items() for word in pair])
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = run("--n", 1, "--out", tmp_path / "file" / "folder", "--size", 64)
    assert done.returncode == 2 and "--out" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
