"""CheXGenBench (Dutt et al. 2025): a table of path, annotated_prompt and chexpert_labels."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from archives.own import read_rows, split_of_name
from archives.records import Problems, Record
from archives.tables import read_header, read_table
from common.errors import UserError
from common.files import write_atomically


def read_chexgenbench(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The rows of a table of real or of generated images; the prompt is the impression."""
    image = "synthetic_filename" if "synthetic_filename" in read_header(files[0]) else "path"
    names = {"image": image, "impression": "annotated_prompt", "labels": "chexpert_labels"}
    rows = read_table(files[0], (image, "annotated_prompt"), problems)
    ours = ((name, {our: row.get(their) for our, their in names.items()}) for name, row in rows)
    return read_rows(ours, root, split_of_name(files[0]), problems, need_images, folders=("", "files/"))


def write_generated(folder: str | Path, filenames: list[str], prompts: list[str]) -> Path:
    """Write the table of generated images that CheXGenBench reads: FOLDER/generations_with_metadata.csv."""
    if len(filenames) != len(prompts):
        raise UserError(f"{folder}: {len(filenames)} images but {len(prompts)} prompts; give one prompt an image")
    path = Path(folder) / "generations_with_metadata.csv"
    with write_atomically(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        rows = zip(filenames, prompts, strict=True)
        csv.writer(file, lineterminator="\n").writerows([("synthetic_filename", "annotated_prompt"), *rows])
    return path
