"""Stage reflow: teach an adapter the model's own way from noise to picture, for few steps without guidance.

Beyond the paper. Reflow (Liu et al. 2022): let the model draw, join each picture to its noise by a straight line, and
train Eq. 2 on those lines. Here a walk, the sampler's trajectory, is cut at KNOTS into pieces (the time windows of
PeRFlow, Yan et al. 2024), and Eq. 2 is asked on the line through a piece where it begins, as a sampler will: the
adapter learns each piece's mean velocity. The walks were guided, and guidance is learnt with them (distilled, Meng et
al. 2023).
"""

import hashlib
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import flow
import lora
from common.devices import pictures_at_a_time
from common.distributed import Team
from common.errors import UserError
from common.sampling import FAST, SOLVER, STEPS
from data import Examples, position_rng
from losses import KINDS
from sample import GUIDED_ABOVE, noise_of, prompted_velocities, schedule, split_times
from weights import Checkpoint

KNOTS = schedule(FAST["solver"], FAST["steps"]).tolist()  # what `sample.py --fast` visits


@dataclass(eq=False)
class Walks(Examples):
    """Examples of stage reflow: a piece of a walk as a straight line from data (t = 0) to noise (t = 1)."""

    file: Path | None = None  # the walks, one a film: x at KNOTS, (KNOTS, C, S / 16, S / 16) float16, noise first

    @property
    def points(self) -> np.memmap:
        """(films, KNOTS, C, S / 16, S / 16) float16."""
        return np.memmap(self.file, np.float16, "r", shape=(len(self.source), len(KNOTS), *self.latent_shape))

    def __getitem__(self, position: int) -> dict:
        rng, index = position_rng(self.seed, 0, position), self.index(position)
        piece = int(rng.integers(len(KNOTS) - 1))
        begin, end = KNOTS[piece : piece + 2]
        x_begin, x_end = self.points[index, piece : piece + 2].astype(np.float32)
        velocity = (x_begin - x_end) / (begin - end)
        # The line goes beyond its piece.
        line = {"latents": x_end - end * velocity, "noise": x_end + (1 - end) * velocity, "t": np.float32(begin)}
        return {"kind": KINDS[self.stage], "index": index, "prompt": self.prompt_ids(index), **line}

    def prompt_ids(self, index: int) -> list[int]:
        """What film `index` is drawn from, in all its examples."""
        return self.fitting(self.encode(self.prompt(index, position_rng(self.seed, 2, index))))


def walks_of(examples: Examples, checkpoint: Checkpoint, out: Path, started: bool, team: Team) -> Walks:
    """The examples of stage reflow, of the prompts of `examples`. Walks that are not in OUT yet are drawn, each process
    some of them; drawing goes on where it was stopped.

    started: whether the run has trained already, and so is no longer what draws. Raises UserError if it then lacks
    walks, and if the disk is full.
    """
    model = checkpoint.model
    walks = Walks(**{each.name: getattr(examples, each.name) for each in fields(Examples)}, file=out)
    count, rows = len(walks.source), pictures_at_a_time(team.device)
    prints = [lora.fingerprint(model, branch) for branch in ("und", "gen")]
    what = [prints, model.config.guidance, walks.size, walks.seed, KNOTS, STEPS, *map(walks.prompt_ids, range(count))]
    walks.file = file = out / f"walks-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}.f16"
    bytes_of_noise = 2 * int(np.prod(walks.latent_shape))
    if team.is_main and not file.exists():
        file.touch()
        os.truncate(file, count * len(KNOTS) * bytes_of_noise)  # sparse: what is not drawn yet is zero
    team.sum([0.0])  # the others wait for it
    batches = [range(first, min(first + rows, count)) for first in range(0, count, rows)]
    missing = [batch for batch in batches if not walks.points[batch, 0, -1, -1].any(axis=1).all()]
    team.sum([0.0])  # nobody draws before all have looked
    if missing and started:
        raise UserError(f"{file}: has lost walks that this run trains on; start it anew, with another --out")
    if missing:
        team.say(f"{count:,} walks from noise to picture, {file.stat().st_size / 1e6:,.0f} MB, into {file}")
    how = {"unit": "walk", "dynamic_ncols": True, "disable": not team.is_main or not missing}
    bar = tqdm(desc="drawing", total=count, initial=count - sum(map(len, missing)), **how)
    with open(file, "r+b", buffering=0) as opened, bar:
        for batch in missing[team.rank :: team.size]:
            for index, (noise, *points) in zip(batch, walk(walks, checkpoint, batch), strict=True):
                start = index * len(KNOTS) * bytes_of_noise
                for offset, written in ((bytes_of_noise, points), (0, [noise])):  # the noise last: its walk is whole
                    opened.seek(start + offset)
                    if opened.write(np.stack(written).tobytes()) != len(written) * bytes_of_noise:
                        raise UserError(f"{file}: not written whole; make room on the disk and start again")
            bar.update(len(batch) * team.size)
    team.sum([0.0])
    return walks


@torch.inference_mode()
def walk(walks: Walks, checkpoint: Checkpoint, rows: range) -> np.ndarray:
    """Where the sampler is at KNOTS, on its way from noise to each film's prompt: (rows, KNOTS, C, h, w) float16."""
    model, points = checkpoint.model, []
    # Seeds that no user types: what the adapter is judged by must not be what it was trained on.
    seeds = [int(position_rng(walks.seed, 3, index).integers(2**62)) for index in rows]
    x = noise_of(model.config, seeds, walks.size).to(model.vae2llm.weight.device)
    times = schedule(SOLVER, STEPS)
    for knot in KNOTS[1:-1]:
        times[(times - knot).abs().argmin()] = knot
    velocities = prompted_velocities(model, [walks.prompt_ids(index) for index in rows], None)
    for velocity, part in zip(velocities, split_times(times, GUIDED_ABOVE), strict=True):

        def kept(x: torch.Tensor, t: torch.Tensor, velocity: flow.Velocity = velocity) -> torch.Tensor:
            if t[0].item() in KNOTS:
                points.append(x)
            return velocity(x, t)

        x = getattr(flow, SOLVER)(kept, x, part)
    return torch.stack([*points, x], dim=1).half().cpu().numpy()
