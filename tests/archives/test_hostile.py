"""Broken archives and tables are named in one line, and what can be read of them is read."""

import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from archives.opening import open_source
from common.errors import UserError

XML = (
    '<eCitation><uId id="CXR1"/><MedlineCitation><Abstract><AbstractText Label="FINDINGS">{}</AbstractText>'
    "</Abstract></MedlineCitation></eCitation>"
)


def archive(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def opened(path):
    return open_source(path, "all", need_images=False)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive",
        gzip.compress(b"no archive", mtime=0),  # the same name in every process of pytest -n
        gzip.compress(b"x" * 100_000, mtime=0)[:80],
        lzma.compress(b"x" * 99_999)[:60],
        b"\xfd7zXZ\x00" + b"\xff" * 600,
        b"BZh9" + b"\xff" * 600,
        b"\xff" * 600,
    ],
)
def test_a_tgz_that_is_no_tar_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "reports.tgz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"reports\.tgz: ") as caught:
        opened(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_tgz_that_is_cut_off_is_named_in_one_line(tmp_path):
    path = archive(tmp_path / "reports.tgz", {f"{i}.xml": XML.format(f"Clear {i}.") * 50 for i in range(50)})
    whole = path.read_bytes()
    for size in range(20, len(whole) - 20, len(whole) // 7):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"reports\.tgz: ") as caught:
            opened(path)
        assert "\n" not in str(caught.value)


def test_entities_and_nesting_stay_harmless(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + XML.format("&b;")
    outside = '<!doctype a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + XML.format("&x;")
    deep = XML.format("<i>" * 100_000 + "Clear." + "</i>" * 100_000)
    files = {
        "a.xml": bomb,
        "b.xml": outside,
        "c.xml": XML.format("&x;"),
        "d.xml": XML.format("Lungs clear."),
        "e.xml": deep,
    }
    source = opened(archive(tmp_path / "reports.tgz", files))
    assert {record.findings for record in source.records} <= {"Lungs clear.", "Clear."}
    assert source.problems.found["bad"]["malformed XML"][1][0] == "c.xml"
    assert source.problems.count("bad") == 3


def test_a_long_field_is_read(tmp_path):
    path = tmp_path / "metadata.csv"
    path.write_text(f"image,report\na.png,{'long ' * 400_000}\nb.png,Clear.\n")
    assert [len(record.findings) for record in opened(path).records] == [5 * 400_000 - 1, 6]


def test_a_quote_that_is_not_closed_is_still_named(tmp_path):
    path = tmp_path / "metadata.csv"
    for rows in (3, 200_000):
        path.write_text('image,report\na.png,Clear.\nb.png,"Clear.\n' + "c.png,Clear.\n" * rows)
        with pytest.raises(UserError, match="line 3: a quote is opened but not closed"):
            opened(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    reports = tmp_path / "ecgen-radiology"
    reports.mkdir()
    for path in (tmp_path / "x.tgz", tmp_path / "x.csv", reports / "1.xml"):
        os.mkfifo(path)
    for given in (tmp_path / "x.tgz", tmp_path / "x.csv", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match=r"not a file|no such file or folder"):
            opened(given)
