"""MIMIC-CXR-JPG as published: its tables, its reports, and what is said when a part is absent."""

import os

import pytest
from archive_files import mimic

from archives.opening import open_source
from archives.records import Record
from common.errors import UserError


@pytest.mark.parametrize("end", [".csv.gz", ".csv"])
def test_mimic_cxr_as_published(tmp_path, end):
    records = open_source(mimic(tmp_path / "mimic", end))
    assert records.kind == "mimic-cxr" and records.counts == {"train": 2, "test": 1}
    assert records.records[0] == Record(
        "files/p10/p10000032/s50414267/d1.jpg",
        "Small left pleural effusion. No pneumothorax. The heart is normal.",
        "Small left effusion.",
        "train",
        {"Edema": 1, "Pneumonia": -1, "Fracture": 0},
        "10000032",
        "PA",
    )
    assert records.records[1].image.endswith("d3.jpg") and records.image(1).shape == (8, 12)
    assert records.problems.count("dropped", "view not AP or PA") == 1
    assert records.problems.count("dropped", "no findings or impression") == 1
    assert records.problems.count("bad") == 0
    test = open_source(tmp_path / "mimic", split="test")
    assert test.text(0) == ("IMPRESSION: Normal.", "Normal.")
    with pytest.raises(UserError, match="nothing to use in split 'validate'"):
        open_source(tmp_path / "mimic", split="val")


def test_mimic_cxr_jpg_without_reports_says_where_they_are(tmp_path):
    for report in mimic(tmp_path).glob("files/*/*/*.txt"):
        report.unlink()
    with pytest.raises(UserError, match=r"mimic-cxr-reports\.zip"):
        open_source(tmp_path)


def test_a_report_that_is_a_pipe_is_counted_and_not_waited_for(tmp_path):
    report = mimic(tmp_path) / "files/p11/p11000033/s50414268.txt"
    report.unlink()
    os.mkfifo(report)
    records = open_source(tmp_path)
    assert records.problems.count("bad", "no readable report") == 1
    assert records.counts == {"train": 2}


def test_mimic_cxr_needs_its_tables(tmp_path):
    (mimic(tmp_path) / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    assert open_source(tmp_path).problems.count("note", "no CheXpert labels") == 1
    metadata = tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz"
    metadata.write_bytes(metadata.read_bytes()[:40])
    with pytest.raises(UserError, match=r"metadata\.csv\.gz: cannot be read"):
        open_source(tmp_path)
    metadata.unlink()
    with pytest.raises(UserError, match=r"metadata\.csv\.gz is missing"):
        open_source(tmp_path)


def test_reports_without_findings_can_be_left_out_and_are_counted(tmp_path):
    whole = open_source(mimic(tmp_path), split="all")
    required = open_source(tmp_path, split="all", require="findings")
    assert (whole.counts, required.counts) == ({"train": 2, "test": 1}, {"train": 2})
    assert (
        required.problems.count("dropped", "no findings") == 1 and whole.problems.count("dropped", "no findings") == 0
    )
    with pytest.raises(UserError, match="nothing to use in split 'test'"):
        open_source(tmp_path, split="test", require="findings")
