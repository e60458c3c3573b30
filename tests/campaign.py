"""Random damage, random kills and two runs in one folder, by seed, for as long as you like. Prints what became of them.

    python tests/campaign.py --minutes 10         tried, handled, not handled; exit code 1 if anything was not

Handled means: refused in one line, or the same numbers as without the fault. Everything happens in a temporary folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from common.errors import UserError  # noqa: E402 (the project lies one folder up)
from micro import micro_checkpoint  # noqa: E402
from weights import load_checkpoint, save_checkpoint  # noqa: E402

STEPS = 4
TRAIN = ["--stage", "2", "--data", "phantom:12", "--workers", "0", "--batch", "4", "--size", "64", "--device", "cpu"]


def numbers(checkpoint: object) -> str:
    """A hash of all that a checkpoint computes with."""
    digest = hashlib.sha256(json.dumps(asdict(checkpoint.model.config)).encode())
    for module in (checkpoint.model, checkpoint.vae):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(checkpoint.tokenizer.to_str().encode())
    return digest.hexdigest()


# ---- damage ------------------------------------------------------------------------------------------------------


def damage(folder: Path, rng: random.Random) -> str:
    """One fault in one file of a checkpoint -> what it was."""
    file = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "cut", "grow", "zeros", "empty", "remove", "folder", "field"])
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[rng.randrange(len(content)) :]
    elif kind == "grow":
        content += rng.randbytes(rng.randrange(1, 100))
    elif kind == "zeros":
        start = rng.randrange(len(content))
        end = min(len(content), start + rng.randrange(1, 1000))
        content[start:end] = bytes(end - start)
    elif kind == "empty":
        content.clear()
    elif kind == "field":  # a config that is JSON and wrong
        file = folder / "config.json"
        config = json.loads(file.read_text())
        part = config[rng.choice(["model", "vae"])]
        value = rng.choice(["256", None, -1, 0, 10**12, 1.5, [], {}, float("nan"), True])
        part[rng.choice(sorted(part))] = value
        content = bytearray(json.dumps(config).encode())
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "remove":
        file.write_bytes(content)
    return f"{kind} {file.name}"


def try_damage(whole: Path, scratch: Path, rng: random.Random, with_manifest: bool) -> tuple[str, str]:
    """(outcome, fault). A folder without manifest.json is one from before there were any: a flipped bit cannot show."""
    folder = scratch / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    if not with_manifest:
        (folder / "manifest.json").unlink()
    expected, fault = numbers(load_checkpoint(folder)), damage(folder, rng)
    try:
        found = numbers(load_checkpoint(folder))
    except UserError as error:
        return ("refused" if "\n" not in str(error) else "MORE THAN A LINE"), fault
    except Exception as error:
        return f"TRACEBACK {type(error).__name__}", fault
    if found == expected:
        return "the same numbers", fault
    return ("OTHER NUMBERS" if with_manifest else "other numbers (no manifest)"), fault


# ---- kills and two runs ------------------------------------------------------------------------------------------


def train(weights: Path, out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, ROOT / "train.py", "--init", weights, *TRAIN, "--steps", STEPS, "--out", out, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*map(str, command)], cwd=out.parent, env=environment, start_new_session=True, **pipes)


def result(out: Path) -> str:
    """What a finished run leaves, as a hash."""
    folder = out / "checkpoint"
    return "".join(
        hashlib.sha256((folder / f"{n}.safetensors").read_bytes()).hexdigest() for n in ("model", "training")
    )


def try_kills(weights: Path, scratch: Path, rng: random.Random, expected: str, seconds: float) -> str:
    """Kill a run at a random moment, go on with it, until it is through."""
    out = scratch / "killed"
    shutil.rmtree(out, ignore_errors=True)
    while True:
        process = train(weights, out, "--save-every", "1", "--resume")
        try:
            output, _ = process.communicate(timeout=rng.uniform(0.3, 1.3) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            continue
        if process.returncode:
            return f"STOPPED: {output.strip().splitlines()[-1][:200]}"
        return "the same bytes" if result(out) == expected else "OTHER BYTES"


def try_two_runs(weights: Path, scratch: Path, expected: str) -> str:
    """A second run in the folder of a living one: one is refused, the other ends as if alone."""
    out = scratch / "shared"
    shutil.rmtree(out, ignore_errors=True)
    runs = [train(weights, out, "--save-every", "1") for _ in range(2)]
    codes = []
    for process in runs:
        process.communicate(timeout=600)
        codes.append(process.returncode)
    if sorted(codes) != [0, 2]:
        return f"EXIT CODES {sorted(codes)}"
    return "one refused, the same bytes" if result(out) == expected else "OTHER BYTES"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="of each of the three (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="which faults (default 0)")
    args = parser.parse_args()
    rng, counts, wrong = random.Random(args.seed), Counter(), []
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch, whole = Path(folder), Path(folder) / "whole"
        save_checkpoint(whole, micro_checkpoint())

        end = time.time() + 60 * args.minutes
        while time.time() < end:
            with_manifest = rng.random() < 0.5
            outcome, fault = try_damage(whole, scratch, rng, with_manifest)
            counts["damage", outcome] += 1
            if outcome[:2].isupper():
                wrong.append(f"{outcome}: {fault}, {'with' if with_manifest else 'without'} manifest.json")

        alone, began = train(whole, scratch / "alone", "--save-every", "1"), time.time()
        output, _ = alone.communicate(timeout=600)
        if alone.returncode:
            sys.exit(f"a run that nothing happens to fails: {output[-1000:]}")
        expected, seconds = result(scratch / "alone"), time.time() - began
        tries = {
            "kills": lambda: try_kills(whole, scratch, rng, expected, seconds),
            "two runs": lambda: try_two_runs(whole, scratch, expected),
        }
        for name, attempt in tries.items():
            end = time.time() + 60 * args.minutes
            while time.time() < end:
                outcome = attempt()
                counts[name, outcome] += 1
                if outcome[:2].isupper():
                    wrong.append(f"{name}: {outcome}")
    for (name, outcome), count in sorted(counts.items()):
        print(f"{name:10} {count:6} {outcome}")
    handled = sum(counts.values()) - len(wrong)
    print(f"{sum(counts.values())} tried, {handled} handled, {len(wrong)} not")
    print("\n".join(wrong[:20]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
