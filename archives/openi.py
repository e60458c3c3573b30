"""Open-i, the Indiana University collection (Demner-Fushman et al. 2016): XML reports and PNGs."""

import posixpath
import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from archives.own import read_rows
from archives.records import NO_SECTIONS, Problems, Record, RowError
from archives.tables import read_table, text_of_bytes
from common.errors import UserError
from common.images import picture_files

MAX_XML = 2**20  # bytes; a report has 10 kB


def read_openi(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    """The frontal images of every report that has findings or an impression; all of them are for training."""

    def key(name: str) -> str:  # CXR1_1_IM-0001-3001, and 1_IM-0001-3001.dcm.png where the prefix was cut off
        match = re.search(r"\d+_IM-[\w-]+", name)
        return match[0] if match else name

    projections = {}
    if (table := root / "indiana_projections.csv").is_file():
        rows = read_table(table, ("filename", "projection"), problems)
        projections = {key(row["filename"]): row["projection"] for _, row in rows}
    paths = picture_files(root) if need_images else []
    images = {key(path.name): path.relative_to(root).as_posix() for path in reversed(paths)}  # the first of a name
    if need_images and not images:
        raise UserError(f"{root}: no images beside the reports; unpack NLMCXR_png.tgz of Open-i there")

    def rows() -> Iterator[tuple[str, dict]]:
        for name, data in xml_files(files):
            with problems.row():
                tree = parse_xml(data, name, problems)
                parts = {node.get("Label"): "".join(node.itertext()) for node in tree.iter("AbstractText")}
                row = {"findings": parts.get("FINDINGS"), "impression": parts.get("IMPRESSION")}
                if not any(text and text.strip() for text in row.values()):
                    raise RowError("dropped", NO_SECTIONS, name)
                row["mesh"] = [node.text for node in tree.iter("major")]
                row["patient"] = next((node.get("id") for node in tree.iter("uId")), None)
                ids = [node.get("id", "") for node in tree.iter("parentImage")] if need_images else [""]
                if not ids:
                    raise RowError("dropped", "report without images", name)
                for id in ids:
                    view = projections.get(key(id))
                    if need_images and not view:
                        problems.add("note", "projection unknown", id)
                    yield name, row | {"image": images.get(key(id), id), "view": view}

    return read_rows(rows(), root, "train", problems, need_images)


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
                    name = posixpath.basename(member.name)
                    if member.isfile() and name.endswith(".xml") and name[0] != ".":
                        found[name] = archive.extractfile(member).read(MAX_XML + 1)
        except Exception as error:  # tarfile and what unpacks for it raise what they like, at length
            raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:100]}); fetch it again") from error
    return sorted(found.items())


def parse_xml(data: bytes, name: str, problems: Problems) -> ET.Element:
    """The root of one report. Raises RowError for what is malformed, too large, or could expand without bound."""
    try:
        text = text_of_bytes(data, name, problems)
        if len(data) > MAX_XML:
            raise ValueError
        if not re.search(r"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
            return ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise RowError("bad", "malformed XML", name) from error
    # Entities that name each other grow without bound, and Python's parser follows them.
    raise RowError("bad", "unsafe XML (it declares a DOCTYPE or ENTITY)", name)
