"""Every published format opens, nothing bad is silent, and what was read once is not read again."""

import csv
import gzip
import io
import json
import os
import sys
import tarfile
import time
import types

import numpy as np
import pytest
from PIL import Image

from archives import opening
from archives.chexgenbench import write_generated
from archives.opening import open_source
from archives.own import report_of_labels
from archives.records import Record, load_dicom
from archives.sections import split_report
from common.errors import UserError
from common.observations import OBSERVATIONS
from data import open_and_discard
from reports import labeler


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The default cache, out/cache, is relative to where one stands."""
    (tmp_path / "stand").mkdir()
    monkeypatch.chdir(tmp_path / "stand")


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (12, 8), value).save(path)


def table(path, rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.getvalue().encode()) if path.suffix == ".gz" else text.getvalue().encode())


def broken(records):
    """What is wrong with the images that cannot be opened."""
    return [problem for index in range(len(records)) if (problem := open_and_discard(records, index))]


def own(folder, rows, header=("image", "report"), images=True):
    table(folder / "metadata.csv", [header, *rows])
    for row in rows if images else ():
        picture(folder / row[0])
    return folder


# ---- reports -------------------------------------------------------------------------------------------------------

MIMIC_REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with ?pleural effusion  // eval

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 Small left pleural effusion.  No pneumothorax.
 The heart is normal.

 IMPRESSION:

 Small left
 effusion.

 NOTIFICATION:  Dr. ___ at 10:30 AM.
"""


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        (MIMIC_REPORT, "Small left pleural effusion. No pneumothorax. The heart is normal.", "Small left effusion."),
        (" FINDING: Clear.\n IMPERSSION: Normal.", "Clear.", "Normal."),
        (" FINIDNGS: Clear.\n CONCUSION: Normal.", "Clear.", "Normal."),
        (" FINDINGS AND IMPRESSION:  Clear.", "", "Clear."),
        (" FINDINGS/IMPRESSION: Clear.", "", "Clear."),
        (" IMPRESSION AND RECOMMENDATION: Clear.\n RECOMMENDATION(S): CT.", "", "Clear."),
        (" SUMMARY: Clear.", "", "Clear."),
        (" CHEST, PA AND LATERAL:  Clear.\n\n IMPRESSION: Normal.", "Clear.", "Normal."),
        (" CHEST, PA LATERAL:\n\n INDICATION: Cough.\n FINDINGS: Clear.", "Clear.", ""),
        (" CHEST, TWO VIEWS: Title.\n FINDINGS: Clear.", "Clear.", ""),
        (" TYPE OF EXAMINATION: Chest, AP.\n IMPRESSION: Normal.", "", "Normal."),
        (" FINDINGS: Clear.\n IMPRESSION: One.\n FINDINGS: Wide.\n IMPRESSION: Two.", "Clear. Wide.", "One. Two."),
        (" FINDINGS: Clear.\n IMPRESSION: Normal.\n ADDENDUM: There is an effusion.", "Clear.", "Normal."),
        (" WET READ: ___ 9:21 PM\n  Pneumonia.\n" + "_" * 78 + "\n FINAL REPORT\n FINDINGS: Clear.", "Clear.", ""),
        (" WET READ: 9:21 PM\n  Pneumonia.\n", "", ""),
        (" ADDENDUM:  Discussed.\n\n With Dr. ___.\n", "", ""),
        (" FINAL REPORT\n CHEST RADIOGRAPH\n\n Old words.\n\n No acute\n process.\n", "", "No acute process."),
        (" COMPARISON:  None.\n \n Clear lungs.\n \n No effusion.\n", "", "Clear lungs. No effusion."),
        (" INDICATION: Cough.\n TECHNIQUE: PA.\n", "", ""),
        (" FINDINGS: Seen at\n 10:30 AM: no change.\n IMPRESSION: Normal.", "Seen at 10:30 AM: no change.", "Normal."),
        ("FINDINGS: Clear lungs. IMPRESSION: Normal.", "Clear lungs.", "Normal."),
        ("INDICATION: Cough. FINDINGS: Clear. IMPRESSION: Normal. RECOMMENDATION: CT.", "Clear.", "Normal."),
        ("Indication: cough\r\nFindings: Clear.\r\nImpression: Normal.", "Clear.", "Normal."),
        ("FINDINGS:\n\nIMPRESSION:\n", "", ""),
        ("", "", ""),
    ],
)
def test_sections_of_a_report(text, findings, impression):
    assert split_report(text) == (findings, impression)


@pytest.mark.parametrize(
    "text", ["A" + " " * 10**6, "A B " * 10**6 + ":", "_" * 10**6 + "x", "." + " " * 10**6, "\n " * 10**5]
)
def test_no_text_takes_long_to_split(text):
    start = time.process_time()
    split_report(text + "x")
    assert time.process_time() - start < 2


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


# ---- MIMIC-CXR -----------------------------------------------------------------------------------------------------


def mimic(root, end=".csv.gz"):
    """Three studies of two patients: two frontal images and a lateral one, one for testing, one without sections."""
    rows = [  # dicom, patient, study, split, view
        ("d1", "10000032", "50414267", "train", "PA"),
        ("d2", "10000032", "50414267", "train", "LATERAL"),
        ("d3", "10000032", "50414267", "train", "AP"),
        ("d4", "11000033", "50414268", "test", "AP"),
        ("d5", "11000033", "50414269", "validate", "AP"),
    ]
    name = "mimic-cxr-2.0.0-{}" + end
    table(
        root / name.format("split"),
        [("dicom_id", "study_id", "subject_id", "split"), *((d, s, p, split) for d, p, s, split, _ in rows)],
    )
    metadata = ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows")
    table(root / name.format("metadata"), [metadata, *((d, p, s, "CHEST", v, "8") for d, p, s, _, v in rows)])
    names = sorted(OBSERVATIONS)
    values = {"Edema": "1.0", "Pneumonia": "-1.0", "Fracture": "0.0"}
    table(
        root / name.format("chexpert"),
        [("subject_id", "study_id", *names), ("10000032", "50414267", *(values.get(n, "") for n in names))],
    )
    texts = {"50414267": MIMIC_REPORT, "50414268": " IMPRESSION: Normal.", "50414269": " INDICATION: Cough."}
    for dicom, patient, study, _, _ in rows:
        folder = root / f"files/p{patient[:2]}/p{patient}"
        picture(folder / f"s{study}/{dicom}.jpg")
        (folder / f"s{study}.txt").write_text(texts[study])
    return root


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


# ---- CheXGenBench --------------------------------------------------------------------------------------------------


def test_chexgenbench_is_read_and_written_back(tmp_path):
    rows = [
        ("p10/s1/a.jpg", "Normal chest.", "{'No Finding': 1.0, 'Edema': nan}"),
        ("p10/s1/b.jpg", 'Edema, "mild".', '{"Edema": -1, "Fracture": null}'),
    ]
    path = tmp_path / "LLAVARAD_ANNOTATIONS_TEST.csv"
    table(path, [("path", "annotated_prompt", "chexpert_labels"), *rows])
    picture(tmp_path / "files/p10/s1/a.jpg")
    picture(tmp_path / "p10/s1/b.jpg")
    for given in (path, tmp_path):
        records = open_source(given, split="all")
        assert records.kind == "chexgenbench" and records.counts == {"test": 2}
        assert [r.image for r in records.records] == ["files/p10/s1/a.jpg", "p10/s1/b.jpg"]
        assert [r.labels for r in records.records] == [{"No Finding": 1}, {"Edema": -1}]
        assert records.text(1) == ('IMPRESSION: Edema, "mild".', 'Edema, "mild".')
        assert records.records[0].extra == {"annotated_prompt": "Normal chest."}
    with pytest.raises(UserError, match="2 test"):  # a test table is not trained on by oversight
        open_source(path)

    folder = tmp_path / "generated"
    picture(folder / "SyntheticImg_0.png")
    written = write_generated(folder, ["SyntheticImg_0.png"], ['Edema, "mild".\nNew.'])
    with open(written, newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"synthetic_filename": "SyntheticImg_0.png", "annotated_prompt": 'Edema, "mild".\nNew.'}
        ]
    assert open_source(folder).text(0)[1] == 'Edema, "mild". New.'
    assert sorted(p.name for p in folder.iterdir()) == ["SyntheticImg_0.png", "generations_with_metadata.csv"]
    with pytest.raises(UserError, match="1 images but 0 prompts"):
        write_generated(folder, ["a.png"], [])


# ---- Open-i --------------------------------------------------------------------------------------------------------

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><meta type="rr"/><uId id="CXR{uid}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="INDICATION">Positive TB test</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION">{impression}</AbstractText>
</Abstract></Article></MedlineCitation><MeSH><major>Pleural Effusion/left/small</major><major>Aorta/tortuous</major>
<automatic>effusion</automatic></MeSH>{images}</eCitation>"""


def open_i(uid, findings="Small effusion &amp; more.", impression="Effusion.", images=("3001", "4001")):
    images = "".join(
        f'<parentImage id="CXR{uid}_{uid}_IM-0001-{n}"><figureId>F1</figureId></parentImage>' for n in images
    )
    return XML.format(uid=uid, findings=findings, impression=impression, images=images)


def reports(root, files, archive=None):
    root.mkdir(parents=True, exist_ok=True)
    if archive is None:
        (root / "ecgen-radiology").mkdir()
        for name, text in files.items():
            (root / "ecgen-radiology" / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return root
    with tarfile.open(root / archive, "w:gz" if archive.endswith("gz") else "w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"ecgen-radiology/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return root


@pytest.mark.parametrize("archive", [None, "NLMCXR_reports.tgz", "NLMCXR_reports.tar"])
def test_open_i_in_a_folder_or_an_archive(tmp_path, archive):
    files = {"1.xml": open_i(1), "2.xml": open_i(2, "", ""), "3.xml": open_i(3, images=())}
    root = reports(tmp_path / "openi", files, archive)
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
    assert records.problems.count("dropped", "projection not frontal") == 1

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
    assert found["bad"]["unsafe XML (not plain text, or it declares a DOCTYPE or ENTITY)"] == [2, ["2.xml", "3.xml"]]
    assert found["bad"]["malformed XML"][0] == 2
    assert found["note"]["not UTF-8, read as Latin-1"] == [1, ["6.xml"]]
    assert records.records[1].findings == "Epanchement \xe9vident."


def test_a_broken_archive_is_named(tmp_path):
    path = reports(tmp_path, {"1.xml": open_i(1)}, "NLMCXR_reports.tgz") / "NLMCXR_reports.tgz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"NLMCXR_reports\.tgz: cannot be read"):
        open_source(path, need_images=False)


# ---- your own ------------------------------------------------------------------------------------------------------


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
    assert records.records == [Record("a.png", "Clear.", "Normal.", extra={"question": "Write it."})]
    assert records.problems.count("bad", "malformed row") == 2 and records.problems.count("bad", "empty report") == 1
    for broken in ("[" * 100000, '{"a": 1}', "[1,"):
        (tmp_path / "evaluation.json").write_text(broken)
        with pytest.raises(UserError, match=r"evaluation\.json: (broken JSON|no list)"):
            open_source(tmp_path)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_every_lost_row_is_counted_and_named(tmp_path):
    root = own(tmp_path / "own", [(f"{n}.png", "Clear.") for n in range(3)])
    picture(tmp_path / "outside.png")
    with open(root / "metadata.csv", "ab") as file:
        file.write(
            b"absent.png,Clear.\n0.png,\n../outside.png,Clear.\n/etc/passwd,Clear.\nC:\\a.png,Clear.\n"
            b"..\\outside.png,Clear.\n0.png\n0.png,a,b\n\nsub/../0.png,\xe9vident\n,Clear.\n"
        )
    records = open_source(root)
    assert [r.image for r in records.records] == ["0.png", "1.png", "2.png", "0.png"]
    found = records.problems.found
    assert found["bad"]["image absent"] == [2, ["absent.png", "(no name)"]]
    assert found["bad"]["empty report"] == [1, ["0.png"]]
    assert found["bad"]["path outside of the data folder"][0] == 4
    assert found["bad"]["wrong number of columns"] == [2, ["metadata.csv line 11", "metadata.csv line 12"]]
    assert found["note"]["not UTF-8, read as Latin-1"] == [1, ["metadata.csv"]]
    assert "bad: 2 image absent (absent.png, (no name))" in records.problems.summary().split("\n")
    assert records.kind == "own" and records.counts == {"train": 4}


def test_too_many_bad_rows_stop_the_set_in_one_line(tmp_path):
    root = own(tmp_path / "own", [(f"{n}.png", "Clear.") for n in range(100)])
    for n in range(19):
        (root / f"{n}.png").unlink()
    assert len(open_source(root)) == 81  # fewer than twenty
    (root / "19.png").unlink()
    with pytest.raises(UserError, match=r"20 of 100 rows cannot be used: bad: 20 image absent \(0\.png") as caught:
        open_source(root)
    assert "\n" not in str(caught.value)
    assert len(open_source(root, limit_bad=0.2)) == 80


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "image\na.png\n", r"metadata\.csv: no column report"),
        ("metadata.csv", "file,report\na.png,Clear.\n", r"metadata\.csv: no column image"),
        ("metadata.csv", "", r"metadata\.csv: no column"),
        ("metadata.csv", 'image,report\na.png,Clear.\nb.png,"Clear.\nc.png,Clear.\n', r"line 3: a quote is opened"),
        ("metadata.csv", "image,report\na.png,Clear.\n".encode("utf-16"), r"metadata\.csv: not a text file"),
        ("metadata.csv", "image,report,split\na.png,Clear.,trian\n", "1 unknown split"),
        ("set.csv", "path,annotated_prompt\na.png,\n", "1 empty report"),
        ("notes.txt", "hello", "no data set known here"),
    ],
)
def test_a_set_that_cannot_be_used_says_why(tmp_path, name, content, message):
    root = tmp_path / "set"
    picture(root / "a.png")
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        open_source(root)


def test_paths_and_splits_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_source(tmp_path / "nowhere")
    root = own(tmp_path / "own", [("a.png", "Clear.")])
    with pytest.raises(UserError, match="no such split"):
        open_source(root, split="trian")
    with pytest.raises(UserError, match=r"nothing to use in split 'test' \(found: 1 train\)"):
        open_source(root, split="test")
    with pytest.raises(UserError, match=r"a\.png: no table"):
        open_source(root / "a.png")
    (tmp_path / "two").mkdir()
    for name in ("x.csv", "y.csv"):
        (tmp_path / "two" / name).write_text("a\n")
    with pytest.raises(UserError, match=r"several tables \(x\.csv, y\.csv\)"):
        open_source(tmp_path / "two")


def test_check_finds_broken_images_before_a_run_does(tmp_path):
    root = own(tmp_path / "own", [(f"{n}.png", "Clear.") for n in range(5)])
    (root / "4.png").write_bytes(b"no image")
    records = open_source(root)
    (wrong,) = broken(records)
    assert "4.png: not an image" in wrong


# ---- DICOM ---------------------------------------------------------------------------------------------------------


class Dicom(types.SimpleNamespace):
    def get(self, name, default=None):
        return getattr(self, name, default)


def dicom(monkeypatch, **fields):
    values = np.array([[0, 1000], [2000, 4095]], dtype=np.uint16)
    file = Dicom(Rows=2, Columns=2, **{"pixel_array": values, **fields})
    monkeypatch.setitem(sys.modules, "pydicom", types.SimpleNamespace(dcmread=lambda path: file))


def test_dicom_is_rescaled_windowed_and_inverted(tmp_path, monkeypatch):
    root = own(tmp_path / "own", [("a.dcm", "Clear.")], images=False)
    (root / "a.dcm").write_bytes(b"")
    records = open_source(root)
    dicom(monkeypatch, PhotometricInterpretation="MONOCHROME2")
    assert records.image(0).tolist() == [[0, 62], [125, 255]] and records.image(0).dtype == np.uint8
    dicom(monkeypatch, PhotometricInterpretation="MONOCHROME1")
    assert records.image(0).tolist() == [[255, 193], [130, 0]]
    # A window of 1001 values around 500.5 runs from 0 to 1000; here on values of twice what is stored, less 1000.
    dicom(monkeypatch, RescaleSlope="2", RescaleIntercept="-1000", WindowCenter=[500.5, 40], WindowWidth=[1001, 400])
    assert records.image(0).tolist() == [[0, 255], [255, 255]]
    dicom(monkeypatch, WindowCenter="1000.5", WindowWidth="2001")
    assert records.image(0).tolist() == [[0, 128], [255, 255]]
    dicom(monkeypatch, pixel_array=np.zeros((3, 2, 2)))
    with pytest.raises(UserError, match=r"a\.dcm: .*not one grey picture"):
        records.image(0)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"a\.dcm: .*pip install pydicom"):
        records.image(0)


def test_a_file_that_is_no_dicom_is_named(tmp_path):
    pytest.importorskip("pydicom")
    (tmp_path / "a.dcm").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.dcm: broken DICOM"):
        load_dicom(tmp_path / "a.dcm")


# ---- the cache -----------------------------------------------------------------------------------------------------


def test_the_cache_is_used_and_equal(tmp_path, monkeypatch):
    root, cache = mimic(tmp_path / "mimic"), tmp_path / "cache"
    first = open_source(root, split="all", cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "read_mimic", None)  # reading again would fail
        again = open_source(root, split="all", cache=cache)
        assert len(open_source(root, cache=cache)) == 2  # the same file serves every split
    assert again.records == first.records and again.problems.found == first.problems.found
    (kept,) = cache.iterdir()
    for damage in (
        kept.read_bytes()[:-40],
        kept.read_bytes().rsplit(b"\n", 1)[0],
        b"",
        b"\xff\x00",
        b"[3, {}]\n1\n2\n3",
    ):
        kept.write_bytes(damage)
        rebuilt = open_source(root, split="all", cache=cache)
        assert rebuilt.records == first.records and rebuilt.problems.found == first.problems.found
    assert open_source(root, split="all", cache=None).records == first.records
    assert [p.name for p in cache.iterdir()] == [kept.name]


def test_the_cache_notices_changes(tmp_path):
    root, cache = own(tmp_path / "own", [("a.png", "Clear."), ("images/x/b.png", "Clear.")]), tmp_path / "own" / "cache"
    assert len(open_source(root, cache=cache)) == 2
    table(root / "metadata.csv", [("image", "report"), ("a.png", "Hazy.")])
    assert open_source(root, cache=cache).text(0)[1] == "Hazy."
    table(root / "metadata.csv", [("image", "report"), ("a.png", "Clear."), ("images/x/c.png", "Clear.")])
    assert len(open_source(root, cache=cache)) == 1
    picture(root / "images/x/c.png")
    os.utime(root / "images/x", (1, 1))  # clocks of file systems may be too coarse to see the change
    assert len(open_source(root, cache=cache)) == 2


def test_a_cache_that_cannot_be_kept_is_named(tmp_path):
    root = own(tmp_path / "own", [("a.png", "Clear.")])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        open_source(root, cache=tmp_path / "file")
