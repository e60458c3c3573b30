"""Time and peak memory of loading full-size checkpoints (random numbers, about 15 GB of disk). Not a test: run it once.

    python -m speed.full_size [FOLDER]        FOLDER: where the files go, default out/full_size

Each load runs in a process of its own; memory is the process's peak minus what it held before loading.
"""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from checkpoints.configs import unix_config
from checkpoints.layouts import LLAMA, translate_janus, translate_ours
from checkpoints.plan import empty, load_tensors, start_from_janus
from checkpoints.presets import preset
from checkpoints.tensors import Tensors
from model import UniX
from weights import JANUS


def janus_names(name: str) -> list[str]:
    """Our name -> Janus-Pro's, the inverse of translate_janus."""
    if name.startswith("vit."):
        name = name.removeprefix("vit.").replace("patch_embed.", "patch_embed.proj.")
        for part in ("qkv", "proj"):
            name = name.replace(f".{part}.", f".attn.{part}.") if name.startswith("blocks.") else name
        return ["vision_model.vision_tower." + name.replace(".fc", ".mlp.fc")]
    if name.startswith("connector."):
        return [name.replace("connector.", "aligner.")]
    if name == "norm.und.weight":
        return ["language_model.model.norm.weight"]
    if name in ("embed_tokens.weight", "lm_head.weight"):
        return ["language_model." + ("model." if name.startswith("embed") else "") + name]
    _, layer, rest = name.split(".", 2)
    ours, kind = rest.rsplit(".", 1)
    return [
        f"language_model.model.layers.{layer}.{t}.{kind}" for t, (o, *_) in LLAMA.items() if o.format("und") == ours
    ]


def make_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "janus.safetensors").exists():
        return
    config = preset("unix")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in UniX(config).state_dict().items()}
    tensors = {name: torch.randn(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    save_file(tensors, folder / "ours.safetensors")
    janus = {}
    for name, tensor in tensors.items():
        gen = ".gen." in name or name.startswith(("time_embedder.", "vae2llm.", "llm2vae."))
        if gen or (name.startswith("layers.") and (("_norm.weight" in name and "attn.und" in name) or "bias" in name)):
            continue
        theirs = janus_names(name)
        janus |= {t: part.clone() for t, part in zip(theirs, tensor.chunk(len(theirs)), strict=True)}
    assert all(translate_janus(name) for name in janus)
    del tensors
    torch.save(janus, folder / "janus.bin")
    save_file(janus, folder / "janus.safetensors")


def peak_bytes() -> int:
    """The most memory this process ever held, mapped file pages included (Linux)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def measure(how: str, folder: Path) -> None:
    """In a fresh process: load one way, print seconds and megabytes."""
    before = peak_bytes()
    began = time.perf_counter()
    if how.startswith("janus"):
        tensors = Tensors(folder / how)
        config = unix_config(tensors, JANUS, {"language_config": {}, "vision_config": {}})
        model = empty(lambda: UniX(config), "cpu", torch.bfloat16)
        start_from_janus(model, tensors, translate_janus, {})
    else:
        model = empty(lambda: UniX(preset("unix")), "cpu", torch.bfloat16)
        if how == "ours":
            load_tensors(model, folder / "ours.safetensors", translate_ours)
        else:
            model.load_state_dict(load_file(folder / "ours.safetensors"))
    seconds = time.perf_counter() - began
    size = sum(p.nbytes for p in model.parameters())
    print(json.dumps({"how": how, "seconds": round(seconds, 2), "model": size, "peak": peak_bytes() - before}))


def main() -> None:
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
        return
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/full_size")
    make_files(folder)
    best = {}
    for _ in range(3):  # side by side: the three take turns
        for how in ("ours", "load_file", "janus.safetensors", "janus.bin"):
            command = [sys.executable, __file__, how, str(folder)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(result, flush=True)
            if how not in best or result["seconds"] < best[how]["seconds"]:
                best[how] = result
    words = {
        "ours": "ours, streamed: full-size UniX from our file",
        "load_file": "load_file + load_state_dict: the same file",
        "janus.safetensors": "a UniX started from a Janus-Pro-1B-shaped file",
        "janus.bin": "the same from a .bin",
    }
    for how, text in words.items():
        r = best[how]
        print(
            f"{text:48} {r['seconds']:6.2f} s, peak {r['peak'] / 1e9:.2f} GB = {r['peak'] / r['model']:.2f} x the model"
        )


if __name__ == "__main__":
    main()
