"""MIMIC-CXR-JPG (Johnson et al. 2019): its tables and MIMIC-CXR's reports; frontal views, official split."""

from collections.abc import Iterator
from pathlib import Path

from archives.own import read_rows
from archives.records import NO_SECTIONS, Problems, Record, RowError
from archives.sections import split_report
from archives.tables import path_inside, plain_or_gzipped, read_table, read_text
from common.errors import UserError
from common.observations import OBSERVATIONS

MIMIC = "mimic-cxr-2.0.0-{}.csv"


def read_mimic(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The frontal images of every study that has findings or an impression, in the official split."""
    tables = {part: plain_or_gzipped(root / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
    if not tables["metadata"]:
        raise UserError(f"{root}: {MIMIC.format('metadata')}.gz is missing; fetch it from MIMIC-CXR-JPG")
    metadata = read_table(tables["metadata"], ("dicom_id", "ViewPosition"), problems)
    views = {row["dicom_id"]: row["ViewPosition"] for _, row in metadata}
    labels: dict[str, dict] = {}
    if tables["chexpert"]:
        columns = ("subject_id", "study_id", *OBSERVATIONS)
        for _, row in read_table(tables["chexpert"], columns, problems):
            labels[row["study_id"]] = {name: row[name] for name in OBSERVATIONS}
    else:
        problems.add("note", "no CheXpert labels", MIMIC.format("chexpert") + ".gz")
    reports: dict[str, tuple[str, str]] = {}

    def rows() -> Iterator[tuple[str, dict]]:
        for name, row in read_table(tables["split"], ("dicom_id", "study_id", "subject_id", "split"), problems):
            with problems.row():
                patient, study, view = row["subject_id"], row["study_id"], views.get(row["dicom_id"], "")
                if view not in ("AP", "PA"):
                    raise RowError("dropped", "view not AP or PA", row["dicom_id"])
                folder = path_inside(f"files/p{patient[:2]}/p{patient}/s{study}")
                if folder is None:
                    raise RowError("bad", "malformed row", name)
                if folder not in reports:  # several images of a study share it
                    try:
                        reports[folder] = split_report(read_text(root / f"{folder}.txt", problems))
                    except UserError as error:
                        raise RowError("bad", "no readable report", f"{folder}.txt") from error
                findings, impression = reports[folder]
                if not findings and not impression:
                    raise RowError("dropped", NO_SECTIONS, f"{folder}.txt")
                names = [f"{folder}/{row['dicom_id']}{end}" for end in (".jpg", ".png", ".dcm")]
                said = {"findings": findings, "impression": impression, "labels": labels.get(study), "view": view}
                image = next((name for name in names if (root / name).exists()), names[0])
                yield name, {"image": image, "split": row["split"], "patient": patient, **said}

    yield from read_rows(rows(), root, "train", problems, need_images)
    if not reports and problems.count("bad", "no readable report"):
        raise UserError(f"{root}: no reports; unpack mimic-cxr-reports.zip of MIMIC-CXR (not -JPG) beside the images")
