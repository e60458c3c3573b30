"""What a run of train.py shows: its loss curve, and what the model makes of the same few examples each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from archives.records import Records, squares
from common.pictures import curves, grid, save_png
from phantoms.dataset import Phantoms
from sample import draw, read
from weights import Checkpoint


def show(stage: str, checkpoint: Checkpoint, source: Phantoms | Records, size: int, log: list[dict], out: Path) -> None:
    """Writes OUT/loss.png and, but for stage vit, OUT/samples/step-N.png. size: of the stage's pictures, px. log: the
    records of metrics.jsonl."""
    save_png(loss_curve(stage, log), out / "loss.png")
    vae, step = checkpoint.vae, log[-1]["step"]
    path = out / "samples" / f"step-{step:06d}.png"
    chosen, originals = squares(source, 8, size)
    if stage == "vae":
        images = vae.preprocess(torch.from_numpy(np.stack(originals))).to(next(vae.parameters()).device)
        with torch.no_grad():
            rebuilt = vae.postprocess(vae.decode(vae.encode(images))).cpu().numpy()
        save_png(
            grid([*originals, *rebuilt], ["original"] * len(chosen) + ["rebuilt"] * len(chosen), columns=len(chosen)),
            path,
        )
    elif stage == "vit":
        return  # nothing to look at yet
    elif stage == "1":
        reports = read(checkpoint, [Image.fromarray(image) for image in originals], max_new_tokens=128)
        truths = [source.text(i)[1] for i in chosen]
        captions = [f"{report} [truth: {truth}]" for report, truth in zip(reports, truths, strict=True)]
        save_png(grid([np.kron(image, np.ones((2, 2), np.uint8)) for image in originals], captions, columns=4), path)
    else:
        room = checkpoint.model.config.context_length - 2
        chosen = [i for i in chosen if len(checkpoint.encode(source.text(i)[1])) <= room]
        prompts = [source.text(i)[1] for i in chosen]
        if prompts:
            save_png(grid(draw(checkpoint, prompts, chosen, size=size, steps=25), prompts, columns=4), path)


def loss_curve(stage: str, log: list[dict]) -> Image.Image:
    """The losses over the steps; under them, if the run validates, its measure, which has a scale of its own."""
    names = [name for name in ("loss", "mse", "repa", "l1", "square", "detail") if name in log[0]]
    names += sorted({name for record in log for name in record if name.startswith("validate_")})
    lines = {name: [(r["step"], r[name]) for r in log if name in r] for name in names}
    measure = {name: lines.pop(name) for name in names if name.startswith("validate_") and name != "validate_loss"}
    losses = curves(lines, f"stage {stage}")
    if not measure:
        return losses
    below = curves(measure, "on the validation split", (losses.width, losses.height // 2))
    both = Image.new("RGB", (losses.width, losses.height + below.height))
    both.paste(losses, (0, 0))
    both.paste(below, (0, losses.height))
    return both
