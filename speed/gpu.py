"""What this code does on one GPU at full size: is it right, how fast, how much memory. At most ten minutes.

    bash runs/gpu.sh             writes docs/gpu-CARDNAME.md
    python -m speed.gpu --tiny   the tiny model, also on a CPU: does it run? its numbers mean nothing

Weights are random; nothing is downloaded. Every row runs in turn, and a row that fails says so and leaves the others.
"""

from __future__ import annotations

import gc
import json
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import data
import sample
from checkpoints.configs import unix_config
from checkpoints.layouts import PUBLISHED, translate_unix
from checkpoints.plan import empty, load_tensors
from checkpoints.presets import preset, vae_preset
from checkpoints.tensors import Tensors
from common import arguments
from common.devices import dtype_name, pick_device
from common.errors import run
from common.files import SHIPPED, write_text
from losses import Batch, RepaProjector, StageLoss
from model import UniX
from speed import cost
from tests.golden.weights_by_rule import state_dict
from vae import VAE
from weights import Checkpoint, load_checkpoint, read_tokenizer, save_checkpoint

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
TEXT = 192  # tokens of a question and an answer, or of a prompt with its padding


@dataclass
class Bench:
    """What every measurement needs."""

    device: torch.device
    tiny: bool
    dtype: torch.dtype  # bfloat16 on a GPU; many CPUs compute it slowly
    seconds: float  # a measurement repeats itself for about so long
    rows: list[tuple[str, ...]]

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, work: Callable[[], object]) -> float:
        """Median seconds of `work`, after one call that does not count."""
        work()
        self.synchronize()
        taken, end = [], time.perf_counter() + self.seconds
        while not taken or (time.perf_counter() < end and len(taken) < 50):
            began = time.perf_counter()
            work()
            self.synchronize()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)
        print(" | ".join(cells), flush=True)


# ---- is it right? ------------------------------------------------------------------------------------------------


@torch.no_grad()
def golden(bench: Bench) -> None:
    """The velocities of the reference implementation, in float32 and bfloat16 on this device."""
    spec = json.loads((GOLDEN / "unix_tiny.json").read_text())
    expected = load_file(GOLDEN / "unix_tiny_expected.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        save_file(state_dict("unix_tiny"), Path(folder) / "model.safetensors")
        tensors = Tensors(folder)
        heads = {
            "language_config": {"num_attention_heads": spec["num_attention_heads"]},
            "vision_config": {"num_attention_heads": spec["vit_heads"]},
        }
        config = unix_config(tensors, PUBLISHED, heads)
        ids = spec["special_ids"]
        config.bos, config.eos = ids["bos_token_id"], ids["eos_token_id"]
        config.boi, config.eoi = ids["start_of_image"], ids["end_of_image"]
        for dtype in (torch.float32, torch.bfloat16):
            model = empty(lambda: UniX(config), bench.device, torch.float32).eval()
            load_tensors(model, tensors, translate_unix)
            model.to(dtype).compute_dtype = dtype
            x = expected["noise"].T.reshape(1, -1, 4, 4).to(bench.device)
            worst = 0.0
            for t in ("1.0", "0.37"):
                prompt = model.read_prompt([spec["prompt_ids"]])
                v = model.velocity(x, torch.tensor([float(t)], device=bench.device), prompt)
                wanted = expected[f"velocity_cond_t{t}"]
                error = (v[0].flatten(1).T.cpu() - wanted).abs().max() / wanted.abs().max()
                worst = max(worst, error.item())
            limit = 1e-3 if dtype == torch.float32 else 5e-2
            verdict = "right" if worst < limit else f"WRONG, at most {limit:g} was expected"
            bench.add("golden velocities", dtype_name(dtype), "largest relative error", f"{worst:.1e}", verdict)


# ---- how fast, how much memory? ----------------------------------------------------------------------------------


def matrix_rate(bench: Bench) -> float:
    """FLOP/s of bare matrix products: what the device does at best."""
    n = 256 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=bench.dtype) for _ in range(2))
    rate = 2 * n**3 / bench.time(lambda: a @ b)
    bench.add(
        "matrix products", f"{n} x {n}, {dtype_name(bench.dtype)}", "TFLOP/s", f"{rate / 1e12:.1f}", "the ceiling"
    )
    return rate


def random_model(bench: Bench, trained: str) -> tuple[UniX, VAE]:
    """Random weights: what trains in float32, the rest in the compute dtype, as `train.py` keeps them."""
    config = preset("tiny" if bench.tiny else "unix")
    model = empty(lambda: UniX(config, compute_dtype=bench.dtype), bench.device, torch.float32)
    vae = empty(lambda: VAE(vae_preset("tiny" if bench.tiny else "unix")), bench.device, bench.dtype)
    model.vit.checkpoint_activations = model.checkpoint_activations = False
    for module in (model, vae):
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            else:  # norms and biases
                nn.init.constant_(parameter, float(name.endswith("weight")))
    training = dict(model.und_parameters() if trained == "und" else model.gen_parameters())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in training)
        if name not in training:
            parameter.data = parameter.to(bench.dtype)
    return model, vae.requires_grad_(False)


def random_batch(bench: Bench, model: UniX, stage: str, size: int, count: int) -> dict[str, Batch]:
    generator, config = torch.Generator().manual_seed(0), model.config
    image = torch.randint(0, 256, (count, size, size), generator=generator, dtype=torch.uint8)
    words = min(config.bos or 10**9, config.vocab_size) - 1
    ids = torch.randint(4, words, (count, TEXT // 2), generator=generator).tolist()
    batch = Batch(torch.arange(count), image)
    if stage == "1":
        batch.text_ids, batch.targets = data.pack_answers([row[: TEXT // 2 - 4] for row in ids], ids, config)
        return {"read": batch.to(bench.device)}
    latent = (count, config.latent_channels, size // 16, size // 16)
    batch.prompts = ids
    batch.posterior_noise, batch.noise = (torch.randn(latent, generator=generator) for _ in range(2))
    batch.t_normal = torch.randn(count, generator=generator)
    return {"draw": batch.to(bench.device)}


def training(bench: Bench, rate: float) -> None:
    """A step of each stage: forward, backward, AdamW; eager and compiled; the largest micro-batch that fits."""
    sizes = {"1": 128, "2": 128, "3": 256} if bench.tiny else {"1": 384, "2": 256, "3": 512}
    most = {"1": 4, "2": 4, "3": 2} if bench.tiny else {"1": 16, "2": 64, "3": 16}
    for stage, size in sizes.items():
        for compiled in (False, True) if bench.device.type == "cuda" else (False,):
            count = most[stage]
            while count:
                try:
                    step_row(bench, stage, size, count, compiled, rate)
                    break
                except torch.cuda.OutOfMemoryError:
                    count //= 2
            free(bench)


def step_row(bench: Bench, stage: str, size: int, count: int, compiled: bool, rate: float) -> None:
    free(bench)
    model, vae = random_model(bench, "und" if stage == "1" else "gen")
    heads = nn.ModuleDict()
    side, width = size // 16, model.config.vit.width
    if stage == "2":
        heads["repa"] = RepaProjector(model.config.hidden_size, width).to(bench.device)
    latent = (count, model.config.latent_channels, side, side)
    features = [torch.randn(latent, device=bench.device), torch.full(latent, -5.0, device=bench.device)]
    features.append(torch.randn(count, side * side, width, device=bench.device))
    losses = StageLoss(model, vae, heads, lambda index, image: tuple(features), 0.5)
    if compiled:
        for block in [*model.layers, *model.vit.blocks]:
            block.compile()
    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=bench.device.type == "cuda")
    batches = random_batch(bench, model, stage, size, count)
    totals = {kind: float(batch.terms()) for kind, batch in batches.items()}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses(batches, totals)[0].backward()
        optimizer.step()

    seconds = bench.time(step)
    text = TEXT // 2
    flops = cost.step_flops(model.config, stage, size, text, text, count)
    peak = torch.cuda.max_memory_allocated(bench.device) / 1e9 if bench.device.type == "cuda" else float("nan")
    formula = cost.memory_per_gpu(model.config, stage, count, size, processes=1, text=TEXT)["total"]
    name = f"stage {stage}, {size} px, micro-batch {count}{', compiled' if compiled else ''}"
    share = f"{100 * flops / seconds / rate:.0f} % of matrix products; {peak:.1f} GB, formula {formula:.1f}"
    bench.add(name, dtype_name(bench.dtype), "samples/s", f"{count / seconds:.2f}", share)


@torch.inference_mode()
def using(bench: Bench) -> None:
    """Reading and drawing, saving and loading, at full size."""
    free(bench)
    model, vae = random_model(bench, "gen")
    tokenizer = read_tokenizer(SHIPPED / "tokenizer.json")
    checkpoint = Checkpoint(model.to(bench.dtype).eval(), vae.eval(), tokenizer)
    size, tokens = model.config.vit.image_size, 16 if bench.tiny else 128
    for batch in (1, 8):
        pixels = torch.randn(batch, 3, size, size, device=bench.device)
        questions = [[5] * 12] * batch
        read = partial(model.generate, pixels, questions)
        first, whole = (bench.time(partial(read, max_new_tokens=count)) for count in (1, tokens + 1))
        speed = batch * tokens / (whole - first)
        bench.add(
            f"reading, batch {batch}", dtype_name(bench.dtype), "tokens/s", f"{speed:.1f}", f"first token {first:.3f} s"
        )
    side = 128 if bench.tiny else 512
    for batch in (1, 4):
        seconds = bench.time(
            lambda batch=batch: sample.draw(checkpoint, ["Small effusion."] * batch, range(batch), size=side)
        )
        bench.add(
            f"drawing {side} px, {batch} at a time",
            dtype_name(bench.dtype),
            "s/picture",
            f"{seconds / batch:.2f}",
            "ab2 20",
        )
    folder = Path(tempfile.mkdtemp())
    try:
        began = time.perf_counter()
        save_checkpoint(folder / "full", checkpoint, bench.dtype)
        saved = time.perf_counter() - began
        began = time.perf_counter()
        load_checkpoint(folder / "full", bench.device, bench.dtype)
        bench.synchronize()
        loaded = time.perf_counter() - began
        gigabytes = sum(file.stat().st_size for file in (folder / "full").iterdir()) / 1e9
        bench.add(
            "checkpoint",
            dtype_name(bench.dtype),
            "s to save",
            f"{saved:.1f}",
            f"{gigabytes:.2f} GB; {loaded:.1f} s to load",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free(bench: Bench) -> None:
    """Give the memory of the row before back, and start its peak anew."""
    gc.collect()
    torch.compiler.reset()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)


# ---- the command -------------------------------------------------------------------------------------------------


def page(bench: Bench, name: str, command: str) -> str:
    """The rows as a Markdown page."""
    lines = ["| what | dtype | unit | measured | beside |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in bench.rows]
    versions = f"torch {torch.__version__}, numpy {np.__version__}"
    return (
        f"# {name}\n\n*{time.strftime('%Y-%m-%d')}, {versions}, random weights (`{command}`)*\n\n"
        + "\n".join(lines)
        + "\n"
    )


def parts(bench: Bench) -> Iterator[tuple[str, Callable[[], object]]]:
    rate: list[float] = []
    yield "golden", lambda: golden(bench)
    yield "matrix products", lambda: rate.append(matrix_rate(bench))
    yield "training", lambda: training(bench, rate[0])
    yield "using", lambda: using(bench)


def main() -> None:
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model: does it run? also on a CPU")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda if there is one")
    page_name = "page to write; default docs/gpu-CARDNAME.md, with --tiny none"
    parser.add_argument("--out", type=arguments.output_file, metavar="FILE", help=page_name)
    args = parser.parse_args()
    device = pick_device(args.device)
    tiny = args.tiny or device.type == "cpu"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    bench = Bench(device, tiny, dtype, 0.1 if tiny else 5.0, [])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, tiny model (numbers mean nothing)"
    for part, work in parts(bench):
        try:
            work()
        except Exception as error:  # the others are still worth having
            bench.add(part, "-", "-", "failed", f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    out = args.out or (None if tiny else Path("docs") / f"gpu-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.md")
    if out:
        write_text(out, page(bench, name, "bash runs/gpu.sh"))
        print(out)
    if any(row[3] == "failed" or "WRONG" in row[4] for row in bench.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    run(main)
