"""What a model writes and draws for an evaluation, kept as soon as it is made: a run that was cut off goes on.

How a batch rounds depends on all that is in it. So the batches are the same whoever makes them and whatever is there
already, and of a batch that lacks something everything is made again: a run that was killed ends with the results of
one that was not, on any number of processes.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import sample
from common.devices import pictures_at_a_time
from common.distributed import Team
from common.files import write_text
from common.ownership import own_folder
from common.pictures import save_png
from weights import Checkpoint


def write_reports(
    out: Path,
    settings: dict,
    batches: Sequence[Sequence[int]],
    write: Callable[[Sequence[int]], Sequence[dict]],
    team: Team,
    resume: bool,
) -> list[dict] | None:
    """The rows that `write` makes of each batch of examples, in the order of the examples; each process writes a share.

    write: indices of examples -> a row for each, with its "index". Every row is a line of OUT/reports.HASH.RANK.jsonl
    as soon as it is written; HASH is of the settings. resume: keep those that were written with equal settings. None
    on all but the main process.
    """
    name = f"reports.{digest(json.dumps(settings))}"
    known = read_shards(out, name) if resume else {}
    if team.is_main and not resume:
        for shard in out.glob("reports.*.jsonl"):
            shard.unlink()
    team.sum([0.0])
    mine = [batch for batch in batches[team.rank :: team.size] if not all(index in known for index in batch)]
    with open(out / f"{name}.{team.rank}.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")  # a line that a crash cut short ends here
        with tqdm(total=sum(map(len, mine)), unit="report", desc="reading", disable=not team.is_main) as bar:
            for batch in mine:
                file.writelines(json.dumps(row) + "\n" for row in write(batch))
                file.flush()
                bar.update(len(batch))
    team.sum([0.0])
    rows = read_shards(out, name)
    return [rows[index] for index in sorted(index for batch in batches for index in batch)] if team.is_main else None


def read_shards(out: Path, name: str) -> dict[int, dict]:
    """Index -> row of what all processes have written. A line that a crash cut short does not count."""
    rows = {}
    for shard in sorted(out.glob(f"{name}.*.jsonl")):
        for line in shard.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                rows[row["index"]] = row
    return rows


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def draw_pictures(
    checkpoint: Checkpoint,
    folder: Path,
    prompts: Sequence[str],
    seed: int,
    how: dict,
    settings: dict,
    batch: int | None,
    team: Team,
    resume: bool,
) -> list[str]:
    """Draw each prompt into FOLDER/NUMBER.png, each process a share; the names of the files.

    A picture's noise belongs to `seed` plus its number. how: size, steps, guidance and solver of `sample.draw`.
    settings: what else decides how pictures look. resume: keep those that were drawn with equal settings.
    """
    names = [f"{index:06d}.png" for index in range(len(prompts))]
    batch = batch or pictures_at_a_time(team.device)
    stamp = json.dumps({"seed": seed, **how, **settings, "batch": batch, "prompts": digest("\n".join(prompts))})
    if team.is_main:
        own_folder(folder)
        kept = folder / "settings.json"
        if not (resume and kept.is_file() and kept.read_text(encoding="utf-8") == stamp):
            for file in folder.glob("*.png"):
                file.unlink()
        write_text(kept, stamp)
    team.sum([0.0])
    starts = range(team.rank * batch, len(prompts), team.size * batch)
    mine = [range(start, min(start + batch, len(prompts))) for start in starts]
    mine = [rows for rows in mine if not all((folder / names[index]).is_file() for index in rows)]
    with tqdm(total=sum(map(len, mine)), unit="image", desc="drawing", disable=not team.is_main) as bar:
        for rows in mine:
            seeds = [seed + index for index in rows]
            drawn = sample.draw(checkpoint, [prompts[index] for index in rows], seeds, batch=batch, **how)
            for index, picture in zip(rows, drawn, strict=True):
                save_png(Image.fromarray(picture), folder / names[index])
            bar.update(len(rows))
    team.sum([0.0])
    return names
