"""A user's own set: metadata.csv, metadata.jsonl, labels alone, and UniX's JSON of messages."""

import json
from dataclasses import asdict

import pytest
from archive_files import broken, own, picture

from archives.opening import open_source
from archives.own import report_of_labels
from archives.records import Record
from common.errors import UserError
from common.observations import OBSERVATIONS
from reports import labeler


def test_a_report_of_labels_says_these_labels():
    findings, impression = report_of_labels({"Effusion": 1, "Nodule": 1, "Edema": 0, "Pneumonia": -1})
    assert impression == "Pleural effusion. Lung nodule. Possible pneumonia."
    found = {name: label.value for name, label in labeler.label_report(findings).items() if label.value is not None}
    assert found == {"Pleural Effusion": 1, "Lung Lesion": 1, "Edema": 0, "Pneumonia": -1}
    assert labeler.label_report(report_of_labels({"No Finding": 1})[1])["No Finding"].value == 1
    for name in OBSERVATIONS:
        assert labeler.label_report(" ".join(report_of_labels({name: 1})))[name].value == 1 or name in (
            "Pleural Other",
            "Enlarged Cardiomediastinum",
        )


def test_own_csv_with_every_column(tmp_path):
    header = ("image", "report", "impression", "split", "patient", "view", "labels", "more")
    rows = [
        ("a.png", "FINDINGS: Clear.\nIMPRESSION: Normal.", "", "train", "7", "PA", "No Finding", "x"),
        ("sub/b.png", "Free text,\n\nno heading.", "Short.", "val", "8", "AP", '{"Edema": 0}', "x"),
    ]
    records = open_source(own(tmp_path / "own", rows, header), split="all")
    assert records.records == [
        Record("a.png", "Clear.", "Normal.", "train", {"No Finding": 1}, "7", "PA"),
        Record("sub/b.png", "Free text, no heading.", "Short.", "validate", {"Edema": 0}, "8", "AP"),
    ]
    assert records.text(0) == ("FINDINGS: Clear. IMPRESSION: Normal.", "Normal.")
    assert records.problems.lines() == [] and broken(records) == []


def test_own_jsonl_and_half_characters(tmp_path):
    lines = [
        json.dumps({"image": "a.png", "report": "Clear \ud800 lungs.", "labels": {"Edema": 1}}),
        json.dumps({"image": "b.png", "findings": "Clear.", "split": "test", "patient": 3}),
        "",
        "{broken",
        "[1, 2]",
        json.dumps({"image": "b.png", "report": ["no", "text"]}),
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    records = open_source(tmp_path, split="all")
    assert [r.findings for r in records.records] == ["Clear ? lungs.", "Clear."]
    assert records.records[1].patient == "3" and records.text(1) == ("FINDINGS: Clear.", "Clear.")
    assert records.problems.count("bad", "malformed row") == 3


def test_mesh_codes_become_labels_and_survive_cleaning(tmp_path):
    codes = "Pleural Effusion/left/small|Cardiomegaly/borderline"
    rows = [("a.png", "Effusion.", codes), ("b.png", "Clear.", "normal"), ("c.png", "Clear.", "")]
    records = open_source(own(tmp_path / "csv", rows, ("image", "report", "mesh"))).records
    assert records[0].labels == {"Pleural Effusion": 1, "Cardiomegaly": -1}
    assert records[0].extra == {"mesh": codes.split("|")}
    assert records[1].labels == {"No Finding": 1} and (records[2].labels, records[2].extra) == ({}, {})
    lines = [json.dumps(asdict(record)) for record in records]  # what `data.py clean` writes
    (tmp_path / "csv/cleaned.jsonl").write_text("\n".join(lines))
    assert open_source(tmp_path / "csv/cleaned.jsonl").records == records


def test_nih_labels_become_chexpert_labels_and_short_reports(tmp_path):
    names = "Edema|Effusion|Infiltration|Pleural_Thickening|Mass|Hernia"
    records = open_source(own(tmp_path, [("a.png", names), ("b.png", "No Finding")], ("image", "labels")))
    expected = ("Edema", "Pleural Effusion", "Lung Opacity", "Pleural Other", "Lung Lesion")
    assert records.records[0].labels == dict.fromkeys(expected, 1)
    assert records.records[0].impression.startswith("Edema. Pleural effusion. Infiltration.")
    assert records.records[1].labels == {"No Finding": 1}
    assert records.problems.count("note", "report made from labels") == 2
    assert records.problems.found["note"]["label without a CheXpert name"] == [1, ["Hernia"]]


def test_the_json_of_unix_own_evaluation(tmp_path):
    def row(image, report="FINDINGS: Clear. IMPRESSION: Normal."):
        said = [{"role": "user", "content": "<image>\nWrite it."}, {"role": "assistant", "content": report}]
        return {"messages": said, "images": [image]}

    (tmp_path / "evaluation.json").write_text(json.dumps([row("a.png"), row("b.png", ""), {"messages": []}, 7]))
    picture(tmp_path / "a.png")
    records = open_source(tmp_path)
    assert records.kind == "messages"
    extra = {"question": "Write it.", "reference": "FINDINGS: Clear. IMPRESSION: Normal."}
    assert records.records == [Record("a.png", "Clear.", "Normal.", extra=extra)]
    assert records.problems.count("bad", "malformed row") == 2 and records.problems.count("bad", "empty report") == 1
    for content in ("[" * 100000, '{"a": 1}', "[1,"):
        (tmp_path / "evaluation.json").write_text(content)
        with pytest.raises(UserError, match=r"evaluation\.json: (broken JSON|no list)"):
            open_source(tmp_path)


def test_several_captions_of_a_row_are_kept_to_draw_from(tmp_path):
    """As UniX's own training reads them: {name: text} as JSON; here also a list, or one text."""
    rows = [
        (
            "a.png",
            "FINDINGS: Clear.",
            json.dumps({"short": "Clear  lungs.", "long": "The lungs are clear.", "none": " "}),
        ),
        ("b.png", "", json.dumps(["Edema.", "Mild edema."])),
        ("c.png", "FINDINGS: Clear.", "Nothing to see."),
        ("d.png", "FINDINGS: Clear.", ""),
    ]
    records = open_source(own(tmp_path / "own", rows, ("image", "report", "captions"))).records
    assert [record.extra.get("captions") for record in records] == [
        ["Clear lungs.", "The lungs are clear."],
        ["Edema.", "Mild edema."],
        ["Nothing to see."],
        None,
    ]
    assert records[1].impression == "Edema."
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"image": "a.png", "report": "x", "captions": {"a": 1}}))
    picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="captions are no texts"):
        open_source(tmp_path / "metadata.jsonl")
