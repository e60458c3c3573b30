"""manifest.json: what every file of a checkpoint was when it was saved, and which run and step it belongs to.

It is written last. Files of a run name their run and step once more inside themselves, so that a file of another step
is known even where nobody kept a manifest. Folders saved before there were manifests have nothing to compare.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from checkpoints.tensors import open_safetensors
from common.errors import UserError
from common.files import read_json

MANIFEST = "manifest.json"
FILES = ("config.json", "model.safetensors", "vae.safetensors", "tokenizer.json")  # of every folder of ours
MEND = "make or fetch the folder again"


class Mark(NamedTuple):
    """What a file of a run belongs to."""

    run: str
    step: int  # finished steps

    def metadata(self) -> dict[str, str]:
        """For a safetensors file. One key: safetensors writes several in any order, and equal files would differ."""
        return {"belongs_to": str(self)}

    def __str__(self) -> str:
        return f"run {self.run}, step {self.step}"


def sha256(file: Path) -> str:
    """The file's checksum. What has not changed on the disk since it was asked for last is not read again."""
    stat = file.stat()
    return sha256_of(str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=64)
def sha256_of(file: str, *_: int) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, mark: Mark | None = None) -> None:
    """Describe every file that lies in `folder`. mark: the run and step they belong to."""
    files = {
        file.name: {"sha256": sha256(file), "size": file.stat().st_size}
        for file in sorted(folder.iterdir())
        if file.name != MANIFEST
    }
    values = (mark._asdict() if mark else {}) | {"files": files}
    (folder / MANIFEST).write_text(json.dumps(values, indent=1) + "\n")


def check_files(folder: Path, verify: bool = True) -> dict:
    """The manifest; {} if the folder has none. verify: compare checksums, and not sizes alone.

    Raises UserError naming the first file that is not what was saved.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    manifest = read_json(path)
    try:
        saved = [(name, int(entry["size"]), entry["sha256"]) for name, entry in manifest["files"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of ours ({error!r}); {MEND}") from error
    for name, size, checksum in saved:
        file = folder / name
        if Path(name).name != name:
            raise UserError(f"{path}: names {name!r}, which is no file beside it; {MEND}")
        try:
            found = file.stat().st_size
            if found != size:
                raise UserError(f"{file}: has {found:,} bytes, {size:,} were saved; {MEND}")
            if verify and (not file.is_file() or sha256(file) != checksum):
                raise UserError(f"{file}: is not what was saved, {MANIFEST} has another checksum; {MEND}")
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be
            raise UserError(f"{file}: cannot be read ({error}); {MEND}") from error
    return manifest


def check_folder(folder: Path, verify: bool = True) -> dict:
    """A folder of ours is whole, and all of it belongs together. Gives its manifest, {} if it has none.

    Raises UserError naming the file that is missing, damaged, or of another run or step. verify: see `check_files`.
    """
    manifest = check_files(folder, verify)
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; {MEND}")
    read_json(folder / "config.json")
    marks = {}
    for file in (folder / f"{name}.safetensors" for name in ("model", "vae", "training")):
        if file.is_file():
            marks[file] = (open_safetensors(file).metadata() or {}).get("belongs_to")
    for name, values in {MANIFEST: manifest, "training.json": read_json(folder / "training.json", absent={})}.items():
        if values:
            marks[folder / name] = str(Mark(values["run"], values.get("step"))) if values.get("run") else None
    first, *others = marks
    for file in others:
        if marks[file] != marks[first]:
            belongs = f"belongs to {marks[file] or 'no run'}, {first.name} to {marks[first] or 'no run'}"
            raise UserError(f"{file}: {belongs}; {MEND}")
    return manifest
