"""The folder of a checkpoint: whether it is whole, where it lies in a run's, and how one takes the place of another.

manifest.json says what every file was when it was saved, and of which run and step. It is written last. Folders older
than manifests, and those whose manifest was deleted, have nothing to compare.

A folder is replaced whole or not at all, whenever the process is killed: a new one is filled beside the old one,
flushed to the disk, and renamed. What a kill between two renames leaves is found by `find_checkpoint`, and what a kill
before them leaves is cleared by the next save.
"""

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from checkpoints.tensors import listed, warn
from common.errors import UserError
from common.files import FAST_ADAPTER, read_json
from common.ownership import MARK

MANIFEST = "manifest.json"
FILES = ("config.json", "model.safetensors", "vae.safetensors", "tokenizer.json")  # of every folder of ours
MEND = "make or fetch the folder again"
CHECKPOINT = "checkpoint"  # inside the folder of a training run; the one before it is CHECKPOINT.old
# Where a checkpoint of a run may lie, the newest first. The last two are all there is between the renames of a save.
PLACES = (CHECKPOINT, CHECKPOINT + ".old", CHECKPOINT + ".older")
# All that a checkpoint of ours may hold. A folder with anything else in it is somebody's.
ADAPTER = "adapter.safetensors"  # of a run of --lora
CARD = "README.md"  # a model card of the user's; a new checkpoint keeps it
OUR_FILES = {*FILES, ADAPTER, FAST_ADAPTER, CARD, MANIFEST, "training.json", "training.safetensors"}


def sha256(file: Path) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path, **belongs: object) -> None:
    """Describe every file that lies in `folder`, but the card. belongs: the run and step that they are of."""
    described = sorted(file for file in folder.iterdir() if file.name not in (MANIFEST, CARD))
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


def find_checkpoint(run: Path) -> Path | None:
    """The newest sound checkpoint in the folder of a training run; None if none was ever saved there. A damaged one is
    passed over for the one before it, and stderr says so. Raises UserError naming the damage if none is sound."""
    damage = []
    for folder in (run / name for name in PLACES if (run / name).is_dir()):
        try:
            check_folder(folder)
        except UserError as error:
            damage.append(str(error))
            continue
        if damage:
            warn(f"{damage[0]}. Using {folder} instead")
        return folder
    if damage:
        raise UserError(". The one before it is damaged too: ".join(damage[:2]))
    return None


@contextlib.contextmanager
def replacing(folder: Path, keep_last: bool = False) -> Iterator[Path]:
    """A new folder beside `folder`: the block fills it, and it takes the place of `folder` when the block ends.

    keep_last: what was there stays as FOLDER.old. Raises UserError if the new folder cannot be written, or if what is
    there holds more than a checkpoint of ours; it is then untouched.
    """
    check_replaceable(folder)
    # What a save left that was killed. A run's lock tells that nobody else saves here; elsewhere an hour does.
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # it was another save's, which has just ended
            if keep_last or left.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(left, ignore_errors=True)
    old, older = (folder.with_name(folder.name + end) for end in (".old", ".older"))
    if not keep_last:  # a name that nobody else has: a neighbour called FOLDER.old may be the user's
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.old")
    new = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        new.mkdir(parents=True)
        if (folder / CARD).is_file():
            shutil.copy(folder / CARD, new)
        yield new
        for file in new.iterdir():
            with open(file, "rb+") as written:
                os.fsync(written.fileno())  # a rename may reach the disk first: after a power cut an empty file
        if folder.exists():
            if old.exists():
                shutil.rmtree(older, ignore_errors=True)
                os.rename(old, older)
            os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(older if keep_last else old, ignore_errors=True)
    except Exception as error:  # safetensors and tokenizers raise their own kinds, besides OSError
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"{folder}: the checkpoint could not be written ({error}); is the disk full?") from error


def check_replaceable(folder: Path) -> None:
    """Raises UserError unless a checkpoint may take the place of `folder`: it is absent, empty, or one of ours."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a new folder")
    held = {path.name for path in folder.iterdir()}
    if held and (not set(FILES) <= held or "model" not in read_json(folder / "config.json")):
        raise UserError(f"{folder}: holds {listed(sorted(held))} and is no checkpoint of ours; name a new folder")
    if extra := sorted(held - OUR_FILES):
        raise UserError(f"{folder}: holds {listed(extra)} beside a checkpoint; move that, or name a new folder")


def check_is_no_run(folder: Path) -> None:
    """Raises UserError if a checkpoint written at `folder` would cost a training run its state, or spoil another."""
    place = folder.resolve()
    for outer in place.parents:
        if all((outer / name).is_file() for name in FILES):
            raise UserError(f"{folder}: lies inside the checkpoint {outer}; name a folder elsewhere")
    in_a_run = (place.name + ".").startswith(CHECKPOINT + ".") and (place.parent / MARK).exists()
    if in_a_run or (folder / "training.json").exists():
        raise UserError(f"{folder}: is where a training run keeps its state; name another folder")
