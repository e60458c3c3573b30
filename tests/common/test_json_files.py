"""One reader for all JSON files: an object of finite numbers, or one line that names the file."""

import json
import os

import pytest

from common.errors import UserError
from common.files import read_json


def test_an_object_is_read_and_a_byte_order_mark_is_nothing(tmp_path):
    values = {"a": [1, 2.5e300, None, True, {"b": "Épanchement"}], "c": -7}
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "x.json").write_text(json.dumps(values, ensure_ascii=False), encoding=encoding)
        assert read_json(tmp_path / "x.json") == values


def test_an_absent_file_is_what_the_caller_says_or_a_line(tmp_path):
    assert read_json(tmp_path / "x.json", absent={}) == {}
    with pytest.raises(UserError, match=r"x\.json: missing"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not readable JSON"),
        (b'{"a": 1', "not readable JSON"),
        (b"\xff\xfe{}", "not readable JSON"),
        (b'{"a": "\0"}', "not readable JSON"),
        (rb'{"a": "b\u0000"}', r"not readable JSON \(it holds a NUL"),
        (b'{"a": Infinity}', r"not readable JSON \(Infinity is no finite number"),
        (b'{"a": [-Infinity]}', r"not readable JSON \(-Infinity"),
        (b'{"a": NaN}', r"not readable JSON \(NaN"),
        (b'{"a": 1e999}', r"not readable JSON \(1e999"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", r"not readable JSON \(more than 100 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "not readable JSON"),
        (b'{"a":' * 100_000, "not readable JSON"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "not readable JSON"),
        (b"[]", "a JSON object is expected"),
        (b"null", "a JSON object is expected"),
        (b"3", "a JSON object is expected"),
        (b'"text"', "a JSON object is expected"),
    ],
)
def test_anything_else_is_one_line_that_names_the_file(tmp_path, content, words):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.json: {words}") as refused:
        read_json(tmp_path / "x.json", absent={})
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_what_is_no_file_is_a_line_and_no_wait(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.json")
    for name in ("folder.json", "link.json", "fifo.json"):
        with pytest.raises(UserError, match=rf"{name}: missing"):
            read_json(tmp_path / name, absent={})
