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

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

from archives.chexgenbench import read_chexgenbench
from archives.mimic import MIMIC, read_mimic
from archives.openi import read_openi
from archives.own import read_own
from archives.records import SPLITS, Problems, Record, Records
from archives.tables import plain_or_gzipped, read_header
from common.errors import UserError
from common.files import source_hash, write_text


def open_source(
    path: str | Path,
    split: str = "train",
    limit_bad: float = 0.05,
    need_images: bool = True,
    cache: Path | None = Path("out/cache"),
    require: str | None = None,
) -> Records:
    """The rows of `split` ("train", "validate", "test" or "all") of the data set at `path`.

    need_images=False reads the reports alone, whether or not their images are there. require="findings" leaves out the
    reports without that section, as UniX's own data does, and counts them. Raises UserError if the set is of
    no known format, lacks what it needs, has no such rows, or if its bad rows are at least 20 and more than `limit_bad`
    of all. The set is read again when its tables or the upper two levels of its folders changed; after other changes
    delete `cache`.
    """
    path = Path(path)
    split = SPLITS.get(split, split)
    if split != "all" and split not in SPLITS:
        raise UserError(f"--split {split}: no such split; give train, validate, test or all")
    kind, root, files = recognise(path)
    kept = cache and Path(cache) / f"records-{fingerprint(path, root, files, need_images, Path(cache))}.jsonl"
    records, problems = (kept and read_cache(kept)) or (None, None)
    if records is None:
        problems = Problems()
        read = {"mimic-cxr": read_mimic, "chexgenbench": read_chexgenbench, "open-i": read_openi}.get(kind, read_own)
        records = list(read(root, files, problems, need_images))
        if kept:
            write_cache(kept, records, problems)
    bad = problems.count("bad")
    if bad and (not records or (bad >= 20 and bad > limit_bad * (bad + len(records)))):
        share = f"{bad} of {bad + len(records)} rows cannot be used"
        raise UserError(f"{path}: {share}: {'; '.join(problems.lines())}; mend or remove them")
    if require:
        for record in records:
            if not getattr(record, require):
                problems.add("dropped", f"no {require}", record.image)
        records = [record for record in records if getattr(record, require)]
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
    if not path.is_file() and not path.is_dir():
        raise UserError(f"{path}: neither a file nor a folder; name a data set")
    name = path.name.lower()
    if path.is_file():
        if name.endswith((".tgz", ".tar", ".tar.gz")):
            return "open-i", path.parent, [path, *path.parent.glob("indiana_projections.csv")]
        if name.endswith((".csv", ".csv.gz")):
            return "chexgenbench" if "annotated_prompt" in read_header(path) else "own", path.parent, [path]
        if name.endswith((".jsonl", ".json")):
            return "own" if name.endswith("l") else "messages", path.parent, [path]
        raise UserError(f"{path}: no table of a data set; give a .csv, .jsonl or .json file, or a folder")
    tables = {part: plain_or_gzipped(path / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
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


def fingerprint(path: Path, root: Path, files: list[Path], need_images: bool, cache: Path) -> str:
    """A name for what is in the set: changes with this package's code, the tables, and folders down to two levels."""
    folders = level = [root]
    for _ in range(2):
        level = [folder for parent in level for folder in subfolders(parent)]
        level = [folder for folder in level if folder.name != cache.name or folder.resolve() != cache.resolve()]
        folders = folders + level
    digest = hashlib.sha256(source_hash(Path(__file__).parent).encode())
    digest.update(f"{path.resolve()} {need_images}".encode())
    for item in (*files, *folders):
        status = item.stat()
        digest.update(f"\n{item.name} {status.st_size if item.is_file() else ''} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:20]


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside of `folder`, by name."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError:  # not ours to read, so no image of the set lies there
        return []


def write_cache(path: Path, records: list[Record], problems: Problems) -> None:
    """First line: the number of records and the problems; then a record a line, as a list."""
    lines = [json.dumps([len(records), problems.found])]
    lines += [json.dumps([getattr(record, name) for name in Record.__slots__]) for record in records]
    write_text(path, "\n".join(lines))


def read_cache(path: Path) -> tuple[list[Record], Problems] | None:
    """None if there is no cache or it is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        problems = Problems()
        count, problems.found = json.loads(lines[0])
        records = [Record(*fields) for fields in json.loads(f"[{','.join(lines[1:])}]")]
        return (records, problems) if len(records) == count else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
