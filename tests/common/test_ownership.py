"""One process at a time in a folder, and nothing is replaced that a command of ours did not make."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.ownership import lock_folder, own_file, own_folder
from common.pictures import save_png

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from common.ownership import lock_folder
with lock_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path):
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(UserError, match=f"--out {tmp_path}: process {process.pid} on .* is at work"),
            lock_folder(tmp_path),
        ):
            pytest.fail("two processes hold one folder")
    finally:
        process.kill()
        process.wait()


def test_a_killed_process_leaves_nothing_to_clean_up(tmp_path):
    process = holder(tmp_path)
    process.kill()
    process.wait()
    began = time.perf_counter()
    with lock_folder(tmp_path):
        assert time.perf_counter() - began < 1


def test_what_a_killed_process_left_in_a_folder_of_ours_goes(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    own_folder(ours)
    names = [".results.json.0123abcd.tmp", "samples/.1.png.89abcdef.tmp", ".notes.tmp", "data.0123abcd.tmp"]
    for folder in (ours, theirs):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        with lock_folder(folder):
            pass
    assert [name for name in names if (ours / name).exists()] == names[2:]
    assert [name for name in names if (theirs / name).exists()] == names


def test_the_other_ranks_leave_the_lock_to_the_first(tmp_path, monkeypatch):
    process = holder(tmp_path)
    monkeypatch.setenv("RANK", "1")
    with lock_folder(tmp_path):
        pass
    process.kill()
    process.wait()


def test_a_folder_of_somebody_elses_files_is_refused_and_untouched(tmp_path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds chapter\.tex, which no command here made"):
        own_folder(thesis)
    assert [path.name for path in thesis.iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize("made", ["absent", "empty", "ours"])
def test_a_folder_that_is_absent_empty_or_ours_is_taken(tmp_path, made):
    folder = tmp_path / "out"
    if made != "absent":
        folder.mkdir()
    if made == "ours":
        own_folder(folder)
        (folder / "results.json").write_text("{}")
    own_folder(folder)


def test_a_picture_of_ours_may_be_replaced_and_no_other_file(tmp_path):
    ours, theirs = tmp_path / "ours.png", tmp_path / "theirs.png"
    save_png(Image.fromarray(np.zeros((8, 8), np.uint8)), ours)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(theirs)
    own_file(ours), own_file(tmp_path / "absent.png")
    with pytest.raises(UserError, match=r"theirs\.png: is there, and no command here made it"):
        own_file(theirs)
