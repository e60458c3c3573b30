"""How fast: ours beside what people would use instead, and beside what the machine can do.

    python -m speed.bench                          every row
    python -m speed.bench reading vae              some
    python -m speed.bench reading --threads 1      how many cores everybody gets (default: torch's own choice)
    python -m speed.bench --quick                  tiny models, two rounds: does it run? its numbers mean nothing

The ways of a row run in one process, on the same weights, inputs and threads. Their outputs are compared first; then
they take turns for `--repeat` rounds and medians are printed, so that a machine that slows down slows all alike. The
ceiling takes turns with them: bare products of as many operations as the work cannot do without, or for a report's
tokens, which wait for memory, a sum over all weights.

Columns: ours and the alternative in the row's unit; how many times better ours is; ours as a fraction of the ceiling.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import data
import flow
import sample
from checkpoints.presets import init_weights, preset, vae_preset
from common import arguments
from common.clock import memory_used
from common.devices import dtype_name
from common.errors import UserError, run
from common.files import SHIPPED
from generate import generate, stream
from losses import IGNORE, Batch, RepaProjector, StageLoss, repa_loss
from model import UniX, UniXConfig
from phantoms.dataset import Phantoms
from speed import cost, cpu
from speed.feature_cache import FeatureCache
from speed.reference import guided_velocity
from vae import VAE, AttnBlock, ResnetBlock, Upsample, sample_posterior
from weights import load_checkpoint


@dataclass
class Row:
    """One printed line. `ours` and `theirs` in `unit`; ratio > 1: ours is better. ceiling: a fraction, and of what."""

    name: str
    unit: str
    ours: float
    theirs: float | None
    ratio: float | None
    ceiling: float | None = None
    of: str = ""

    def __str__(self) -> str:
        theirs = "" if self.theirs is None else f"{self.theirs:.4g}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x"
        ceiling = "" if self.ceiling is None else f"{self.ceiling:.0%} of {self.of}"
        return f"{self.name:42}{self.unit:12}{self.ours:>9.4g}{theirs:>12}{ratio:>10}   {ceiling}"


HEAD = f"{'':42}{'':12}{'ours':>9}{'instead':>12}{'ratio':>10}   ceiling"


# ---- measuring ---------------------------------------------------------------------------------------------------


def take_turns(ways: dict[str, Callable[[], object]], repeat: int) -> dict[str, list[float]]:
    """Seconds of each way in each of `repeat` rounds, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(repeat + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if round_number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def times(slower: list[float], faster: list[float]) -> float:
    """How many times longer `slower` took: the median over the rounds, each compared with its own neighbour."""
    return statistics.median(s / f for s, f in zip(slower, faster, strict=True))


def in_child(code: str, *arguments: str) -> list[str]:
    """Run Python code in a fresh process, whose memory and start-up are its own, beside this file -> its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.split()


def need(package: str) -> None:
    """Refuse in one line where a package of the test extra is absent."""
    try:
        __import__(package)
    except ImportError as error:
        raise UserError(
            f"speed.bench compares with {package}, which is not installed: pip install -e '.[test]'"
        ) from error


def agree(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises AssertionError unless both say the same, up to the rounding of `dtype`, relative to their own scale."""
    scale = theirs.std().item() if theirs.numel() > 1 else theirs.abs().item()
    tolerance = 1e-3 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(ours, theirs, atol=tolerance * max(scale, 1e-9), rtol=0)


# ---- ceilings ----------------------------------------------------------------------------------------------------


def matrix_products(flops: float, dtype: torch.dtype) -> Callable[[], None]:
    """Square products, of 1,024 x 1,024 if that is not too much, that together take `flops` operations."""
    side = min(1024, round((flops / 2) ** (1 / 3)))
    a, b = torch.randn(2, side, side, dtype=dtype)
    count = max(1, round(flops / (2 * side**3)))
    out = torch.empty_like(a)

    def products() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    return products


def matrix_speed(flops: float, seconds: list[float]) -> str:
    return f"matrix products ({flops / statistics.median(seconds) / 1e9:.0f} GFLOP/s)"


# ---- reading -----------------------------------------------------------------------------------------------------

BEFORE, AFTER = [5, 17, 9, 33], list(range(100, 116))  # the prompt around the image: 20 tokens


def reading(args: argparse.Namespace) -> Iterator[Row]:
    """the first token of a report and the tokens a second after it, beside transformers' Janus"""
    need("transformers")
    for dtype in (torch.float32, torch.bfloat16):
        theirs, ours = janus_pair(args.quick, dtype)
        cpu.speed_up(ours)
        short = "float32" if dtype == torch.float32 else "bfloat16"
        for batch in (1, 8) if dtype == torch.float32 and not args.quick else (1,):
            yield from reading_rows(theirs, ours, batch, f"reading, batch {batch}, {short}", args)


def janus_pair(quick: bool, dtype: torch.dtype) -> tuple[nn.Module, UniX]:
    """One Janus with random weights, as transformers' and as ours: 12 layers of width 768, 32,000 tokens, 256 px."""
    from transformers import JanusConfig, JanusForConditionalGeneration, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    width, layers, vocabulary, side = (64, 2, 300, 4) if quick else (768, 12, 32_000, 16)
    both = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    text = both | {"intermediate_size": width * 8 // 3, "num_key_value_heads": both["num_attention_heads"]}
    text |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = both | {"image_size": 16 * side, "patch_size": 16, "mlp_ratio": 4, "projection_dim": width}
    vision |= {"num_image_tokens": side**2}
    unused = {
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "embed_dim": 4,
        "projection_dim": 64,
    }
    unused |= {"num_embeddings": 16, "latent_channels": 4, "image_token_embed_dim": 64}  # Janus's own image tokens
    config = JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=unused,
        image_token_id=vocabulary - 1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    theirs = JanusForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.dim() == 2:  # wider than their initialisation, or every answer would be one token repeated
                parameter.normal_(std=1.25 / width**0.5)
    names = {"<|bos|>": 0, "<|eos|>": 1, "<|boi|>": 2, "<|eoi|>": 3}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        theirs.save_pretrained(folder)
        Tokenizer(models.WordLevel(names, unk_token="<|eos|>")).save(f"{folder}/tokenizer.json")
        ours = load_checkpoint(folder, dtype=dtype, parity=True).model
    return theirs.to(dtype), ours


def reading_rows(theirs: nn.Module, ours: UniX, batch: int, name: str, args: argparse.Namespace) -> Iterator[Row]:
    tokens = 9 if args.quick else 33
    generator = torch.Generator().manual_seed(1)
    size, dtype = ours.config.vit.image_size, ours.compute_dtype
    pixels = torch.randn(1, 3, size, size, generator=generator).expand(batch, -1, -1, -1).contiguous()
    image = [ours.config.vocab_size - 1] * (size // 16) ** 2
    ids = torch.tensor([[*BEFORE, *image, *AFTER]] * batch)

    def generate_theirs() -> list[list[int]]:
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels.to(dtype)}
        found = theirs.generate(**asked, generation_mode="text", max_new_tokens=tokens, do_sample=False)
        return found[:, ids.shape[1] :].tolist()

    def generate_ours() -> list[list[int]]:
        return generate(ours, pixels, [AFTER] * batch, tokens)

    with torch.inference_mode():
        expected = theirs(input_ids=ids, pixel_values=pixels.to(dtype)).logits[:, -1].float()
    ours.before = BEFORE
    _, logits = next(stream(ours, pixels, [AFTER] * batch))
    agree(logits, expected, dtype)
    answers = generate_ours()
    if dtype == torch.float32 and answers != generate_theirs():
        raise ValueError(f"{name}: not the same tokens")
    if any(len(answer) != tokens for answer in answers):
        raise ValueError(f"{name}: an answer ended early")

    first: dict[str, list[float]] = {"ours": [], "theirs": []}
    after: dict[str, list[float]] = {"ours": [], "theirs": []}

    def stamped(way: str, model: nn.Module, generate: Callable[[], object]) -> Callable[[], None]:
        """The output layer runs once a token, in both: its calls are the clock."""

        def timed() -> None:
            stamps: list[float] = []
            hook = model.lm_head.register_forward_hook(lambda *_: stamps.append(time.perf_counter()))
            began = time.perf_counter()
            generate()
            hook.remove()
            first[way].append(stamps[0] - began)
            after[way].append((stamps[-1] - stamps[0]) / (len(stamps) - 1))

        return timed

    matrices = [p for n, p in ours.und_parameters() if p.dim() == 2 and n.startswith(("layers.", "lm_head."))]
    rows = [torch.randn(batch, matrix.shape[1], dtype=dtype) for matrix in matrices]
    flops = batch * cost.report_flops(ours.config, len(BEFORE) + len(AFTER) - 2, 1)

    @torch.inference_mode()
    def weights() -> None:
        for matrix in matrices:
            matrix.sum()

    @torch.inference_mode()
    def products() -> None:
        for row, matrix in zip(rows, matrices, strict=True):
            F.linear(row, matrix)

    ways = {"theirs": stamped("theirs", theirs, generate_theirs), "ours": stamped("ours", ours, generate_ours)}
    bare = {"weights": weights, "products": products, "matrix": matrix_products(flops, dtype)}
    seconds = take_turns(ways | bare, args.repeat)
    for way in ways:
        del first[way][0], after[way][0]  # the round that does not count
    speed = {way: batch / statistics.median(after[way]) for way in ways}
    gigabytes = sum(matrix.nbytes for matrix in matrices) / 1e9
    read, multiplied = (gigabytes / statistics.median(seconds[name]) for name in ("weights", "products"))
    of = f"reading the weights ({read:.1f} GB/s; torch's bare products {multiplied:.1f})"
    ratio, fraction = times(after["theirs"], after["ours"]), times(seconds["weights"], after["ours"])
    yield Row(name, "tokens/s", speed["ours"], speed["theirs"], ratio, fraction, of)
    wait = {way: statistics.median(first[way]) for way in ways}
    ratio, fraction = times(first["theirs"], first["ours"]), times(seconds["matrix"], first["ours"])
    yield Row(
        "  first token", "s", wait["ours"], wait["theirs"], ratio, fraction, matrix_speed(flops, seconds["matrix"])
    )


# ---- training ----------------------------------------------------------------------------------------------------


def training(args: argparse.Namespace) -> Iterator[Row]:
    """samples/s of forward and backward and what they keep, beside plain layers over one padded sequence"""
    wide = replace(preset("tiny"), hidden_size=768, intermediate_size=2048, num_layers=12, num_heads=12)
    for stage in ("2", "1"):
        yield from training_rows(preset("tiny"), stage, 4 if args.quick else 16, f"stage {stage}, tiny", args)
        if not args.quick:
            yield from training_rows(wide, stage, 4, f"stage {stage}, 12 x 768", args)


def random_unix(config: UniXConfig, dtype: torch.dtype = torch.float32) -> UniX:
    generator, model = torch.Generator().manual_seed(0), UniX(config, dtype)
    init_weights(model, generator)
    nn.init.normal_(model.llm2vae.weight, std=0.02, generator=generator)  # at zero, nothing before it has a gradient
    return model.to(dtype)


def training_rows(config: UniXConfig, stage: str, count: int, name: str, args: argparse.Namespace) -> Iterator[Row]:
    """`count` phantoms of 128 px, in float32; drawing them and encoding them for stage 2 is not timed in either way."""
    shipped = load_checkpoint(SHIPPED)
    model = random_unix(config)
    heads = nn.ModuleDict()
    if stage == "2":
        heads["repa"] = RepaProjector(config.hidden_size, config.vit.width, 512)
    frozen = [p for _, p in (model.und_parameters() if stage == "2" else model.gen_parameters())]
    for parameter in frozen:
        parameter.requires_grad_(False)
    examples = data.Examples(Phantoms(count, 128), stage, 128, 0, shipped.encode, config, 16, count)
    batches = data.Collate(config)([examples[i] for i in range(count)])
    ((kind, batch),) = batches.items()

    def frozen_encoders(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return *shipped.vae.posterior(shipped.vae.preprocess(images)), model.vit(model.vit.preprocess(images))

    features = FeatureCache(frozen_encoders, count)
    plain = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})  # other layers, the same parameters
    cpu.speed_up(model)
    losses, plain_losses = (StageLoss(each, shipped.vae, heads, features, 0.5) for each in (model, plain))
    totals = {kind: float(batch.terms())}

    def obvious() -> torch.Tensor:
        return obvious_draw(plain_losses, batch) if stage == "2" else obvious_read(plain, batch)

    def thawed() -> torch.Tensor:
        for parameter in frozen:
            parameter.requires_grad_(True)
        loss = obvious()
        for parameter in frozen:
            parameter.requires_grad_(False)
        return loss

    ways = {"ours": lambda: losses(batches, totals)[0], "theirs": obvious}
    if stage == "2":
        ways["thawed"] = thawed
    trained = [p for p in [*model.parameters(), *heads.parameters()] if p.requires_grad]
    results = {}
    for way, forward in ways.items():
        loss = forward()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        results[way] = [loss.detach(), *gradients]
    for way in ways:
        for value, expected in zip(results[way], results["theirs"], strict=True):
            agree(value, expected, torch.float32)

    def step(loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def forward_backward() -> None:
            model.zero_grad()
            loss().backward()

        return forward_backward

    if stage == "2":
        prompt = sum(0 if p is None else len(p) + 2 for p in batch.prompts) / count
        flops = cost.step_flops(config, "2", 128, round(prompt), 0, count)
    else:
        text, answer = int((batch.text_ids != config.eos).sum()) / count, batch.terms() / count
        flops = cost.step_flops(config, "1", 128, round(text - answer), round(answer), count)
    products = matrix_products(flops, torch.float32)
    seconds = take_turns({way: step(loss) for way, loss in ways.items()} | {"matrix": products}, args.repeat)
    speed = {way: count / statistics.median(seconds[way]) for way in ways}
    kept = {way: cost.kept_bytes(loss, losses) / 1e6 for way, loss in ways.items()}
    fraction, of = times(seconds["matrix"], seconds["ours"]), matrix_speed(flops, seconds["matrix"])
    for way, title in {"theirs": name, "thawed": f"{name}, nothing frozen instead"}.items():
        if way in ways:
            ratio = times(seconds[way], seconds["ours"])
            yield Row(title, "samples/s", speed["ours"], speed[way], ratio, fraction, of)
            yield Row("  kept for the backward pass", "MB", kept["ours"], kept[way], kept[way] / kept["ours"])


# What one would write first: prompt and picture in one padded sequence, one graph over all of it, plain layers.


def obvious_draw(losses: StageLoss, batch: Batch) -> torch.Tensor:
    """The loss of stage 2 over [BOS prompt EOS padding BOI EOI | latents]."""
    model = losses.model
    mean, log_variance, target = losses.frozen_features(batch.index, batch.image)
    latents = losses.vae.normalise(sample_posterior(mean, log_variance, batch.posterior_noise))
    t = flow.training_time(batch.t_normal)
    x_t = flow.interpolate(latents, batch.noise, t)
    v, hidden = model(x_t, t, batch.prompts, return_layer=model.config.repa_layer)
    repa = repa_loss(losses.heads["repa"](hidden), target)
    return flow.velocity_error(v, latents, batch.noise).mean() + losses.repa_weight * repa


def obvious_read(model: UniX, batch: Batch) -> torch.Tensor:
    """The loss of stage 1, with logits of every token as transformers computes them."""
    image = model.embed_image(model.vit.preprocess(batch.image))
    x, position_ids, mask = model.reading_sequence(image, batch.text_ids)
    hidden, _, _ = model.run_layers(x, None, position_ids, mask)
    targets = F.pad(batch.targets, (x.shape[1] - batch.targets.shape[1], 0), value=IGNORE)
    logits = model.to_logits(hidden)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# ---- the autoencoder ---------------------------------------------------------------------------------------------


def vae(args: argparse.Namespace) -> Iterator[Row]:
    """decoding an image with kl-f16 (full size): seconds, and the peak memory of the whole process"""
    autoencoder = random_vae(args.quick)
    for size in (32, 64) if args.quick else (256, 512):
        latents = torch.randn(1, 16, size // 16, size // 16, generator=torch.Generator().manual_seed(0))
        ways = {
            "ours": lambda z=latents: autoencoder.decode(z),
            "theirs": lambda z=latents: plain_decode(autoencoder, z),
        }
        with torch.inference_mode():
            agree(ways["ours"](), ways["theirs"](), torch.float32)
            with FlopCounterMode(display=False) as counter:
                ways["ours"]()
            flops = counter.get_total_flops()
            seconds = take_turns(ways | {"matrix": matrix_products(flops, torch.float32)}, args.repeat)
        median = {way: statistics.median(seconds[way]) for way in ways}
        ratio, fraction = times(seconds["theirs"], seconds["ours"]), times(seconds["matrix"], seconds["ours"])
        of = matrix_speed(flops, seconds["matrix"])
        yield Row(f"vae decode, {size} px", "s", median["ours"], median["theirs"], ratio, fraction, of)
        peak = {}
        for way in ways:
            code = "import sys; from speed import bench; bench.decode_once(*sys.argv[1:])"
            peak[way] = float(in_child(code, way, str(size), str(args.threads), str(args.quick))[0])
        yield Row("  peak memory", "GB", peak["ours"], peak["theirs"], peak["theirs"] / peak["ours"])


def random_vae(quick: bool) -> VAE:
    torch.manual_seed(0)
    return VAE(vae_preset("tiny" if quick else "unix")).eval()


def decode_once(way: str, size: str, threads: str, quick: str) -> None:
    """In a process of its own: decode one picture and print the most memory the process ever had, in GB."""
    torch.set_num_threads(int(threads))
    cpu.keep_freed_memory()
    autoencoder, latents = random_vae(quick == "True"), torch.randn(1, 16, int(size) // 16, int(size) // 16)
    with torch.inference_mode():
        autoencoder.decode(latents) if way == "ours" else plain_decode(autoencoder, latents)
    status = Path("/proc/self/status")
    # getrusage would count the parent's memory as well, from before this process became another program.
    lines = status.read_text().splitlines() if status.exists() else []
    kilobytes = next((float(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)
    print(memory_used(torch.device("cpu")) if kilobytes is None else kilobytes * 1024 / 1e9)


def plain_decode(vae: VAE, latents: torch.Tensor) -> torch.Tensor:
    """latent-diffusion's own way: channels first, a new tensor for every operation, the whole attention matrix."""

    def swish(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    def block(x: torch.Tensor, layer: ResnetBlock) -> torch.Tensor:
        h = layer.conv1(swish(layer.norm1(x)))
        h = layer.conv2(swish(layer.norm2(h)))
        return (layer.nin_shortcut(x) if hasattr(layer, "nin_shortcut") else x) + h

    def attention(x: torch.Tensor, layer: AttnBlock) -> torch.Tensor:
        normed = layer.norm(x)
        q, k, v = (each(normed).flatten(2) for each in (layer.q, layer.k, layer.v))  # (B, C, HW)
        weights = (q.transpose(1, 2) @ k * q.shape[1] ** -0.5).softmax(dim=2)
        return x + layer.proj_out((v @ weights.transpose(1, 2)).view_as(x))

    decoder = vae.decoder
    x = decoder.conv_in(vae.post_quant_conv(latents / vae.config.scale_factor + vae.config.shift_factor))
    x = block(attention(block(x, decoder.mid.block_1), decoder.mid.attn_1), decoder.mid.block_2)
    for level in reversed(decoder.up):
        for i, layer in enumerate(level.block):
            x = block(x, layer)
            if level.attn:
                x = attention(x, level.attn[i])
        if isinstance(level.upsample, Upsample):
            x = level.upsample(x)
    return decoder.conv_out(swish(decoder.norm_out(x)))


# ---- drawing -----------------------------------------------------------------------------------------------------

PROMPT = "Moderate cardiomegaly. Small left pleural effusion."


def drawing(args: argparse.Namespace) -> Iterator[Row]:
    """a 256 px picture at 50 times under guidance, without its decoding, beside the whole sequence at each step"""
    wide = replace(preset("tiny"), hidden_size=768, intermediate_size=2048, num_layers=12, num_heads=12)
    for dtype in (torch.float32, torch.bfloat16):
        checkpoint = load_checkpoint(SHIPPED, dtype=dtype)
        prompt = checkpoint.encode(PROMPT)
        yield from drawing_rows(checkpoint.model, prompt, 1, "tiny", args)
        if not args.quick:
            yield from drawing_rows(checkpoint.model, prompt, 4, "tiny", args)
            yield from drawing_rows(random_unix(wide, dtype).eval(), prompt, 1, "12 x 768", args)


def drawing_rows(model: UniX, prompt: list[int], batch: int, name: str, args: argparse.Namespace) -> Iterator[Row]:
    """12 of the 50 times have the same shares of guided and unguided steps, so that a round does not take minutes."""
    config, dtype = model.config, model.compute_dtype
    noise = torch.randn(batch, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    early, late = sample.split_times(flow.timesteps(12), sample.GUIDED_ABOVE)

    def ours() -> torch.Tensor:
        guided, conditional = sample.prompted_velocities(fast, [prompt] * batch, 2.0)
        return flow.euler(conditional, flow.euler(guided, noise, early), late)

    fast = copy.deepcopy(model)
    cpu.speed_up(fast)

    def theirs() -> torch.Tensor:
        conditional, unconditional = (lambda x, t, ids=ids: model(x, t, [ids] * batch) for ids in (prompt, None))
        velocity = guided_velocity(conditional, lambda x, t: (conditional(x, t), unconditional(x, t)), 2.0)
        return flow.euler(velocity, noise, flow.timesteps(12))

    passes, passes_of_50 = 2 * (len(early) - 1) + len(late) - 1, 2 * 41 + 8
    flops = batch * passes * cost.velocity_flops(config, 256, len(prompt) + 2)
    with torch.inference_mode():
        agree(ours(), theirs(), dtype)
        ways = {"ours": ours, "theirs": theirs, "matrix": matrix_products(flops, dtype)}
        seconds = take_turns(ways, args.repeat if name == "tiny" else min(3, args.repeat))
    scale = passes_of_50 / passes / batch
    median = {way: scale * statistics.median(seconds[way]) for way in ways}
    ratio, fraction = times(seconds["theirs"], seconds["ours"]), times(seconds["matrix"], seconds["ours"])
    short = dtype_name(dtype)
    of = matrix_speed(flops, seconds["matrix"])
    title = f"drawing, {name}, batch {batch}, {short}"
    yield Row(title, "s/picture", median["ours"], median["theirs"], ratio, fraction, of)


# ---- freed memory --------------------------------------------------------------------------------------------------


def memory(args: argparse.Namespace) -> Iterator[Row]:
    """a process that keeps the memory torch frees, as our commands do, beside one that gives it back"""
    seconds: dict[str, list[list[float]]] = {"ours": [], "theirs": []}
    for _ in range(args.repeat):
        for way, taken in seconds.items():
            code = "import sys; from speed import bench; bench.step_and_decode(*sys.argv[1:])"
            taken.append([float(word) for word in in_child(code, way, str(args.threads), str(args.quick))])
    size = 64 if args.quick else 512
    for i, name in enumerate(("kept memory, a guided step, tiny", f"kept memory, vae decode, {size} px")):
        ours, theirs = ([each[i] for each in seconds[way]] for way in ("ours", "theirs"))
        yield Row(name, "s", statistics.median(ours), statistics.median(theirs), times(theirs, ours))


def step_and_decode(way: str, threads: str, quick: str) -> None:
    """In a process of its own: print the seconds of one guided step of a 256 px drawing and of one decoding."""
    torch.set_num_threads(int(threads))
    if way == "ours":
        cpu.keep_freed_memory()
    checkpoint, side = load_checkpoint(SHIPPED), 4 if quick == "True" else 32
    autoencoder, latents = random_vae(quick == "True"), torch.randn(1, 16, side, side)
    with torch.inference_mode():
        guided, _ = sample.prompted_velocities(checkpoint.model, [checkpoint.encode(PROMPT)], 2.0)
        x, t = torch.randn(1, 16, 16, 16), torch.tensor([0.7])
        for work, repeat in ((lambda: guided(x, t), 5), (lambda: autoencoder.decode(latents), 1)):
            print(statistics.median(take_turns({"work": work}, repeat)["work"]))


# ---- solvers -----------------------------------------------------------------------------------------------------


def solvers(args: argparse.Namespace) -> Iterator[Row]:
    """how far a drawing's latents end from the exact solution, beside the 50 published times of Euler's"""
    # 100 steps of Heun's stand for the exact solution: 500 of them come within 0.0006 of it, 1,000 of Euler's 0.0013.
    count, exact_steps = (1, 12) if args.quick else (4, 100)
    checkpoint, source = load_checkpoint(SHIPPED), Phantoms(count, 256, seed=1)
    prompts = [checkpoint.encode(source.text(i)[1]) for i in range(count)]
    noise = torch.stack([torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(count)])

    def walk(solver: str, steps: int) -> tuple[torch.Tensor, int, int]:
        """(latents, evaluations, passes: an evaluation under guidance is two)."""
        early, late = sample.split_times(sample.schedule(solver, steps), sample.GUIDED_ABOVE)
        each = 2 if solver == "heun" else 1
        solve = getattr(flow, solver)
        latents = solve(conditional, solve(guided, noise, early), late)
        return latents, each * (steps - 1), each * (2 * (len(early) - 1) + len(late) - 1)

    with torch.inference_mode():
        guided, conditional = sample.prompted_velocities(checkpoint.model, prompts, 2.0)
        exact, _, _ = walk("heun", exact_steps + 1)
        published = (walk("euler", 50)[0] - exact).square().mean().sqrt().item()
        for solver, several in {
            "euler": (13, 25, 50),
            "heun": (7, 13, 25),
            "ab2": (13, 17, 20, 25, 50),
        }.items():
            for steps in several[: 1 if args.quick else None]:
                latents, evaluations, passes = walk(solver, steps)
                distance = (latents - exact).square().mean().sqrt().item()
                name = f"{solver} {steps}: {evaluations} evaluations, {passes} passes"
                yield Row(name, "RMS", distance, published, published / distance)


# ---- start-up ----------------------------------------------------------------------------------------------------


def startup(args: argparse.Namespace) -> Iterator[Row]:
    """`sample.py --help` beside importing torch; a first picture beside the same of 50 times of Euler's"""
    with tempfile.TemporaryDirectory() as folder:
        picture = ["sample.py", PROMPT, "--out", f"{folder}/sample.png"]
        commands = {
            "help": ["sample.py", "--help"],
            "import": ["-c", "import torch"],
            "picture": picture,
            "published": [*picture, "--solver", "euler", "--steps", "50"],
        }
        options = {"check": True, "capture_output": True, "cwd": Path(__file__).parent.parent}
        options["env"] = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        ways = {name: partial(subprocess.run, [sys.executable, *words], **options) for name, words in commands.items()}
        seconds = take_turns(ways, args.repeat)
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    yield Row("sample.py --help", "s", median["help"], median["import"], times(seconds["import"], seconds["help"]))
    ratio, fraction = (times(seconds[name], seconds["picture"]) for name in ("published", "import"))
    of = f"importing torch ({median['import']:.2f} s)"
    yield Row("sample.py, first picture", "s", median["picture"], median["published"], ratio, fraction, of)


# ---- the command -------------------------------------------------------------------------------------------------

# name on the command line -> what yields its rows; the first line of its docstring is its help
ROWS = {
    "reading": reading,
    "training": training,
    "vae": vae,
    "drawing": drawing,
    "memory": memory,
    "solvers": solvers,
    "startup": startup,
}


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux
        return platform.processor() or platform.machine()


def version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def parse_args() -> argparse.Namespace:
    rows = "\n".join(f"  {name:12}{(row.__doc__ or '').splitlines()[0]}" for name, row in ROWS.items())
    parser = arguments.Parser(
        description=__doc__, epilog=f"rows:\n{rows}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure; default: all")
    threads, repeat = arguments.whole(1, 1024), arguments.whole(1, 10_000)
    default = torch.get_num_threads()
    parser.add_argument("--threads", type=threads, default=default, help="of every way (default: %(default)s)")
    parser.add_argument("--repeat", type=repeat, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny models and two rounds, to see it run")
    args = parser.parse_args()
    for name in args.names:
        if name not in ROWS:
            raise UserError(f"no row {name!r}: choose from {', '.join(ROWS)}")
    if args.quick:
        args.repeat = min(args.repeat, 2)
    return args


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    cpu.keep_freed_memory()
    print(
        f"{datetime.date.today()}, {cpu_name()}, {args.threads} threads, torch {torch.__version__},"
        f" transformers {version('transformers')}"
    )
    print(HEAD)
    for name in args.names or ROWS:
        for row in ROWS[name](args):
            print(row, flush=True)


if __name__ == "__main__":
    run(main)
