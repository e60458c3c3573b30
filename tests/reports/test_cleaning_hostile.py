"""Cleaning replaces nothing that it did not write, and leaves nothing behind when it fails."""

import json
import os

import pytest

import data
from common.errors import UserError
from inside import run_inside
from reports.cleaning import check_target, clean_records

ITEMS = [{"image": "a.png", "findings": "Stable left effusion.", "impression": ""}]


def test_no_file_beside_the_target_is_an_input(tmp_path):
    for end in ("", ".disagreements.jsonl", ".answers.jsonl"):
        source = tmp_path / f"out.jsonl{end}"
        source.touch()
        with pytest.raises(UserError, match="is part of the set to be cleaned"):
            check_target(tmp_path / "out.jsonl", [tmp_path, source])


def clean(source, out):
    return run_inside(data.main, "clean", source, "--out", out, cwd=out.parent)


@pytest.mark.slow
def test_a_target_that_is_the_source_is_refused(tmp_path):
    source = tmp_path / "metadata.jsonl"
    source.write_text(json.dumps(ITEMS[0] | {"changed": False}) + "\n")
    (tmp_path / "link.jsonl").hardlink_to(source)
    before = source.read_bytes()
    for given, out in ((tmp_path, source), (source, source), (tmp_path, tmp_path / "link.jsonl")):
        result = clean(given, out)
        assert result.returncode == 2 and "is part of the set to be cleaned" in result.stderr
        assert result.stderr.count("\n") == 1 and source.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["link.jsonl", "metadata.jsonl"]


@pytest.mark.parametrize("content", [b"\x89PNG", b"image,report\n", b"[]\n", b'{"image": "a.png"}\n', b"[" * 99_999])
@pytest.mark.parametrize("end", ["", ".disagreements.jsonl"])
def test_what_no_cleaning_wrote_is_not_replaced(tmp_path, content, end):
    theirs = tmp_path / f"out.jsonl{end}"
    theirs.write_bytes(content)
    with pytest.raises(UserError, match="no cleaning wrote it"):
        clean_records(ITEMS, tmp_path / "out.jsonl", progress=False)
    assert theirs.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for out in (tmp_path / "folder", tmp_path / "fifo", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"no cleaning wrote it|cannot be written"):
            clean_records(ITEMS, out, progress=False)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_rerun_replaces_its_own_output(tmp_path):
    out = tmp_path / "out.jsonl"
    for items in (ITEMS, ITEMS * 2, []):
        assert clean_records(items, out, progress=False)["read"] == len(items)
    assert clean_records(ITEMS, out, progress=False)["read"] == 1
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.jsonl.disagreements.jsonl"]


def test_an_error_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        clean_records([*ITEMS, ITEMS[0] | {"other": object()}], tmp_path / "out.jsonl", progress=False)
    assert not list(tmp_path.iterdir())


def test_half_characters_are_written_as_question_marks(tmp_path):
    out = tmp_path / "out.jsonl"
    clean_records([ITEMS[0] | {"findings": "Stable \ud800 effusion.", "note\udfff": "\ud800"}], out, progress=False)
    assert json.loads(out.read_bytes())["findings"] == "? effusion."
