"""A checkpoint takes the place of nothing but a checkpoint."""

import os
import time

import pytest

from common.errors import UserError
from weights import save_checkpoint


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("held", [["chapter.tex"], ["config.json"], ["results/1.csv", "config.json"]])
def test_a_folder_of_somebody_elses_files_stays(micro, tmp_path, held):
    thesis = tmp_path / "thesis"
    for name in held:
        (thesis / name).parent.mkdir(parents=True, exist_ok=True)
        (thesis / name).write_text("{}")
    before = content(tmp_path)
    with pytest.raises(UserError, match="is no checkpoint of ours; name a new folder"):
        save_checkpoint(thesis, micro)
    assert content(tmp_path) == before


def test_a_file_that_was_put_beside_a_checkpoint_stays(micro, tmp_path):
    save_checkpoint(tmp_path / "mine", micro)
    (tmp_path / "mine/notes.txt").write_text("what I found")
    before = content(tmp_path)
    with pytest.raises(UserError, match=r"holds notes\.txt beside a checkpoint"):
        save_checkpoint(tmp_path / "mine", micro)
    assert content(tmp_path) == before


def test_neighbours_called_tmp_and_old_stay(micro, tmp_path):
    for name in ("mine.tmp", "mine.old", "mine.older"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.csv").write_text("years of work")
    before = content(tmp_path)
    for _ in range(2):
        save_checkpoint(tmp_path / "mine", micro)
    after = content(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.old", "mine.older", "mine.tmp"]


def test_a_checkpoint_an_empty_and_an_absent_folder_are_taken(micro, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent", "absent"):
        save_checkpoint(tmp_path / name, micro)
        assert (tmp_path / name / "model.safetensors").is_file()


def test_what_a_killed_save_of_the_run_left_is_cleared(micro, tmp_path):
    left = tmp_path / ".checkpoint.1234abcd.tmp"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    save_checkpoint(tmp_path / "checkpoint", micro, keep_last=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_what_a_killed_convert_left_is_cleared_once_nobody_can_be_writing_it(micro, tmp_path):
    for name, age in ((".[mine].1234abcd.tmp", 4000), (".[mine].5678abcd.tmp", 0), (".other.1234abcd.tmp", 4000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    save_checkpoint(tmp_path / "[mine]", micro)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".[mine].5678abcd.tmp", ".other.1234abcd.tmp", "[mine]"]
