"""Your own data set: metadata.csv or metadata.jsonl; and others' JSON, UniX's messages and R2Gen's splits."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from archives.labels import Json, label_value, mesh_labels, named_values, read_labels
from archives.records import SPLITS, Problems, Record, RowError
from archives.sections import read_section, split_report
from archives.tables import GUIDE, find_image, is_empty, one_line, read_header, read_table, whole_characters
from common.errors import UserError

TEXTS = ("image", "report", "findings", "impression", "split", "patient", "view", "question")
REPORTS = {"report", "findings", "impression", "labels", "captions"}  # columns of which a table needs one
Rows = Iterable[tuple[str, dict[str, Json]]]  # name for messages, row
FRONTAL = {"pa", "ap", "frontal", "posteroanterior", "anteroposterior"}
NOT_FRONTAL = {"l", "ll", "rl", "lat", "llat", "rlat", "lateral", "oblique", "lao", "rao", "lpo", "rpo"}
WORDS = {  # a label as a report would say it, where its name in small letters would not do
    "Effusion": "pleural effusion",
    "Mass": "lung mass",
    "Nodule": "lung nodule",
    "Pleural Other": "pleural abnormality",
}


def read_own(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The rows of a user's own table, or of others' JSON. Raises UserError if no column has a report."""
    path = files[0]
    if not path.suffix.lower().startswith(".json") and not REPORTS & set(read_header(path)):
        raise UserError(f"{path}: no column report (or findings, impression, labels, captions) in its header; {GUIDE}")
    rows = read_table(path, ("image",) if need_images else (), problems)
    return read_rows(rows, root, split_of_name(path), problems, need_images, folders=("", "images/"))


def read_rows(
    rows: Rows, root: Path, split: str, problems: Problems, need_images: bool, folders: tuple[str, ...] = ("",)
) -> Iterator[Record]:
    """(name for messages, row) -> records. A row has the columns of `metadata.csv`; others are the user's own business.

    split: of the rows that name none. folders: where below root an image may lie.
    """
    for name, row in rows:
        with problems.row():
            row = {key: None if is_empty(value) else value for key, value in row.items()}
            row["view"] = row.get("view") or row.get("ViewPosition")  # as MIMIC-CXR-JPG's own tables call it
            mesh, captions = mesh_terms(row.get("mesh")), read_captions(row.get("captions"))
            if any(isinstance(row.get(key), (list, dict)) for key in TEXTS):
                raise RowError("bad", "malformed row", name)
            text = {key: whole_characters(str(row[key])) for key in TEXTS if row.get(key) is not None}
            cell = {key: one_line(value) for key, value in text.items()}
            words = set(re.findall("[a-z]+", cell.get("view", "").lower()))
            if words & NOT_FRONTAL and not words & FRONTAL:
                raise RowError("dropped", "view not frontal", cell.get("image", name))
            said = split_report(text.get("report", ""), last_paragraph=False)
            said = said if any(said) else (read_section(text.get("report", "")), "")
            findings, impression = ("" if is_empty(section) else section for section in said)
            findings = read_section(text.get("findings", "")) or findings
            impression = read_section(text.get("impression", "")) or impression
            if not findings and not impression and captions:
                impression = captions[0]
            if not findings and not impression and "report" not in row:
                findings, impression = report_of_labels(named_values(row.get("labels") or ""))
                if impression:
                    problems.add("note", "report made from labels", name)
            if not findings and not impression:
                raise RowError("bad", "empty report", cell.get("image", name))
            part = SPLITS.get((cell.get("split") or split).lower())
            if part is None:
                raise RowError("bad", "unknown split", cell["split"])
            image = find_image(root, text.get("image", ""), need_images, folders)
            question = text.get("question", "").replace("<image>", "").strip()
            extra = {"question": question} if question else {}
            if extra and "report" in text:  # the reference word by word, with whatever sections it has
                extra["reference"] = text["report"].strip()
            extra |= {name: found for name, found in (("captions", captions), ("mesh", mesh)) if found}
            labels = read_labels(row.get("labels") or "", name, problems) or mesh_labels(mesh)
            patient = cell.get("patient", "").removesuffix(".0")  # pandas makes numbers with gaps floats
            yield Record(image, findings, impression, part, labels, patient, cell.get("view", ""), extra)


def mesh_terms(given: Json) -> list[str]:
    """MeSH codes as Open-i has them: "Opacity/lung|Normal", or a list."""
    terms = given if isinstance(given, list) else str(given or "").split("|")
    return [one_line(term) for term in terms if isinstance(term, str) and not is_empty(term)]


def read_captions(given: Json) -> list[str]:
    """Prompts to draw from: a list of texts or {name: text}, as it is or as JSON in a cell; one text is one prompt."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = [given]
    texts = list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else []
    if not all(isinstance(text, str) or is_empty(text) for text in texts):
        raise RowError("bad", "captions are no texts", str(given))
    return [one_line(text) for text in texts if not is_empty(text)]


def report_of_labels(labels: dict[str, Json]) -> tuple[str, str]:
    """Labels under CheXpert's or NIH's names -> (findings, impression); ("", "") if none is given."""
    values = {WORDS.get(name, name.replace("_", " ").lower()): label_value(value) for name, value in labels.items()}
    values = {word: value for word, value in values.items() if value is not None}
    normal = values.pop("no finding", None)
    findings = {1: "{} is present.", -1: "{} is possible.", 0: "No {}."}
    impression = {1: "{}.", -1: "Possible {}."}
    said = [findings[value].format(word) for word, value in values.items()]
    short = [impression[value].format(word) for word, value in values.items() if value != 0]
    if not short and (said or normal):
        short = ["No acute cardiopulmonary abnormality."]
    said = said or short
    return tuple(" ".join(sentence[0].upper() + sentence[1:] for sentence in part) for part in (said, short))


def split_of_name(path: Path) -> str:
    """LLAVARAD_ANNOTATIONS_TEST.csv -> "test": a table that says no split must not leak into training."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train")
