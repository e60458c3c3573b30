"""Train UniX: the autoencoder, then the paper's three stages (section 3.4, Table 1). The loop is in `main`.

python train.py --stage 1 --steps 20           a few steps of the tiny model on drawn X-rays
bash runs/tiny.sh                              all stages: how the shipped weights were made
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import data
import flow
from errors import UserError, run
from model import UniX, preset
from pictures import curves, grid, save_png
from sample import SHIPPED, check_device, draw, read
from vae import VAE, sample_posterior, tiny_vae, vae_loss
from weights import CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint

PREVIOUS = {"vae": None, "vit": "vae", "1": "vit", "2": "1", "3": "2"}


@dataclass(frozen=True)
class Recipe:
    """One column of Table 1. AdamW (0.9, 0.95), eps 1e-15, no weight decay, gradients clipped to norm 1."""

    learning_rate: float  # constant after the warm-up
    size: int  # px
    batch: int  # over all processes
    warmup: int  # steps
    steps: int
    repa_weight: float = 0.0


# The paper trains neither autoencoder nor ViT from nothing (it takes kl-f16 and SigLIP): "vae" and "vit" are ours.
RECIPES = {
    "unix": {
        "vae": Recipe(1e-4, 256, 64, 1000, 100_000),
        "vit": Recipe(1e-4, 384, 256, 1000, 100_000),
        "1": Recipe(1e-4, 384, 256, 80, 3_840),
        "2": Recipe(2e-4, 256, 256, 2_000, 75_000, repa_weight=0.5),
        "3": Recipe(1e-4, 512, 256, 0, 5_000),
    },
}
RECIPES["tiny"] = {
    "vae": replace(RECIPES["unix"]["vae"], learning_rate=1e-3, size=128, batch=4, warmup=50, steps=6_000),
    "vit": replace(RECIPES["unix"]["vit"], learning_rate=1e-3, size=128, batch=32, warmup=100, steps=3_000),
    "1": replace(RECIPES["unix"]["1"], learning_rate=1e-3, size=128, batch=32, warmup=80, steps=800),
    "2": replace(RECIPES["unix"]["2"], learning_rate=1e-3, size=128, batch=32, warmup=100, steps=500),
    "3": replace(RECIPES["unix"]["3"], learning_rate=6e-4, size=256, batch=16, steps=800),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train one stage of UniX. Without --init it starts from the previous stage's output (out/stage-X)"
        " if that is there, else from the shipped weights, and says which.",
        epilog="Stages: vae (autoencoder), vit (the eye, in place of SigLIP's pretraining), 1 (reading: ViT, connector,"
        " und branch), 2 (drawing at low resolution with REPA), 3 (drawing at high resolution). 2 and 3 leave the und"
        " branch bit for bit as it was.",
    )
    parser.add_argument("--stage", required=True, choices=list(PREVIOUS))
    parser.add_argument("--init", help="weights folder to start from, or 'scratch' for a fresh tiny model")
    parser.add_argument("--out", type=Path, help="folder of the run; default out/stage-STAGE")
    parser.add_argument("--steps", type=int, help="optimizer steps; default: the recipe's")
    parser.add_argument("--batch", type=int, help="examples a step; default: the recipe's")
    parser.add_argument("--lr", type=float, help="learning rate; default: the recipe's")
    parser.add_argument("--size", type=int, help="image side in px; default: the recipe's")
    parser.add_argument(
        "--decay",
        type=float,
        default=0.0,
        help="last fraction of the steps over which the learning rate falls to 0; default 0: constant, as in the paper",
    )
    parser.add_argument("--data", default="phantom", help="phantom or phantom:COUNT (default 20,000 drawn X-rays)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if there is one")
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="compute dtype (weights stay float32); default: bfloat16 on cuda, float32 on cpu",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile the layers: a minute first, then faster")
    parser.add_argument("--workers", type=int, help="data loading processes; default: one a core, at most 8")
    parser.add_argument(
        "--sample-every", type=int, help="steps between sample pictures; default: a tenth of the run, at least 50"
    )
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints (default 500)")
    parser.add_argument("--cache", type=Path, default=Path("out/cache"), help="where drawn X-rays are kept")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    device_name = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device_name)
    device = torch.device(device_name)
    dtype = getattr(torch, args.dtype or ("bfloat16" if device.type == "cuda" else "float32"))

    checkpoint, preset_name = start_from(args, device)
    model, vae = checkpoint.model, checkpoint.vae
    model.compute_dtype = dtype
    recipe = RECIPES[preset_name][args.stage]
    if args.stage in ("vit", "1"):
        recipe = replace(recipe, size=model.config.vit.image_size)
    asked = {"learning_rate": args.lr, "size": args.size, "batch": args.batch, "steps": args.steps}
    recipe = replace(recipe, **{name: value for name, value in asked.items() if value is not None})
    check(args, recipe, model)
    source = data_source(args, recipe)
    out = args.out or Path(f"out/stage-{args.stage}")
    make_folder(out / "samples")

    # What trains. The rest gets no gradient at all, so "frozen" is bit for bit.
    trained = {
        "vae": lambda: list(vae.parameters()),
        "vit": lambda: list(model.vit.parameters()),
        "1": lambda: [p for _, p in model.und_parameters()],
        "2": lambda: [p for _, p in model.gen_parameters()],
        "3": lambda: [p for _, p in model.gen_parameters()],
    }[args.stage]()
    for parameter in [*model.parameters(), *vae.parameters()]:
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    vocabulary, head, projector = [], None, None  # head and projector are dropped at the end of their stage
    if args.stage == "vit":
        impressions = [source.text(i)[1] for i in range(min(len(source), 5000))]
        vocabulary = data.common_phrases(impressions, least=max(2, len(impressions) // 500))
        if not vocabulary:
            raise UserError(f"--data {args.data}: no two impressions share a word; give more examples")
        head = torch.nn.Linear(2 * model.config.vit.width, len(vocabulary)).to(device)
        trained = trained + list(head.parameters())
    if args.stage in ("2", "3"):
        model.config.image_size = recipe.size
        if not any(entry["stage"] in ("2", "3") for entry in checkpoint.history):
            model.copy_und_to_gen()
            print("gen branch: starts as a copy of the und branch")
        if recipe.repa_weight:
            width = model.config.hidden_size
            projector = flow.RepaProjector(width, model.config.vit.width, hidden=min(2048, 2 * width)).to(device)
            trained = trained + list(projector.parameters())
    if args.compile:
        for block in [*model.layers, *model.vit.blocks]:
            block.compile()
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)

    downsampling = vae.config.downsampling
    examples = data.Examples(
        source,
        args.stage,
        recipe.size,
        args.seed,
        checkpoint.encode,
        model.config,
        downsampling,
        recipe.batch,
        vocabulary,
    )
    workers = data.default_workers() if args.workers is None else args.workers
    encode = Encoder(checkpoint, len(source), recipe, dtype)
    sample_every = args.sample_every or max(50, recipe.steps // 10)
    print(
        f"stage {args.stage} on {device}, {dtype}: {sum(p.numel() for p in trained):,} parameters train on"
        f" {len(source):,} images into {out}\n{recipe}"
    )

    log: list[dict] = []
    began = time.time()
    bar = tqdm(total=recipe.steps, unit="step", dynamic_ncols=True)
    with open(out / "metrics.jsonl", "w") as metrics:
        for step, batch in enumerate(data.batches(examples, recipe.batch, 0, recipe.steps, workers)):
            batch = batch.to(device)
            if args.stage == "vae":
                images = data.vae_pixels(batch.image).to(dtype)
                loss, parts = vae_loss(vae, images, batch.posterior_noise)
            elif args.stage == "vit":
                loss, parts = seeing_loss(model, head, batch), {}
            elif args.stage == "1":
                pixels = data.vit_pixels(batch.image, model.config)
                loss, parts = model.report_loss(pixels, batch.text_ids, batch.targets).mean(), {}  # Eq. 1
            else:
                loss, parts = drawing_loss(model, vae, projector, encode, batch, recipe)  # Eq. 2 + REPA
            if not torch.isfinite(loss):
                raise UserError(f"the loss is {loss.item()} at step {step + 1}; try a smaller --lr")

            learning_rate = recipe.learning_rate * schedule(step, recipe, args.decay)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

            elapsed = time.time() - began
            record = {"step": step + 1, "loss": loss.item(), **{name: value.item() for name, value in parts.items()}}
            record |= {"grad_norm": grad_norm.item(), "lr": learning_rate, "seconds": round(elapsed, 2)}
            log.append(record)
            metrics.write(json.dumps(record) + "\n")
            metrics.flush()
            bar.set_postfix_str(f"loss {record['loss']:.4f}, {(step + 1) * recipe.batch / elapsed:.1f} samples/s")
            bar.update()
            last = step + 1 == recipe.steps
            if last or (step + 1) % sample_every == 0:
                show(args.stage, checkpoint, source, recipe, log, out)
            if not last and (step + 1) % args.save_every == 0:
                save(checkpoint, out, args, recipe, step + 1, elapsed)
    bar.close()
    if args.stage == "vae":
        measure_latents(vae, source, recipe, device)
    save(checkpoint, out, args, recipe, recipe.steps, time.time() - began)
    print(f"wrote {out} after {time.time() - began:.0f} s")


def schedule(step: int, recipe: Recipe, decay: float) -> float:
    """The learning rate's factor: linear warm-up, then constant; with `decay`, linearly to 0 at the end."""
    warm = min(1.0, (step + 1) / max(1, recipe.warmup))
    left = (recipe.steps - step) / max(1.0, decay * recipe.steps)
    return warm * min(1.0, left) if decay else warm


class Encoder:
    """Posteriors (and REPA targets) of the frozen encoders, computed the first time an image comes by.

    Kept in memory in half precision, up to MAX_BYTES; beyond that they are computed every time.
    """

    MAX_BYTES = 4 * 2**30

    def __init__(self, checkpoint: Checkpoint, count: int, recipe: Recipe, dtype: torch.dtype) -> None:
        self.checkpoint, self.recipe, self.dtype = checkpoint, recipe, dtype
        self.count, self.known, self.rows = count, torch.zeros(count, dtype=torch.bool), None

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """images: (B, S, S) uint8 -> posterior mean and log-variance, and with REPA the ViT's patch features."""
        model, vae = self.checkpoint.model, self.checkpoint.vae
        encoded = vae.posterior(data.vae_pixels(images).to(self.dtype))
        if self.recipe.repa_weight:
            encoded += (model.vit(data.vit_pixels(images, model.config).to(self.dtype)),)
        return encoded

    def __call__(self, index: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        where = index.cpu()
        if self.known[where].all():
            return tuple(row[where].to(images.device) for row in self.rows)
        encoded = self.encode(images)  # of all: a batch with only some new ones is rare
        if self.rows is None:
            rows = [torch.empty(self.count, *e.shape[1:], dtype=torch.bfloat16, device="meta") for e in encoded]
            fits = sum(row.nbytes for row in rows) <= self.MAX_BYTES
            self.rows = [torch.empty_like(row, device="cpu") for row in rows] if fits else []
        if self.rows:
            for row, value in zip(self.rows, encoded, strict=True):
                row[where] = value.to("cpu", torch.bfloat16)
            self.known[where] = True
        return encoded


def seeing_loss(model: UniX, head: torch.nn.Linear, batch: data.Batch) -> torch.Tensor:
    """What stands in for SigLIP's pretraining: which phrases will the impression use? (Joulin et al. 2016)

    A language model that starts from nothing first learns to talk without looking; predicting all phrases at once, from
    the average and the maximum over the patches, teaches the ViT to see without running a language model at all.
    """
    patches = model.vit(data.vit_pixels(batch.image, model.config).to(model.compute_dtype)).float()
    logits = head(torch.cat([patches.mean(dim=1), patches.amax(dim=1)], dim=1))
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.phrases)


def drawing_loss(
    model: UniX, vae: VAE, projector: flow.RepaProjector | None, encode: Encoder, batch: data.Batch, recipe: Recipe
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Eq. 2, and in stage 2 REPA beside it. The prompt runs without a graph: the und branch is frozen."""
    mean, log_variance, *features = encode(batch.index, batch.image)
    latents = vae.normalise(sample_posterior(mean.float(), log_variance.float(), batch.posterior_noise))
    t = flow.training_time(batch.t_normal)
    x_t = flow.interpolate(latents, batch.noise, t)
    with torch.no_grad():
        prompt = model.read_prompt(batch.prompts, multiple=32)
    if projector is None:
        v = model.velocity(x_t, t, prompt)
        return flow.velocity_error(v, latents, batch.noise).mean(), {}  # Eq. 2
    v, hidden = model.velocity(x_t, t, prompt, tap=model.config.repa_layer)
    mse = flow.velocity_error(v, latents, batch.noise).mean()  # Eq. 2
    repa = flow.repa_loss(projector(hidden), features[0])
    return mse + recipe.repa_weight * repa, {"mse": mse.detach(), "repa": repa.detach()}


@torch.no_grad()
def measure_latents(vae: VAE, source: data.Phantoms, recipe: Recipe, device: torch.device) -> None:
    """Set scale and shift so that normalised latents have mean 0 and variance 1, from 256 training images."""
    images = torch.from_numpy(np.stack([square(source, i, recipe.size) for i in range(min(256, len(source)))]))
    latents = torch.cat([vae.posterior(data.vae_pixels(part.to(device)))[0] for part in images.split(32)])
    vae.config.shift_factor, vae.config.scale_factor = latents.mean().item(), 1 / latents.std().item()
    print(f"latents: shift {vae.config.shift_factor:.4f}, scale {vae.config.scale_factor:.4f}")


def square(source: data.Phantoms, index: int, size: int) -> np.ndarray:
    return data.to_square(Image.fromarray(source.image(index)), size)


def show(stage: str, checkpoint: Checkpoint, source: data.Phantoms, recipe: Recipe, log: list[dict], out: Path) -> None:
    """The loss curve, and what the model makes of the same few examples each time."""
    names = [name for name in ("loss", "mse", "repa", "l1", "detail") if name in log[0]]
    save_png(curves({n: [(r["step"], r[n]) for r in log] for n in names}, f"stage {stage}"), out / "loss.png")
    vae, step = checkpoint.vae, log[-1]["step"]
    path = out / "samples" / f"step-{step:06d}.png"
    originals = [square(source, i, recipe.size) for i in range(8)]
    if stage == "vae":
        images = data.vae_pixels(torch.from_numpy(np.stack(originals))).to(next(vae.parameters()).device)
        with torch.no_grad():
            rebuilt = data.to_uint8(vae.decode(vae.encode(images)))
        save_png(grid([*originals, *rebuilt], ["original"] * 8 + ["rebuilt"] * 8, columns=8), path)
    elif stage == "vit":
        return  # nothing to look at yet
    elif stage == "1":
        reports = read(checkpoint, [Image.fromarray(image) for image in originals], max_new_tokens=128)
        truths = [source.text(i)[1] for i in range(8)]
        captions = [f"{report} [truth: {truth}]" for report, truth in zip(reports, truths, strict=True)]
        save_png(grid([np.kron(image, np.ones((2, 2), np.uint8)) for image in originals], captions, columns=4), path)
    else:
        prompts = [source.text(i)[1] for i in range(8)]
        save_png(grid(draw(checkpoint, prompts, range(8), size=recipe.size, steps=25), prompts, columns=4), path)


def start_from(args: argparse.Namespace, device: torch.device) -> tuple[Checkpoint, str]:
    """The weights a stage starts from (said aloud), and the preset whose recipe fits their size."""
    if args.init == "scratch":
        print("starting from scratch: a fresh tiny model, and a tokenizer trained on 5,000 drawn reports")
        config = preset("tiny")
        reports = [data.Phantoms(5000).text(i)[0] for i in range(5000)]
        tokenizer = data.train_tokenizer([*reports, data.DEFAULT_QUESTION, data.SHORT_QUESTION], config.vocab_size)
        generator = torch.Generator().manual_seed(args.seed)
        torch.manual_seed(args.seed)  # the autoencoder keeps torch's own initialisation
        vae, model = VAE(tiny_vae()), UniX(config)
        model.init_weights(generator)
        return Checkpoint(model.to(device), vae.to(device), tokenizer), "tiny"
    previous = Path(f"out/stage-{PREVIOUS[args.stage]}")
    folder = Path(args.init) if args.init else previous if (previous / CHECKPOINT).exists() else SHIPPED
    checkpoint = load_checkpoint(folder, device)
    print(f"starting from {folder}")
    return checkpoint, "unix" if checkpoint.model.config.hidden_size >= 1024 else "tiny"


def data_source(args: argparse.Namespace, recipe: Recipe) -> data.Phantoms:
    name, _, count = args.data.partition(":")
    if name != "phantom" or (count and not count.isdecimal()) or count == "0":
        raise UserError(f"--data {args.data}: give phantom or phantom:COUNT, for example phantom:5000")
    return data.Phantoms(int(count or 20_000), max(256, recipe.size), cache=args.cache)


def check(args: argparse.Namespace, recipe: Recipe, model: UniX) -> None:
    for flag, value in (("--steps", recipe.steps), ("--batch", recipe.batch), ("--lr", recipe.learning_rate)):
        if not value > 0:
            raise UserError(f"{flag} {value}: must be above 0")
    least = {"--seed": 0, "--workers": 0, "--save-every": 1, "--sample-every": 1}
    for flag, value in ((flag, getattr(args, flag[2:].replace("-", "_"))) for flag in least):
        if value is not None and value < least[flag]:
            raise UserError(f"{flag} {value}: must be at least {least[flag]}")
    if not 0 <= args.decay <= 1:
        raise UserError(f"--decay {args.decay}: a fraction of the run, from 0 to 1")
    if recipe.size % 16 or not 16 <= recipe.size <= 16 * model.config.max_latent_size:
        raise UserError(f"--size {recipe.size}: must be a multiple of 16 up to {16 * model.config.max_latent_size}")
    if args.stage in ("vit", "1") and recipe.size != model.config.vit.image_size:
        raise UserError(f"--size {recipe.size}: this model's ViT sees {model.config.vit.image_size} px; leave it out")
    if recipe.repa_weight and recipe.size != model.config.vit.image_size:
        raise UserError(f"--size {recipe.size}: REPA's target, the stage-1 ViT, sees {model.config.vit.image_size} px")


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be made ({error.strerror}); give a folder you may write to") from error


def save(
    checkpoint: Checkpoint, out: Path, args: argparse.Namespace, recipe: Recipe, step: int, seconds: float
) -> None:
    """The whole model into OUT/checkpoint, so that OUT serves as `--weights` and `--init`."""
    entry = {"stage": args.stage, "steps": step, "batch": recipe.batch, "size": recipe.size, "seed": args.seed}
    entry |= {"learning_rate": recipe.learning_rate, "decay": args.decay, "seconds": round(seconds)}
    entry |= {"data": args.data, "dtype": args.dtype, "torch": torch.__version__}
    save_checkpoint(out / CHECKPOINT, replace(checkpoint, history=[*checkpoint.history, entry]))


if __name__ == "__main__":
    run(main)
