"""What a run of train.py shows: its loss curve, and what the model makes of the same few examples each time."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from archives.records import squares
from common.pictures import curves, grid, save_png
from common.sampling import FAST
from data import Examples
from sample import draw, read
from weights import Checkpoint


def show(checkpoint: Checkpoint, examples: Examples, log: list[dict], out: Path) -> None:
    """Writes OUT/loss.png and, but for stage vit, OUT/samples/step-N.png. log: the records of metrics.jsonl."""
    stage, source, vae = examples.stage, examples.source, checkpoint.vae
    names = [n for n in ("loss", "validate_loss", "mse", "repa", "l1", "square", "detail") if any(n in r for r in log)]
    lines = {name: [(record["step"], record[name]) for record in log if name in record] for name in names}
    save_png(curves(lines, f"stage {stage}"), out / "loss.png")
    if stage == "vit":
        return  # nothing to look at yet
    vit = checkpoint.model.config.vit
    chosen, pictures = squares(source, 8, examples.size, *((vit.padding, vit.scaling) if stage == "1" else ()))
    texts, columns = [source.text(i)[1] for i in chosen], 4
    if stage == "vae":
        images = vae.preprocess(torch.from_numpy(np.stack(pictures))).to(next(vae.parameters()).device)
        with torch.no_grad():
            rebuilt = vae.postprocess(vae.decode(vae.encode(images))).cpu().numpy()
        texts, columns = ["original"] * len(chosen) + ["rebuilt"] * len(chosen), len(chosen)
        pictures = [*pictures, *rebuilt]
    elif stage == "1":
        reports = read(checkpoint, [Image.fromarray(picture) for picture in pictures], max_new_tokens=128)
        texts = [f"{report} [truth: {truth}]" for report, truth in zip(reports, texts, strict=True)]
        pictures = [np.kron(picture, np.ones((2, 2), np.uint8)) for picture in pictures]  # room for the words
    else:
        room = checkpoint.model.config.context_length - 2
        prompts = {i: text for i, text in zip(chosen, texts, strict=True) if len(checkpoint.encode(text)) <= room}
        texts, how = [*prompts.values()], FAST if stage == "reflow" else {"steps": 25}
        pictures = draw(checkpoint, texts, [*prompts], examples.size, **how) if texts else []
    if len(pictures):
        save_png(grid(pictures, texts, columns), out / "samples" / f"step-{log[-1]['step']:06d}.png")
