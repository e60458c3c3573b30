"""Your own data set: metadata.csv or metadata.jsonl, and UniX's JSON list of messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from archives.labels import Json, label_value, mesh_labels, named_values, read_labels
from archives.records import SPLITS, Problems, Record, RowError
from archives.sections import split_report
from archives.tables import Listing, find_image, read_json_rows, read_table, whole_characters
from common.errors import UserError

WORDS = {  # a label as a report would say it, where its name in small letters would not do
    "Effusion": "pleural effusion",
    "Mass": "lung mass",
    "Nodule": "lung nodule",
    "Pleural Other": "pleural abnormality",
}


OWN_COLUMNS = ("image", "report", "findings", "impression", "split", "patient", "view", "question")


def read_own(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The rows of a user's own table, or of UniX's JSON of messages; columns that we do not know are left alone."""
    path, listing, named = files[0], Listing(root), split_of_name(files[0])
    columns, from_json = ("image",) if need_images else (), path.suffix.lower() in (".json", ".jsonl")
    rows = read_json_rows(path, problems) if from_json else read_table(path, columns, problems)
    for name, row in rows:
        if not from_json and not {"report", "findings", "impression", "labels", "captions"} & set(row):
            raise UserError(f"{path}: no column report; add it (or findings and impression, or labels, or captions)")
        with problems.row():
            kept = row.pop("extra", None)  # where `data.py clean` once wrote captions, question and mesh
            row = (kept if isinstance(kept, dict) else {}) | row
            given, mesh = row.pop("labels", None) or "", mesh_terms(row.get("mesh") or "")
            captions = read_captions(row.pop("captions", None))
            row = {key: row[key] for key in OWN_COLUMNS if key in row}  # others are the user's own business
            if not all(value is None or isinstance(value, (str, int, float)) for value in row.values()):
                raise RowError("bad", "malformed row", name)
            text = {key: whole_characters(str(value)) for key, value in row.items() if value is not None}
            cell = {key: " ".join(value.split()) for key, value in text.items()}
            findings, impression = split_report(text.get("report", ""), last_paragraph=False)
            if not findings and not impression:
                findings = cell.get("report", "")
            findings, impression = cell.get("findings") or findings, cell.get("impression") or impression
            if not findings and not impression and captions:
                impression = captions[0]
            if not findings and not impression and "report" not in row:
                findings, impression = report_of_labels(named_values(given))
                if impression:
                    problems.add("note", "report made from labels", name)
            if not findings and not impression:
                raise RowError("bad", "empty report", cell.get("image", name))
            split = SPLITS.get((cell.get("split") or named).lower())
            if split is None:
                raise RowError("bad", "unknown split", cell["split"])
            image = find_image(text.get("image", ""), listing, need_images)
            extra = {"question": text["question"].replace("<image>", "").strip()} if "question" in text else {}
            if extra and "report" in text:  # the reference word by word, with whatever sections it has
                extra["reference"] = text["report"].strip()
            if captions:
                extra["captions"] = captions
            extra |= {"mesh": mesh} if mesh else {}
            labels = read_labels(given, name, problems) or mesh_labels(mesh)
            patient, view = cell.get("patient", ""), cell.get("view", "")
            yield Record(image, findings, impression, split, labels, patient, view, extra)


def mesh_terms(given: Json) -> list[str]:
    """MeSH codes of a row, as Open-i has them: "Opacity/lung|Normal", or a list."""
    terms = given if isinstance(given, list) else str(given).split("|")
    return [" ".join(whole_characters(term).split()) for term in terms if isinstance(term, str) and term.strip()]


def read_captions(given: Json) -> list[str]:
    """Prompts to draw from: a list of texts or {name: text}, as it is or as JSON in a cell; one text is one prompt."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = [given]
    texts = given.values() if isinstance(given, dict) else given if isinstance(given, list) else []
    if not all(isinstance(text, str) for text in texts):
        raise RowError("bad", "captions are no texts", str(given))
    return [text for text in (" ".join(whole_characters(text).split()) for text in texts) if text]


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
