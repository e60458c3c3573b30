"""The folder of a checkpoint: where it lies inside the folder of a run, and how its files are read and flushed."""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

from checkpoints.manifest import check_folder
from common.errors import UserError

CHECKPOINT = "checkpoint"  # inside the folder of a training run; the one before it is CHECKPOINT.old
# Where a checkpoint of a run may lie, the newest first. The last two are all there is between the renames of a save.
PLACES = (CHECKPOINT, CHECKPOINT + ".old", CHECKPOINT + ".older")


def read_json(path: Path) -> dict:
    """{} if there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a config (a JSON object is expected)")
    return values


def find_checkpoint(run: Path, verify: bool = True) -> Path | None:
    """The newest sound checkpoint in the folder of a training run; None if none was ever saved there.

    A damaged one is passed over for the one before it, and stderr says so. verify: compare checksums as well. Raises
    UserError naming the damage if none is sound.
    """
    damage = []
    for folder in (run / name for name in PLACES if (run / name).is_dir()):
        try:
            check_folder(folder, verify)
        except UserError as error:
            damage.append(str(error))
            continue
        if damage:
            warn(f"{damage[0]}. Using {folder} instead")
        return folder
    if damage:
        others = f" (the one before it is damaged too: {damage[1]})" if damage[1:] else ""
        raise UserError(damage[0] + others)
    return None


@functools.cache  # one line, however often and by however many processes a checkpoint is looked for
def warn(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr, flush=True)


def flush_to_disk(file: Path) -> None:
    """A rename may reach the disk before the file's content does; after a power cut that would be an empty file."""
    with open(file, "rb+") as written:
        os.fsync(written.fileno())
