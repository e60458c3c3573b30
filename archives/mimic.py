"""MIMIC-CXR-JPG (Johnson et al. 2019): its tables and MIMIC-CXR's reports; frontal views, official split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from archives.labels import read_labels
from archives.records import NO_SECTIONS, SPLITS, Problems, Record, RowError
from archives.sections import split_report
from archives.tables import Listing, path_inside, plain_or_gzipped, read_table, text_of_bytes
from common.errors import UserError
from common.observations import OBSERVATIONS

MIMIC = "mimic-cxr-2.0.0-{}.csv"


def read_mimic(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The frontal images of every study that has findings or an impression, in the official split."""
    tables = {part: plain_or_gzipped(root / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
    if not tables["metadata"]:
        raise UserError(f"{root}: {MIMIC.format('metadata')}.gz is missing; fetch it from MIMIC-CXR-JPG")
    rows = read_table(tables["metadata"], ("dicom_id", "ViewPosition"), problems)
    views = {row["dicom_id"]: row["ViewPosition"] for _, row in rows}
    labels: dict[str, dict[str, int]] = {}
    if tables["chexpert"]:
        for name, row in read_table(tables["chexpert"], ("subject_id", "study_id", *OBSERVATIONS), problems):
            labels[row["study_id"]] = read_labels({key: row[key] for key in OBSERVATIONS}, name, problems)
    else:
        problems.add("note", "no CheXpert labels", MIMIC.format("chexpert") + ".gz")
    listing, reports, used = Listing(root), {}, 0
    for name, row in read_table(tables["split"], ("dicom_id", "study_id", "subject_id", "split"), problems):
        with problems.row():
            patient, study, view = row["subject_id"], row["study_id"], views.get(row["dicom_id"], "")
            if view not in ("AP", "PA"):
                raise RowError("dropped", "view not AP or PA", row["dicom_id"])
            folder = path_inside(f"files/p{patient[:2]}/p{patient}/s{study}")
            if folder is None or row["split"] not in SPLITS:
                raise RowError("bad", "malformed row", name)
            if folder not in reports:  # several images of a study share it
                reports[folder] = mimic_report(root, folder + ".txt", listing, problems)
            findings, impression = reports[folder]
            used += 1
            names = [f"{folder}/{row['dicom_id']}{end}" for end in (".jpg", ".png", ".dcm")]
            image = listing.find_image(next(filter(listing.has, names), names[0]), need_images)
            yield Record(image, findings, impression, SPLITS[row["split"]], labels.get(study, {}), patient, view)
    if not used and problems.count("bad", "report absent"):
        raise UserError(f"{root}: no reports; unpack mimic-cxr-reports.zip of MIMIC-CXR (not -JPG) beside the images")


def mimic_report(root: Path, name: str, listing: Listing, problems: Problems) -> tuple[str, str]:
    """(findings, impression). Raises RowError for a report without either, and for what is no report."""
    if not listing.has(name):
        raise RowError("bad", "report absent", name)
    if not (root / name).is_file():  # a pipe would be waited for
        raise RowError("bad", "report not a file", name)
    try:
        text = text_of_bytes((root / name).read_bytes(), name, problems)
    except OSError as error:
        raise RowError("bad", "report unreadable", name) from error
    if text is None or not text.strip():
        raise RowError("bad", "report not text" if text is None else "empty report", name)
    findings, impression = split_report(text)
    if not findings and not impression:
        raise RowError("dropped", NO_SECTIONS, name)
    return findings, impression
