"""CSV and JSON tables, and the paths in them, read with every fault counted by name."""

import csv
import gzip
import io
import json
import os
import posixpath
import re
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

from archives.records import Problems, RowError
from common.errors import UserError

csv.field_size_limit(2**31 - 1)  # a quote that is not closed is found at the end of the file, and named by its line
EMPTY = ("", "nan", "none", "null", "na", "n/a", "n.a", "nat")  # what tables write where nothing stands, less its signs
GUIDE = "docs/data.md says what a data set needs"


def find_image(root: Path, name: str, needed: bool, folders: tuple[str, ...] = ("",)) -> str:
    """Where image `name` lies below `root`, in one of `folders`, as the disk writes it: a Mac keeps Unicode decomposed.

    Raises RowError for a path that leads out of `root` and, if `needed`, for an image that is not there.
    """
    inside = path_inside(name) if name.strip() else ""
    if inside is None:
        raise RowError("bad", "path outside of the data folder", name)
    forms = [inside, *(unicodedata.normalize(form, inside) for form in ("NFC", "NFD"))] if inside else []
    places = (folder + form for folder in folders for form in forms)
    found = next((place for place in places if os.path.exists(root / place)), None)
    if found is None and needed:
        raise RowError("bad", "image absent", name or "(no name)")
    return found or inside


def path_inside(name: str) -> str | None:
    """The path below the data folder that `name` means, or None if it is absolute or climbs out."""
    name = posixpath.normpath(name.strip().replace("\\", "/"))
    outside = name.startswith(("/", "../")) or name in ("..", ".") or re.match(r"[A-Za-z]:", name) or "\0" in name
    return None if outside else name


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing, whatever its table writes for that."""
    return value is None or value != value or str(value).strip(" \t\r\n#<>-–?.[]{}()").lower() in EMPTY


def whole_characters(text: str) -> str:
    """`text` with "?" for half a character (a lone surrogate), which JSON can hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """`text` with whole characters and single spaces."""
    return " ".join(whole_characters(text).split())


def plain_or_gzipped(path: Path) -> Path | None:
    """`path` with .gz behind it or as it is, whichever is there; None if neither is."""
    return next((p for p in (path.with_name(path.name + ".gz"), path) if p.is_file()), None)


def text_of_bytes(data: bytes, name: str, problems: Problems) -> str:
    """Bytes as UTF-8, or as Windows-1252, which is counted as a note. Raises ValueError if they are no text."""
    if b"\0" in data:
        raise ValueError("not a text file in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add("note", "not UTF-8, read as Windows-1252", name)
        return data.decode("cp1252", "replace")


def read_text(path: Path, problems: Problems) -> str:
    """A text file, gzipped or not, its line ends as "\\n". Raises UserError if it cannot be read or holds no text."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")  # a pipe would be waited for
        data = path.read_bytes()
        text = text_of_bytes(gzip.decompress(data) if path.suffix.lower() == ".gz" else data, path.name, problems)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch or save it again") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_header(path: Path) -> list[str]:
    """The column names in the first line of a CSV file. Raises UserError if it cannot be read."""
    return [name.strip() for name in next(csv.reader(read_text(path, Problems()).split("\n", 1)[:1]), [])]


def read_table(path: Path, columns: tuple[str, ...], problems: Problems) -> Iterator[tuple[str, dict]]:
    """(name for messages, row) of each well-formed row of a CSV file with at least `columns`, or of a JSON file."""
    if path.suffix.lower() in (".json", ".jsonl"):
        yield from read_json_rows(path, problems)
        return
    header = read_header(path)
    if missing := [name for name in columns if name not in header]:
        has = f"it has {', '.join(header)[:200] or 'none'}"
        raise UserError(f"{path}: no column {', '.join(missing)}; {has}; {GUIDE}")
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise UserError(f"{path}: two columns {twice[0]}; rename or remove one")
    reader, row = csv.reader(io.StringIO(read_text(path, problems)), strict=True), []
    while row is not None:
        started = reader.line_num + 1
        try:
            row = next(reader, None)
            if row and started > 1:
                yield f"{path.name} line {started}", dict(zip(header, row, strict=True))
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(f"{path}: line {started}: a quote is opened but not closed; close it") from error
            problems.add("bad", "malformed row", f"{path.name} line {started}")
        except ValueError:
            problems.add("bad", "wrong number of columns", f"{path.name} line {started}")


def read_json_rows(path: Path, problems: Problems) -> Iterator[tuple[str, dict]]:
    """As `read_table`: JSON lines, or a list of rows in one .json, or what others keep in a .json:

    UniX                      [{"messages": [{"role": "user", "content": text}, of the assistant], "images": [path]}]
    R2Gen (Chen et al. 2020)  {split: [{"id": study, "report": text, "image_path": [paths]}]}
    """
    text, lines = read_text(path, problems), path.suffix.lower() != ".json"
    try:
        rows = text.split("\n") if lines else json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error}); write it again") from error
    if isinstance(rows, dict) and all(isinstance(part, list) for part in rows.values()):
        rows = [(row, split) for split, part in rows.items() for row in part]
    if not isinstance(rows, list):
        raise UserError(f'{path}: no list; it must be [{{"messages": [...], "images": [...]}}, ...]; {GUIDE}')
    for number, row in enumerate(rows, 1):
        name = f"{path.name} {'line' if lines else 'row'} {number}"
        try:
            if lines:
                row = json.loads(row, object_pairs_hook=without_repeats) if row.strip() else {}
            if isinstance(row, tuple):
                row, split = row
                image, *others = [row["image_path"]] if isinstance(row["image_path"], str) else row["image_path"]
                for film in others:  # the first of a study is its frontal one
                    problems.add("dropped", "further film of a report", film)
                patient = row.get("subject_id", row.get("id"))
                row = {"image": image, "report": row["report"], "split": split, "patient": patient}
            elif "messages" in row:
                said = {message["role"]: message["content"] for message in row["messages"]}
                row = {"image": row["images"][0], "report": said["assistant"], "question": said["user"]}
            if row:
                yield name, dict(row.items())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            problems.add("bad", "key twice in one row" if "twice" in str(error) else "malformed row", name)


def without_repeats(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object. Raises ValueError if a key stands twice in it: which of the two is meant?"""
    keys = [key for key, _ in pairs]
    if twice := [key for key in set(keys) if keys.count(key) > 1]:
        raise ValueError(f'"{min(twice)}" stands twice in one object')
    return dict(pairs)
