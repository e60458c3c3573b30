"""Real data sets behind `--data PATH`: a folder or file is recognised by what is in it and becomes Records.

    mimic-cxr      the tables of MIMIC-CXR-JPG (Johnson et al. 2019) and MIMIC-CXR's reports; frontal, official split
    chexgenbench   a table of path, annotated_prompt, chexpert_labels (CheXGenBench, Dutt et al. 2025)
    open-i         the XML reports of Indiana University (Demner-Fushman et al. 2016) and their PNGs
    own            metadata.csv or metadata.jsonl: image, and report, findings and impression, or labels
    messages       UniX's own evaluation: a JSON list of {"messages": [user, assistant], "images": [path]}

Whatever cannot be used is counted in Records.problems with the first names of its kind, when the set is opened, so that
a training run does not meet it. What was read is kept in a cache, which may be deleted at any time.
"""

from __future__ import annotations

import ast
import csv
import gzip
import hashlib
import io
import json
import os
import posixpath
import re
import tarfile
import xml.etree.ElementTree as ET
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np

from data import MAX_PIXELS, load_image
from errors import UserError
from phantom import OBSERVATIONS

NO_SECTIONS = "no findings or impression"
MAX_XML = 2**20  # bytes; a report has 10 kB
MIMIC = "mimic-cxr-2.0.0-{}.csv"
SPLITS = {"val": "validate", "valid": "validate", "validation": "validate", "dev": "validate", "training": "train"}
SPLITS |= {name: name for name in ("train", "validate", "test")}
NIH = {  # ChestX-ray14's names (Wang et al. 2017) -> CheXpert's; equal names need no line
    "Effusion": "Pleural Effusion",
    "Infiltration": "Lung Opacity",
    "Mass": "Lung Lesion",
    "Nodule": "Lung Lesion",
    "Pleural_Thickening": "Pleural Other",
}
WORDS = {  # a label as a report would say it, where its name in small letters would not do
    "Effusion": "pleural effusion",
    "Mass": "lung mass",
    "Nodule": "lung nodule",
    "Pleural Other": "pleural abnormality",
}
# CheXpert's observations <- the major terms of Open-i, "heading/place/qualifier/...", by how a term begins. Where a
# heading could go two ways, what CheXpert's published phrase files say of its words decides.
MESH_DEVICES = r"catheters, indwelling|(implanted )?medical device|tube, inserted|spinal fusion"
MESH = {
    "Enlarged Cardiomediastinum": r"mediastinum/(enlarged|prominent)",
    "Cardiomegaly": r"cardiomegaly|cardiac shadow/(enlarged|borderline)",
    # "Opacity" says where it lies or nothing: only other organs than the lung are left out; "Density" is of anything,
    # so it must name the lung. Scars (cicatrix), interstitial markings and interstitial lung disease are opacities to
    # CheXpert; crowded bronchovascular markings are vessels in a shallow breath. What is round is a lesion, below.
    "Lung Opacity": r"opacity(?!.*/round)(?!/(pleura|ribs|thoracic|mediastinum|adipose))|density/lung(?!.*/round)"
    r"|infiltrate|airspace disease|markings/lung(?!.*/bronchovascular)|lung/(.*/)?interstitial"
    r"|lung diseases, interstitial|cicatrix(?!/(pleura|breast|ribs))",
    # "Nodular opacity" and "nodular density" are CheXpert's words for a lesion, and coded "Opacity/lung/.../round".
    # Granulomas and calcified nodules are none to CheXpert, so "Calcified Granuloma" and "Calcinosis" stand nowhere.
    "Lung Lesion": r"nodule(?!/(pleura|breast))|mass/lung|cavitation/lung"
    r"|(opacity|density)/((lung|thorax|scattered)/(.*/)?)?round",
    "Edema": r"pulmonary edema|heart failure|pulmonary congestion",
    "Consolidation": r"consolidation",
    "Pneumonia": r"pneumonia",
    "Atelectasis": r"pulmonary atelectasis",  # "Volume Loss" is a finding outside of the 14
    "Pneumothorax": r"(hydro)?pneumothorax",
    "Pleural Effusion": r"pleural effusion|hydropneumothorax|(costophrenic angle|sulcus)/(.*/)?blunted",
    "Pleural Other": r"(thickening|cicatrix|calcinosis)/pleura",
    # "Deformity" of ribs or vertebrae is outside of the 14: it codes old breaks, wedging and surgery alike.
    "Fracture": r"fractures, bone",
    # A spinal fusion is seen by its plates and screws. CheXpert lists no clips, wires or stents.
    "Support Devices": MESH_DEVICES,
}
MESH_UNCERTAIN = r"(cardiomegaly|cardiac shadow)/(.*/)?borderline|pulmonary congestion|.*/blunted"  # as in CheXpert
# Terms that leave a chest without finding: devices and what surgery left, a poor film, a shallow breath.
MESH_NEUTRAL = (
    rf"normal|{MESH_DEVICES}|surgical instruments|stents|sutures|technical quality of image unsatisfactory"
    r"|lung/(.*/)?hypoinflation|markings/(.*/)?bronchovascular"
)


def mesh_labels(terms: list[str]) -> dict[str, int]:
    """Major terms of one Open-i report -> CheXpert's labels: 1, or -1 where all terms of an observation are uncertain.

    "No indexing" and an empty list say nothing and give no labels.
    """

    def begin(pattern: str) -> list[str]:
        return [term for term in map(str.lower, terms) if re.match(rf"(?:{pattern})(?:/|$)", term)]

    found = {name: begin(pattern) for name, pattern in MESH.items()}
    uncertain = set(begin(MESH_UNCERTAIN))
    labels = {name: -1 if uncertain.issuperset(named) else 1 for name, named in found.items() if named}
    return labels | ({"No Finding": 1} if terms and len(begin(MESH_NEUTRAL)) == len(terms) else {})


# ---- what was read -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    image: str  # relative to Records.root, "/" between folders; "" in a set of reports without images
    findings: str  # "" where the report has none; so is the impression, but never both
    impression: str
    split: str = "train"  # "train", "validate" or "test"
    labels: dict[str, int] = field(default_factory=dict)  # observation -> 1 positive, 0 negative, -1 uncertain
    patient: str = ""
    view: str = ""
    extra: dict = field(default_factory=dict)  # "mesh": [...], "annotated_prompt", "question", as the set has them


class RowError(Exception):
    """A row cannot be used: severity, kind and name for Problems.add. Not seen outside of this file."""


class Problems:
    """Counts by kind, each with its first names. "bad" rows are lost by a fault, "dropped" ones by rule.

    "note": used, but worth knowing.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, list]] = {"bad": {}, "dropped": {}, "note": {}}  # kind -> [count, names]

    def add(self, severity: str, kind: str, name: str) -> None:
        entry = self.found[severity].setdefault(kind, [0, []])
        entry[0] += 1
        if len(entry[1]) < 3 and name not in entry[1]:
            entry[1].append("".join(char if char.isprintable() else "?" for char in name[:120]))

    @contextmanager
    def row(self) -> Iterator[None]:
        """The block reads one row; a RowError ends the block and is counted."""
        try:
            yield
        except RowError as error:
            self.add(*error.args)

    def count(self, severity: str, kind: str | None = None) -> int:
        kinds = self.found[severity]
        return sum(count for count, _ in kinds.values()) if kind is None else kinds.get(kind, [0])[0]

    def lines(self) -> list[str]:
        """One line a kind: "bad: 3 image absent (a.png, b.png, c.png)"."""
        return [
            " ".join(f"{severity}: {count} {kind} ({', '.join(names)}{', ...' * (count > len(names))})".split())
            for severity, kinds in self.found.items()
            for kind, (count, names) in sorted(kinds.items(), key=lambda item: -item[1][0])
        ]

    def summary(self) -> str:
        return "\n".join(self.lines()) or "no problems"


class Records:
    """A data set with the interface of data.Phantoms. `counts`: rows of each split in the whole set.

    size: px that the longer side of an image will be resized to, so that a JPEG may be decoded at reduced scale.
    """

    size: int | None = None

    def __init__(
        self, root: Path, kind: str, records: list[Record], problems: Problems, counts: dict[str, int]
    ) -> None:
        self.root, self.kind, self.records, self.problems, self.counts = root, kind, records, problems, counts

    def __len__(self) -> int:
        return len(self.records)

    def text(self, index: int) -> tuple[str, str]:
        """(report, impression), the report as "FINDINGS: ... IMPRESSION: ..." with the sections there are.

        Without an impression the findings stand in for it.
        """
        record = self.records[index]
        sections = (("FINDINGS", record.findings), ("IMPRESSION", record.impression))
        return " ".join(f"{name}: {text}" for name, text in sections if text), record.impression or record.findings

    def image(self, index: int) -> np.ndarray:
        """(height, width) uint8. Raises UserError naming the file."""
        record = self.records[index]
        if not record.image:
            raise UserError(f"{self.root}: record {index} has no image; open the set with its images")
        path = self.root / record.image
        return (
            load_dicom(path) if path.suffix.lower() in (".dcm", ".dicom") else np.asarray(load_image(path, self.size))
        )


def open_source(
    path: str | Path,
    split: str = "train",
    limit_bad: float = 0.05,
    need_images: bool = True,
    cache: Path | None = Path("out/cache"),
) -> Records:
    """The rows of `split` ("train", "validate", "test" or "all") of the data set at `path`.

    need_images=False reads the reports alone, whether or not their images are there. Raises UserError if the set is of
    no known format, lacks what it needs, has no such rows, or if its bad rows are at least 20 and more than `limit_bad`
    of all. The set is read again when its tables or the upper two levels of its folders changed; after other changes
    delete `cache`.
    """
    path = Path(path)
    split = SPLITS.get(split, split)
    if split != "all" and split not in SPLITS:
        raise UserError(f"--split {split}: no such split; give train, validate, test or all")
    kind, root, files = recognise(path)
    kept = cache and Path(cache) / f"records-{_fingerprint(path, root, files, need_images, Path(cache))}.jsonl"
    records, problems = (kept and _read_cache(kept)) or (None, None)
    if records is None:
        problems = Problems()
        read = {"mimic-cxr": _mimic, "chexgenbench": _chexgenbench, "open-i": _open_i}.get(kind, _own)
        records = list(read(root, files, problems, need_images))
        if kept:
            _write_cache(kept, records, problems)
    bad = problems.count("bad")
    if bad and (not records or (bad >= 20 and bad > limit_bad * (bad + len(records)))):
        share = f"{bad} of {bad + len(records)} rows cannot be used"
        raise UserError(f"{path}: {share}: {'; '.join(problems.lines())}; mend or remove them")
    counts = dict(Counter(record.split for record in records))
    chosen = records if split == "all" else [record for record in records if record.split == split]
    if not chosen:
        has = ", ".join(f"{count} {name}" for name, count in counts.items()) or "; ".join(problems.lines()) or "no rows"
        raise UserError(f"{path}: nothing to use in split {split!r} (found: {has}); name another split or mend the set")
    return Records(root, kind, chosen, problems, counts)


def recognise(path: Path) -> tuple[str, Path, list[Path]]:
    """(kind, the folder that images are relative to, the files that say what is in the set)."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a data set, or leave it out to use drawn phantoms")
    name = path.name.lower()
    if path.is_file():
        if name.endswith((".tgz", ".tar", ".tar.gz")):
            return "open-i", path.parent, [path, *path.parent.glob("indiana_projections.csv")]
        if name.endswith((".csv", ".csv.gz")):
            return "chexgenbench" if "annotated_prompt" in _header(path) else "own", path.parent, [path]
        if name.endswith((".jsonl", ".json")):
            return "own" if name.endswith("l") else "messages", path.parent, [path]
        raise UserError(f"{path}: no table of a data set; give a .csv, .jsonl or .json file, or a folder")
    tables = {part: _either(path / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
    if tables["split"]:
        return "mimic-cxr", path, [table for table in tables.values() if table]
    reports = [path / "ecgen-radiology", *(path / f"NLMCXR_reports.{end}" for end in ("tgz", "tar", "tar.gz"))]
    for source in reports:
        if source.exists():
            files = sorted(source.glob("*.xml")) if source.is_dir() else [source]
            return "open-i", path, [*files, *path.glob("indiana_projections.csv")]
    for table in ("metadata.csv", "metadata.csv.gz", "metadata.jsonl"):
        if (path / table).is_file():
            return recognise(path / table)
    found = sorted(p for p in path.iterdir() if p.name.lower().endswith((".csv", ".csv.gz", ".jsonl", ".json")))
    if len(found) > 1:
        raise UserError(f"{path}: several tables ({', '.join(p.name for p in found[:4])}); name the one to use")
    if not found:
        raise UserError(f"{path}: no data set known here; put a metadata.csv with columns image and report there")
    return recognise(found[0])


# ---- MIMIC-CXR ---------------------------------------------------------------------------------------------------


def _mimic(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    tables = {part: _either(root / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
    if not tables["metadata"]:
        raise UserError(f"{root}: {MIMIC.format('metadata')}.gz is missing; fetch it from MIMIC-CXR-JPG")
    rows = _table(tables["metadata"], ("dicom_id", "ViewPosition"), problems)
    views = {row["dicom_id"]: row["ViewPosition"] for _, row in rows}
    labels: dict[str, dict[str, int]] = {}
    if tables["chexpert"]:
        for name, row in _table(tables["chexpert"], ("subject_id", "study_id", *OBSERVATIONS), problems):
            labels[row["study_id"]] = _labels({key: row[key] for key in OBSERVATIONS}, name, problems)
    else:
        problems.add("note", "no CheXpert labels", MIMIC.format("chexpert") + ".gz")
    listing, reports, used = Listing(root), {}, 0
    for name, row in _table(tables["split"], ("dicom_id", "study_id", "subject_id", "split"), problems):
        with problems.row():
            patient, study, view = row["subject_id"], row["study_id"], views.get(row["dicom_id"], "")
            if view not in ("AP", "PA"):
                raise RowError("dropped", "view not AP or PA", row["dicom_id"])
            folder = _inside(f"files/p{patient[:2]}/p{patient}/s{study}")
            if folder is None or row["split"] not in SPLITS:
                raise RowError("bad", "malformed row", name)
            if folder not in reports:  # several images of a study share it
                reports[folder] = _mimic_report(root, folder + ".txt", listing, problems)
            problem, findings, impression = reports[folder]
            if problem:
                raise RowError("bad" if problem != NO_SECTIONS else "dropped", problem, folder + ".txt")
            used += 1
            names = [f"{folder}/{row['dicom_id']}{end}" for end in (".jpg", ".png", ".dcm")]
            image = _image(next(filter(listing.has, names), names[0]), listing, need_images)
            yield Record(image, findings, impression, SPLITS[row["split"]], labels.get(study, {}), patient, view)
    if not used and problems.count("bad", "report absent"):
        raise UserError(f"{root}: no reports; unpack mimic-cxr-reports.zip of MIMIC-CXR (not -JPG) beside the images")


def _mimic_report(root: Path, name: str, listing: Listing, problems: Problems) -> tuple[str, str, str]:
    """(what is wrong or "", findings, impression)"""
    if not listing.has(name):
        return "report absent", "", ""
    try:
        text = _decode((root / name).read_bytes(), name, problems)
    except OSError:
        return "report unreadable", "", ""
    if text is None or not text.strip():
        return "report not text" if text is None else "empty report", "", ""
    findings, impression = split_report(text)
    return "" if findings or impression else NO_SECTIONS, findings, impression


# A heading: capitals at the start of a line up to a colon, or a well-known name in any case; or, without a colon, the
# line between a wet read or an addendum and the report proper.
KNOWN = (
    r"findings?|impressions?|conclusions?|indications?|comparisons?|techniques?|history|recommendations?"
    r"|exam(?:ination)?|clinical (?:history|information|indication)"
)
HEADING = re.compile(
    rf"^[ \t]*(?:([A-Z][A-Z0-9 \t()/,.&'#_-]{{1,80}}?|(?i:{KNOWN})[ \t]*):(?!\d)"
    r"|(?:FINAL (?:REPORT|ADDENDUM)|_{20,})[ \t]*$)",
    re.MULTILINE,
)
# The same inside a line, for reports that lost their line breaks: only after an end of words, and only long capitals.
INLINE = re.compile(r"(?<=[a-z0-9.:;!?)\]_])[ \t]+(?=(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)\b[A-Z/ ]{0,20}:)")
INLINE_ANY = re.compile(r"(?<=[.:;!?)\]_])\s+(?=[A-Z][A-Z ]{3,40}(?:\(S\))?:)")
VIEWS = re.compile(r"CHEST|PORTABLE|\bVIEWS?\b|\b(?:PA|AP|FRONTAL)\b|LATERAL|BONE WINDOW|\bRIBS\b|RADIOGRAPH")
NAMED = ("IMPRESSION", "CONCLUSION", "SUMMARY", "OPINION", "FINDINGS", "FINDING")
OTHER = ("COMPARISON", "INDICATION", "EXAMINATION", "HISTORY", "TECHNIQUE", "RECOMMENDATION", "NOTIFICATION")


@lru_cache(maxsize=10000)
def _section(heading: str) -> str:
    """ "FINDINGS AND IMPRESSION" -> "impression"; misspellings count, as in MIMIC's list of them ("IMPERSSION")."""
    words = re.findall(r"[A-Z]+", heading.upper())
    names = {match for word in words for match in get_close_matches(word, NAMED + OTHER, n=1, cutoff=0.8)}
    if not words or re.search(r"ADDEND|WET ?READ|PRELIM", heading.upper()):
        return "other"
    if names & set(NAMED[:4]):
        return "impression"
    if names & set(NAMED[4:]):
        return "findings"
    if names or re.search(r"\bEXAM|REASON|CLINICAL|REFERENCE|\bCOMPAR", heading.upper()):
        return "other"
    return "views" if VIEWS.search(heading.upper()) else "other"


def split_report(text: str, last_paragraph: bool = True) -> tuple[str, str]:
    """(findings, impression) of a report, white space collapsed, "" for what it lacks.

    As MIMIC-CXR's section_parser.py finds them: a section runs to the next heading, several of a name are joined, and
    one named by the views ("CHEST, PA AND LATERAL:") holds the findings if no other does. Wet reads and addenda are
    neither. If nothing is found and `last_paragraph`, what follows the last heading's own paragraph is the impression,
    or the last paragraph where there is no heading.
    """
    text = INLINE.sub("\n", _clean(text).replace("\r\n", "\n").replace("\r", "\n"))
    if text.strip().count("\n") <= 2:
        text = INLINE_ANY.sub("\n", text)
    heads = list(HEADING.finditer(text))
    found: dict[str, list[str]] = {"findings": [], "impression": [], "views": [], "other": []}
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends[: len(heads)], strict=True):
        body = " ".join(text[head.end() : end].split())
        section = _section(head[1] or "")
        if body and body not in found[section]:
            found[section].append(body)
    findings, impression = (" ".join(found[name]) for name in ("findings", "impression"))
    findings = findings or " ".join(found["views"])
    if not (findings or impression) and last_paragraph:
        headed = bool(heads and heads[-1][1])
        if headed and re.search(r"ADDEND|WET ?READ|PRELIM", heads[-1][1].upper()):
            return "", ""
        paragraphs = re.split(r"\n[ \t]*\n", text[heads[-1].end() if heads else 0 :])
        paragraphs = [" ".join(p.split()) for p in (paragraphs if headed else filter(str.strip, paragraphs))]
        impression = " ".join(paragraphs[1:] if headed else paragraphs[-1:]).strip()
    return findings, impression


# ---- CheXGenBench ------------------------------------------------------------------------------------------------


def _chexgenbench(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    column = "synthetic_filename" if "synthetic_filename" in _header(files[0]) else "path"
    listing, split = Listing(root), _split_of_name(files[0])
    for name, row in _table(files[0], (column, "annotated_prompt"), problems):
        with problems.row():
            prompt = " ".join(row["annotated_prompt"].split())
            if not prompt:
                raise RowError("bad", "empty report", row[column])
            image = _image(row[column], listing, need_images, folders=("", "files/"))
            labels = _labels(row.get("chexpert_labels", ""), name, problems)
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
    _write(path, text.getvalue())
    return path


# ---- Open-i ------------------------------------------------------------------------------------------------------


def _open_i(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    def key(name: str) -> str:  # CXR1_1_IM-0001-3001, and 1_IM-0001-3001.dcm.png where the prefix was cut off
        match = re.search(r"\d+_IM-[\w-]+", name)
        return match[0] if match else name

    projections = {}
    for table in (path for path in files if path.suffix == ".csv"):
        rows = _table(table, ("filename", "projection"), problems)
        projections = {key(row["filename"]): row["projection"] for _, row in rows}
    images: dict[str, str] = {}
    if need_images:
        seen = set()
        for folder, folders, names in os.walk(root, followlinks=True):
            if os.path.realpath(folder) in seen:  # links may lead round in circles
                folders.clear()
                continue
            seen.add(os.path.realpath(folder))
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith((".png", ".jpg", ".dcm")):
                    images.setdefault(key(name), Path(folder, name).relative_to(root).as_posix())
        if not images:
            raise UserError(f"{root}: no images beside the reports; unpack NLMCXR_png.tgz of Open-i there")
    for name, data in _xml_files([path for path in files if path.suffix != ".csv"]):
        with problems.row():
            tree = _parse_xml(data, name, problems)
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


def _xml_files(sources: list[Path]) -> list[tuple[str, bytes]]:
    """(name, the first MAX_XML + 1 bytes) of the .xml files that `sources` are or, if archives, hold; by name."""
    found = {}
    for path in sources:
        try:
            if path.suffix == ".xml":
                with open(path, "rb") as file:
                    found[path.name] = file.read(MAX_XML + 1)
                continue
            with tarfile.open(path) as archive:
                for member in archive:
                    if member.isfile() and member.name.endswith(".xml"):
                        found[posixpath.basename(member.name)] = archive.extractfile(member).read(MAX_XML + 1)
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    return sorted(found.items())


def _parse_xml(data: bytes, name: str, problems: Problems) -> ET.Element:
    text = _decode(data, name, problems)
    if text is None or re.search(r"<!(?:DOCTYPE|ENTITY)", text, re.IGNORECASE):
        # Entities that name each other grow without bound, and Python's parser follows them.
        raise RowError("bad", "unsafe XML (not plain text, or it declares a DOCTYPE or ENTITY)", name)
    try:
        if len(data) > MAX_XML:
            raise ValueError
        return ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise RowError("bad", "malformed XML", name) from error


# ---- your own ----------------------------------------------------------------------------------------------------


OWN_COLUMNS = ("image", "report", "findings", "impression", "split", "patient", "view", "question")


def _own(root: Path, files: list[Path], problems: Problems, need_images: bool) -> Iterator[Record]:
    path, listing, named = files[0], Listing(root), _split_of_name(files[0])
    columns, from_json = ("image",) if need_images else (), path.suffix.lower() in (".json", ".jsonl")
    rows = _json_rows(path, problems) if from_json else _table(path, columns, problems)
    for name, row in rows:
        if not from_json and not {"report", "findings", "impression", "labels"} & set(row):
            raise UserError(f"{path}: no column report; add it (or findings and impression, or labels)")
        with problems.row():
            given = row.pop("labels", None) or ""
            row = {key: row[key] for key in OWN_COLUMNS if key in row}  # others are the user's own business
            if not all(value is None or isinstance(value, (str, int, float)) for value in row.values()):
                raise RowError("bad", "malformed row", name)
            text = {key: _clean(str(value)) for key, value in row.items() if value is not None}
            cell = {key: " ".join(value.split()) for key, value in text.items()}
            findings, impression = split_report(text.get("report", ""), last_paragraph=False)
            if not findings and not impression:
                findings = cell.get("report", "")
            findings, impression = cell.get("findings") or findings, cell.get("impression") or impression
            if not findings and not impression and "report" not in row:
                findings, impression = report_of_labels(_named_values(given))
                if impression:
                    problems.add("note", "report made from labels", name)
            if not findings and not impression:
                raise RowError("bad", "empty report", cell.get("image", name))
            split = SPLITS.get((cell.get("split") or named).lower())
            if split is None:
                raise RowError("bad", "unknown split", cell["split"])
            image = _image(text.get("image", ""), listing, need_images)
            extra = {"question": text["question"].replace("<image>", "").strip()} if "question" in text else {}
            patient, view = cell.get("patient", ""), cell.get("view", "")
            yield Record(image, findings, impression, split, _labels(given, name, problems), patient, view, extra)


def report_of_labels(labels: dict[str, object]) -> tuple[str, str]:
    """Labels under CheXpert's or NIH's names -> (findings, impression); ("", "") if none is given."""
    values = {WORDS.get(name, name.replace("_", " ").lower()): _value(value) for name, value in labels.items()}
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


def load_dicom(path: Path) -> np.ndarray:
    """A DICOM file of one grey picture -> (height, width) uint8: rescaled, windowed (PS3.3 C.11.2), bright is dense."""
    try:
        import pydicom
    except ImportError as error:
        raise UserError(f"{path}: reading DICOM needs pydicom; pip install pydicom") from error
    try:
        file = pydicom.dcmread(path)
        if int(file.Rows) * int(file.Columns) > MAX_PIXELS:
            raise UserError(f"{path}: {file.Columns} x {file.Rows} pixels is too large; reduce it first")
        values = np.asarray(file.pixel_array, dtype=np.float32)
        values = values * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
        if values.ndim != 2:
            raise UserError(f"{path}: {values.shape} values are not one grey picture; export a single frame")
        center, width = (np.ravel(file.get(key))[0] for key in ("WindowCenter", "WindowWidth"))  # the first of several
        if center is None or width is None:
            low, high = float(values.min()), float(values.max())
        else:
            low, high = float(center) - 0.5 - (float(width) - 1) / 2, float(center) - 0.5 + (float(width) - 1) / 2
        grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
        inverted = file.get("PhotometricInterpretation") == "MONOCHROME1"
    except UserError:
        raise
    except Exception as error:  # pydicom and its decoders raise what they like, and a run must learn which file it was
        raise UserError(f"{path}: broken DICOM ({' '.join(str(error).split())}); export it as PNG") from error
    return ((1 - grey if inverted else grey) * 255).round().astype(np.uint8)


# ---- files -------------------------------------------------------------------------------------------------------


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


def _inside(name: str) -> str | None:
    """The path below the data folder that `name` means, or None if it is absolute or climbs out."""
    name = posixpath.normpath(name.strip().replace("\\", "/"))
    outside = name.startswith(("/", "../")) or name in ("..", ".") or re.match(r"[A-Za-z]:", name) or "\0" in name
    return None if outside else name


def _image(name: str, listing: Listing, need_images: bool, folders: tuple[str, ...] = ("",)) -> str:
    """Where image `name` lies below the data folder, in one of `folders`. Raises RowError."""
    inside = _inside(name) if name.strip() else ""
    if inside is None:
        raise RowError("bad", "path outside of the data folder", name)
    found = next((folder + inside for folder in folders if inside and listing.has(folder + inside)), None)
    if found is None and need_images:
        raise RowError("bad", "image absent", name or "(no name)")
    return found or inside


def _clean(text: str) -> str:
    """JSON can hold half a character, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _either(path: Path) -> Path | None:
    return next((p for p in (path.with_name(path.name + ".gz"), path) if p.is_file()), None)


def _decode(data: bytes, name: str, problems: Problems) -> str | None:
    """UTF-8, else Latin-1, which is counted; None for what is no text."""
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems.add("note", "not UTF-8, read as Latin-1", name)
        return data.decode("latin-1")


def _text(path: Path, problems: Problems) -> str:
    try:
        data = path.read_bytes()
        text = _decode(gzip.decompress(data) if path.suffix.lower() == ".gz" else data, path.name, problems)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error
    if text is None:
        raise UserError(f"{path}: not a text file; save it as UTF-8")
    return text


def _header(path: Path) -> list[str]:
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(
            path, "rt", encoding="utf-8-sig", errors="replace"
        ) as file:
            return [name.strip() for name in next(csv.reader([file.readline(65536)]), [])]
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); fetch it again") from error


def _table(path: Path, columns: tuple[str, ...], problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    """(name for messages, row) of each well-formed row of a CSV file with at least `columns`."""
    reader = csv.reader(io.StringIO(_text(path, problems), newline=""), strict=True)
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
            if "unexpected end" in str(error) or "field larger" in str(error):
                raise UserError(f"{path}: line {started}: a quote is opened but not closed; close it") from error
            problems.add("bad", "malformed row", f"{path.name} line {started}")
            continue
        if len(row) == len(header):
            yield f"{path.name} line {started}", dict(zip(header, row, strict=True))
        elif row:
            problems.add("bad", "wrong number of columns", f"{path.name} line {started}")


def _json_rows(path: Path, problems: Problems) -> Iterator[tuple[str, dict]]:
    """(name for messages, row) of each well-formed row of a JSON-lines file, or of UniX's JSON file of messages."""
    text, messages = _text(path, problems), path.suffix.lower() == ".json"
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


def _split_of_name(path: Path) -> str:
    """LLAVARAD_ANNOTATIONS_TEST.csv -> "test": a table that says no split must not leak into training."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train")


def _value(value: object) -> int | None:
    """1, 0 or -1; None for nothing and for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number in (1, 0, -1) else None


def _named_values(given: object) -> dict[str, object]:
    """{"Edema": 1} as it is or as text, or NIH's "Edema|Effusion" -> {"Edema": 1, "Effusion": 1}."""
    if isinstance(given, str) and given.lstrip().startswith("{"):
        text = re.sub(r"\bnan\b", "None", given[:10000])
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            try:
                given = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                return {"(not understood)": given}
    if isinstance(given, dict):
        return {str(name): value for name, value in given.items()}
    if isinstance(given, (list, tuple)):
        return {str(name): 1 for name in given}
    return {name.strip(): 1 for name in str(given).split("|") if name.strip()}


def _labels(given: object, row: str, problems: Problems) -> dict[str, int]:
    """The labels of a row under CheXpert's names; of two that mean one, positive beats uncertain beats negative."""
    labels: dict[str, int] = {}
    for name, value in _named_values(given).items():
        observation, number = NIH.get(name, name), _value(value)
        if number is None:
            if value not in (None, "") and value == value:  # NaN is no label
                problems.add("note", "label not understood", f"{row}: {name}")
        elif observation not in OBSERVATIONS:
            problems.add("note", "label without a CheXpert name", name)
        else:
            labels[observation] = max(labels.get(observation, 0), number, key=(0, -1, 1).index)
    return labels


# ---- the cache ---------------------------------------------------------------------------------------------------


def _fingerprint(path: Path, root: Path, files: list[Path], need_images: bool, cache: Path) -> str:
    """A name for what is in the set: changes with this file's code, the tables, and folders down to two levels."""
    folders = level = [root]
    for _ in range(2):
        level = [folder for parent in level for folder in _subfolders(parent)]
        level = [folder for folder in level if folder.name != cache.name or folder.resolve() != cache.resolve()]
        folders = folders + level
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(f"{path.resolve()} {need_images}".encode())
    for item in (*files, *folders):
        status = item.stat()
        digest.update(f"\n{item.name} {status.st_size if item.is_file() else ''} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError:  # not ours to read, so no image of the set lies there
        return []


def _write(path: Path, text: str) -> None:
    """Under a temporary name first, so that no reader ever meets half a file."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")
        os.replace(temporary, path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error


def _write_cache(path: Path, records: list[Record], problems: Problems) -> None:
    """First line: the number of records and the problems; then a record a line, as a list."""
    lines = [json.dumps([len(records), problems.found])]
    lines += [json.dumps([getattr(record, name) for name in Record.__slots__]) for record in records]
    _write(path, "\n".join(lines))


def _read_cache(path: Path) -> tuple[list[Record], Problems] | None:
    """None if there is no cache or it is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        problems = Problems()
        count, problems.found = json.loads(lines[0])
        records = [Record(*fields) for fields in json.loads(f"[{','.join(lines[1:])}]")]
        return (records, problems) if len(records) == count else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
