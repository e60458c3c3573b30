"""The folder of a checkpoint: where it lies inside the folder of a run, and how its files are read and flushed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from common.errors import UserError

SHIPPED = Path(__file__).parent.parent / "assets" / "tiny"  # the tiny model that comes with the repository
CHECKPOINT = "checkpoint"  # inside the folder of a training run; the one before it is CHECKPOINT.old


def read_json(path: Path) -> dict:
    """{} if there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a config (a JSON object is expected)")
    return values


def find_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint in the folder of a training run; None if there is none."""
    # Between the two renames of a save only the older one stands under its name.
    found = [run / name for name in (CHECKPOINT, CHECKPOINT + ".old") if (run / name).is_dir()]
    return found[0] if found else None


def flush_to_disk(file: Path) -> None:
    """A rename may reach the disk before the file's content does; after a power cut that would be an empty file."""
    with open(file, "rb+") as written:
        os.fsync(written.fileno())
