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

READ = {"mimic-cxr": read_mimic, "chexgenbench": read_chexgenbench, "open-i": read_openi}
READ |= {"own": read_own, "messages": read_own}
ARCHIVES = (".tgz", ".tar", ".tar.gz")  # of Open-i's reports


def open_source(
    path: str | Path,
    split: str = "train",
    need_images: bool = True,
    cache: Path | None = Path("out/cache"),
    require: str | None = None,
) -> Records:
    """The rows of `split` ("train", "validate", "test" or "all") of the data set at `path`.

    need_images=False reads the reports alone, whether or not their images are there. require="findings" leaves out the
    reports without that section, as UniX's own data does, and counts them. Raises UserError if the set is of
    no known format, lacks what it needs, has no such rows, or if its bad rows are at least 20 and more than 5 % of all.
    A set without bad rows is kept in `cache` until its folder or its tables change.
    """
    path = Path(path)
    split = SPLITS.get(split, split)
    if split != "all" and split not in SPLITS:
        raise UserError(f"--split {split}: no such split; give train, validate, test or all")
    kind, root, files = recognise(path)
    kept = cache and Path(cache) / f"records-{fingerprint(path, [root, *files], need_images)}.json"
    records, problems = (kept and read_cache(kept)) or (None, Problems())
    if records is None:
        records = list(READ[kind](root, files, problems, need_images))
        if kept and not problems.count("bad"):
            write_cache(kept, records, problems)
    bad = problems.count("bad")
    if bad and (not records or (bad >= 20 and bad > 0.05 * (bad + len(records)))):
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
        raise UserError(f"{path}: no such file or folder; name a data set, or leave it out to use rendered phantoms")
    name = path.name.lower()
    if path.is_file():
        if name.endswith(ARCHIVES):
            return "open-i", path.parent, [path, *path.parent.glob("indiana_projections.csv")]
        if name.endswith((".csv", ".csv.gz")):
            return "chexgenbench" if "annotated_prompt" in read_header(path) else "own", path.parent, [path]
        if name.endswith((".jsonl", ".json")):
            return "own" if name.endswith("l") else "messages", path.parent, [path]
        raise UserError(f"{path}: no table of a data set; give a .csv, .jsonl or .json file, or a folder")
    if not path.is_dir():
        raise UserError(f"{path}: neither a file nor a folder; name a data set")
    tables = {part: plain_or_gzipped(path / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
    if tables["split"]:
        return "mimic-cxr", path, [table for table in tables.values() if table]
    for source in (path / "ecgen-radiology", *(path / f"NLMCXR_reports{end}" for end in ARCHIVES)):
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


def fingerprint(path: Path, tables: list[Path], need_images: bool) -> str:
    """A name for what is in the set: changes with its tables and with this package's code."""
    state = [(table.name, table.stat().st_size, table.stat().st_mtime_ns) for table in tables]
    everything = repr((source_hash(Path(__file__).parent), path.resolve(), need_images, state))
    return hashlib.sha256(everything.encode()).hexdigest()[:20]


def write_cache(path: Path, records: list[Record], problems: Problems) -> None:
    """The problems, and each record as a list, in one JSON document: it is whole, or it is none."""
    rows = [[getattr(record, name) for name in Record.__slots__] for record in records]
    write_text(path, json.dumps([problems.found, rows]))


def read_cache(path: Path) -> tuple[list[Record], Problems] | None:
    """None if there is no cache or it is damaged."""
    problems = Problems()
    try:
        problems.found, rows = json.loads(path.read_text(encoding="utf-8"))
        return [Record(*fields) for fields in rows], problems
    except (OSError, ValueError, TypeError, RecursionError):
        return None
