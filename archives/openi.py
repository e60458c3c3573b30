"""Open-i, the Indiana University collection (Demner-Fushman et al. 2016): XML reports and PNGs."""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import tarfile
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from pathlib import Path

from archives.labels import mesh_labels
from archives.records import NO_SECTIONS, Problems, Record, RowError
from archives.tables import read_table, text_of_bytes
from common.errors import UserError

MAX_XML = 2**20  # bytes; a report has 10 kB


def read_openi(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The frontal images of every report that has findings or an impression; all of them are for training."""

    def key(name: str) -> str:  # CXR1_1_IM-0001-3001, and 1_IM-0001-3001.dcm.png where the prefix was cut off
        match = re.search(r"\d+_IM-[\w-]+", name)
        return match[0] if match else name

    projections = {}
    for table in (path for path in files if path.suffix == ".csv"):
        rows = read_table(table, ("filename", "projection"), problems)
        projections = {key(row["filename"]): row["projection"] for _, row in rows}
    paths = image_files(root) if need_images else []
    images = {key(path.name): path.relative_to(root).as_posix() for path in reversed(paths)}  # the first of a name
    if need_images and not images:
        raise UserError(f"{root}: no images beside the reports; unpack NLMCXR_png.tgz of Open-i there")
    for name, data in xml_files([path for path in files if path.suffix != ".csv"]):
        with problems.row():
            tree = parse_xml(data, name, problems)
            parts = {
                node.get("Label"): " ".join("".join(node.itertext()).split()) for node in tree.iter("AbstractText")
            }
            findings, impression = parts.get("FINDINGS", ""), parts.get("IMPRESSION", "")
            if not findings and not impression:
                raise RowError("dropped", NO_SECTIONS, name)
            mesh = [node.text.strip() for node in tree.iter("major") if node.text and node.text.strip()]
            labels = mesh_labels(mesh)
            uid = next((node.get("id", "") for node in tree.iter("uId")), "")
            ids = [node.get("id", "") for node in tree.iter("parentImage")]
            if not need_images:
                yield Record("", findings, impression, "train", labels, uid, extra={"mesh": mesh})
            elif not ids:
                raise RowError("dropped", "report without images", name)
            for id in ids if need_images else ():
                view = projections.get(key(id), "")
                if view and view.lower() != "frontal":
                    problems.add("dropped", "projection not frontal", id)
                elif key(id) not in images:
                    problems.add("bad", "image absent", id)
                else:
                    if not view:
                        problems.add("note", "projection unknown", id)
                    yield Record(images[key(id)], findings, impression, "train", labels, uid, view, {"mesh": mesh})


def image_files(root: Path) -> list[Path]:
    """The images under `root`, by folder and name. Links are followed, and may lead round in circles."""
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:
            folders.clear()
        else:
            seen.add(os.path.realpath(folder))
            folders.sort()
            found += [Path(folder, name) for name in sorted(names) if name.lower().endswith((".png", ".jpg", ".dcm"))]
    return found


def xml_files(sources: list[Path]) -> list[tuple[str, bytes]]:
    """(name, the first MAX_XML + 1 bytes) of the .xml files that `sources` are or, if archives, hold; by name."""
    found = {}
    for path in sources:
        if not path.is_file():  # a pipe would be waited for
            raise UserError(f"{path}: not a file; move it away")
        try:
            if path.suffix == ".xml":
                with open(path, "rb") as file:
                    found[path.name] = file.read(MAX_XML + 1)
                continue
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(".xml"):
                        found[posixpath.basename(member.name)] = archive.extractfile(member).read(MAX_XML + 1)
        except tarfile.ReadError as error:  # its text is a list of all formats that were tried
            raise UserError(f"{path}: not a tar archive, or cut off; fetch it again") from error
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    return sorted(found.items())


def parse_xml(data: bytes, name: str, problems: Problems) -> ET.Element:
    """The root of one report. Raises RowError for what is malformed, too large, or could expand without bound."""
    text = text_of_bytes(data, name, problems)
    if text is None or re.search(r"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
        # Entities that name each other grow without bound, and Python's parser follows them.
        raise RowError("bad", "unsafe XML (not plain text, or it declares a DOCTYPE or ENTITY)", name)
    try:
        if len(data) > MAX_XML:
            raise ValueError
        return ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise RowError("bad", "malformed XML", name) from error
