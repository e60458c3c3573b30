"""Tables that others publish, read as rows of our own: CheXGenBench, ChestX-ray14, and Kaggle's copy of Open-i."""

import csv
from collections.abc import Iterator
from pathlib import Path

from archives.own import read_rows, split_of_name
from archives.records import Problems, Record
from archives.tables import read_header, read_table, read_text
from common.files import write_atomically


def renamed(path: Path, names: dict[str, str], problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table whose columns have other names; names: ours -> theirs."""
    for where, row in read_table(path, (names["image"],), problems):
        yield where, {ours: row.get(theirs) for ours, theirs in names.items()}


def read_chexgenbench(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """CheXGenBench (Dutt et al. 2025): real or generated images; the prompt is the impression."""
    image = "synthetic_filename" if "synthetic_filename" in read_header(files[0]) else "path"
    names = {"image": image, "impression": "annotated_prompt", "labels": "chexpert_labels"}
    rows = renamed(files[0], names, problems)
    return read_rows(rows, root, split_of_name(files[0]), problems, need_images, folders=("", "files/"))


def read_nih(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """ChestX-ray14 (Wang et al. 2017): Data_Entry_2017.csv, with the official split if test_list.txt lies beside it."""
    listed = root / "test_list.txt"
    test = set(read_text(listed, problems).split()) if listed.is_file() else set()
    names = {"image": "Image Index", "labels": "Finding Labels", "patient": "Patient ID", "view": "View Position"}
    rows = renamed(files[0], names, problems)
    rows = ((where, row | {"split": "test" if row["image"] in test else "train"}) for where, row in rows)
    folders = ("", "images/", *(f"images_{part:03}/images/" for part in range(1, 13)))  # as its archives unpack
    return read_rows(rows, root, "train", problems, need_images, folders)


def read_kaggle(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """Open-i's reports in indiana_reports.csv, its films in indiana_projections.csv: joined by uid."""
    columns = ("uid", "findings", "impression", "MeSH")
    reports = {row["uid"]: row for _, row in read_table(files[0], columns, problems)}
    films, table = ((uid, {"uid": uid}) for uid in reports), root / "indiana_projections.csv"
    if need_images or table.is_file():
        films = read_table(table, ("uid", "filename", "projection"), problems)

    def joined() -> Iterator[tuple[str, dict[str, str]]]:
        for where, film in films:
            row = {"image": film.get("filename"), "view": film.get("projection"), "patient": film["uid"]}
            _, row["findings"], row["impression"], mesh = (reports.get(film["uid"], {}).get(name) for name in columns)
            yield where, row | {"mesh": (mesh or "").replace(";", "|")}

    folders = ("", "images/", "images_normalized/", "images/images_normalized/")
    return read_rows(joined(), root, "train", problems, need_images, folders)


def write_generated(folder: str | Path, filenames: list[str], prompts: list[str]) -> Path:
    """Write the table of generated images that CheXGenBench reads: FOLDER/generations_with_metadata.csv."""
    path = Path(folder) / "generations_with_metadata.csv"
    with write_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        rows = zip(filenames, prompts, strict=True)
        csv.writer(file, lineterminator="\n").writerows([("synthetic_filename", "annotated_prompt"), *rows])
    return path
