"""Real data sets behind `--data PATH`: a folder or file is recognised by what is in it and becomes Records.

KINDS has all that are known; what each is, its reader says, and docs/data.md. Whatever cannot be used is counted in
Records.problems with the first names of its kind, when the set is opened, so that a training run does not meet it.
"""

import re
from collections import Counter
from pathlib import Path

from archives.foreign import read_chexgenbench, read_kaggle, read_nih
from archives.mimic import MIMIC, read_mimic
from archives.openi import read_openi
from archives.own import REPORTS, read_own
from archives.records import SPLITS, Problems, Record, Records
from archives.tables import GUIDE, plain_or_gzipped, read_text
from common.errors import UserError

ARCHIVES = (".tgz", ".tar", ".tar.gz")  # of Open-i's reports
TABLES = (".csv", ".csv.gz", ".jsonl", ".json")
KINDS = {  # kind -> (its reader; how its table begins, if it is one that is not .json; and if it is one that is)
    "mimic-cxr": (read_mimic, None, None),
    "open-i": (read_openi, None, None),
    "chexgenbench": (read_chexgenbench, r"[^\n]*\bannotated_prompt\b", None),
    "nih": (read_nih, r"[^\n]*\bFinding Labels\b", None),
    "kaggle": (read_kaggle, r"(?=[^\n]*\buid\b)[^\n]*\bMeSH\b", None),
    "own": (read_own, rf"[^\n]*\b({'|'.join(REPORTS)})\b", None),
    "messages": (read_own, None, r'\s*\[\s*\{.*"messages"\s*:'),
    "r2gen": (read_own, None, rf'\s*\{{\s*"({"|".join(SPLITS)})"\s*:\s*\['),
}


def open_source(
    path: str | Path, split: str = "train", need_images: bool = True, require: str | None = None
) -> Records:
    """The rows of `split` ("train", "validate", "test" or "all") of the data set at `path`.

    need_images=False reads the reports alone, whether or not their images are there. require="findings" leaves out the
    reports without that section, as UniX's own data does, and counts them. Raises UserError if the set is of
    no known format, lacks what it needs, has no such rows, or if its bad rows are at least 20 and more than 5 % of all.
    """
    path = Path(path)
    split = SPLITS.get(split, split)
    if split != "all" and split not in SPLITS:
        raise UserError(f"--split {split}: no such split; give train, validate, test or all")
    kind, root, files = recognise(path)
    problems = Problems()
    records = list(KINDS[kind][0](root, files, problems, need_images))
    note_repeats(records, problems)
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


def note_repeats(records: list[Record], problems: Problems) -> None:
    films = Counter(record.image for record in records if record.image)
    splits = Counter(patient for patient, _ in {(record.patient, record.split) for record in records} if patient)
    for kind, counts in (("film in several rows", films), ("patient in several splits", splits)):
        for name in sorted(name for name, count in counts.items() if count > 1):
            problems.add("note", kind, name)


def recognise(path: Path) -> tuple[str, Path, list[Path]]:
    """(kind, the folder that images are relative to, the files that say what is in the set)."""
    name = path.name.lower()
    if path.is_file():
        if name.endswith(ARCHIVES):
            return "open-i", path.parent, [path]
        if name.endswith(TABLES):  # the reader of one that is not known says what it lacks
            return kind_of(path) or ("messages" if name.endswith(".json") else "own"), path.parent, [path]
        raise UserError(f"{path}: no table of a data set; give a .csv, .jsonl or .json file, or a folder")
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; name a data set, or leave it out to use rendered phantoms")
    tables = {part: plain_or_gzipped(path / MIMIC.format(part)) for part in ("split", "metadata", "chexpert")}
    if tables["split"]:
        return "mimic-cxr", path, [table for table in tables.values() if table]
    for source in (path / "ecgen-radiology", *(path / f"NLMCXR_reports{end}" for end in ARCHIVES)):
        if source.exists():
            reports = sorted(source.glob("[!.]*.xml")) if source.is_dir() else [source]
            return "open-i", path, reports
    found, known = tables_of(path)
    if len(known) > 1:
        raise UserError(f"{path}: several tables ({', '.join(p.name for p in known[:4])}); name the one to use")
    if not known:
        others = f" (there is {', '.join(p.name for p in found[:4])})" if found else ""
        raise UserError(f"{path}: no data set known here, no table with columns image and report{others}; {GUIDE}")
    return recognise(known[0])


def tables_of(folder: Path) -> tuple[list[Path], list[Path]]:
    """All tables in a folder, and those of them that may be a data set's: by name, else by how they begin."""
    found = sorted(p for p in folder.glob("[!.]*") if p.name.lower().endswith(TABLES) and p.is_file())
    metadata = [table for table in found if table.name.lower() in {f"metadata{end}" for end in TABLES}]
    return found, metadata or list(filter(kind_of, found))


def kind_of(table: Path) -> str | None:
    """The kind of a table by how it begins; None for what is no data set."""
    start, as_json = read_text(table, Problems())[:5000], table.suffix.lower() == ".json"
    signs = {kind: signs[as_json] for kind, (_, *signs) in KINDS.items() if signs[as_json]}
    return next((kind for kind, sign in signs.items() if re.match(sign, start, re.DOTALL)), None)
