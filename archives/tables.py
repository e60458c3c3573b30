"""CSV and JSON-lines tables, and the paths in them, read with every fault counted by name."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import posixpath
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from archives.records import Problems, RowError
from common.errors import UserError

csv.field_size_limit(2**31 - 1)  # a quote that is not closed is found at the end of the file, and named by its line


class Listing:
    """Which files lie under a folder, by one directory listing for each folder that is asked about."""

    def __init__(self, root: Path) -> None:
        self.root, self.folders = root, {}

    def has(self, name: str) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self.folders:
            try:
                self.folders[folder] = frozenset(os.listdir(self.root / folder))
            except (OSError, ValueError):
                self.folders[folder] = frozenset()
        return file in self.folders[folder]

    def find_image(self, name: str, needed: bool, folders: tuple[str, ...] = ("",)) -> str:
        """Where image `name` lies below the data folder, in one of `folders`. Raises RowError, if `needed` also for an
        image that is not there."""
        inside = path_inside(name) if name.strip() else ""
        if inside is None:
            raise RowError("bad", "path outside of the data folder", name)
        found = next((folder + inside for folder in folders if inside and self.has(folder + inside)), None)
        if found is None and needed:
            raise RowError("bad", "image absent", name or "(no name)")
        return found or inside


def path_inside(name: str) -> str | None:
    """The path below the data folder that `name` means, or None if it is absolute or climbs out."""
    name = posixpath.normpath(name.strip().replace("\\", "/"))
    outside = name.startswith(("/", "../")) or name in ("..", ".") or re.match(r"[A-Za-z]:", name) or "\0" in name
    return None if outside else name


def whole_characters(text: str) -> str:
    """`text` with "?" for half a character (a lone surrogate), which JSON can hold and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """`text` with whole characters and single spaces."""
    return " ".join(whole_characters(text).split())


def plain_or_gzipped(path: Path) -> Path | None:
    """`path` with .gz behind it or as it is, whichever is there; None if neither is."""
    return next((p for p in (path.with_name(path.name + ".gz"), path) if p.is_file()), None)


def text_of_bytes(data: bytes, name: str, problems: Problems) -> str | None:
    """Bytes as UTF-8, or as Latin-1, which is counted as a note. None: they are no text."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add("note", "not UTF-8, read as Latin-1", name)
        return data.decode("latin-1")


def read_text(path: Path, problems: Problems) -> str:
    """A text file, gzipped or not. Raises UserError if it cannot be read or holds no text."""
    try:
        data = path.read_bytes()
        text = text_of_bytes(gzip.decompress(data) if path.suffix.lower() == ".gz" else data, path.name, problems)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    if text is None:
        raise UserError(f"{path}: not a text file; save it as UTF-8")
    return text


def read_header(path: Path) -> list[str]:
    """The column names in the first line of a CSV file. Raises UserError if it cannot be read."""
    return [name.strip() for name in next(csv.reader(read_text(path, Problems()).split("\n", 1)[:1]), [])]


def read_table(path: Path, columns: tuple[str, ...], problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """(name for messages, row) of each well-formed row of a CSV file with at least `columns`."""
    reader = csv.reader(io.StringIO(read_text(path, problems), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"{path}: line 1: broken column names ({error}); write them again") from error
    if missing := [name for name in columns if name not in header]:
        raise UserError(f"{path}: no column {', '.join(missing)}; it has {', '.join(header)[:200] or 'none'}")
    while True:
        started = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                raise UserError(f"{path}: line {started}: a quote is opened but not closed; close it") from error
            problems.add("bad", "malformed row", f"{path.name} line {started}")
            continue
        if len(row) == len(header):
            yield f"{path.name} line {started}", dict(zip(header, row, strict=True))
        elif row:
            problems.add("bad", "wrong number of columns", f"{path.name} line {started}")


def read_json_rows(path: Path, problems: Problems) -> Iterator[tuple[str, dict]]:
    """(name for messages, row) of each well-formed row of a JSON-lines file, or of UniX's JSON file of messages."""
    text, messages = read_text(path, problems), path.suffix.lower() == ".json"
    try:
        rows = json.loads(text) if messages else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error}); write it again") from error
    if not isinstance(rows, list):
        raise UserError(f'{path}: no list; it must be [{{"messages": [...], "images": [...]}}, ...]')
    for number, row in enumerate(rows, 1):
        name = f"{path.name} {'row' if messages else 'line'} {number}"
        try:
            if messages:
                said = {message["role"]: message["content"] for message in row["messages"]}
                yield name, {"image": row["images"][0], "report": said["assistant"], "question": said["user"]}
            elif row.strip():
                yield name, dict(json.loads(row).items())
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            problems.add("bad", "malformed row", name)
