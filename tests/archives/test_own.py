"""A user's own set: metadata.csv, metadata.jsonl, labels alone, and UniX's JSON of messages."""

import json
import unicodedata
from dataclasses import asdict

import pytest
from archive_files import broken, own, picture

from archives.opening import open_source
from archives.own import report_of_labels
from archives.records import Record
from common.errors import UserError
from common.observations import OBSERVATIONS
from reports import labeler
from reports.cleaning import clean_records


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
    clean_records(map(asdict, records), tmp_path / "csv/cleaned.jsonl", progress=False)
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
            open_source(tmp_path / "evaluation.json")


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


def test_what_pandas_left_empty_is_empty_everywhere(tmp_path):
    """NaN in JSON lines, "nan" in a CSV: no report, no question, no patient, no label, and counted."""
    lines = [
        '{"image": "a.png", "findings": NaN, "impression": "Effusion.", "question": NaN, "patient": NaN, "view": NaN,'
        ' "mesh": NaN, "captions": NaN, "labels": NaN}',
        '{"image": "b.png", "findings": "Clear.", "impression": NaN, "patient": 10000032.0, "labels": {"Edema": NaN}}',
        '{"image": "c.png", "report": NaN}',
        '{"image": "d.png", "report": "FINDINGS: nan IMPRESSION: Clear.", "split": NaN, "captions": ["A", NaN]}',
        '{"image": NaN, "report": "Clear."}',
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    source = open_source(tmp_path)
    assert source.records == [
        Record("a.png", "", "Effusion."),
        Record("b.png", "Clear.", "", patient="10000032"),
        Record("d.png", "", "Clear.", extra={"captions": ["A"]}),
    ]
    assert source.problems.found["bad"] == {"empty report": [1, ["c.png"]], "image absent": [1, ["(no name)"]]}
    rows = [("a.png", "nan", "Effusion.", "7.0"), ("b.png", "Clear.", "NaN", "nan"), ("c.png", "None", "<NA>", "7")]
    source = open_source(own(tmp_path / "csv", rows, ("image", "findings", "impression", "patient")))
    assert source.records == [Record("a.png", "", "Effusion.", patient="7"), Record("b.png", "Clear.", "")]
    assert source.problems.found["bad"] == {"empty report": [1, ["c.png"]]}
    said = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "Clear."}]
    (tmp_path / "evaluation.json").write_text(json.dumps([{"messages": said, "images": ["a.png"]}]))
    assert open_source(tmp_path / "evaluation.json").extra(0) == {}  # an empty question is none


@pytest.mark.parametrize("cell", ["-", "--", "?", ".", "[]", "#N/A", "-nan", "NULL", "<NA>", "N.A.", " "])
def test_a_cell_without_a_word_is_empty(tmp_path, cell):
    rows = [("a.png", cell, "Clear.", cell), ("b.png", "Clear.", cell, "7"), ("c.png", cell, cell, "7")]
    source = open_source(own(tmp_path, rows, ("image", "findings", "impression", "patient")))
    assert source.records == [Record("a.png", "", "Clear."), Record("b.png", "Clear.", "", patient="7")]
    assert source.problems.found["bad"] == {"empty report": [1, ["c.png"]]}


def test_a_row_that_says_a_thing_twice_is_named(tmp_path):
    """JSON leaves open which of the two is meant, and Python takes the last."""
    row = '{"image": "a.png", "report": "Clear.", "report": "Effusion."}'
    (tmp_path / "metadata.jsonl").write_text(f'{row}\n{{"image": "b.png", "report": "Clear."}}\n')
    (tmp_path / "other.json").write_text(f"[{row}]")
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    source = open_source(tmp_path)
    assert [record.image for record in source.records] == ["b.png"]
    assert source.problems.lines() == ["bad: 1 key twice in one row (metadata.jsonl line 1)"]
    with pytest.raises(UserError, match=r'other\.json: broken JSON \("report" stands twice in one object\)'):
        open_source(tmp_path / "other.json")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_computer(tmp_path, end):
    lines = ["image,report", 'a.png,"FINDINGS: Clear.', 'IMPRESSION: Normal."', "b.png,Edema.", ""]
    (tmp_path / "metadata.csv").write_bytes(end.join(lines).encode())
    rows = [
        '{"image": "a.png", "report": "FINDINGS: Clear. IMPRESSION: Normal."}',
        '{"image": "b.png", "report": "Edema."}',
    ]
    (tmp_path / "other.jsonl").write_bytes(end.join(rows).encode())
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    for path in ("metadata.csv", "other.jsonl"):
        records = open_source(tmp_path / path).records
        assert records == [Record("a.png", "Clear.", "Normal."), Record("b.png", "Edema.", "")]


def test_lateral_films_are_left_out_and_counted(tmp_path):
    views = ["PA", "LATERAL", "L", "LL", "left lateral", "AP", "", "Frontal", "portable", "PA and lateral", "RAO"]
    rows = [(f"{n}.png", "Clear.", view) for n, view in enumerate(views)]
    source = open_source(own(tmp_path, rows, ("image", "report", "view")))
    assert [record.view for record in source.records] == ["PA", "AP", "", "Frontal", "portable", "PA and lateral"]
    assert source.problems.found["dropped"] == {"view not frontal": [5, ["1.png", "2.png", "3.png"]]}
    source = open_source(own(tmp_path / "mimic's", rows, ("image", "report", "ViewPosition")))
    assert source.problems.found["dropped"] == {"view not frontal": [5, ["1.png", "2.png", "3.png"]]}


def test_a_film_twice_and_a_patient_in_two_splits_are_noted(tmp_path):
    rows = [("a.png", "train", "007"), ("./a.png", "test", ""), ("b.png", "validate", "007"), ("c.png", "train", "7")]
    table_rows = [(name, "Clear.", split, patient) for name, split, patient in rows]
    source = open_source(own(tmp_path, table_rows, ("image", "report", "split", "patient")))
    assert source.problems.lines() == [
        "note: 1 film in several rows (a.png)",
        "note: 1 patient in several splits (007)",
    ]


@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_file_names_in_composed_and_decomposed_unicode_are_found(tmp_path, in_table, on_disk):
    name = "Röntgen/Mädchen.png"
    picture(tmp_path / unicodedata.normalize(on_disk, name))
    own(tmp_path, [(unicodedata.normalize(in_table, name), "Clear.")], images=False)
    source = open_source(tmp_path)
    assert source.records[0].image == unicodedata.normalize(on_disk, name) and source.image(0).shape == (8, 12)


def test_r2gens_annotation_has_splits_of_reports_with_their_films(tmp_path):
    """Of the films of a study the first is read: the frontal one of IU X-ray."""
    iu = {"id": "CXR1_IM-0001", "report": "The lungs are clear .", "image_path": ["CXR1/0.png", "CXR1/1.png"]}
    mimic = {"id": "d4", "subject_id": 7, "report": "Edema.", "image_path": ["p10/d4.jpg"], "split": "val"}
    whole = {"train": [iu, {"report": "Clear."}], "val": [mimic], "test": []}
    (tmp_path / "annotation.json").write_text(json.dumps(whole))
    for name in ("images/CXR1/0.png", "images/CXR1/1.png", "p10/d4.jpg"):
        picture(tmp_path / name)
    source = open_source(tmp_path, split="all")
    assert source.kind == "r2gen" and source.records == [
        Record("images/CXR1/0.png", "The lungs are clear .", "", "train", patient="CXR1_IM-0001"),
        Record("p10/d4.jpg", "Edema.", "", "validate", patient="7"),
    ]
    assert source.problems.lines() == [
        "bad: 1 malformed row (annotation.json row 2)",
        "dropped: 1 further film of a report (CXR1/1.png)",
    ]
