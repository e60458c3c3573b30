"""A file is whole or absent, a folder is tried before minutes of work, a cache is named by the code that fills it."""

import os

import pytest

from common import files
from common.errors import UserError
from common.files import make_writable, source_hash, write_atomically, write_text


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_text(path, "<p>Größe ≥ 1</p>")
    assert path.read_bytes().decode("utf-8") == "<p>Größe ≥ 1</p>"
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert "Größe" in path.read_text(encoding="utf-8")


def test_what_fails_half_way_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as temporary:
        temporary.write_text("half of the n")
        _ = 1 / 0
    assert path.read_text() == "old" and os.listdir(path.parent) == ["file"]


def test_a_folder_is_made_and_tried(tmp_path):
    make_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file: cannot write there .*name another folder"):
        make_writable(tmp_path / "file")


def test_the_hash_changes_with_the_code_and_with_nothing_else(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 2")
    before = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    os.utime(tmp_path / "a.py", (1, 1))
    assert source_hash(tmp_path) == before and len(before) == 10
    (tmp_path / "a.py").write_text("x = 3")
    changed = source_hash(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({before, changed, source_hash(tmp_path)}) == 3
