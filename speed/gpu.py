"""How fast this code is on one GPU at full size, and how much memory it takes.

    bash runs/gpu.sh             prints a page of Markdown
    python -m speed.gpu --tiny   the tiny model, also on a CPU: does it run? its numbers mean nothing

Weights are random; nothing is downloaded.
"""

import datetime
import gc
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.benchmark import Timer

import data
import sample
from checkpoints.configs import read_tokenizer
from checkpoints.plan import empty
from checkpoints.presets import preset, vae_preset
from common import arguments
from common.clock import memory_used
from common.devices import dtype_name, pick_device
from common.errors import run
from common.files import SHIPPED
from generate import generate
from losses import Batch, RepaProjector, StageLoss
from model import UniX
from speed import cost
from vae import VAE
from weights import Checkpoint

Row = tuple[str, str, str, str]  # what, its unit, what was measured, what to see beside it
TEXT = 96  # tokens of a question, of an answer, or of a prompt with its padding


def seconds(work: Callable[[], object], tiny: bool) -> float:
    """Median of a call, over about five seconds of calls."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.1 if tiny else 5.0).median


def random_model(device: torch.device, dtype: torch.dtype, tiny: bool, trained: str) -> tuple[UniX, VAE]:
    """Random weights: what trains ("und" or "gen") in float32, the rest in `dtype`, as `train.py` keeps them."""
    size = "tiny" if tiny else "unix"
    model = empty(lambda: UniX(preset(size), compute_dtype=dtype), device, torch.float32)
    vae = empty(lambda: VAE(vae_preset(size)), device, dtype).requires_grad_(False)
    for parameter in [*model.parameters(), *vae.parameters()]:
        nn.init.normal_(parameter, std=0.02)
    for _, parameter in model.gen_parameters() if trained == "und" else model.und_parameters():
        parameter.data = parameter.requires_grad_(False).to(dtype)
    return model, vae


def training(device: torch.device, dtype: torch.dtype, tiny: bool) -> Iterator[Row]:
    """A step of each stage: forward, backward, AdamW; eager and compiled; the largest micro-batch that fits."""
    n = 256 if tiny else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    rate = 2 * n**3 / seconds(lambda: a @ b, tiny)
    yield f"matrix products, {n} x {n}", "TFLOP/s", f"{rate / 1e12:.1f}", "the ceiling"
    stages = [("1", 128, 4), ("2", 128, 4), ("3", 256, 2)] if tiny else [("1", 384, 16), ("2", 256, 64), ("3", 512, 16)]
    for stage, size, count in stages:
        for compiled in (False, True) if device.type == "cuda" else (False,):
            while count:
                try:
                    yield step_row(device, dtype, tiny, stage, size, count, compiled, rate)
                    break
                except torch.cuda.OutOfMemoryError:
                    count //= 2


def step_row(
    device: torch.device, dtype: torch.dtype, tiny: bool, stage: str, size: int, count: int, compiled: bool, rate: float
) -> Row:
    gc.collect()  # a StageLoss holds itself
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    model, vae = random_model(device, dtype, tiny, "und" if stage == "1" else "gen")
    config, heads, side = model.config, nn.ModuleDict(), size // 16
    if stage == "2":
        heads["repa"] = RepaProjector(config.hidden_size, config.vit.width).to(device)
    latent = (count, config.latent_channels, side, side)
    mean = torch.randn(latent, device=device)
    target = torch.randn(count, side * side, config.vit.width, device=device)
    losses = StageLoss(model, vae, heads, lambda index, image: (mean, mean - 5, target), 0.5)
    for block in [*model.layers, *model.vit.blocks] if compiled else ():
        block.compile()
    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=device.type == "cuda")

    batch, ids = Batch(torch.arange(count)), torch.randint(4, 500, (count, TEXT)).tolist()
    if stage == "1":
        batch.image = torch.randint(0, 256, (count, size, size), dtype=torch.uint8)
        batch.text_ids, batch.targets = data.pack_answers([row[: TEXT - 4] for row in ids], ids, config)
    else:
        batch.prompts, batch.t_normal = ids, torch.randn(count)
        batch.posterior_noise, batch.noise = torch.randn(latent), torch.randn(latent)
    kind, batch, terms = "read" if stage == "1" else "draw", batch.to(device), float(batch.terms())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses({kind: batch}, {kind: terms})[0].backward()
        optimizer.step()

    taken = seconds(step, tiny)
    share = cost.step_flops(config, stage, size, TEXT, TEXT, count) / taken / rate
    formula = cost.memory_per_gpu(config, stage, count, size)["total"]
    name = f"stage {stage}, {size} px, micro-batch {count}{', compiled' if compiled else ''}"
    beside = f"{share:.0%} of matrix products; {memory_used(device):.1f} GB, formula {formula:.1f}"
    return name, "samples/s", f"{count / taken:.2f}", beside


@torch.inference_mode()
def using(device: torch.device, dtype: torch.dtype, tiny: bool) -> Iterator[Row]:
    """Reading and drawing."""
    model, vae = random_model(device, dtype, tiny, "gen")
    checkpoint = Checkpoint(model.to(dtype).eval(), vae.eval(), read_tokenizer(SHIPPED / "tokenizer.json"))
    size, tokens, side = model.config.vit.image_size, *((16, 128) if tiny else (128, 512))
    for batch in (1, 8):
        read = partial(generate, model, torch.randn(batch, 3, size, size, device=device), [[5] * 12] * batch)
        first, whole = (seconds(partial(read, max_new_tokens=count), tiny) for count in (1, tokens + 1))
        speed = batch * tokens / (whole - first)
        yield f"reading, batch {batch}", "tokens/s", f"{speed:.1f}", f"first token {first:.3f} s"
    for batch in (1, 4):
        draw = partial(sample.draw, checkpoint, ["Small effusion."] * batch, range(batch), size=side)
        taken = seconds(draw, tiny) / batch
        yield f"drawing {side} px, {batch} at a time", "s/picture", f"{taken:.2f}", "ab2 20"


def main() -> None:
    parser = arguments.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model: does it run? also on a CPU")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda if there is one")
    args = parser.parse_args()
    device = pick_device(args.device)
    on_cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_cuda else "CPU, tiny model (numbers mean nothing)"
    dtype, tiny = torch.bfloat16 if on_cuda else torch.float32, args.tiny or not on_cuda
    print(f"# {name}\n\n*{datetime.date.today()}, torch {torch.__version__}, random weights, {dtype_name(dtype)}*\n")
    print("| what | unit | measured | beside |\n|---|---|---|---|")
    for part in (training, using):
        for row in part(device, dtype, tiny):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    run(main)
