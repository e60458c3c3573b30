"""How lessons 4 and 5 train: with `train.py`, as a user types it, from a start that cannot read or draw yet.

Everything lies in out/workshop. A run that was finished there is not run again; delete the folder to train anew. With
STEPS=20 in the environment every run has 20 steps, only to see that it works, and a folder of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from checkpoints.presets import init_weights
from classroom import ROOT
from common.errors import UserError
from common.files import SHIPPED
from common.images import to_square
from model import UniX
from phantoms.dataset import phantom
from training.prompt_gain import exchanged_prompts
from weights import Checkpoint, load_checkpoint, save_checkpoint

STEPS = os.environ.get("STEPS")
OUT = ROOT / "out" / (f"workshop-{STEPS}-steps" if STEPS else "workshop")
DRAWING, READING = ("2", "3"), ("1", "2", "3")  # the stages that a start has not seen


def before_reading() -> Path:
    """Weights with the shipped model's eye (its ViT) and a language model that knows no word. Returns their folder."""
    trained = load_checkpoint(SHIPPED)
    fresh = fresh_model(trained)
    fresh.vit.load_state_dict(trained.model.vit.state_dict())
    return save_start("before-reading", trained, fresh, READING)


def before_drawing() -> Path:
    """Weights with the shipped model's und branch, which reads, and a gen branch that is its copy."""
    trained = load_checkpoint(SHIPPED)
    fresh = fresh_model(trained)
    fresh.load_state_dict(dict(trained.model.und_parameters()), strict=False)
    fresh.copy_und_to_gen()
    return save_start("before-drawing", trained, fresh, DRAWING)


def fresh_model(trained: Checkpoint) -> UniX:
    """A model of the same sizes that has learnt nothing."""
    fresh = UniX(trained.model.config)
    init_weights(fresh, torch.Generator().manual_seed(0))
    return fresh


def save_start(name: str, trained: Checkpoint, model: UniX, stages: Sequence[str]) -> Path:
    """Save `model` as one that has not been through these stages: a gen branch that has is not made anew."""
    history = [entry for entry in trained.history if entry["stage"] not in stages]
    save_checkpoint(OUT / name, Checkpoint(model, trained.vae, trained.tokenizer, history))
    return OUT / name


def train(runs: dict[str, Sequence[object]]) -> dict[str, list[dict]]:
    """Run `train.py` once for each name, into its `run_folder`, two at a time if there are two cores.

    runs: name -> flags. Returns for each name the lines of its metrics.jsonl, one a step. Raises UserError with what a
    run says if it fails.
    """

    def one(name: str) -> list[dict]:
        folder = run_folder(name)
        flags = ["--out", folder, "--cache", OUT / "cache", "--resume", "--device", "cpu", "--workers", 0]
        # As in the paper: films alone, AdamW at a constant rate, the last weights.
        plain = ["--mix", "0:1", "--decay", 0, "--ema", 0, "--optimizer", "adamw", "--lr", 1e-3]
        look = ["--steps", STEPS, "--look-every", STEPS] if STEPS else []  # of a flag, the last one counts
        command = [sys.executable, ROOT / "train.py", *plain, *runs[name], *look, *flags]
        ran = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
        )
        if ran.returncode:
            raise UserError(f"{name}: {ran.stderr.strip().splitlines()[-1]}")
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    logs = {}
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for name, log in zip(runs, pool.map(one, runs), strict=True):
            logs[name] = log
            print(f"{name}: {len(log)} steps, loss {log[0]['loss']:.2f} -> {log[-1]['loss']:.2f}", flush=True)
    return logs


def run_folder(name: str) -> Path:
    """Where `train` leaves a run: it serves as weights."""
    return OUT / name.replace(":", "-")  # Windows knows no colon in a name


def prompt_gain(checkpoint: Checkpoint, seed: int, n: int, size: int) -> dict[float, float]:
    """Time -> the share by which the velocity's error grows with another phantom's impression.

    Over the first `n` phantoms of a seed, at least 2, rendered at `size` px.
    """
    phantoms = [phantom(seed, index, max(256, size)) for index in range(n)]
    images = np.stack([to_square(Image.fromarray(p.image), size) for p in phantoms])
    prompts = [checkpoint.encode(p.impression) for p in phantoms]
    return exchanged_prompts(checkpoint.model, checkpoint.vae, torch.from_numpy(images), prompts)
