"""Where the checkpoint lies in the folder of a training run."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

from checkpoints.manifest import check_folder
from common.errors import UserError

CHECKPOINT = "checkpoint"  # inside the folder of a training run; the one before it is CHECKPOINT.old
# Where a checkpoint of a run may lie, the newest first. The last two are all there is between the renames of a save.
PLACES = (CHECKPOINT, CHECKPOINT + ".old", CHECKPOINT + ".older")


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
