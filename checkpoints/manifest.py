"""manifest.json: what every file of a checkpoint was when it was saved, and which run and step they belong to.

It is written last. Folders saved before there were manifests, and those whose manifest was deleted, have nothing to
compare.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from common.errors import UserError
from common.files import read_json

MANIFEST = "manifest.json"
FILES = ("config.json", "model.safetensors", "vae.safetensors", "tokenizer.json")  # of every folder of ours
MEND = "make or fetch the folder again"


def sha256(file: Path) -> str:
    """The file's checksum. What has not changed on the disk since it was asked for last is not read again."""
    stat = file.stat()
    return sha256_of(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=64)
def sha256_of(file: Path, *_: int) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, **belongs: object) -> None:
    """Describe every file that lies in `folder`. belongs: the run and step that they are of."""
    described = sorted(file for file in folder.iterdir() if file.name != MANIFEST)
    files = {file.name: {"sha256": sha256(file), "size": file.stat().st_size} for file in described}
    (folder / MANIFEST).write_text(json.dumps(belongs | {"files": files}, indent=1) + "\n")


def check_folder(folder: Path) -> dict:
    """The manifest of a folder of ours that is whole; one without files if it has none.

    Raises UserError naming the first file that is missing, or that is not what was saved.
    """
    path = folder / MANIFEST
    manifest = read_json(path, absent={"files": {}})
    try:
        saved = {name: (int(entry["size"]), entry["sha256"]) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a manifest of ours ({error!r}); {MEND}") from error
    for name, (size, checksum) in saved.items():
        file = folder / name
        if file.parent != folder:
            raise UserError(f"{path}: names {name!r}, which is no file beside it; {MEND}")
        try:
            found = file.stat().st_size
            if found != size:
                raise UserError(f"{file}: has {found:,} bytes, {size:,} were saved; {MEND}")
            if sha256(file) != checksum:
                mend = f"{MEND}, or, if that was you, delete {MANIFEST}"
                raise UserError(f"{file}: is not what was saved, {MANIFEST} has another checksum; {mend}")
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); {MEND}") from error
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: missing; {MEND}")
    read_json(folder / "config.json")
    return manifest
