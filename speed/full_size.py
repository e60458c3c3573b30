"""Time and peak memory of loading full-size checkpoints (random numbers, about 15 GB of disk). Not a test: run it once.

    python -m speed.full_size [FOLDER]        FOLDER: where the files go, default out/full_size

Each load runs in a process of its own; memory is the process's peak minus what it held before loading.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from checkpoints.configs import unix_config
from checkpoints.janus import absent_in_janus, start_from_janus
from checkpoints.layouts import JANUS, JANUS_PRO, renamed, translate_janus, translate_ours
from checkpoints.plan import empty, load_tensors
from checkpoints.presets import preset
from checkpoints.tensors import Tensors
from common import arguments
from common.errors import run
from model import UniX

WAYS = {
    "ours": "ours, streamed: full-size UniX from our file",
    "load_file": "load_file + load_state_dict: the same file",
    "janus.safetensors": "a UniX started from a Janus-Pro-1B-shaped file",
    "janus.bin": "the same from a .bin",
}


def janus_names(name: str) -> list[str]:
    """Our name -> Janus-Pro's, one a slice: its table read from right to left."""
    rows = [line.split()[:2] for line in JANUS_PRO.split("\n") if line]
    return [theirs for their, ours in rows if (theirs := renamed(name, ours, their))]


def make_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "janus.safetensors").exists():
        return
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in UniX(preset("unix")).state_dict().items()}
    tensors = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, folder / "ours.safetensors")
    janus = {}
    for name in [name for name in tensors if absent_in_janus(name, {}) is None]:
        theirs = janus_names(name)
        parts = tensors.pop(name).chunk(len(theirs))
        janus |= {their: part.clone() for their, part in zip(theirs, parts, strict=True)}
    torch.save(janus, folder / "janus.bin")
    save_file(janus, folder / "janus.safetensors")


def peak_bytes() -> int:
    """The most memory this process ever held, mapped file pages included (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def measure(way: str, folder: Path) -> None:
    """In a fresh process: load one way, print seconds and bytes."""
    before, began = peak_bytes(), time.perf_counter()
    if way.startswith("janus"):
        tensors = Tensors(folder / way)
        config = unix_config(tensors, JANUS, {"language_config": {}, "vision_config": {}})
        model = empty(lambda: UniX(config), "cpu", torch.bfloat16)
        start_from_janus(model, tensors, translate_janus, {})
    else:
        model = empty(lambda: UniX(preset("unix")), "cpu", torch.bfloat16)
        if way == "ours":
            load_tensors(model, folder / "ours.safetensors", translate_ours)
        else:
            model.load_state_dict(load_file(folder / "ours.safetensors"))
    seconds, size = time.perf_counter() - began, sum(p.nbytes for p in model.parameters())
    print(json.dumps({"seconds": seconds, "model": size, "peak": peak_bytes() - before}))


def main() -> None:
    parser = arguments.Parser(description="Time loading at full size. Writes 15 GB of random weights into FOLDER.")
    folder = "where the files go (default: out/full_size)"
    parser.add_argument("folder", nargs="?", type=arguments.output_folder, default=Path("out/full_size"), help=folder)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.way:
        measure(args.way, args.folder)
        return
    make_files(args.folder)
    results: dict[str, list[dict]] = {way: [] for way in WAYS}
    for _ in range(3):  # side by side: they take turns
        for way, found in results.items():
            command = [sys.executable, "-m", "speed.full_size", args.folder.resolve(), "--way", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(way, found[-1], flush=True)
    for way, words in WAYS.items():
        best = min(results[way], key=lambda one: one["seconds"])
        memory = f"{best['peak'] / 1e9:.2f} GB = {best['peak'] / best['model']:.2f} x the model"
        print(f"{words:48} {best['seconds']:6.2f} s, peak {memory}")


if __name__ == "__main__":
    run(main)
