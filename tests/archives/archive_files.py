"""Small data sets as they are published, written for a test."""

import csv
import gzip
import io
import tarfile

from PIL import Image

from archives.command import open_and_discard
from common.observations import OBSERVATIONS


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
