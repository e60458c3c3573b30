"""What this code does on one GPU at full size: is it right, how fast, how much memory. At most ten minutes.

    bash runs/gpu.sh             writes docs/gpu-CARDNAME.md
    python -m speed.gpu --tiny   the tiny model, also on a CPU: does it run? its numbers mean nothing

Weights are random; nothing is downloaded. Every part runs in turn, and one that fails says so and leaves the others.
"""

from __future__ import annotations

import gc
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import data
import sample
from checkpoints.configs import read_tokenizer, unix_config
from checkpoints.layouts import PUBLISHED, translate_unix
from checkpoints.plan import empty, filled
from checkpoints.presets import preset, vae_preset
from checkpoints.tensors import Tensors
from common import arguments
from common.devices import dtype_name, pick_device
from common.errors import run
from common.files import SHIPPED, write_text
from generate import generate
from losses import Batch, RepaProjector, StageLoss
from model import UniX
from speed import cost
from tests.golden.weights_by_rule import state_dict
from vae import VAE
from weights import Checkpoint, load_checkpoint, save_checkpoint

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
TEXT = 96  # tokens of a question, of an answer, or of a prompt with its padding


@dataclass
class Bench:
    """What every measurement needs."""

    device: torch.device
    tiny: bool
    rows: list[tuple[str, ...]]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32  # many CPUs compute bfloat16 slowly

    def time(self, work: Callable[[], object], seconds: float = 5.0) -> float:
        """Median seconds of `work`, repeated for about `seconds`, after one call that does not count."""
        taken, end = [], time.perf_counter() + (0.1 if self.tiny else seconds)
        while len(taken) < 2 or (time.perf_counter() < end and len(taken) < 50):
            began = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken[1:])

    def add(self, what: str, unit: str, measured: str, beside: str, dtype: torch.dtype | None = None) -> None:
        self.rows.append((what, dtype_name(dtype or self.dtype), unit, measured, beside))
        print(" | ".join(self.rows[-1]), flush=True)

    def free(self) -> None:
        """Give the memory of the row before back, and start its peak anew."""
        gc.collect()
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


@torch.no_grad()
def golden(bench: Bench) -> None:
    """The velocities of the reference implementation, in float32 and bfloat16 on this device."""
    spec = json.loads((GOLDEN / "unix_tiny.json").read_text())
    expected = load_file(GOLDEN / "unix_tiny_expected.safetensors", str(bench.device))
    heads = {"language_config": spec["num_attention_heads"], "vision_config": spec["vit_heads"]}
    with tempfile.TemporaryDirectory() as folder:
        save_file(state_dict("unix_tiny"), Path(folder) / "model.safetensors")
        tensors = Tensors(folder)
        config = unix_config(tensors, PUBLISHED, {part: {"num_attention_heads": n} for part, n in heads.items()})
        ids = spec["special_ids"]
        config.bos, config.eos = ids["bos_token_id"], ids["eos_token_id"]
        config.boi, config.eoi = ids["start_of_image"], ids["end_of_image"]
        for dtype in (torch.float32, torch.bfloat16):
            build = partial(UniX, config, compute_dtype=dtype)
            model = filled(build, tensors, translate_unix, bench.device, dtype)
            x, prompt, worst = expected["noise"].T.reshape(1, -1, 4, 4), model.read_prompt([spec["prompt_ids"]]), 0.0
            for t in ("1.0", "0.37"):
                v = model.velocity(x, torch.tensor([float(t)], device=bench.device), prompt)[0].flatten(1).T
                wanted = expected[f"velocity_cond_t{t}"]
                worst = max(worst, ((v - wanted).abs().max() / wanted.abs().max()).item())
            right = "right" if worst < (1e-3 if dtype == torch.float32 else 5e-2) else "WRONG"
            bench.add("golden velocities", "largest error", f"{worst:.1e}", right, dtype)


def random_model(bench: Bench, trained: str) -> tuple[UniX, VAE]:
    """Random weights: what trains in float32, the rest in the compute dtype, as `train.py` keeps them."""
    size = "tiny" if bench.tiny else "unix"
    model = empty(lambda: UniX(preset(size), compute_dtype=bench.dtype), bench.device, torch.float32)
    vae = empty(lambda: VAE(vae_preset(size)), bench.device, bench.dtype)
    for parameter in [*model.parameters(), *vae.parameters()]:
        nn.init.normal_(parameter, std=0.02)
    training = dict(model.und_parameters() if trained == "und" else model.gen_parameters())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in training)
        if name not in training:
            parameter.data = parameter.to(bench.dtype)
    return model, vae.requires_grad_(False)


def random_batch(model: UniX, stage: str, size: int, count: int) -> dict[str, Batch]:
    generator, config = torch.Generator().manual_seed(0), model.config
    image = torch.randint(0, 256, (count, size, size), generator=generator, dtype=torch.uint8)
    words = min(config.bos or 10**9, config.vocab_size) - 1
    ids = torch.randint(4, words, (count, TEXT), generator=generator).tolist()
    batch = Batch(torch.arange(count), image)
    if stage == "1":
        batch.text_ids, batch.targets = data.pack_answers([row[: TEXT - 4] for row in ids], ids, config)
        return {"read": batch}
    latent = (count, config.latent_channels, size // 16, size // 16)
    batch.prompts, batch.t_normal = ids, torch.randn(count, generator=generator)
    batch.posterior_noise, batch.noise = (torch.randn(latent, generator=generator) for _ in range(2))
    return {"draw": batch}


def training(bench: Bench) -> None:
    """A step of each stage: forward, backward, AdamW; eager and compiled; the largest micro-batch that fits."""
    n = 256 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=bench.dtype) for _ in range(2))
    rate = 2 * n**3 / bench.time(lambda: a @ b)
    bench.add(f"matrix products, {n} x {n}", "TFLOP/s", f"{rate / 1e12:.1f}", "the ceiling")
    stages = (
        {"1": (128, 4), "2": (128, 4), "3": (256, 2)}
        if bench.tiny
        else {"1": (384, 16), "2": (256, 64), "3": (512, 16)}
    )
    for stage, (size, count) in stages.items():
        for compiled in (False, True) if bench.device.type == "cuda" else (False,):
            while count:
                bench.free()
                try:
                    step_row(bench, stage, size, count, compiled, rate)
                    break
                except torch.cuda.OutOfMemoryError:
                    count //= 2


def step_row(bench: Bench, stage: str, size: int, count: int, compiled: bool, rate: float) -> None:
    model, vae = random_model(bench, "und" if stage == "1" else "gen")
    heads, side, width = nn.ModuleDict(), size // 16, model.config.vit.width
    if stage == "2":
        heads["repa"] = RepaProjector(model.config.hidden_size, width).to(bench.device)
    latent = (count, model.config.latent_channels, side, side)
    mean, target = (torch.randn(shape, device=bench.device) for shape in (latent, (count, side * side, width)))
    losses = StageLoss(model, vae, heads, lambda index, image: (mean, mean - 5, target), 0.5)
    for block in [*model.layers, *model.vit.blocks] if compiled else ():
        block.compile()
    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=bench.device.type == "cuda")
    batches = {kind: batch.to(bench.device) for kind, batch in random_batch(model, stage, size, count).items()}
    totals = {kind: float(batch.terms()) for kind, batch in batches.items()}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(batches, totals)[0].backward()
        optimizer.step()

    seconds = bench.time(step)
    share = cost.step_flops(model.config, stage, size, TEXT, TEXT, count) / seconds / rate
    peak = torch.cuda.max_memory_allocated(bench.device) / 1e9 if bench.device.type == "cuda" else float("nan")
    formula = cost.memory_per_gpu(model.config, stage, count, size, processes=1, text=2 * TEXT)["total"]
    name = f"stage {stage}, {size} px, micro-batch {count}{', compiled' if compiled else ''}"
    beside = f"{share:.0%} of matrix products; {peak:.1f} GB, formula {formula:.1f}"
    bench.add(name, "samples/s", f"{count / seconds:.2f}", beside)


@torch.inference_mode()
def using(bench: Bench) -> None:
    """Reading and drawing, saving and loading, at full size."""
    bench.free()
    model, vae = random_model(bench, "gen")
    checkpoint = Checkpoint(model.to(bench.dtype).eval(), vae.eval(), read_tokenizer(SHIPPED / "tokenizer.json"))
    size, tokens, side = model.config.vit.image_size, *((16, 128) if bench.tiny else (128, 512))
    for batch in (1, 8):
        pixels = torch.randn(batch, 3, size, size, device=bench.device)
        read = partial(generate, model, pixels, [[5] * 12] * batch)
        first, whole = (bench.time(partial(read, max_new_tokens=count)) for count in (1, tokens + 1))
        speed = batch * tokens / (whole - first)
        bench.add(f"reading, batch {batch}", "tokens/s", f"{speed:.1f}", f"first token {first:.3f} s")
    for batch in (1, 4):
        prompts = ["Small effusion."] * batch
        seconds = bench.time(partial(sample.draw, checkpoint, prompts, range(batch), size=side)) / batch
        bench.add(f"drawing {side} px, {batch} at a time", "s/picture", f"{seconds:.2f}", "ab2 20")
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full"
        saved = bench.time(lambda: save_checkpoint(full, checkpoint, bench.dtype), 0)
        loaded = bench.time(lambda: load_checkpoint(full, bench.device, bench.dtype), 0)
        gigabytes = sum(file.stat().st_size for file in full.iterdir()) / 1e9
        bench.add("checkpoint", "s to save", f"{saved:.1f}", f"{gigabytes:.2f} GB; {loaded:.1f} s to load")


def main() -> None:
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model: does it run? also on a CPU")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda if there is one")
    page_name = "page to write; default docs/gpu-CARDNAME.md, with --tiny none"
    parser.add_argument("--out", type=arguments.output_file, metavar="FILE", help=page_name)
    args = parser.parse_args()
    device = pick_device(args.device)
    bench = Bench(device, args.tiny or device.type == "cpu", [])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, tiny model (numbers mean nothing)"
    for part in (golden, training, using):
        try:
            part(bench)
        except Exception as error:  # the others are still worth having
            bench.add(part.__name__, "-", "failed", f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    card = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
    if out := args.out or (None if bench.tiny else Path("docs") / f"gpu-{card}.md"):
        made = f"*{time.strftime('%Y-%m-%d')}, torch {torch.__version__}, random weights (`bash runs/gpu.sh`)*"
        head = f"# {name}\n\n{made}\n\n| what | dtype | unit | measured | beside |\n|---|---|---|---|---|\n"
        write_text(out, head + "".join(f"| {' | '.join(row)} |\n" for row in bench.rows))
        print(out)
    if any(row[3] == "failed" or "WRONG" in row[4] for row in bench.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
