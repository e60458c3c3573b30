"""Open-i in a folder or an archive; unsafe and broken files are counted and named."""

import pytest
from archive_files import open_i, picture, reports, table

from archives.opening import open_source
from archives.records import Record
from common.errors import UserError


@pytest.mark.parametrize("archive", [None, "NLMCXR_reports.tgz", "NLMCXR_reports.tar"])
def test_open_i_in_a_folder_or_an_archive(tmp_path, archive):
    files = {"1.xml": open_i(1), "2.xml": open_i(2, "", ""), "3.xml": open_i(3, images=()), "._1.xml": "\0"}
    root = reports(tmp_path / "openi", files, archive)
    picture(root / "pngs/._CXR1_1_IM-0001-3001.png")  # as a Mac leaves them, also in its archives
    for number in ("3001", "4001"):
        picture(root / f"pngs/CXR1_1_IM-0001-{number}.png")
    records = open_source(root)
    assert records.kind == "open-i" and len(records) == 2
    assert records.records[0] == Record(
        "pngs/CXR1_1_IM-0001-3001.png",
        "Small effusion & more.",
        "Effusion.",
        labels={"Pleural Effusion": 1},
        patient="CXR1",
        extra={"mesh": ["Pleural Effusion/left/small", "Aorta/tortuous"]},
    )
    problems = records.problems
    assert problems.count("note", "projection unknown") == 2 and problems.count("dropped", "report without images") == 1
    assert problems.count("dropped", "no findings or impression") == 1

    table(
        root / "indiana_projections.csv",
        [("uid", "filename", "projection"), ("1", "1_IM-0001-4001.dcm.png", "Lateral")],
    )
    records = open_source(root)
    assert [r.image[-8:] for r in records.records] == ["3001.png"]
    assert records.problems.count("dropped", "view not frontal") == 1

    alone = open_source(root / archive if archive else root, need_images=False)
    assert [r.patient for r in alone.records] == ["CXR1", "CXR3"] and alone.records[0].image == ""
    with pytest.raises(UserError, match="has no image"):
        alone.image(0)


def test_open_i_without_images_says_what_to_fetch(tmp_path):
    with pytest.raises(UserError, match=r"NLMCXR_png\.tgz"):
        open_source(reports(tmp_path, {"1.xml": open_i(1)}))


def test_unsafe_and_malformed_xml_is_counted_and_named(tmp_path):
    laughs = '<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>' + open_i(2, "&b;")[38:]
    files = {
        "1.xml": open_i(1),
        "2.xml": laughs,
        "3.xml": laughs.encode("utf-16"),  # where a search through the bytes finds no DOCTYPE
        "4.xml": open_i(4)[:-30],
        "5.xml": open_i(5).replace("Positive", "x" * 2**20),
        "6.xml": open_i(6, "Epanchement \xe9vident.").encode("latin-1"),
    }
    records = open_source(reports(tmp_path, files), need_images=False)
    assert [r.patient for r in records.records] == ["CXR1", "CXR6"]
    found = records.problems.found
    assert found["bad"]["unsafe XML (it declares a DOCTYPE or ENTITY)"] == [1, ["2.xml"]]
    assert found["bad"]["malformed XML"] == [3, ["3.xml", "4.xml", "5.xml"]]
    assert found["note"]["not UTF-8, read as Windows-1252"] == [1, ["6.xml"]]
    assert records.records[1].findings == "Epanchement \xe9vident."


def test_a_broken_archive_is_named(tmp_path):
    path = reports(tmp_path, {"1.xml": open_i(1)}, "NLMCXR_reports.tgz") / "NLMCXR_reports.tgz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"NLMCXR_reports\.tgz: cannot be read"):
        open_source(path, need_images=False)
