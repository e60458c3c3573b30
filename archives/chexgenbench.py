"""CheXGenBench (Dutt et al. 2025): a table of path, annotated_prompt and chexpert_labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from archives.labels import read_labels
from archives.own import split_of_name
from archives.records import Problems, Record, RowError
from archives.tables import Listing, find_image, read_header, read_table
from common.errors import UserError
from common.files import write_text


def read_chexgenbench(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The rows of a table of real or of generated images; the prompt is the impression."""
    column = "synthetic_filename" if "synthetic_filename" in read_header(files[0]) else "path"
    listing, split = Listing(root), split_of_name(files[0])
    for name, row in read_table(files[0], (column, "annotated_prompt"), problems):
        with problems.row():
            prompt = " ".join(row["annotated_prompt"].split())
            if not prompt:
                raise RowError("bad", "empty report", row[column])
            image = find_image(row[column], listing, need_images, folders=("", "files/"))
            labels = read_labels(row.get("chexpert_labels", ""), name, problems)
            yield Record(image, "", prompt, split, labels, extra={"annotated_prompt": row["annotated_prompt"]})


def write_generated(folder: str | Path, filenames: list[str], prompts: list[str]) -> Path:
    """Write the table of generated images that CheXGenBench reads: FOLDER/generations_with_metadata.csv."""
    if len(filenames) != len(prompts):
        raise UserError(f"{folder}: {len(filenames)} images but {len(prompts)} prompts; give one prompt an image")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("synthetic_filename", "annotated_prompt"), *zip(filenames, prompts, strict=True)]
    )
    path = Path(folder) / "generations_with_metadata.csv"
    write_text(path, text.getvalue())
    return path
