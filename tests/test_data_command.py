"""`python data.py stats|check|clean` and `train.py --data FOLDER`, on a folder a user could have made."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
import train
from inside import run_inside
from phantoms.dataset import Phantoms

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve drawn X-rays as JPEGs, with reports that need cleaning, and one image that is cut off."""
    folder, source = tmp_path_factory.mktemp("mine"), Phantoms(12)
    rows = []
    for i in range(12):
        Image.fromarray(source.image(i)).save(folder / f"{i}.jpg", quality=95)
        report, _ = source.text(i)
        rows.append({"image": f"{i}.jpg", "report": f"{report} Compared to the prior study of ___.", "patient": str(i)})
    whole = (folder / "5.jpg").read_bytes()
    (folder / "5.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(script, *arguments, cwd):
    return run_inside({"data.py": data.main, "train.py": train.main}[script], *arguments, cwd=cwd)


def test_stats_prints_counts_and_draws_a_sheet(folder, tmp_path):
    result = run("data.py", "stats", folder, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "12 examples" in result.stdout and "Cardiomegaly" in result.stdout and "words of a report" in result.stdout
    assert "stats.png: 11 of them" in result.stdout  # one does not open
    Image.open(tmp_path / "stats.png").verify()


def test_check_names_the_broken_image(folder, tmp_path):
    command = [sys.executable, ROOT / "data.py", "check", folder, "--workers", "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2 and "5.jpg: broken image" in result.stdout
    assert "12 reports read, 12 images opened" in result.stdout


def test_check_ends_with_2_where_an_image_is_absent(tmp_path):
    (tmp_path / "metadata.csv").write_text("image,report\na.png,Clear.\nb.png,Clear.\n")
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    result = run("data.py", "check", tmp_path, "--workers", 1, cwd=tmp_path)
    assert result.returncode == 2 and "bad: 1 image absent (b.png)" in result.stdout, result.stderr
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    assert run("data.py", "check", tmp_path, "--workers", 1, cwd=tmp_path).returncode == 0


def test_ctrl_c_ends_check_in_one_line(tmp_path):
    """The signal reaches every process of the terminal's group."""
    Image.fromarray(np.zeros((3000, 3000), np.uint8)).save(tmp_path / "0.png")
    names = [f"{i}.png" for i in range(3000)]
    for name in names[1:]:
        (tmp_path / name).symlink_to("0.png")
    (tmp_path / "metadata.csv").write_text("image,report\n" + "".join(f"{name},Clear.\n" for name in names))
    command = [sys.executable, ROOT / "data.py", "check", ".", "--workers", "2"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a job in the background may ignore it
    pipes = {"stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, preexec_fn=heard, **pipes)
    while "checking" not in process.stderr.read(10):
        pass
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and said.splitlines()[-1] == "interrupted" and "Traceback" not in said


@pytest.mark.slow
def test_cleaned_reports_are_a_data_set_again(folder, tmp_path):
    result = run("data.py", "clean", folder, "--out", folder / "cleaned.jsonl", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (folder / "cleaned.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert not any("prior" in row["findings"] + row["impression"] for row in rows)
    result = run("data.py", "stats", folder / "cleaned.jsonl", cwd=tmp_path)
    assert result.returncode == 0 and "12 examples" in result.stdout, result.stderr
    (folder / "cleaned.jsonl").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_folder_trains_and_a_broken_image_does_not_stop_it(folder, micro_folder, tmp_path, stage):
    flags = ["--init", micro_folder, "--data", folder, "--steps", 8, "--batch", 4, "--size", 64, "--workers", 0]
    result = run("train.py", "--stage", stage, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "skipped: " in result.stderr and "5.jpg: broken image" in result.stderr


def test_a_path_that_is_no_data_set_is_refused(micro_folder, tmp_path):
    for script, flags in (("data.py", ["stats", "nowhere"]), ("train.py", ["--stage", "1", "--data", "nowhere"])):
        result = run(script, *flags, cwd=tmp_path)
        assert result.returncode == 2 and re.match(r"error: (--data )?nowhere: ", result.stderr), result.stderr
